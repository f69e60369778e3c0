"""Speed of streamed answers: as test_zs_speed.py, with the time to the first audio (TTFT).

python test/test_zs_stream.py --port 8080 --num_workers 1 2 4
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import zs_load


def main(words: Sequence[str] | None = None) -> int:
    """The exit status."""
    return zs_load.main(__doc__, words, stream=True)


if __name__ == "__main__":
    sys.exit(main())
