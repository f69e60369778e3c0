"""One Triton kernel to be compiled: as it is met in this process, and as a line that another process understands."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class CompileJob:
    """A kernel and what of its arguments its compiler must know.

    kernel:  Triton's function.
    launch:  of one launch, as Triton's `jit_cache_hook` gets it.
    target:  Triton's description of the device.
    """

    kernel: Any
    launch: dict[str, Any]
    target: Any

    def compile_here(self) -> None:
        """Compile into Triton's cache on disk, unless it is there. Raises whatever Triton and its tools raise."""
        import triton
        from triton.compiler import ASTSource
        from triton.runtime import driver

        source = ASTSource(self.kernel, self.launch["signature"], self.launch["constants"], self.launch["configs"][0])
        # JSON has no tuples.
        options = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in json.loads(self.launch["specialization_data"])["options"].items()
        }
        compiled = triton.compile(source, target=self.target, options=options)
        make_launcher(compiled, driver.active)

    def to_line(self) -> bytes:
        """What `compile_worker` reads."""
        order = {
            "module": self.kernel.fn.__module__,
            "function": self.kernel.fn.__qualname__,
            "target": [self.target.backend, self.target.arch, self.target.warp_size],
            "specialization": self.launch["specialization_data"],
        }
        return json.dumps(order).encode() + b"\n"


def make_launcher(compiled: Any, driver: Any) -> None:
    """Have the C compiler make the little module that launches a compiled kernel, into the cache as well.

    Where a version of Triton needs none, or there is no C compiler, the first launch does or says what it must.
    """
    launcher_class = getattr(driver, "launcher_cls", None)
    if launcher_class is not None:
        launcher_class(compiled.src, compiled.metadata)
