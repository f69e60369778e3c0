"""`light-tts doctor`: what is installed here, and what is missing; how the memory of a GPU would be shared out."""

from __future__ import annotations

import argparse
import platform
from collections.abc import Iterator
from importlib import metadata, util
from pathlib import Path

from light_tts import __version__
from light_tts.commands.arguments import add_setting_flags, add_source_flags, settings_from
from light_tts.errors import ConfigError, LightTTSError

PLANNED_SETTINGS = (
    "gpu_memory_utilization", "max_total_tokens", "max_request_tokens", "max_running", "prefill_budget_tokens",
    "kv_cache_dtype", "quant_type", "custom_cfg_path", "disable_cudagraph", "flow_graphs", "flow_steps",
    "prompt_cache_mb", "stream_cache_mb", "flow_cache_dtype", "llm_dtype", "flow_dtype", "vocoder_dtype",
)  # fmt: skip
# Package to install -> module to import, and what does not work without it.
_NEEDED = {
    "torch": ("torch", "everything"),
    "numpy": ("numpy", "everything"),
    "safetensors": ("safetensors", "everything"),
    "PyYAML": ("yaml", "everything"),
    "tokenizers": ("tokenizers", "everything"),
    "wetext": ("wetext", "numbers and dates in texts"),
    "onnxruntime": ("onnxruntime", "voices from recordings"),
    "av": ("av", "reading recordings and writing files"),
    "rich": ("rich", "'say' and 'verify'"),
    "fastapi": ("fastapi", "'serve'"),
    "uvicorn": ("uvicorn", "'serve'"),
    "structlog": ("structlog", "'serve'"),
    "prometheus-client": ("prometheus_client", "'serve'"),
    "python-multipart": ("python_multipart", "'serve'"),
}


def add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Describe the verb."""
    parser = verbs.add_parser(
        "doctor",
        help="say what is installed here, and what is missing",
        description="Say what is installed here, and what is missing. Exit status 1 when something is.",
    )
    parser.add_argument(
        "--plan", action="store_true", help="only say what GPUs of several sizes would be used for; needs no GPU"
    )
    parser.add_argument(
        "--family", metavar="NAME", help="with --plan: the published model of this family instead of a model directory"
    )
    parser.add_argument(
        "--gpu-memory-gb", metavar="GB", nargs="+", type=_positive, help="with --plan: GPUs; default: 8 12 16 24"
    )
    add_source_flags(parser)
    add_setting_flags(parser, ("model_dir", "device", "voices_dir"), title="what to look at")
    add_setting_flags(parser, PLANNED_SETTINGS, title="what a plan depends on")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print the findings, one a line."""
    settings = settings_from(arguments).settings
    if arguments.plan:
        from light_tts.commands.memory_table import GPU_SIZES_GB, memory_table

        print(memory_table(settings, arguments.family, arguments.gpu_memory_gb or GPU_SIZES_GB))
        return 0
    for flag in ("family", "gpu_memory_gb"):
        if getattr(arguments, flag) is not None:
            raise ConfigError(f"--{flag.replace('_', '-')} says what to plan for; give --plan as well")
    print(f"light-tts   {__version__}")
    print(f"python      {platform.python_version()} on {platform.platform(terse=True)}")
    missing = list(_missing_packages())
    for package, purpose in missing:
        print(f"missing     {package}: needed for {purpose}; pip install '{package}'")
    broken = False
    if all(package != "torch" for package, _ in missing):
        print(f"torch       {metadata.version('torch')}, {_describe_devices()}")
        broken = not _look_at_model(settings.model.model_dir)
    _look_at_speakers()
    print("all well" if not missing and not broken else "something is missing")
    return 1 if missing or broken else 0


def _positive(word: str) -> float:
    try:
        number = float(word)
    except ValueError:
        number = 0.0
    if not 0 < number <= 1024:
        raise argparse.ArgumentTypeError(f"{word!r} is no size of a GPU; use GB such as 24")
    return number


def _missing_packages() -> Iterator[tuple[str, str]]:
    for package, (module, purpose) in _NEEDED.items():
        if util.find_spec(module) is None:
            yield package, purpose


def _describe_devices() -> str:
    import torch

    threads = f"{torch.get_num_threads()} CPU threads"
    if not torch.cuda.is_available():
        return f"{threads}, no GPU"
    names = ", ".join(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count()))
    return f"{threads}, GPU: {names} (CUDA {torch.version.cuda})"


def _look_at_model(model_dir: Path | None) -> bool:
    from light_tts.assets import builtin_model_dir
    from light_tts.models.model_dir import ModelDirectory

    path = model_dir or builtin_model_dir()
    try:
        directory = ModelDirectory.open(path, styles_outside=True)
    except LightTTSError as error:
        print(f"model       {error}")
        return False
    print(f"model       {directory.name}: {directory.family.name}, in {path}")
    return True


def _look_at_speakers() -> None:
    if util.find_spec("av") is None:
        return
    from light_tts.playback import find_player

    player = find_player()
    print(f"speakers    {player.name if player else 'no player found: use light-tts say -o FILE'}")
