"""The process that compiles kernels for another: `python -m light_tts.kernels.compile_worker`.

Reads a `CompileJob` a line and answers each with a line, {"error": null or what went wrong}; ends with its input. The
kernels land in Triton's cache on disk. Needs no GPU, and is started without one.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
from functools import cache, reduce
from typing import Any

from light_tts.kernels.compile_job import make_launcher


def main() -> None:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what compilers print is no answer
    # All that takes long before the first kernel, while nobody waits for one yet.
    import torch  # noqa: F401 - the kernels' modules import it
    import triton.compiler  # noqa: F401

    for line in sys.stdin:
        print(json.dumps({"error": _error_of(json.loads(line))}), file=answers, flush=True)


def _error_of(order: dict[str, Any]) -> str | None:
    try:
        _compile(order)
    except Exception as error:  # whatever Triton and its tools say: the other side tries for itself
        return f"{type(error).__name__}: {error}"
    return None


def _compile(order: dict[str, Any]) -> None:
    from triton.runtime import driver

    device = _device(*order["target"])
    driver.set_active(device)
    kernel = reduce(getattr, order["function"].split("."), importlib.import_module(order["module"]))
    make_launcher(kernel.preload(order["specialization"]), device)


@cache
def _device(backend: str, arch: Any, warp_size: int) -> NamedDevice:
    from triton.backends.compiler import GPUTarget

    return NamedDevice(GPUTarget(backend, arch, warp_size))


class NamedDevice:
    """What Triton asks of a driver when nothing is launched: the device that was named, and how kernels are launched.

    target:  Triton's description of the device.
    """

    def __init__(self, target: Any) -> None:
        self._target = target
        try:
            self.launcher_cls = _driver_for(target).launcher_cls
        except Exception:  # no library of a driver on this machine, or a Triton without such a class
            self.launcher_cls = None

    def get_current_device(self) -> int:
        """Number of the device, the only one."""
        return 0

    def get_current_target(self) -> Any:
        """Triton's description of the device."""
        return self._target


def _driver_for(target: Any) -> Any:
    """Triton's own driver for such a device; does not touch one."""
    from triton.backends import backends

    return next(backend.driver() for backend in backends.values() if backend.compiler.supports_target(target))


if __name__ == "__main__":
    main()
