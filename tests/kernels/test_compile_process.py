"""Real processes: those that compile, and some that break the rules. Those that compile need Triton, but no GPU."""

import json
import os
import shutil
import subprocess
import threading

import pytest
import torch

from light_tts.kernels import compile_pool, compile_process
from light_tts.kernels.compile_ahead import compile_ahead
from light_tts.kernels.compile_job import CompileJob
from light_tts.kernels.compile_process import CompileProcess, ProcessLost
from light_tts.kernels.compile_worker import NamedDevice


class Order:
    def to_line(self):
        return b'{"module": "a", "function": "b", "target": ["cuda", 90, 32], "specialization": "{}"}\n'


def python(program):
    return CompileProcess(("-c", program))


@pytest.mark.parametrize(
    "program",
    [
        "raise SystemExit(3)",
        "import sys; sys.stdin.readline()",
        "import sys; sys.stdin.readline(); print('not an answer', flush=True); sys.stdin.readline()",
        "import sys; sys.stdin.readline(); sys.stdout.write('{\"error\": nu'); sys.stdout.flush()",
    ],
    ids=["ends at once", "ends silently", "says something else", "ends in the middle"],
)
def test_a_process_that_gives_no_answer_is_lost(program):
    process = python(program)
    with pytest.raises(ProcessLost):
        process.compile(Order())
    process.close()


def test_a_process_that_is_stuck_is_lost(monkeypatch):
    monkeypatch.setattr(compile_process, "MOST_JOB_S", 0.2)
    process = python("import threading; threading.Event().wait()")
    with pytest.raises(ProcessLost):
        process.compile(Order())
    process.close()


def test_who_waits_for_a_process_that_is_killed_waits_no_longer():
    process, lost = python("import sys; print('{}', file=sys.stderr); sys.stdin.read()"), []

    def wait():
        try:
            process.compile(Order())
        except ProcessLost:
            lost.append(True)

    thread = threading.Thread(target=wait)
    thread.start()
    process.kill()
    thread.join(10)
    process.close()
    assert lost == [True]


def test_answers_are_taken_one_by_one():
    process = python("import sys\nfor line in sys.stdin: print('{\"error\": null}', flush=True)")
    assert [process.compile(Order()) for _ in range(3)] == [True, True, True]
    process.close()


def two_kernels(width):
    from light_tts.kernels.decoder_rows_triton import rms_norm, silu_mul

    rows = torch.zeros(3, width)
    rms_norm(rows, torch.ones(width), 1e-6)
    silu_mul(rows)


@pytest.fixture
def library_of_a_driver(tmp_path, monkeypatch):
    """A library that has the names of a GPU's driver, so that what launches kernels can be built."""
    if torch.cuda.is_available():
        return
    import triton

    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler")
    sources = os.path.join(os.path.dirname(triton.__file__), "backends", "nvidia")
    names = set()
    for name in ("driver.c", "driver.py"):
        with open(os.path.join(sources, name)) as source:
            names.update(
                word for word in source.read().replace("(", " ").split() if word[:2] == "cu" and word.isalnum()
            )
    directory = tmp_path / "driver"
    directory.mkdir()
    (directory / "driver.c").write_text("\n".join(f"int {name}(void) {{ return 0; }}" for name in sorted(names)))
    command = [compiler, "-w", "-shared", "-fPIC", "-o", directory / "libcuda.so.1", directory / "driver.c"]
    subprocess.run(command, check=True)
    monkeypatch.setenv("TRITON_LIBCUDA_PATH", str(directory))
    monkeypatch.setenv("LD_LIBRARY_PATH", str(directory))


def test_launches_find_what_processes_compiled(compiler, monkeypatch, library_of_a_driver, tmp_path):
    from light_tts.kernels import decoder_rows_triton

    monkeypatch.setattr(compile_pool, "usable_cpus", lambda: 4)
    monkeypatch.setattr(CompileJob, "compile_here", lambda job: pytest.fail("compiled in this process"))
    with compile_pool.compile_processes():
        compile_ahead("test", lambda: two_kernels(32))

    hits = []
    monkeypatch.setattr(compiler.compilation, "listener", lambda cache_hit, **_: hits.append(cache_hit))
    rows = torch.zeros(3, 32)
    decoder_rows_triton._rms_norm_kernel.run(
        rows, torch.ones(32), rows, 1e-6, WIDTH=32, BLOCK=32, num_warps=4, grid=(3,), warmup=True
    )
    assert hits == [True]
    launchers = list(tmp_path.rglob("*launcher*.so"))
    assert len(launchers) == 2, "one for each kernel's arguments"


def test_a_process_says_what_it_cannot_compile(compiler):
    process = CompileProcess()
    assert not process.compile(Order())
    process.close()


def test_a_device_without_a_driver_has_nothing_that_launches():
    pytest.importorskip("triton")
    from triton.backends.compiler import GPUTarget

    device = NamedDevice(GPUTarget("abacus", 1, 1))
    assert device.launcher_cls is None
    assert device.get_current_target() == GPUTarget("abacus", 1, 1)


def test_an_order_is_one_line():
    class Target:
        backend, arch, warp_size = "cuda", 90, 32

    class Kernel:
        def fn(self):
            """Any function of a module."""

    launch = {"specialization_data": '{"name": "x"}'}
    line = CompileJob(Kernel, launch, Target).to_line()
    assert line.count(b"\n") == 1
    assert json.loads(line) == {
        "module": __name__, "function": Kernel.fn.__qualname__, "target": ["cuda", 90, 32],
        "specialization": '{"name": "x"}',
    }  # fmt: skip
