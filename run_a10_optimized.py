"""The server set up for an NVIDIA A10: preset a10, with the flags of its guide. Shows its configuration, then serves.

python run_a10_optimized.py --workers 2 --decode-proc 2 --precision bfloat16
"""

from __future__ import annotations

import sys

from light_tts.compat.launch import launch
from light_tts.compat.programs import RUN_A10_OPTIMIZED

if __name__ == "__main__":
    sys.exit(launch(RUN_A10_OPTIMIZED, is_announced=True))
