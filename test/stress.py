"""n requests, c at a time.

    python test/stress.py -n 100 -c 10 --port 8080

Zero-shot in the voice of prompt.wav, or with --voice a registered one; the texts are those of test_texts.json. Requests
per second are of wall time. With more columns and other loads: light-tts bench load.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace

import common

from light_tts.bench.load import LoadPlan
from light_tts.bench.report import print_table


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    made = common.parser(__doc__)
    common.add_model_flags(made)
    made.add_argument("-n", "--num", type=int, default=100, help="requests (default: %(default)s)")
    made.add_argument("-c", "--concurrency", type=int, default=10, help="at a time (default: %(default)s)")
    made.add_argument("--stream", action="store_true", help="audio while it is made")
    made.add_argument("--voice", help="a registered voice in place of prompt.wav")
    arguments = made.parse_args(words)
    common.check_dtype(arguments)
    options = common.zero_shot_options(arguments, stream=arguments.stream)
    if arguments.voice is not None:
        options = replace(options, voice=arguments.voice, prompt_audio=None, prompt_text=None)
    plan = LoadPlan(workers=arguments.concurrency, num_requests=arguments.num, timeout_s=300.0)
    runs = common.measure(arguments, "lighttts", options, common.all_texts(), [plan])
    print_table(runs)
    return common.failures(runs)


if __name__ == "__main__":
    sys.exit(main())
