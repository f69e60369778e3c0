"""The server by the name, flags and environment variables of the guides for Fun-CosyVoice3; port 8000.

python tts_api_server.py --model_dir models/Fun-CosyVoice3-0.5B-2512
"""

from __future__ import annotations

import sys

from light_tts.compat.launch import launch
from light_tts.compat.programs import TTS_API_SERVER

if __name__ == "__main__":
    sys.exit(launch(TTS_API_SERVER))
