"""What the log of a start says about flags."""

from __future__ import annotations

import logging
import socket
from collections.abc import Iterator

import pytest
import structlog

from light_tts.compat.launch import launch
from light_tts.compat.programs import API_SERVER

from .test_flags import WITHOUT_EFFECT


@pytest.fixture(autouse=True)
def restored_logging() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level, configuration = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**configuration)


def start(line: str, capfd: pytest.CaptureFixture[str]) -> list[str]:
    """What a server says before it finds that its port is taken."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        words = f"--port {taken.getsockname()[1]} {line}".split()
        assert launch(API_SERVER, words) == 2
    said = capfd.readouterr().err.splitlines()
    assert "Address already in use" in said[-1]
    return said[:-1]


def test_every_flag_without_effect_has_its_line(capfd: pytest.CaptureFixture[str]) -> None:
    from light_tts.compat.flags import flag_names

    names = [name for name in WITHOUT_EFFECT if name in flag_names()]
    said = start(" ".join(f"--{name} {WITHOUT_EFFECT[name]}" for name in names), capfd)
    for name in names:
        (line,) = [line for line in said if f" --{name} has no effect: " in line]
        assert " info " in line


def test_flags_with_effect_are_not_talked_about(capfd: pytest.CaptureFixture[str]) -> None:
    said = start("--max_total_token_num 16384 --cache_capacity 500", capfd)
    assert [line for line in said if "--max_total_token_num " in line or "has no effect" in line] == []


def test_warnings_are_said_and_the_level_of_the_log_is_kept(capfd: pytest.CaptureFixture[str]) -> None:
    said = start("--log_level WARN --load_jit true --router_max_wait_tokens 512", capfd)
    assert len(said) == 1
    assert "a new request may wait 512 decoding steps" in said[0]
