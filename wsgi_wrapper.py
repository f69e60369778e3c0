"""The server as an ASGI application with its settings in CONFIG.

gunicorn -k uvicorn.workers.UvicornWorker -w 2 wsgi_wrapper:app      however many workers, one engine
python wsgi_wrapper.py --print_config                                the settings in force; without the flag it serves
"""

from __future__ import annotations

import sys

from light_tts.compat.launch import build_app, launch
from light_tts.compat.programs import WSGI_WRAPPER

# Names of LightTTS's flags, or of settings. Environment variables are above it: LIGHT_TTS_MODEL_DIR=... also works.
CONFIG: dict[str, object] = {
    "model_dir": None,  # the built-in voice; else ./pretrained_models/CosyVoice2-0.5B
    "data_type": "auto",
    "max_total_token_num": 32768,
    "max_req_total_len": 8192,
    "batch_max_tokens": 4096,
    "running_max_req_size": 100,
    "mode": ["triton_flashdecoding"],
    "graph_max_batch_size": 16,
    "load_trt": True,
    "cache_capacity": 200,
    "cache_reserved_ratio": 0.5,
    "log_stats_interval": 10,
    "timeout": 300,
    "keepalive": 2,
}

if __name__ == "__main__":
    sys.exit(launch(WSGI_WRAPPER, config=CONFIG))

app = build_app(WSGI_WRAPPER, CONFIG)
