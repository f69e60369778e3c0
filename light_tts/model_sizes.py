"""What a model takes of a GPU's memory, from the shapes of its weights: nothing is loaded for it, and no GPU is needed.

Weights are counted as they are kept (spec: server, 1.1 and 6.8): matrices in the precision of their network, or in the
format of the weight plan; norms, tables of speech codes and the head in float32; what depends on the flow's time only
stays on the CPU.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from light_tts.kernels.kv_slots import SCALE_BYTES
from light_tts.llm.weight_plan import MATRIX_OF_NAME, WeightFormat, WeightPlan
from light_tts.models.checkpoint import read_shapes
from light_tts.models.family import Shapes, family_named
from light_tts.models.manifests import published_shapes
from light_tts.models.model_config import read_model_config
from light_tts.models.model_dir import ModelDirectory
from light_tts.models.random_weights import PUBLISHED_BACKBONE
from light_tts.models.yaml_config import read_config
from light_tts.settings import Settings
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS

ITEM_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}

_GUIDANCE_ROWS = 2
_NOISE_FRAMES = 15_000  # of the flow's table
_CAUSAL_NOISE_BYTES = 2 * 7_200_000  # of each harmonic, for 300 s
_OVERLAP_FRAMES = 8  # of pieces of a symmetric vocoder
_ONLY_TIME = ("time_mlp.", "time_embed.", ".mlp.1.", "attn_norm.linear.", "norm_out.linear.")
_OTHER_TAILS = 1.25  # a causal vocoder's convolutions outside of its residual blocks


@dataclass(frozen=True)
class Precision:
    """How the networks are kept: names of dtypes, the plan of the language model's matrices, the numbers of caches."""

    llm: str
    flow: str
    vocoder: str
    weights: WeightPlan
    kv_int8: bool = False
    flow_states_int8: bool = False

    @classmethod
    def of(cls, settings: Settings, dtypes: Mapping[str, str], weights: WeightPlan) -> Precision:
        """As the settings say. dtypes: names by stage, with `auto` resolved."""
        return cls(
            **dtypes,
            weights=weights,
            kv_int8=settings.llm.kv_cache_dtype == "int8",
            flow_states_int8=settings.acoustic.flow_cache_dtype == "int8",
        )


@dataclass(frozen=True)
class ModelSizes:
    """Bytes, all styles of the language model together where nothing else is said.

    llm_weights, flow_weights, vocoder_weights:  of the networks, with their constant tables.
    kv_token:        one token in the KV caches.
    flow_page:       states of the flow over one chunk.
    flow_page_s:     seconds of audio in a chunk.
    vocoder_stream:  what one stream carries from piece to piece.
    llm_row, llm_logits:  intermediate results of one row of a step, and of one row whose id is drawn; of one style.
    flow_frame, vocoder_frame:  intermediate results of one frame of a call.
    """

    name: str
    num_llms: int
    llm_weights: int
    flow_weights: int
    vocoder_weights: int
    kv_token: int
    flow_page: int
    flow_page_s: float
    vocoder_stream: int
    llm_row: int
    llm_logits: int
    flow_frame: int
    vocoder_frame: int


def sizes_of_directory(directory: ModelDirectory, precision: Precision, *, steps: int) -> ModelSizes:
    """Of a model directory. steps: evaluations of the flow. Raises CheckpointError for files that cannot be read."""
    return _sizes(
        directory.name,
        [read_shapes(path) for path in directory.styles.values()],
        read_shapes(directory.flow_path),
        read_shapes(directory.hift_path),
        directory.backbone,
        directory.values.flow,
        directory.values.hift,
        directory.chunk_tokens,
        precision,
        steps,
    )


def sizes_of_family(name: str, precision: Precision, *, steps: int) -> ModelSizes:
    """Of the published model of a family. Raises CheckpointError for an unknown family."""
    family = family_named(name)
    source = resources.files("light_tts.models.manifests").joinpath(family.config_filename)
    with resources.as_file(source) as path:
        values = read_model_config(read_config(Path(path)), family)
    return _sizes(
        family.published_name,
        [published_shapes(name, "llm")],
        published_shapes(name, "flow"),
        published_shapes(name, "hift"),
        PUBLISHED_BACKBONE,
        values.flow,
        values.hift,
        values.chunk_tokens,
        precision,
        steps,
    )


