"""What passes between `submit` and the moment the language model's thread takes a request in, part by part.

    python benchmarks/text_preparation.py -o benchmarks/results/text-preparation.json

A warm engine, one listener after the other, who leaves with the first audio; every text in a registered voice. The
built-in model unless --model-dir is given. Microseconds, p50 of all requests:

called     `submit` returns; its caller goes on
waits      from `submit` until a thread of the frontend has the request
text       reading, splitting and encoding it
voice      what the models are given of the voice
opens      until the run is open in the acoustic decoder
submits    the language model takes its prompt
obeys      until its thread does
whole      all but the first
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from light_tts.bench.machine import describe_machine
from light_tts.engine import TTSEngine
from light_tts.settings import ModelSettings, Settings
from light_tts.types import SynthesisRequest

GOALS = "the train to the city leaves at nine in the morning and the next one soon after"
TEXTS = {
    "one sentence": "I would like to know whether the train from the northern station still leaves before noon today.",
    "text of gpu_goals.py": f"{GOALS} {GOALS}.",
    "three sentences": "Dr. Brown has left. He said that the train leaves at noon, or a little later: nobody knows for "
    "sure. Would you like to wait for him in the meantime, or shall I ask him to call you back tomorrow?",
    "Mandarin": "今天天气很好，我们打算下午一起去公园散步，然后在湖边的咖啡馆坐一会儿。",
    "numbers": "The meeting on 12 May starts at 9:30 and costs 25 dollars for each of the 14 people.",
    "Mandarin numbers": "会议定于5月12日上午9点30分开始，每人收费25元。",
}
EDGES = {  # part -> its beginning and end
    "called": ("submit", "returned"),
    "waits": ("submit", "prepare"),
    "text": ("text", "text done"),
    "voice": ("text done", "prepare done"),
    "opens": ("prepare done", "open done"),
    "submits": ("open done", "llm done"),
    "obeys": ("llm done", "taken in"),
    "whole": ("submit", "taken in"),
}


PAUSE_S = 0.2


class Marks:
    """When methods began and ended, the first time each, in nanoseconds."""

    def __init__(self) -> None:
        self.at_ns: dict[str, int] = {}

    def watch(self, owner: Any, method: str, name: str) -> None:
        call: Callable[..., Any] = getattr(owner, method)

        def marked(*arguments: Any, **named: Any) -> Any:
            self.note(name)
            result = call(*arguments, **named)
            self.note(f"{name} done")
            return result

        setattr(owner, method, marked)

    def note(self, name: str) -> None:
        self.at_ns.setdefault(name, time.perf_counter_ns())


def measure(engine: TTSEngine, marks: Marks, request: SynthesisRequest) -> dict[str, float]:
    """Microseconds of each part, of one request."""
    marks.at_ns.clear()
    marks.note("submit")
    with engine.submit(request) as audio:
        marks.note("returned")
        next(iter(audio))
        at_ns = dict(marks.at_ns)
    time.sleep(PAUSE_S)  # the calls that were under way when the listener left end meanwhile
    return {part: (at_ns[end] - at_ns[begin]) / 1e3 for part, (begin, end) in EDGES.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path)
    parser.add_argument("--voice", help="the first one by default")
    parser.add_argument("--requests", type=int, default=30, help="of each text")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    report: dict[str, Any] = {"command": " ".join(sys.argv), "machine": describe_machine(), "p50_us": {}}
    with TTSEngine.load(Settings(model=ModelSettings(model_dir=arguments.model_dir))) as engine:
        engine.warm_up()
        voice = arguments.voice or engine.voices.names()[0]
        marks, llm = Marks(), next(iter(engine._llms.values()))
        for owner, method, name in (
            (engine._frontend, "prepare", "prepare"),
            (engine._frontend.text, "prepare", "text"),
            (engine._decoder, "open", "open"),
            (llm, "submit", "llm"),
            (llm, "_add", "taken in"),
        ):
            marks.watch(owner, method, name)
        for name, text in TEXTS.items():
            rows = [
                measure(engine, marks, SynthesisRequest(text, voice, seed=seed)) for seed in range(arguments.requests)
            ]
            p50_us = {part: round(statistics.median(row[part] for row in rows)) for part in EDGES}
            report["p50_us"][name] = p50_us
            print(f"{name:22}", "  ".join(f"{part} {value:5}" for part, value in p50_us.items()), flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
