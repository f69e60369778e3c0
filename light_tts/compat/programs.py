"""The programs that guides start: each is the server with defaults, flags and variables of its own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from light_tts.settings_spec import SettingSpec


@dataclass(frozen=True)
class OwnFlag:
    """A flag that only this program has.

    name:     as it is written, without the dashes.
    means:    a setting, or a name of the table in `flags.py`.
    choices:  the words it takes, where it takes fewer than what it means.
    """

    name: str
    means: str
    choices: tuple[str, ...] = ()

    def parse(self, value: str) -> object:
        """The value to hand on. Raises ConfigError for a word that is none of the choices."""
        if not self.choices:
            return value
        return SettingSpec("compat", self.name, str, self.choices, False, False, None, "").parse(
            value, f"--{self.name}"
        )


@dataclass(frozen=True)
class Program:
    """A program by its name.

    defaults:   setting -> value, below everything else.
    preset:     in force unless another one is asked for.
    flags:      of its own.
    variables:  environment variable -> setting or old name.
    """

    name: str
    description: str
    defaults: Mapping[str, object] = field(default_factory=dict)
    preset: str | None = None
    flags: tuple[OwnFlag, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


API_SERVER = Program(
    "light_tts.server.api_server",
    "The server under the name of LightTTS's.",
    defaults={"host": "127.0.0.1", "port": 8080, "load_trt": True},
)

TTS_API_SERVER = Program(
    "tts_api_server.py",
    "The server with the flags, environment variables and defaults of the guides for Fun-CosyVoice3.",
    defaults={
        "host": "0.0.0.0",
        "port": 8000,
        "max_concurrent_requests": 4,
        "gpu_memory_utilization": 0.4,
        "load_trt": True,
        # Its own way to split: at commas too, into longer pieces.
        "comma_split": True,
        "token_max_n": 100,
        "token_min_n": 40,
        "merge_len": 15,
        "token_hop_len": 25,
    },
    variables={
        "MODEL_DIR": "model_dir",
        "LOAD_VLLM": "load_vllm",
        "FP16": "fp16",
        "GPU_MEMORY_UTILIZATION": "gpu_memory_utilization",
        "TRT_CONCURRENT": "trt_concurrent",
        "MAX_CONCURRENT_REQUESTS": "max_concurrent_requests",
        "WORKERS": "workers",
        "TOKEN_HOP_LEN": "token_hop_len",
        "PORT": "port",
    },
)

RUN_A10_OPTIMIZED = Program(
    "run_a10_optimized.py",
    "The server set up for an NVIDIA A10.",
    defaults={
        "host": "0.0.0.0",
        "port": 8080,
        "model_dir": "./pretrained_models/CosyVoice2-0.5B",
        "http_workers": 2,
    },
    preset="a10",
    flags=(
        OwnFlag("decode-proc", "decode_process_num"),
        OwnFlag("precision", "data_type", ("float16", "bfloat16", "float32")),
    ),
)

WSGI_WRAPPER = Program(
    "wsgi_wrapper.py",
    "The server as an ASGI application for gunicorn or uvicorn, with its CONFIG.",
    defaults={"host": "0.0.0.0", "port": 8080},
)
