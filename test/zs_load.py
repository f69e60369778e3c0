"""The measurement behind test_zs_speed.py and test_zs_stream.py: fifty texts at several numbers of workers."""

from __future__ import annotations

from collections.abc import Sequence

import common

from light_tts.bench.load import LoadPlan
from light_tts.bench.report import Run


def main(description: str | None, words: Sequence[str] | None, *, stream: bool) -> int:
    """Measure and print; the exit status is 1 when a request failed."""
    made = common.parser(description)
    common.add_model_flags(made)
    made.add_argument("--num_workers", type=int, nargs="+", default=[1, 2, 4, 8], help="(default: 1 2 4 8)")
    made.add_argument("--num", type=int, default=50, help="texts per level (default: %(default)s)")
    arguments = made.parse_args(words)
    common.check_dtype(arguments)
    plans = [
        LoadPlan(workers=workers, num_requests=arguments.num, warmup_requests=min(2, arguments.num), timeout_s=300.0)
        for workers in arguments.num_workers
    ]
    options = common.zero_shot_options(arguments, stream=stream)
    runs = common.measure(arguments, "lighttts", options, common.all_texts(), plans)
    print(common.markdown(_rows(runs, stream=stream)))
    return common.failures(runs)


def _rows(runs: Sequence[Run], *, stream: bool) -> list[list[str]]:
    heading = ["mode", "workers", "time p50/p90/p99 (s)", "TTFT p50/p90/p99 (s)", "RTF p50/p90/p99", "RTF average"]
    rows = [[*heading, "total (s)", "QPS"]]
    for run in runs:
        summary = run.summary
        rows.append(
            [
                "stream" if stream else "non-stream",
                str(run.plan.workers),
                common.points(summary.total_s),
                common.points(summary.first_audio_s) if stream else "-",
                common.points(summary.rtf),
                "-" if summary.rtf is None else f"{summary.rtf.mean:.2f}",
                f"{summary.wall_s:.2f}",
                f"{summary.requests_per_s:.2f}",
            ]
        )
    return rows
