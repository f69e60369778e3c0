"""Which processors a process runs on: the settings `cpu_affinity` and `numa_node` (spec: server, 6.9).

Memory needs no setting of its own: Linux takes it from the node of the processor that first touches it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from light_tts.errors import ConfigError
from light_tts.settings import ServerSettings

_NODES = Path("/sys/devices/system/node")
_MIN_ENGINE_CPUS = 2  # the language model's thread and the acoustic one


def usable_cpus() -> int:
    """How many processors this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def chosen_cpus(settings: ServerSettings, nodes: Path = _NODES) -> frozenset[int] | None:
    """The processors that the settings name; None when they name none.

    Raises ConfigError for a list that is none, a node or processor that is not there, and where this cannot be set.
    """
    if settings.cpu_affinity is None and settings.numa_node is None:
        return None
    if not hasattr(os, "sched_getaffinity"):
        raise ConfigError("cpu_affinity and numa_node can be set on Linux only.")
    there = frozenset(os.sched_getaffinity(0))
    cpus = there
    if settings.numa_node is not None:
        path = nodes / f"node{settings.numa_node}" / "cpulist"
        if not path.is_file():
            raise ConfigError(f"numa_node {settings.numa_node}: this machine has no such memory node.")
        cpus &= parse_cpus(path.read_text().strip(), f"numa_node {settings.numa_node}")
    if settings.cpu_affinity is not None:
        wanted = parse_cpus(settings.cpu_affinity, "cpu_affinity")
        if absent := sorted(wanted - there):
            raise ConfigError(
                f"cpu_affinity {settings.cpu_affinity}: processor {absent[0]} cannot be used here; this process may "
                f"run on {describe(there)}."
            )
        cpus &= wanted
    if not cpus:
        raise ConfigError(
            f"cpu_affinity {settings.cpu_affinity} and numa_node {settings.numa_node} have no usable processor in "
            "common."
        )
    return cpus


def parse_cpus(text: str, source: str) -> frozenset[int]:
    """Processor numbers as Linux writes them: "0-15", "0,2,4-7". Raises ConfigError."""
    cpus: set[int] = set()
    for part in text.replace(" ", "").split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise ConfigError(f"{source}: {text[:80]!r} is no list of processors; write it as 0-15 or 0,2,4-7.")
        cpus.update(range(int(first), int(last or first) + 1))
    return frozenset(cpus)


def describe(cpus: frozenset[int]) -> str:
    """The same list in words: "0-3,8"."""
    ranges: list[list[int]] = []
    for cpu in sorted(cpus):
        if ranges and cpu == ranges[-1][1] + 1:
            ranges[-1][1] = cpu
        else:
            ranges.append([cpu, cpu])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def divide(cpus: frozenset[int], num_front_ends: int) -> tuple[frozenset[int], frozenset[int]]:
    """Processors of the engine's process, and of all front ends together: disjoint where there are enough for both.

    A front end gets one; the engine what is left, and never fewer than half of all.
    """
    ordered = sorted(cpus)
    num_front = min(num_front_ends, len(ordered) // 2)
    if len(ordered) - num_front < _MIN_ENGINE_CPUS or not num_front:
        return cpus, cpus
    return frozenset(ordered[:-num_front]), frozenset(ordered[-num_front:])


def bind(cpus: frozenset[int]) -> None:
    """Run the calling thread, and all it starts from now on, on these processors."""
    os.sched_setaffinity(0, cpus)


@contextmanager
def starting_on(cpus: frozenset[int] | None) -> Iterator[None]:
    """What the calling thread starts meanwhile runs on these processors from its first instruction; None: as ever."""
    if cpus is None:
        yield
        return
    own_cpus = frozenset(os.sched_getaffinity(0))
    bind(cpus)
    try:
        yield
    finally:
        bind(own_cpus)
