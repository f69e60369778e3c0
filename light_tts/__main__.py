"""`python -m light_tts` is `light-tts`."""

from __future__ import annotations

import sys

from light_tts.cli import main

sys.exit(main())
