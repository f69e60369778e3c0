"""The engine's process with the engine that speaks a sine. Text "crash" kills it; LIGHT_TTS_FAKE_BROKEN breaks it."""

import os
import signal
import sys

from light_tts.errors import CheckpointError
from light_tts.events import NO_EVENTS, AcousticCall
from light_tts.frontdoor.engine_process import main
from tests.server.fake_engine import FakeEngine


class Engine(FakeEngine):
    profiled = NO_EVENTS

    def submit(self, request):
        for _ in range(6):  # enough for a profile
            self.profiled.acoustic_call(AcousticCall(0.1, 0.1, 1, 10, 1.0))
        if request.text == "crash":
            os.kill(os.getpid(), signal.SIGKILL)
        return super().submit(request)

    def health(self):
        return super().health() | {"pid": os.getpid()}

    def warm_up(self):
        pass

    def preload_phrases(self):
        pass

    def close(self):
        for stream in list(self.streams):
            stream.cancel()


def load(settings, events):
    if "FAKE_BROKEN" in os.environ:
        raise CheckpointError("llm.pt is missing.")
    engine = Engine(chunks=10, delay_s=0.05)
    if settings.server.profile_dir is not None:
        engine.profiled = events
    return engine


if __name__ == "__main__":
    sys.exit(main(load))
