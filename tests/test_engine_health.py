"""Memory of one process on a GPU, as the driver tells it."""

import sys
import types

import pytest

from light_tts import engine_health
from light_tts.engine_health import driver_bytes, gpu_memory


@pytest.fixture(autouse=True)
def _fresh_driver():
    engine_health._nvml.cache_clear()
    yield
    engine_health._nvml.cache_clear()


def driver(monkeypatch, processes=(), *, starts=True):
    class NVMLError(Exception):
        pass

    def start():
        if not starts:
            raise NVMLError

    def handle(uuid):
        if uuid != "GPU-1234":
            raise NVMLError
        return uuid

    found = [types.SimpleNamespace(pid=pid, usedGpuMemory=used) for pid, used in processes]
    module = types.SimpleNamespace(
        NVMLError=NVMLError,
        nvmlInit=start,
        nvmlDeviceGetHandleByUUID=handle,
        nvmlDeviceGetComputeRunningProcesses=lambda _: found,
    )
    monkeypatch.setitem(sys.modules, "pynvml", module)


def test_the_drivers_number_for_one_process(monkeypatch):
    driver(monkeypatch, [(1, 100), (7, 200)])
    assert driver_bytes("1234", 7) == driver_bytes("GPU-1234", 7) == 200


def test_where_the_driver_does_not_say(monkeypatch):
    driver(monkeypatch, [(1, 100), (8, None)])
    assert driver_bytes("1234", 7) is None  # a container's process numbers
    assert driver_bytes("1234", 8) is None
    assert driver_bytes("another", 1) is None
    engine_health._nvml.cache_clear()
    driver(monkeypatch, starts=False)
    assert driver_bytes("1234", 1) is None
    engine_health._nvml.cache_clear()
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert driver_bytes("1234", 1) is None


@pytest.mark.parametrize(("told", "expected"), [(200, 200), (None, 50)])
def test_what_is_reserved_stands_for_the_process_where_the_driver_does_not_say(monkeypatch, told, expected):
    cuda = engine_health.torch.cuda
    monkeypatch.setattr(cuda, "mem_get_info", lambda _: (300, 1000))
    monkeypatch.setattr(cuda, "get_device_properties", lambda _: types.SimpleNamespace(uuid="1234"))
    monkeypatch.setattr(cuda, "get_device_name", lambda _: "A10")
    monkeypatch.setattr(cuda, "memory_reserved", lambda _: 50)
    monkeypatch.setattr(cuda, "memory_allocated", lambda _: 40)
    monkeypatch.setattr(cuda, "current_device", lambda: 1)
    monkeypatch.setattr(engine_health, "driver_bytes", lambda uuid, pid: told)
    memory = gpu_memory(engine_health.torch.device("cuda"))
    assert (memory["index"], memory["used_bytes"], memory["process_bytes"]) == (1, 700, expected)
    assert gpu_memory(engine_health.torch.device("cuda:3"))["index"] == 3
    assert gpu_memory(engine_health.torch.device("cpu")) is None


@pytest.mark.gpu
def test_on_a_gpu_the_process_takes_no_less_than_its_allocator():
    torch = engine_health.torch
    kept = torch.zeros(64 * 2**20, device="cuda")
    memory = gpu_memory(torch.device("cuda"))
    assert kept.nbytes <= memory["reserved_bytes"] <= memory["process_bytes"] <= memory["used_bytes"]