def _flow_heads(config: Mapping[str, Any]) -> int:
    """Heads of an attention layer of the estimator, by either family's name."""
    estimator = config["decoder"]["estimator"]
    return int(estimator["heads"] if "heads" in estimator else estimator["num_heads"])


def _sizes(
    name: str,
    llms: Sequence[Shapes],
    flow: Shapes,
    hift: Shapes,
    backbone: Mapping[str, Any],
    flow_config: Mapping[str, Any],
    vocoder: Mapping[str, Any],
    chunk_tokens: int,
    precision: Precision,
    steps: int,
) -> ModelSizes:
    head = llms[0]["llm_decoder.weight"]
    hidden, inner = int(backbone["hidden_size"]), int(backbone["intermediate_size"])
    chunk_frames = FRAMES_PER_TOKEN * chunk_tokens
    return ModelSizes(
        name=name,
        num_llms=len(llms),
        llm_weights=sum(llm_weight_bytes(shapes, precision) for shapes in llms),
        flow_weights=flow_weight_bytes(flow, ITEM_BYTES[precision.flow]),
        vocoder_weights=vocoder_weight_bytes(hift, vocoder, ITEM_BYTES[precision.vocoder]),
        kv_token=len(llms) * kv_token_bytes(backbone, precision),
        flow_page=flow_page_bytes(
            flow,
            chunk_frames,
            steps,
            ITEM_BYTES[precision.flow],
            _flow_heads(flow_config) if precision.flow_states_int8 else 0,
        ),
        flow_page_s=chunk_frames / 50,
        vocoder_stream=vocoder_stream_bytes(vocoder),
        llm_row=(3 * inner + 6 * hidden) * ITEM_BYTES[precision.llm],
        llm_logits=6 * 4 * int(head[0]),
        # Residual stream, keys, queries and values, hidden layer: about so many numbers of the network's width.
        flow_frame=_GUIDANCE_ROWS * 12 * flow_width(flow) * ITEM_BYTES[precision.flow],
        vocoder_frame=_vocoder_frame_bytes(vocoder, ITEM_BYTES[precision.vocoder]),
    )


def llm_weight_bytes(shapes: Shapes, precision: Precision) -> int:
    """Of one language model; its tied text head is not kept."""
    item = ITEM_BYTES[precision.llm]
    total = 0.0
    for key, shape in shapes.items():
        count, name = math.prod(shape), key.removesuffix(".weight").rpartition(".")[2]
        if "lm_head" in key:
            continue
        if ".layers." in key and name in MATRIX_OF_NAME:
            layer = int(key.partition(".layers.")[2].partition(".")[0])
            total += _matrix_bytes(precision.weights.format_of(layer, MATRIX_OF_NAME[name]), shape, item)
        else:
            total += count * (item if "embed_tokens" in key or key.endswith("_proj.bias") else 4)
    return round(total)


def _matrix_bytes(kind: WeightFormat, shape: Sequence[int], item_bytes: int) -> float:
    """Of one matrix; see the table of formats in `kernels/quantized_weights.py`."""
    outputs, count = shape[0], math.prod(shape)
    match kind:
        case "none":
            return count * item_bytes
        case "int4":
            return count * 4.25 / 8
        case _:
            return count + 4 * outputs


