"""Which mode a request runs in, and what each mode makes of the texts (spec: pipeline, section 1). Pure."""

from __future__ import annotations

from light_tts.errors import InvalidRequest
from light_tts.types import Mode, SynthesisRequest, Voice

END_OF_PROMPT = "<|endofprompt|>"


def choose_mode(request: SynthesisRequest, voice: Voice) -> Mode:
    """The mode asked for, or the one that uses all there is. Raises InvalidRequest when the two do not go together."""
    has_instruction = bool(request.instruction and request.instruction.strip())
    mode = request.mode or _fitting_mode(voice, has_instruction)
    if mode is not Mode.PRESET and not voice.has_prompt:
        raise InvalidRequest(
            f"The voice {voice.id!r} is a speaker vector without a recording, so it serves the preset mode only.",
            "voice",
        )
    if mode is Mode.ZERO_SHOT and not voice.has_transcript:
        raise InvalidRequest(
            "Zero-shot mode needs the words of the reference audio; send prompt_text, or use the cross-lingual mode.",
            "prompt_text",
        )
    if mode is Mode.INSTRUCT and not has_instruction:
        raise InvalidRequest("Instruct mode needs an instruction, such as 'Speak slowly.'.", "instruction")
    if mode is not Mode.INSTRUCT and has_instruction:
        raise InvalidRequest(
            f"An instruction has no effect in {mode.value} mode; use the instruct mode or leave it out.", "instruction"
        )
    return mode


def _fitting_mode(voice: Voice, has_instruction: bool) -> Mode:
    if has_instruction:
        return Mode.INSTRUCT
    if not voice.has_prompt:
        return Mode.PRESET
    return Mode.ZERO_SHOT if voice.has_transcript else Mode.CROSS_LINGUAL


def split_prompt_head(text: str) -> tuple[str, str]:
    """Split after the last end-of-prompt tag: ("", text) when there is none."""
    end = text.rfind(END_OF_PROMPT) + len(END_OF_PROMPT)
    return (text[:end], text[end:]) if END_OF_PROMPT in text else ("", text)


def instruction_prompt(instruction: str, default_prefix: str) -> str:
    """An instruction in the form the model was trained on: "<system sentence> <instruction><|endofprompt|>".

    default_prefix:  "<system sentence><|endofprompt|>" of the model, or empty when it has none.

    An instruction that holds the tag already is taken as it is.
    """
    if END_OF_PROMPT in instruction:
        return instruction
    instruction = instruction.strip()
    system = default_prefix.removesuffix(END_OF_PROMPT)
    if system and not instruction.startswith(system):
        instruction = f"{system} {instruction}"
    return instruction + END_OF_PROMPT
