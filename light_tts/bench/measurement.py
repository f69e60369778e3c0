"""What the flags of a load mean, and the story of a measurement: the same texts and voice, level after level."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from light_tts.bench.flags import DEFAULT_REQUESTS
from light_tts.bench.load import LoadPlan, run_load
from light_tts.bench.report import Run
from light_tts.bench.target import SpeechOptions, Target
from light_tts.bench.texts import read_texts, text_set
from light_tts.errors import ConfigError


@dataclass(frozen=True)
class Measurement:
    """What is to be measured: the same texts and voice at one level of load after the other."""

    plans: Sequence[LoadPlan]
    texts: Sequence[str]
    options: SpeechOptions

    @classmethod
    def from_arguments(cls, arguments: argparse.Namespace) -> Measurement:
        """Raises ConfigError when a flag has a bad value or a file cannot be read."""
        return cls(_plans(arguments), _texts(arguments), _options(arguments))

    async def run(self, target: Target) -> list[Run]:
        """Run every level on this target, one after the other."""
        runs = []
        for plan in self.plans:
            print(f"light-tts: measuring {plan.label} ...", file=sys.stderr)
            runs.append(Run.of(plan, await run_load(target, self.texts, plan, stream=self.options.stream)))
        return runs

    def describe(self) -> dict[str, Any]:
        """For the report; a recording only by its size."""
        return {
            "texts": list(self.texts),
            "stream": self.options.stream,
            "voice": self.options.voice,
            "prompt_bytes": len(self.options.prompt_audio or b""),
            "prompt_text": self.options.prompt_text,
            "model": self.options.model,
            "fields": dict(self.options.fields),
        }


def _plans(arguments: argparse.Namespace) -> list[LoadPlan]:
    num_requests = arguments.requests
    if num_requests is None and arguments.duration_s is None:
        num_requests = DEFAULT_REQUESTS
    levels: list[dict[str, Any]]
    if arguments.mode == "open":
        if arguments.workers is not None:
            raise ConfigError("--workers belongs to --mode closed or listeners; an open loop takes --rate.")
        levels = [{"rate_hz": rate_hz} for rate_hz in arguments.rate or (1.0,)]
    else:
        if arguments.rate is not None:
            raise ConfigError(f"--rate belongs to --mode open; {arguments.mode} takes --workers.")
        levels = [{"workers": workers} for workers in arguments.workers or (1,)]
    return [
        LoadPlan(
            mode=arguments.mode,
            num_requests=num_requests,
            duration_s=arguments.duration_s,
            warmup_requests=arguments.warm_up,
            seed=arguments.seed,
            timeout_s=arguments.timeout_s,
            **level,
        )
        for level in levels
    ]


def _texts(arguments: argparse.Namespace) -> Sequence[str]:
    if arguments.texts is not None:
        return read_texts(arguments.texts)
    return text_set(arguments.text_set, arguments.language)


def _options(arguments: argparse.Namespace) -> SpeechOptions:
    if arguments.voice is not None and arguments.prompt_wav is not None:
        raise ConfigError("Give --voice (a registered voice) or --prompt-wav (a recording), not both.")
    if arguments.prompt_text is not None and arguments.prompt_wav is None:
        raise ConfigError("--prompt-text says what is spoken in a recording; give the recording with --prompt-wav.")
    prompt_audio = None
    if arguments.prompt_wav is not None:
        try:
            prompt_audio = arguments.prompt_wav.read_bytes()
        except OSError as error:
            raise ConfigError(f"The recording {arguments.prompt_wav} cannot be read: {error.strerror}.") from None
    return SpeechOptions(
        stream=arguments.stream,
        voice=arguments.voice,
        prompt_audio=prompt_audio,
        prompt_text=arguments.prompt_text,
        model=arguments.model,
        fields=tuple(_field(word) for word in getattr(arguments, "field", ())),
    )


def _field(word: str) -> tuple[str, str]:
    name, equals, value = word.partition("=")
    if not name or not equals:
        raise ConfigError(f"--field wants NAME=VALUE, not '{word}'.")
    return name, value
