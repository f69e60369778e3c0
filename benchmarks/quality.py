"""Phoneme error rate of the built-in model over the 60 everyday sentences, and the speed while at it.

    python benchmarks/quality.py --seeds 0 1 2 --stream --kind zero-shot -o benchmarks/results/quality.json

kind zero-shot clones the prompt recordings (as files); kind named uses the built-in voices.
Errors are counted by the recogniser that comes with the model (tests/assets/eval/score.py).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "assets" / "eval")]

import score  # noqa: E402

from light_tts.assets import builtin_model_dir  # noqa: E402
from light_tts.bench.machine import describe_machine  # noqa: E402
from light_tts.engine import TTSEngine  # noqa: E402
from light_tts.settings import AcousticSettings, Settings  # noqa: E402
from light_tts.types import SAMPLE_RATE_HZ, ReferenceAudio, SynthesisRequest  # noqa: E402

VOICE_OF = {"en": "en_female", "zh": "zh_female"}


def main() -> None:
    arguments = _parse()
    rows = [json.loads(line) for line in (ROOT / "tests/assets/eval/sentences.jsonl").read_text().splitlines()]
    recogniser = score.Recogniser(builtin_model_dir())
    runs = []
    settings = Settings(acoustic=AcousticSettings(whole_answer_mask=arguments.whole_answer_mask))
    with TTSEngine.load(settings) as engine:
        engine.warm_up()
        for seed in arguments.seeds:
            for stream in [True, False] if arguments.both else [arguments.stream]:
                run = measure(engine, recogniser, rows[:: arguments.every], seed, stream, arguments.kind)
                print(json.dumps({key: value for key, value in run.items() if key != "sentences"}))
                runs.append(run)
    mean = {language: float(np.mean([run["per"][language] for run in runs])) for language in runs[0]["per"]}
    print("mean", {language: f"{value:.1%}" for language, value in mean.items()})
    if arguments.output:
        report = {"command": " ".join(sys.argv), "machine": describe_machine(), "mean_per": mean, "runs": runs}
        Path(arguments.output).write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")


def measure(
    engine: TTSEngine, recogniser: Any, rows: list[dict[str, str]], seed: int, stream: bool, kind: str
) -> dict[str, Any]:
    errors: dict[str, list[int]] = {}
    sentences = []
    audio_s = wall_s = 0.0
    for index, row in enumerate(rows):
        start_s = time.perf_counter()
        request = SynthesisRequest(
            row["text"], voice=_voice(row["language"], kind), stream=stream, seed=seed * 1000 + index
        )
        with engine.submit(request) as audio:
            samples = np.concatenate([chunk.samples for chunk in audio])
        wall_s += time.perf_counter() - start_s
        audio_s += samples.size / SAMPLE_RATE_HZ
        expected = score.fold(row["phones"].split(), False)
        heard = score.fold(recogniser.phones(_to_16k(samples)), False)
        wrong = score.edits(heard, expected)
        total = errors.setdefault(row["language"], [0, 0])
        total[0] += wrong
        total[1] += len(expected)
        sentences.append({"text": row["text"], "errors": wrong, "phones": len(expected), **_stats(audio)})
    return {
        "seed": seed,
        "stream": stream,
        "kind": kind,
        "per": {language: wrong / total for language, (wrong, total) in errors.items()},
        "audio_s": round(audio_s, 2),
        "wall_s": round(wall_s, 2),
        "rtf": round(wall_s / audio_s, 3),
        "first_chunk_ms_p50": float(np.median([s["first_chunk_ms"] for s in sentences])),
        "sentences": sentences,
    }


def _stats(audio: Any) -> dict[str, Any]:
    return {
        "first_chunk_ms": round(audio.stats.first_chunk_ms or 0.0, 1),
        "audio_s": round(audio.stats.audio_s, 2),
        "finish": audio.stats.finish,
    }


def _voice(language: str, kind: str) -> str | ReferenceAudio:
    name = VOICE_OF[language]
    if kind == "named":
        return name
    prompts = json.loads((Path(builtin_model_dir()) / "prompts" / "prompts.json").read_text())
    data = (Path(builtin_model_dir()) / prompts[name]["file"]).read_bytes()
    return ReferenceAudio(data, prompts[name]["text"])


def _to_16k(samples: np.ndarray) -> np.ndarray:
    from scipy.signal import resample_poly

    pcm = (np.clip(samples, -1, 1) * 32767).astype(np.int16).astype(np.float32) / 32768
    resampled: np.ndarray = resample_poly(pcm, 2, 3).astype(np.float32)
    return resampled


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--stream", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--both", action="store_true", help="streaming and not")
    parser.add_argument("--kind", choices=["zero-shot", "named"], default="zero-shot")
    parser.add_argument("--whole-answer-mask", choices=["full", "chunk"], default="full")
    parser.add_argument("--every", type=int, default=1, help="take every n-th sentence only")
    parser.add_argument("-o", "--output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
