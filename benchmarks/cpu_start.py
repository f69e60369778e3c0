"""Cold start of the command line: seconds from `light-tts say` to its first byte of audio, and the memory it takes.

python benchmarks/cpu_start.py --repeats 3 -o benchmarks/results/cpu-start.json
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from light_tts.bench.machine import describe_machine

TEXT = "Hello, welcome. 您好，欢迎使用语音合成服务。"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("-o", "--output")
    arguments = parser.parse_args()
    command = [sys.executable, "-m", "light_tts", "say", TEXT, "-o", "-", "--format", "pcm", "--seed", "1"]
    runs = []
    for _ in range(arguments.repeats):
        start_s = time.perf_counter()
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
            assert process.stdout is not None
            first = process.stdout.read(960)
            first_audio_s = time.perf_counter() - start_s
            rest = process.stdout.read()
        total_s = time.perf_counter() - start_s
        audio_s = (len(first) + len(rest)) / 48000
        runs.append(
            {"first_audio_s": round(first_audio_s, 2), "total_s": round(total_s, 2), "audio_s": round(audio_s, 2)}
        )
        print(runs[-1])
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    print(f"peak memory {peak_mb:.0f} MB")
    if arguments.output:
        report = {
            "command": " ".join(command),
            "machine": describe_machine(),
            "runs": runs,
            "peak_memory_mb": round(peak_mb),
        }
        Path(arguments.output).write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n")


if __name__ == "__main__":
    main()
