"""What gunicorn is given: the shared application with the engine that speaks a sine."""

import os
from dataclasses import replace

from light_tts.frontdoor import shared_engine
from light_tts.settings import EngineSettings, Settings
from tests.frontdoor.processes import ENGINE_COMMAND

shared_engine.SharedEngine.__init__.__kwdefaults__["engine_command"] = ENGINE_COMMAND

from light_tts.server.asgi import shared_app  # noqa: E402

app = shared_app(Settings(engine=replace(EngineSettings(), max_restarts=int(os.environ.get("MAX_RESTARTS", "3")))))
