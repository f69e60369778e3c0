"""The words of `--mode` and `--quant_type`: kernels of old, formats of today."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from light_tts.compat.old_names import Outcome, no_effect
from light_tts.errors import ConfigError
from light_tts.llm.weight_plan import PUBLISHED_FORMATS
from light_tts.settings_spec import did_you_mean, setting_specs

Kind = Literal["kernel", "kv_cache_dtype", "quant_type", "unsupported"]

_SAME_KERNEL = "the paged decoding kernel is used whatever the word"

# Word -> (what it chooses, the value of that setting). Underscores and hyphens are the same.
WORDS: Mapping[str, tuple[Kind, str]] = {
    "triton-flashdecoding": ("kernel", ""),
    "triton-gqa-attention": ("kernel", ""),
    "triton-gqa-flashdecoding": ("kernel", ""),
    "triton-gqa-flashdecoding-vsm": ("kernel", ""),
    "ppl-fp16": ("kv_cache_dtype", "auto"),
    "ppl-fp16-flashdecoding": ("kv_cache_dtype", "auto"),
    "triton-int8kv": ("kv_cache_dtype", "int8"),
    "ppl-int8kv": ("kv_cache_dtype", "int8"),
    "ppl-int8kv-flashdecoding": ("kv_cache_dtype", "int8"),
    "ppl-int4kv-flashdecoding": ("unsupported", ""),
    **{word: ("quant_type", kind) for word, kind in PUBLISHED_FORMATS.items()},
    "vllm-w8a8": ("unsupported", ""),
    "ao-w8a8": ("unsupported", ""),
    "ao-w4a16-256": ("unsupported", ""),
    "ao-w4a16-128": ("unsupported", ""),
    "ao-w4a16-64": ("unsupported", ""),
    "ao-w4a16-32": ("unsupported", ""),
    "ao-w8a16": ("unsupported", ""),
    "ao-fp6w6a16": ("unsupported", ""),
    "ppl-w4a16-128": ("unsupported", ""),
    "flashllm-w6a16": ("unsupported", ""),
}


def split_words(values: Sequence[str]) -> tuple[str, ...]:
    """The words of `a,b c`, in order and without repetitions, spelt as guides spell them."""
    words = [word.lower().replace("_", "-") for value in values for word in value.replace(",", " ").split()]
    return tuple(_shown(word) for word in dict.fromkeys(words))


def read_modes(values: Sequence[str], source: str) -> Outcome:
    """What the words of `--mode`, split, choose. Raises ConfigError for unknown, unsupported and conflicting words."""
    chosen: dict[str, tuple[str, str]] = {}
    notes = []
    for word in values:
        kind, value = _look_up(word, source)
        if kind == "kernel":
            notes.append(f"{word} {no_effect(_SAME_KERNEL)}")
            continue
        other, before = chosen.setdefault(kind, (word, value))
        if before != value:
            what = "two formats of the KV cache" if kind == "kv_cache_dtype" else "two formats of the weights"
            raise ConfigError(f"{source}: {other} and {word} are {what}; give one of them")
    return Outcome({kind: value for kind, (_, value) in chosen.items()}, notes=tuple(notes))


def read_quant_type(value: str, source: str) -> Outcome:
    """A word of the setting itself, or a weight format of `--mode`. Raises ConfigError."""
    spec = setting_specs()["quant_type"]
    if value.lower() in spec.choices:
        return Outcome({"quant_type": value.lower()})
    word = value.lower().replace("_", "-")
    if word not in WORDS or WORDS[word][0] in ("kernel", "kv_cache_dtype"):
        raise ConfigError(f"{source}: {value!r} is not allowed; use {spec.allowed}{did_you_mean(value, spec.choices)}")
    return Outcome({"quant_type": _look_up(_shown(word), source)[1]})


def _look_up(word: str, source: str) -> tuple[Kind, str]:
    kind, value = WORDS.get(word.lower().replace("_", "-"), (None, ""))
    if kind is None:
        known = [_shown(word) for word, (kind, _) in WORDS.items() if kind != "unsupported"]
        raise ConfigError(
            f"{source}: {word!r} is not a mode; use words of {', '.join(known)}{did_you_mean(word, known)}"
        )
    if kind == "unsupported":
        raise ConfigError(f"{source}: {word} is not supported here; use int8, int4 or fp8 weights, or int8 KV")
    return kind, value


def _shown(word: str) -> str:
    """As guides write it: `triton_int8kv`, but `triton-fp8w8a8-b128`."""
    return word if "w8a8" in word or word.startswith(("vllm", "ao-", "flashllm")) else word.replace("-", "_")
