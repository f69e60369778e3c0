"""Two settings, the same texts and seeds: is the second one worse?

    python test/quality_compare.py --a flow_steps=10 --b flow_steps=5
    python test/quality_compare.py --port 8080 --port_b 8081          two servers, such as float32 and bfloat16

Measures, without listeners: phoneme errors by the recogniser of the built-in model (English and Mandarin), and by its
speaker model how similar each answer is to the voice it clones. The verdict fails when B makes more errors than A, or
is less similar, by more than --limit (5 % by default: of the phonemes, and of A's similarity). Both models were made
with the built-in voice: figures to compare settings by, no judgement of naturalness.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
import wave
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import common
import numpy as np

from light_tts.assets import builtin_model_dir
from light_tts.client import ClientError, SpeechClient

EVAL = common.HERE.parent / "tests" / "assets" / "eval"
RECOGNISER_RATE_HZ = 16_000


@dataclass
class Outcome:
    """One sentence under one setting. errors of phones phonemes; similarity: cosine, 1 is the same voice."""

    text: str
    language: str
    seed: int
    errors: int
    phones: int
    similarity: float
    audio_s: float


class Judge:
    """Listens with the models of the built-in model directory."""

    def __init__(self) -> None:
        import score  # from tests/assets/eval

        from light_tts.frontend.reference_features import OnnxReferenceFeatures

        model_dir = Path(builtin_model_dir())
        self._score = score
        self._recogniser = score.Recogniser(model_dir)
        self._features = OnnxReferenceFeatures(
            model_dir / "speech_tokenizer_v2.onnx", model_dir / "campplus.onnx", mel_fmax_hz=None
        )
        self._prompt = self._speaker(read_wav(common.PROMPT_WAV.read_bytes()))

    def judge(self, row: dict[str, str], seed: int, wav: bytes) -> Outcome:
        """Count the errors in one answer and compare its voice with the prompt's."""
        samples = read_wav(wav)
        expected = self._score.fold(row["phones"].split(), False)
        heard = self._score.fold(self._recogniser.phones(samples), False)
        similarity = float(self._prompt @ self._speaker(samples))
        audio_s = samples.size / RECOGNISER_RATE_HZ
        errors = self._score.edits(heard, expected)
        return Outcome(row["text"], row["language"], seed, errors, len(expected), similarity, audio_s)

    def _speaker(self, samples: np.ndarray) -> np.ndarray:
        import torch

        vector = self._features.speaker(torch.from_numpy(samples)).numpy()
        return vector / np.linalg.norm(vector)


def read_wav(data: bytes) -> np.ndarray:
    """16-bit mono WAV to [N] float32 at 16 kHz."""
    from scipy.signal import resample_poly

    with wave.open(io.BytesIO(data)) as file:
        rate_hz = file.getframerate()
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2").astype(np.float32) / 32768
    return resample_poly(samples, RECOGNISER_RATE_HZ, rate_hz).astype(np.float32)


