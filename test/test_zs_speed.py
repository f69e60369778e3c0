"""Speed of whole answers: the fifty texts of test_texts.json in the voice of prompt.wav, at 1, 2, 4 and 8 workers.

    python test/test_zs_speed.py --port 8080 --dtype bfloat16 --steps 10

Prints percentiles of the time and of the RTF, the average RTF, the total time and requests per second as a Markdown
table. --dtype is compared with what the server says it runs in; --steps is sent with every request.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import zs_load


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    return zs_load.main(__doc__, words, stream=False)


if __name__ == "__main__":
    sys.exit(main())
