"""Fun-CosyVoice3: DiT flow, causal vocoder, control ids in the speech table, an end-of-prompt tag in every prompt."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from light_tts.models.family import Component, ModelFamily, Shapes, last_axis, load_special_tokens
from light_tts.models.speech_ids import SpeechIds

if TYPE_CHECKING:
    import torch

    from light_tts.models.nets.flow_net import FlowNet
    from light_tts.models.nets.hift import HiftNet

# Codes of silence and breath; long runs of them are cut (spec: llm, section 7).
SILENT_CODES = frozenset({1, 2, 28, 29, 55, 248, 494, 2241, 2242, 2322, 2323})


def _recognises(component: Component, shapes: Shapes) -> bool:
    match component:
        case "llm":
            return "speech_embedding.weight" in shapes and not {"llm_embedding.weight", "llm_decoder.bias"} & set(
                shapes
            )
        case "flow":
            return "pre_lookahead_layer.conv1.weight" in shapes
        case "hift":
            key = "f0_predictor.condnet.0"
            return last_axis(shapes, f"{key}.parametrizations.weight.original1", f"{key}.weight_v") == 4


def _speech_ids(num_codes: int, text_rows: int, end_of_prompt: int) -> SpeechIds:
    return SpeechIds(
        num_codes=num_codes,
        head_size=num_codes + 200,
        eos=num_codes + 1,
        fill=num_codes + 3,
        first_stop=num_codes,
        last_stop=num_codes + 199,
        sos_row=text_rows + num_codes,
        task_row=text_rows + num_codes + 2,
        speech_row0=text_rows,
        end_of_prompt=end_of_prompt,
        needs_end_of_prompt=True,
        silent_codes=SILENT_CODES,
    )


def _build_flow(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], dtype: torch.dtype, device: torch.device | str
) -> FlowNet:
    from light_tts.models.nets.flow_net import build_dit_flow

    return build_dit_flow(config, state, dtype=dtype, device=device)


def _build_vocoder(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], dtype: torch.dtype, device: torch.device | str
) -> HiftNet:
    from light_tts.models.nets.hift import build_hift

    return build_hift(config, state, is_causal=True, dtype=dtype, device=device)


FAMILY = ModelFamily(
    name="cosyvoice3",
    generation=3,
    published_name="Fun-CosyVoice3-0.5B",
    config_filename="cosyvoice3.yaml",
    class_names={"llm": "CosyVoice3LM", "flow": "CausalMaskedDiffWithDiT", "hift": "CausalHiFTGenerator"},
    special_tokens=load_special_tokens("cosyvoice3"),
    default_prompt_prefix="You are a helpful assistant.<|endofprompt|>",
    needs_end_of_prompt=True,
    prompt_mel_fmax_hz=None,
    speech_tokenizer_filename="speech_tokenizer_v3.onnx",
    num_control_ids=200,
    recognises=_recognises,
    speech_ids_of=_speech_ids,
    build_flow=_build_flow,
    build_vocoder=_build_vocoder,
)
