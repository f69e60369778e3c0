"""Many users with short texts: 50 users, each 100 requests of 8 texts to /inference_short over kept connections.

    python test/short_text_stress.py --port 8080                       as it comes: repeated texts are in the cache
    python test/short_text_stress.py --port 8080 --no_cache            every answer is spoken
    python test/short_text_stress.py --port 8080 --users 100 --requests 50

Prints mean, P50, P90, P95 and P99 of the total time and of the first audio byte, and requests per second of wall time.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import common

from light_tts.bench.load import LoadPlan
from light_tts.bench.summary import Spread
from light_tts.bench.target import SpeechOptions
from light_tts.client import SHORT

TEXTS = ("您好", "谢谢", "再见", "请稍等", "正在处理中", "Hello.", "One moment, please.", "Thank you, goodbye.")
POINTS = ("mean", "p50", "p90", "p95", "p99")


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    made = common.parser(__doc__)
    made.add_argument("--users", type=int, default=50, help="(default: %(default)s)")
    made.add_argument("--requests", type=int, default=100, help="of each user (default: %(default)s)")
    made.add_argument("--voice", help="a registered voice (default: the server's)")
    made.add_argument("--no_cache", action="store_true", help="ask the server to speak every answer")
    made.add_argument("--timeout_s", type=float, default=SHORT.total_s, help="(default: %(default)s)")
    arguments = made.parse_args(words)
    fields = (("cache", "false"),) if arguments.no_cache else ()
    options = SpeechOptions(stream=False, voice=arguments.voice, fields=fields)
    plan = LoadPlan(
        workers=arguments.users, num_requests=arguments.users * arguments.requests, timeout_s=arguments.timeout_s
    )
    # The load's own time limit counts from the moment a request was due.
    profile = replace(SHORT, total_s=None, read_s=arguments.timeout_s, connect_s=arguments.timeout_s)
    (run,) = common.measure(arguments, "short", options, TEXTS, [plan], profile)
    summary = run.summary
    print(f"{summary.requests_ok} of {summary.requests} requests of {arguments.users} users in {summary.wall_s:.2f} s")
    rows = [["ms", *POINTS]]
    rows += [_row("total", summary.total_s), _row("first audio byte", summary.first_audio_s)]
    print(common.markdown(rows))
    print(f"QPS {summary.requests_per_s:.1f} (requests that went well / wall time)")
    return common.failures([run])


def _row(name: str, spread: Spread | None) -> list[str]:
    return [name, *("-" if spread is None else f"{getattr(spread, point) * 1000:.1f}" for point in POINTS)]


if __name__ == "__main__":
    sys.exit(main())
