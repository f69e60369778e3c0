"""Seconds that an engine of a full-size checkpoint takes on one GPU until it is warm: with an empty cache of Triton's
kernels, and with what the first start left in it. Counted from the beginning of a process of its own, imports included.

    light-tts verify --make-random /tmp/random --family cosyvoice2
    python benchmarks/gpu_start.py --model-dir /tmp/random -o benchmarks/results/gpu-start.json

The settings are those of `gpu_goals.py`. What takes how long is in the log, on the standard error.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BEGAN_S = time.perf_counter()
HERE = Path(__file__).resolve()
sys.path.insert(0, str(HERE.parent.parent))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model-dir", type=Path, required=True)
    parser.add_argument("--once", action="store_true", help="one start, in this process, with the cache that is there")
    parser.add_argument("-o", "--output", type=Path)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(start(arguments.model_dir)))
        return
    from light_tts.bench.machine import describe_machine

    report = {"command": " ".join(sys.argv), "machine": describe_machine()}
    with tempfile.TemporaryDirectory() as cache:
        for name in ("cold", "warm"):
            report[name] = start_in_a_process(arguments.model_dir, cache)
            print(name, report[name], flush=True)
    if arguments.output:
        arguments.output.write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")


def start_in_a_process(model_dir: Path, cache: str) -> dict[str, float]:
    command = [sys.executable, str(HERE), "--model-dir", str(model_dir), "--once"]
    environment = os.environ | {"TRITON_CACHE_DIR": cache}
    result = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(result.stdout.splitlines()[-1])


def start(model_dir: Path) -> dict[str, float]:
    """Seconds from the beginning of the process until so far."""
    logging.basicConfig(level=logging.INFO, format="%(relativeCreated)6d ms  %(threadName)s  %(message)s")
    from gpu_goals import settings_for

    from light_tts.engine import TTSEngine

    imported_s = time.perf_counter() - BEGAN_S
    with TTSEngine.load(settings_for(model_dir, 22, is_first=True)) as engine:
        loaded_s = time.perf_counter() - BEGAN_S
        engine.warm_up()
        warm_s = time.perf_counter() - BEGAN_S
    return {"imported_s": round(imported_s, 1), "loaded_s": round(loaded_s, 1), "warm_s": round(warm_s, 1)}


if __name__ == "__main__":
    main()