def main(words: Sequence[str] | None = None) -> int:
    """0 when B is not worse than A by more than the limit, else 1."""
    arguments = _parse(words)
    rows = [json.loads(line) for line in (EVAL / "sentences.jsonl").read_text("utf-8").splitlines()]
    rows = rows[:: max(1, len(rows) // arguments.num)][: arguments.num]
    sys.path.insert(0, str(EVAL))
    judge = Judge()
    settings = {"A": (arguments.port, arguments.a), "B": (arguments.port_b or arguments.port, arguments.b)}
    try:
        outcomes = {
            name: _speak_all(judge, rows, arguments, port, dict(pair.split("=", 1) for pair in pairs))
            for name, (port, pairs) in settings.items()
        }
    except ClientError as error:
        sys.exit(str(error))
    report = _report(outcomes, arguments)
    if arguments.output is not None:
        arguments.output.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    return 0 if report["passed"] else 1


def _speak_all(
    judge: Judge, rows: Sequence[dict[str, str]], arguments: argparse.Namespace, port: int, fields: dict[str, str]
) -> list[Outcome]:
    outcomes = []
    common_fields = {"prompt_text": common.PROMPT_HEADS[arguments.cosyvoice_version] + common.PROMPT_TEXT}
    with SpeechClient(f"http://{arguments.host}:{port}", api_key=arguments.api_key) as client:
        for seed in arguments.seeds:
            for row in rows:
                form = {**common_fields, "tts_text": row["text"], "seed": str(seed), "response_format": "wav", **fields}
                with client.inference("zero_shot", form, common.PROMPT_WAV.read_bytes()) as speech:
                    outcomes.append(judge.judge(row, seed, speech.read()))
    return outcomes


def _report(outcomes: dict[str, list[Outcome]], arguments: argparse.Namespace) -> dict[str, Any]:
    """Print the table and the verdict, and return both with every sentence."""
    figures = {name: _figures(rows) for name, rows in outcomes.items()}
    names = list(figures["A"])
    print(common.markdown([["", *names], *([name, *_cells(figures[name], names)] for name in ("A", "B"))]))
    worse_errors = figures["B"]["phoneme errors"] - figures["A"]["phoneme errors"]
    similarity = figures["A"]["speaker similarity"]
    lost_similarity = (similarity - figures["B"]["speaker similarity"]) / max(abs(similarity), 1e-6)
    passed = worse_errors <= arguments.limit / 100 and lost_similarity <= arguments.limit / 100
    print(
        f"B against A: phoneme errors {worse_errors:+.1%} of all phonemes, similarity {-lost_similarity:+.1%}; "
        f"{'within' if passed else 'NOT within'} the limit of {arguments.limit:g} %"
    )
    return {
        "a": arguments.a,
        "b": arguments.b,
        "limit_percent": arguments.limit,
        "figures": figures,
        "passed": passed,
        "sentences": {name: [vars(row) for row in rows] for name, rows in outcomes.items()},
    }


def _figures(rows: Sequence[Outcome]) -> dict[str, float]:
    def error_rate(chosen: Sequence[Outcome]) -> float:
        return sum(row.errors for row in chosen) / max(1, sum(row.phones for row in chosen))

    languages = sorted({row.language for row in rows})
    per_language = {
        f"phoneme errors {language}": error_rate([row for row in rows if row.language == language])
        for language in languages
    }
    return {
        "phoneme errors": error_rate(rows),
        **per_language,
        "sentences without error": sum(row.errors == 0 for row in rows) / len(rows),
        "speaker similarity": float(np.mean([row.similarity for row in rows])),
        "audio s": sum(row.audio_s for row in rows),
    }


def _cells(figures: dict[str, float], names: Sequence[str]) -> list[str]:
    styles = {"speaker similarity": "{:.3f}", "audio s": "{:.1f}"}
    return [styles.get(name, "{:.1%}").format(figures[name]) for name in names]


def _parse(words: Sequence[str] | None) -> argparse.Namespace:
    made = common.parser(__doc__)
    made.add_argument("--port_b", type=int, help="of the server for B (default: the same)")
    made.add_argument("--cosyvoice_version", choices=tuple(common.PROMPT_HEADS), default="2")
    made.add_argument("--a", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of the requests of A")
    made.add_argument("--b", nargs="*", default=[], metavar="FIELD=VALUE", help="fields of the requests of B")
    made.add_argument("--num", type=int, default=60, help="sentences (default: %(default)s)")
    made.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="(default: 0 1 2)")
    made.add_argument("--limit", type=float, default=5.0, help="percent (default: %(default)s)")
    made.add_argument("--output", type=Path, help="everything as JSON")
    arguments = made.parse_args(words)
    for pair in (*arguments.a, *arguments.b):
        if "=" not in pair:
            made.error(f"'{pair}' is no FIELD=VALUE")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
