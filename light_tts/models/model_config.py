"""The values of a model's YAML that the engine reads, with types, ranges and the published defaults.

Older copies of the YAML lack some keys; the published values stand in for them, and what the file says wins.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from light_tts.errors import CheckpointError
from light_tts.models.family import ModelFamily
from light_tts.models.yaml_config import CLASS_KEY, class_name, has_path, value_at
from light_tts.types import FRAMES_PER_TOKEN, SAMPLE_RATE_HZ, TOKEN_RATE_HZ


@dataclass(frozen=True)
class SamplingDefaults:
    """The checkpoint's own sampling values (spec: llm, section 6).

    top_p, top_k:     nucleus: probability mass, and most candidates.
    win_size, tau_r:  a code drawn at least `win_size * tau_r` times in the last `win_size` is drawn again.
    """

    top_p: float = 0.8
    top_k: int = 25
    win_size: int = 10
    tau_r: float = 0.1


@dataclass(frozen=True, eq=False)
class ModelConfig:
    """Typed view of the YAML (spec: model_dir, section 2).

    num_codes:           speech codes, S.
    mix_ratio:           text ids and speech codes of one bi-stream block.
    chunk_tokens:        speech tokens of one attention chunk.
    lookahead_tokens:    speech tokens a non-final call sees beyond the frames it yields.
    prompt_mel_fmax_hz:  upper edge of the prompt's mel filters; None is half the sample rate.
    flow, hift:          the sections for the network builders, plain data without class names.
    """

    num_codes: int
    mix_ratio: tuple[int, int]
    sampling: SamplingDefaults
    chunk_tokens: int
    token_mel_ratio: int
    lookahead_tokens: int
    sample_rate_hz: int
    prompt_mel_fmax_hz: float | None
    flow: dict[str, Any]
    hift: dict[str, Any]


def read_model_config(config: Mapping[str, Any], family: ModelFamily) -> ModelConfig:
    """Typed values of a YAML of this family. Raises CheckpointError naming the key, its value and what is expected."""
    where = family.config_filename
    for section, expected in family.class_names.items():
        found = class_name(config.get(section))
        if found != expected:
            raise CheckpointError(
                f"{where} builds its {section} from {found or 'no class'}, expected {expected}; "
                "the file was renamed or changed."
            )
    reader = _Reader(config, where)
    ratio = reader.integer("token_mel_ratio", "flow.token_mel_ratio", default=FRAMES_PER_TOKEN)
    reader.require("sample_rate", SAMPLE_RATE_HZ)
    reader.require("token_frame_rate", TOKEN_RATE_HZ)
    reader.require("flow.input_frame_rate", TOKEN_RATE_HZ)
    if ratio != FRAMES_PER_TOKEN:
        raise CheckpointError(f"{where}: token_mel_ratio is {ratio}; only {FRAMES_PER_TOKEN} is supported.")
    chunk_tokens = reader.integer("chunk_size", "flow.encoder.static_chunk_size", default=0)
    if not chunk_tokens:
        chunk_tokens = reader.integer("flow.decoder.estimator.static_chunk_size", default=25 * ratio) // ratio
    return ModelConfig(
        num_codes=reader.integer("llm.speech_token_size", default=6561),
        mix_ratio=reader.mix_ratio(),
        sampling=reader.sampling(),
        chunk_tokens=chunk_tokens,
        token_mel_ratio=ratio,
        lookahead_tokens=reader.integer("flow.pre_lookahead_len", default=3),
        sample_rate_hz=SAMPLE_RATE_HZ,
        prompt_mel_fmax_hz=reader.fmax_hz(family.prompt_mel_fmax_hz),
        flow=_flow_section(config["flow"], chunk_tokens, ratio),
        hift=network_section(config["hift"]),
    )


def network_section(section: Any) -> Any:
    """A section as the network builders take it: class names dropped, `content` of a wrapped dictionary lifted out."""
    if isinstance(section, dict):
        if CLASS_KEY in section and set(section) == {CLASS_KEY, "content"}:
            return network_section(section["content"])
        return {key: network_section(value) for key, value in section.items() if key != CLASS_KEY}
    if isinstance(section, list):
        return [network_section(item) for item in section]
    return section


def _flow_section(section: Any, chunk_tokens: int, ratio: int) -> dict[str, Any]:
    flow: dict[str, Any] = network_section(section)
    flow.setdefault("token_mel_ratio", ratio)
    flow.setdefault("pre_lookahead_len", 3)
    flow.setdefault("input_frame_rate", TOKEN_RATE_HZ)
    if isinstance(flow.get("encoder"), dict):
        flow["encoder"].setdefault("static_chunk_size", chunk_tokens)
    estimator = value_at(flow, "decoder.estimator")
    if isinstance(estimator, dict):
        estimator.setdefault("static_chunk_size", chunk_tokens * ratio)
    return flow


@dataclass(frozen=True)
class _Reader:
    """Takes values out of one file and complains in its name."""

    config: Mapping[str, Any]
    where: str

    def integer(self, *paths: str, default: int) -> int:
        """The first of these keys that exists, as a whole number above zero."""
        for path in paths:
            if has_path(self.config, path):
                value = value_at(self.config, path)
                if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                    raise CheckpointError(f"{self.where}: {path} is {value!r}, expected a whole number above zero.")
                return value
        return default

    def number(self, path: str, default: float, low: float, high: float) -> float:
        value = value_at(self.config, path, default)
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise CheckpointError(f"{self.where}: {path} is {value!r}, expected a number from {low:g} to {high:g}.")
        return float(value)

    def require(self, path: str, expected: int) -> None:
        value = value_at(self.config, path, expected)
        if value != expected:
            raise CheckpointError(f"{self.where}: {path} is {value!r}; only {expected} is supported.")

    def mix_ratio(self) -> tuple[int, int]:
        value = value_at(self.config, "llm.mix_ratio", [5, 15])
        if not (isinstance(value, list) and len(value) == 2 and all(type(item) is int and item > 0 for item in value)):
            raise CheckpointError(f"{self.where}: llm.mix_ratio is {value!r}, expected two whole numbers like [5, 15].")
        return value[0], value[1]

    def sampling(self) -> SamplingDefaults:
        published = SamplingDefaults()
        return SamplingDefaults(
            top_p=self.number("llm.sampling.top_p", published.top_p, 0.0, 1.0),
            top_k=self.integer("llm.sampling.top_k", default=published.top_k),
            win_size=self.integer("llm.sampling.win_size", default=published.win_size),
            tau_r=self.number("llm.sampling.tau_r", published.tau_r, 0.0, 1e6),
        )

    def fmax_hz(self, default: float | None) -> float | None:
        if not has_path(self.config, "feat_extractor.fmax"):
            return default
        if value_at(self.config, "feat_extractor.fmax") is None:
            return None
        return self.number("feat_extractor.fmax", 0.0, 1.0, SAMPLE_RATE_HZ / 2)
