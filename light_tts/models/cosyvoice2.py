"""CosyVoice2: conformer and UNet flow, overlap-added vocoder, control rows of the language model in their own table."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from light_tts.models.family import Component, ModelFamily, Shapes, last_axis, load_special_tokens
from light_tts.models.speech_ids import SpeechIds

if TYPE_CHECKING:
    import torch

    from light_tts.models.nets.flow_net import FlowNet
    from light_tts.models.nets.hift import HiftNet


def _recognises(component: Component, shapes: Shapes) -> bool:
    match component:
        case "llm":
            return "llm_embedding.weight" in shapes
        case "flow":
            return "encoder_proj.weight" in shapes
        case "hift":
            # The symmetric f0 predictor opens with a kernel of 3, the causal one with 4.
            key = "f0_predictor.condnet.0"
            return last_axis(shapes, f"{key}.parametrizations.weight.original1", f"{key}.weight_v") == 3


def _speech_ids(num_codes: int, text_rows: int, end_of_prompt: int) -> SpeechIds:
    return SpeechIds(
        num_codes=num_codes,
        head_size=num_codes + 3,
        eos=num_codes,
        fill=num_codes + 2,
        first_stop=num_codes,
        last_stop=num_codes + 2,
        sos_row=text_rows,
        task_row=text_rows + 1,
        speech_row0=text_rows + 2,
        end_of_prompt=end_of_prompt,
    )


def _build_flow(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], dtype: torch.dtype, device: torch.device | str
) -> FlowNet:
    from light_tts.models.nets.flow_net import build_unet_flow

    return build_unet_flow(config, state, dtype=dtype, device=device)


def _build_vocoder(
    config: Mapping[str, Any], state: Mapping[str, torch.Tensor], dtype: torch.dtype, device: torch.device | str
) -> HiftNet:
    from light_tts.models.nets.hift import build_hift

    return build_hift(config, state, is_causal=False, dtype=dtype, device=device)


FAMILY = ModelFamily(
    name="cosyvoice2",
    generation=2,
    published_name="CosyVoice2-0.5B",
    config_filename="cosyvoice2.yaml",
    class_names={"llm": "Qwen2LM", "flow": "CausalMaskedDiffWithXvec", "hift": "HiFTGenerator"},
    special_tokens=load_special_tokens("cosyvoice2"),
    default_prompt_prefix="",
    needs_end_of_prompt=False,
    prompt_mel_fmax_hz=8000.0,
    speech_tokenizer_filename="speech_tokenizer_v2.onnx",
    num_control_ids=3,
    recognises=_recognises,
    speech_ids_of=_speech_ids,
    build_flow=_build_flow,
    build_vocoder=_build_vocoder,
)
