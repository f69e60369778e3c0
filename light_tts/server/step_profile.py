"""A profile of a few engine steps, written when somebody asks for it with SIGUSR1 (spec: server, 4.2)."""

from __future__ import annotations

import logging
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from light_tts.errors import ConfigError
from light_tts.events import AcousticCall, EngineEvents, LLMStep

if TYPE_CHECKING:
    from torch._C._profiler import _ExperimentalConfig
    from torch.profiler import profile

logger = logging.getLogger(__name__)

WAIT_STEPS, WARM_UP_STEPS, ACTIVE_STEPS = 1, 1, 3
_NUM_STEPS = WAIT_STEPS + WARM_UP_STEPS + ACTIVE_STEPS


class StepProfiler:
    """An `EngineEvents` listener that passes everything on, and records with torch's profiler between the events.

    A step is a call of flow and vocoder with everything that runs beside it, the language model's many steps too: one
    call is waited for, one warms the profiler up, three are recorded, of all threads and of the GPU. Nothing is
    recorded, and nothing costs, until `ask`; a wish during a recording is for the next one.

    directory:  of the traces, `*.pt.trace.json.gz`, for TensorBoard and Perfetto. Made when it is not there.
    events:     the listener behind this one.

    Raises ConfigError for a directory that cannot be written.
    """

    def __init__(self, directory: Path, events: EngineEvents) -> None:
        try:
            directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigError(f"profile_dir {directory} cannot be made: {error.strerror}.") from None
        self._directory = directory
        self._events = events
        self._is_asked = False
        self._profile: profile | None = None
        self._steps_left = 0
        self._thread = 0  # the one that began it, which must end it

    def listen(self) -> None:
        """Take SIGUSR1 as `ask`. On the main thread."""
        signal.signal(signal.SIGUSR1, lambda *_: self.ask())

    def ask(self) -> None:
        """Record the next steps. Any thread, and signal handlers."""
        self._is_asked = True

    def llm_step(self, step: LLMStep) -> None:
        """See `EngineEvents`."""
        self._events.llm_step(step)

    def acoustic_call(self, call: AcousticCall) -> None:
        """See `EngineEvents`."""
        self._events.acoustic_call(call)
        if not self._is_asked if self._profile is None else threading.get_ident() != self._thread:
            return
        try:
            self._advance()
        except (RuntimeError, OSError) as error:  # a listener must not raise: audio goes on without a profile
            self._profile = None
            logger.error("the profile has failed: %s", error)

    def stage_restarted(self, stage: str) -> None:
        """See `EngineEvents`."""
        self._events.stage_restarted(stage)

    def request_retried(self) -> None:
        """See `EngineEvents`."""
        self._events.request_retried()

    # on an acoustic thread

    def _advance(self) -> None:
        if self._profile is None:
            self._is_asked = False
            self._profile, self._steps_left = _profile_into(self._directory), _NUM_STEPS
            self._thread = threading.get_ident()
            self._profile.start()
            return
        self._profile.step()
        self._steps_left -= 1
        if not self._steps_left:
            self._profile.stop()
            self._profile = None
            logger.info("profile of %d engine steps written to %s", ACTIVE_STEPS, self._directory)


def _profile_into(directory: Path) -> profile:
    import torch
    from torch import profiler

    activities = [profiler.ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(profiler.ProfilerActivity.CUDA)
    return profiler.profile(
        activities=activities,
        schedule=profiler.schedule(wait=WAIT_STEPS, warmup=WARM_UP_STEPS, active=ACTIVE_STEPS, repeat=1),
        on_trace_ready=profiler.tensorboard_trace_handler(str(directory), use_gzip=True),
        experimental_config=_all_threads(),
    )


def _all_threads() -> _ExperimentalConfig | None:
    """Otherwise operations of the profiler's own thread alone are seen. Older versions of torch cannot."""
    from torch._C._profiler import _ExperimentalConfig

    try:
        return _ExperimentalConfig(profile_all_threads=True)
    except TypeError:
        return None
