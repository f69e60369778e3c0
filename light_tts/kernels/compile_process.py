"""A process that compiles kernels (`compile_worker`), seen from the one that started it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from contextlib import suppress

from light_tts.kernels.compile_job import CompileJob

MOST_JOB_S = 120.0  # of one kernel, the start of the process included; one that takes longer is taken for stuck


class ProcessLost(Exception):
    """The process has ended, or was stuck and has been ended."""


class CompileProcess:
    """Compiles one kernel after the other. One thread at a time; `kill` from any.

    Raises OSError when no process can be started.
    """

    def __init__(self, command: tuple[str, ...] = ("-m", "light_tts.kernels.compile_worker")) -> None:
        # It must find what this process found, wherever that came from. No GPU: a context there would take memory.
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(os.path.abspath(path) for path in sys.path),
            "CUDA_VISIBLE_DEVICES": "",
        }
        self._process = subprocess.Popen(
            [sys.executable, "-P", *command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=environment,
            process_group=0,  # Ctrl-C is for the process that started it
        )

    def compile(self, job: CompileJob) -> bool:
        """Compile into Triton's cache on disk; False: it cannot be done there. Raises ProcessLost."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        watchdog = threading.Timer(MOST_JOB_S, self._process.kill)
        watchdog.daemon = True
        watchdog.start()
        try:
            self._process.stdin.write(job.to_line())
            self._process.stdin.flush()
            answer = json.loads(self._process.stdout.readline())
        except (OSError, ValueError) as error:  # a broken pipe, half a line or none
            raise ProcessLost(f"a process that compiles kernels has ended ({self._process.poll()})") from error
        finally:
            watchdog.cancel()
        is_done: bool = answer["error"] is None
        return is_done

    def kill(self) -> None:
        """End the process, whatever it is at. What it has written is whole: files of the cache appear when complete."""
        self._process.kill()

    def close(self) -> None:
        """End the process and let go of it; no thread may be in `compile`."""
        self._process.kill()
        with suppress(OSError), self._process:  # a job that it did not take
            pass
