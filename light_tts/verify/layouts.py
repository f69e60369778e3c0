"""The kinds of golden directories: how each is recognised, and which checks belong to it.

The checks are imported when they are needed: recognising a directory loads no torch.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from light_tts.verify.report import Ledger

NamedCheck = tuple[str, Callable[[], None]]


@dataclass(frozen=True)
class VerifyOptions:
    """What the person verifying may add.

    tokenizer_dir:  holds the published vocabulary, for the cases that need it.
    """

    tokenizer_dir: Path | None = None


@dataclass(frozen=True)
class Layout:
    """One kind of golden directory.

    matches:  True when a directory is of this kind.
    checks:   named parts, each run by itself; one that breaks does not stop the others.
    """

    name: str
    matches: Callable[[Path], bool]
    checks: Callable[[Ledger, VerifyOptions], list[NamedCheck]]


def find_layout(directory: Path) -> Layout | None:
    """The kind of this directory, or None."""
    return next((layout for layout in LAYOUTS if layout.matches(directory)), None)


def _is_acoustic(directory: Path) -> bool:
    return (directory / "flow.safetensors").is_file() and "model" in _read_object(directory / "config.json")


def _acoustic_checks(ledger: Ledger, options: VerifyOptions) -> list[NamedCheck]:
    config = _read_object(ledger.directory / "config.json")
    ledger.opened("config.json")

    def flow() -> None:
        from light_tts.verify.flow_checks import check_flow

        check_flow(ledger, config)

    def vocoder() -> None:
        from light_tts.verify.vocoder_checks import check_vocoder

        check_vocoder(ledger, config)

    def token2wav() -> None:
        from light_tts.verify.chain_mels import chain_mels
        from light_tts.verify.vocoder_checks import check_token2wav_wav

        check_token2wav_wav(ledger, config, chain_mels(ledger, config))

    def prompt_mel() -> None:
        from light_tts.verify.frontend_checks import check_prompt_mel

        # The upper edge of the mel filters: 8 kHz in the second generation, half the sample rate in the third.
        check_prompt_mel(ledger, 8000.0 if str(config["model"]).endswith("2") else None)

    return [("flow", flow), ("vocoder", vocoder), ("token2wav", token2wav), ("prompt mel", prompt_mel)]


def _is_llm(directory: Path) -> bool:
    return any("version" in _read_object(path) for path in directory.glob("*/config.json"))


def _llm_checks(ledger: Ledger, options: VerifyOptions) -> list[NamedCheck]:
    def check() -> None:
        from light_tts.verify.llm_checks import check_llm

        check_llm(ledger)

    return [("language model", check)]


def _frontend_checks(ledger: Ledger, options: VerifyOptions) -> list[NamedCheck]:
    def check() -> None:
        from light_tts.verify.frontend_checks import check_frontend

        check_frontend(ledger, options.tokenizer_dir)

    return [("frontend", check)]


def _schedule_checks(ledger: Ledger, options: VerifyOptions) -> list[NamedCheck]:
    def check() -> None:
        from light_tts.verify.schedule_checks import check_schedule

        check_schedule(ledger)

    return [("schedule", check)]


def _model_dir_checks(ledger: Ledger, options: VerifyOptions) -> list[NamedCheck]:
    def check() -> None:
        from light_tts.verify.model_dir_checks import check_model_dir

        check_model_dir(ledger)

    return [("model directory", check)]


LAYOUTS = (
    Layout("acoustic", _is_acoustic, _acoustic_checks),
    Layout("llm", _is_llm, _llm_checks),
    Layout("frontend", lambda directory: (directory / "normalize.json").is_file(), _frontend_checks),
    Layout("schedule", lambda directory: (directory / "stream.json").is_file(), _schedule_checks),
    Layout("model_dir", lambda directory: (directory / "expected.json").is_file(), _model_dir_checks),
)


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object, empty when there is none to read."""
    try:
        data = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return data if isinstance(data, dict) else {}
