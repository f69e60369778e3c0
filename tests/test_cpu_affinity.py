import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace

import pytest

from light_tts.cpu_affinity import bind, chosen_cpus, describe, divide, parse_cpus, starting_on
from light_tts.errors import ConfigError
from light_tts.settings import ServerSettings

HERE = frozenset(os.sched_getaffinity(0))


def settings(**values):
    return replace(ServerSettings(), **values)


@pytest.mark.parametrize(
    ("text", "cpus"), [("0", {0}), ("0-3", {0, 1, 2, 3}), ("0,2, 4-5", {0, 2, 4, 5}), ("3-3", {3})]
)
def test_lists_are_read_as_linux_writes_them(text, cpus):
    assert parse_cpus(text, "cpu_affinity") == cpus


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "3-1", "1,,2", "0x1", "1.5"])
def test_what_is_no_list_is_refused_in_one_sentence(text):
    with pytest.raises(ConfigError, match=r"cpu_affinity: .* is no list of processors"):
        parse_cpus(text, "cpu_affinity")


def test_lists_are_written_back():
    assert describe(frozenset({0, 1, 2, 5, 7, 8})) == "0-2,5,7-8"


def test_nothing_is_chosen_where_nothing_is_named():
    assert chosen_cpus(settings()) is None


def test_a_processor_that_is_not_there_is_named():
    with pytest.raises(ConfigError, match=r"processor 99999 cannot be used here; this process may run on "):
        chosen_cpus(settings(cpu_affinity=f"{min(HERE)},99999"))


def test_a_memory_node_stands_for_its_processors(tmp_path):
    (tmp_path / "node1").mkdir()
    (tmp_path / "node1" / "cpulist").write_text(f"{min(HERE)}\n")
    assert chosen_cpus(settings(numa_node=1), tmp_path) == {min(HERE)}
    with pytest.raises(ConfigError, match="no such memory node"):
        chosen_cpus(settings(numa_node=7), tmp_path)


def test_both_together_mean_what_both_allow(tmp_path):
    (tmp_path / "node0").mkdir()
    (tmp_path / "node0" / "cpulist").write_text("99998-99999")
    with pytest.raises(ConfigError, match="no usable processor in common"):
        chosen_cpus(settings(numa_node=0, cpu_affinity=str(min(HERE))), tmp_path)


@pytest.mark.parametrize(
    ("num_cpus", "num_front_ends", "engine", "front"),
    [(16, 4, "0-11", "12-15"), (16, 12, "0-7", "8-15"), (4, 2, "0-1", "2-3"), (3, 2, "0-1", "2"), (2, 2, "0-1", "0-1")],
)
def test_engine_and_front_ends_get_their_own_where_there_are_enough(num_cpus, num_front_ends, engine, front):
    shares = divide(frozenset(range(num_cpus)), num_front_ends)
    assert tuple(map(describe, shares)) == (engine, front)


def test_the_server_runs_where_it_is_told_to():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = ["--cpu-affinity", str(min(HERE)), "--port", str(taken.getsockname()[1])]
        command = [sys.executable, "-m", "light_tts", "serve", *words]
        result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert f"processors: {min(HERE)}\n" in result.stderr


def test_what_is_bound_stays_bound_in_threads():
    seen = []

    def look():
        bind(frozenset({min(HERE)}))
        inner = threading.Thread(target=lambda: seen.append(os.sched_getaffinity(0)))
        inner.start()
        inner.join()

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert seen == [{min(HERE)}]


def test_a_wrong_processor_ends_the_command_with_2():
    command = [sys.executable, "-m", "light_tts", "serve", "--cpu-affinity", "99999", "--port", "1"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 2
    assert result.stderr.strip().endswith("this process may run on " + describe(HERE) + ".")


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="Linux only")
def test_a_process_runs_where_it_is_started_from_its_first_instruction():
    before = os.sched_getaffinity(0)
    code = "import os; print(sorted(os.sched_getaffinity(0)))"
    with starting_on(frozenset({min(before)})):
        child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert child.stdout.strip() == f"[{min(before)}]"
    assert os.sched_getaffinity(0) == before
    with starting_on(None):
        assert os.sched_getaffinity(0) == before
