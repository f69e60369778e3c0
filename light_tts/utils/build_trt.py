"""`python -m light_tts.utils.build_trt`: `light-tts build-trt` under the name that guides know."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from light_tts import cli


def main(words: Sequence[str] | None = None) -> int:
    """The exit status, see `light_tts.commands.build_trt`."""
    return cli.main(["build-trt", *(sys.argv[1:] if words is None else words)])


if __name__ == "__main__":
    sys.exit(main())