def kv_token_bytes(backbone: Mapping[str, Any], precision: Precision) -> int:
    """Keys and values of one token in all layers; in int8 with a float32 scale of each head."""
    heads = int(backbone["num_key_value_heads"])
    head_dim = int(backbone.get("head_dim") or backbone["hidden_size"] // backbone["num_attention_heads"])
    head_bytes = head_dim + 4 if precision.kv_int8 else head_dim * ITEM_BYTES[precision.llm]
    return 2 * int(backbone["num_hidden_layers"]) * heads * head_bytes


def flow_weight_bytes(shapes: Shapes, item_bytes: int) -> int:
    """Of the flow and its table of noise."""
    total = 4 * _NOISE_FRAMES * MEL_BINS
    for key, shape in shapes.items():
        if not any(mark in key for mark in _ONLY_TIME):
            stays_exact = len(shape) == 1 or key.startswith(("input_embedding", "spk_embed")) or "linear_pos" in key
            total += math.prod(shape) * (4 if stays_exact else item_bytes)
    return total


def flow_width(shapes: Shapes) -> int:
    """Numbers of a key of the estimator."""
    return next(
        int(shape[0]) for key, shape in shapes.items() if key.endswith(("attn1.to_q.weight", "attn.to_q.weight"))
    )


def flow_page_bytes(shapes: Shapes, chunk_frames: int, steps: int, item_bytes: int, int8_heads: int = 0) -> int:
    """Keys, values and convolution tails of one chunk (spec: token2wav, sections 4 and 5).

    int8_heads:  of an attention layer of the estimator, when keys and values are kept in int8; else 0.
    """

    def keys(end: str, prefix: str) -> int:
        return sum(int(shape[0]) for key, shape in shapes.items() if key.endswith(end) and key.startswith(prefix))

    def tails(prefix: str) -> int:
        kernels = [shape for key, shape in shapes.items() if key.startswith(prefix) and len(shape) == 3]
        return sum((shape[2] - 1) * (shape[0] if shape[2] > 7 else shape[1]) for shape in kernels)

    body = "linear_k.weight"
    chunk_tokens = chunk_frames // FRAMES_PER_TOKEN
    values = 2 * (chunk_tokens * keys(body, "encoder.encoders.") + chunk_frames * keys(body, "encoder.up_encoders."))
    numbers = keys("to_k.weight", "decoder.estimator.")
    key_bytes = numbers * item_bytes
    if int8_heads:
        key_bytes = numbers + SCALE_BYTES * int8_heads * numbers // flow_width(shapes)
    of_step = 2 * chunk_frames * key_bytes + tails("decoder.estimator.") * item_bytes
    return (values + tails("encoder.") + tails("pre_lookahead")) * item_bytes + steps * _GUIDANCE_ROWS * of_step


def vocoder_weight_bytes(shapes: Shapes, config: Mapping[str, Any], item_bytes: int) -> int:
    """Of the vocoder as it is loaded and as its kernels read it; of a causal one with its table of noise."""
    is_causal = _is_causal(config)
    total = 0
    for key, shape in shapes.items():
        if key.replace("generator.", "").startswith("f0_predictor"):
            total += math.prod(shape) * (8 + 4 if is_causal else 4 + 4)
        else:  # upsampling is kept as one convolution of each phase, half of whose taps are zero
            total += math.prod(shape) * 2 * item_bytes * (2 if key.startswith("ups.") else 1)
    harmonics = int(config["nb_harmonics"]) + 1
    return total + (_CAUSAL_NOISE_BYTES * harmonics if is_causal else 0)


def vocoder_stream_bytes(config: Mapping[str, Any]) -> int:
    """What one stream carries; see the `state_shapes` of both kinds of step."""
    samples = int(math.prod(config["upsample_rates"])) * int(config["istft_params"]["hop_len"])
    mel = 4 * _OVERLAP_FRAMES * MEL_BINS
    if not _is_causal(config):
        return mel + 2 * 4 * _OVERLAP_FRAMES * samples + 8 * (int(config["nb_harmonics"]) + 1)
    tails: int = 0
    for stage in range(len(config["upsample_rates"])):
        channels = int(config["base_channels"]) >> (stage + 1)
        blocks = list(zip(config["resblock_kernel_sizes"], config["resblock_dilation_sizes"], strict=True))
        source = config["source_resblock_kernel_sizes"][stage], config["source_resblock_dilation_sizes"][stage]
        for kernel, dilations in (*blocks, source):
            tails += channels * (int(kernel) - 1) * (sum(map(int, dilations)) + len(dilations))
    return mel + round(4 * _OTHER_TAILS * tails) + 4 * _OVERLAP_FRAMES * samples


def _vocoder_frame_bytes(config: Mapping[str, Any], item_bytes: int) -> int:
    """Of its widest stage five sums (float32) and five activations are there at once; and the source's spectra."""
    base, rate, widest = int(config["base_channels"]), 1, 0
    for stage, factor in enumerate(config["upsample_rates"]):
        rate *= int(factor)
        widest = max(widest, rate * (base >> (stage + 1)))
    samples = rate * int(config["istft_params"]["hop_len"])
    return 5 * widest * (4 + item_bytes) + 7 * 4 * samples


def _is_causal(config: Mapping[str, Any]) -> bool:
    return "conv_pre_look_right" in config
