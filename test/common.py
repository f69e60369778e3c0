"""What the programs of this folder share: the server's flags, the prompt, checks before a measurement, tables."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # a checkout will do; an installed package comes from there too

from light_tts.bench.dialects import DIALECTS  # noqa: E402
from light_tts.bench.http_target import HttpTarget  # noqa: E402
from light_tts.bench.load import LoadPlan, run_load  # noqa: E402
from light_tts.bench.report import Run  # noqa: E402
from light_tts.bench.summary import Spread  # noqa: E402
from light_tts.bench.target import SpeechOptions  # noqa: E402
from light_tts.client import ClientError, ConnectionProfile, SpeechClient  # noqa: E402

PROMPT_WAV = HERE / "prompt.wav"
PROMPT_TEXT = "The weather is nice today, and the train leaves at nine."
# The third version of the model was trained with this sentence before every transcript.
PROMPT_HEADS = {"2": "", "3": "You are a helpful assistant.<|endofprompt|>"}
DTYPE_WORDS = {
    "float16": "float16", "fp16": "float16", "half": "float16",
    "bfloat16": "bfloat16", "bf16": "bfloat16",
    "float32": "float32", "fp32": "float32",
}  # fmt: skip


def parser(description: str | None, *, port: int = 8080) -> argparse.ArgumentParser:
    """With the flags that say where the server is."""
    made = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--host", default="127.0.0.1", help="(default: %(default)s)")
    made.add_argument("--port", type=int, default=port, help="(default: %(default)s)")
    made.add_argument("--api_key", help="sent as 'Authorization: Bearer'")
    return made


def add_model_flags(made: argparse.ArgumentParser) -> None:
    """What the server should be running."""
    made.add_argument("--cosyvoice_version", choices=tuple(PROMPT_HEADS), default="2", help="(default: %(default)s)")
    made.add_argument("--dtype", choices=tuple(DTYPE_WORDS), help="refuse to measure unless the server runs in this")
    made.add_argument("--steps", type=int, help="Euler steps of the flow, sent with every request")


def url_of(arguments: argparse.Namespace) -> str:
    """The server's base URL."""
    return f"http://{arguments.host}:{arguments.port}"


def prompt_text(arguments: argparse.Namespace) -> str:
    """The transcript of prompt.wav as this version of the model wants it."""
    return PROMPT_HEADS[arguments.cosyvoice_version] + PROMPT_TEXT


def health(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the server says of itself; ends the script when it says nothing."""
    try:
        with SpeechClient(url_of(arguments), api_key=arguments.api_key) as client:
            return client.health()
    except ClientError as error:
        sys.exit(f"no healthy server: {error}")


def check_dtype(arguments: argparse.Namespace) -> None:
    """End the script when the language model runs in another precision than `--dtype`."""
    if arguments.dtype is None:
        return
    wanted, runs_in = DTYPE_WORDS[arguments.dtype], health(arguments).get("dtypes", {}).get("llm")
    if runs_in != wanted:
        sys.exit(f"--dtype {wanted}: the server runs its language model in {runs_in}; restart it with --data_type")


def all_texts() -> list[str]:
    """The fifty texts of test_texts.json, English and Mandarin in turn."""
    texts: list[str] = json.loads((HERE / "test_texts.json").read_text("utf-8"))
    return texts


def zero_shot_options(arguments: argparse.Namespace, *, stream: bool) -> SpeechOptions:
    """Requests that clone prompt.wav."""
    steps = () if arguments.steps is None else (("flow_steps", str(arguments.steps)),)
    return SpeechOptions(
        stream=stream, prompt_audio=PROMPT_WAV.read_bytes(), prompt_text=prompt_text(arguments), fields=steps
    )


def measure(
    arguments: argparse.Namespace,
    dialect: str,
    options: SpeechOptions,
    texts: Sequence[str],
    plans: Sequence[LoadPlan],
    profile: ConnectionProfile | None = None,
) -> list[Run]:
    """Run one plan after the other."""

    async def run() -> list[Run]:
        target = HttpTarget(url_of(arguments), DIALECTS[dialect], options, arguments.api_key, profile)
        async with target:
            return [Run.of(plan, await run_load(target, texts, plan, stream=options.stream)) for plan in plans]

    return asyncio.run(run())


def points(spread: Spread | None, names: Sequence[str] = ("p50", "p90", "p99")) -> str:
    """Percentiles in one cell."""
    return "-" if spread is None else "/".join(f"{getattr(spread, name):.2f}" for name in names)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table, its first row the heading."""
    heading, *body = rows
    lines = [heading, ["---"] * len(heading), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def failures(runs: Sequence[Run]) -> int:
    """Print what failed, by kind; the exit status."""
    for run in runs:
        for kind, count in run.summary.errors.items():
            print(f"{run.plan.label}: {count} failed: {kind}")
    return int(any(run.summary.errors for run in runs))
