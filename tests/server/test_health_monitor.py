"""The watchdog, asking a real server about a fake engine."""

import logging
import threading
from urllib.parse import urlsplit

import pytest

from light_tts.server.app import create_app
from light_tts.server.health_monitor import HealthMonitor

from .conftest import serving, wait_for


@pytest.fixture
def watch():
    monitors = []

    def start(url):
        ill = threading.Event()
        address = urlsplit(url)
        monitor = HealthMonitor(address.hostname, address.port, interval_s=0.01, on_illness=ill.set)
        monitors.append(monitor)
        monitor.start()
        return ill

    yield start
    for monitor in monitors:
        monitor.close()


def failures(caplog):
    return [message.split(" failed")[0] for message in caplog.messages if "health check" in message]


def test_three_failures_in_a_row_are_an_illness(base_url, engine, watch, caplog):
    with caplog.at_level(logging.WARNING):
        ill = watch(base_url)
        engine.failure, engine.ready = "the llm has died", False
        assert ill.wait(10)
    assert failures(caplog) == [f"health check {k} of 3" for k in (1, 2, 3)]
    assert "the llm has died" in caplog.text


def test_a_server_that_recovers_is_not_ill(base_url, engine, watch, caplog):
    answers = [engine.health() | {"ready": k % 3 == 2} for k in range(9)]  # two failures, a success, and so on
    asked = iter(answers)
    num_checks = []
    engine.health = lambda: num_checks.append(1) or next(asked, answers[-1])
    with caplog.at_level(logging.WARNING):
        ill = watch(base_url)
        wait_for(lambda: len(num_checks) > len(answers))
    assert not ill.is_set()
    assert "health check 3 of 3" not in caplog.text


def test_a_server_that_loads_is_not_ill(settings, watch, caplog):
    app = create_app(None, settings)
    num_checks = []
    health = app.state.server.health
    app.state.server.health = lambda: num_checks.append(1) or health()
    with serving(app, settings) as url:
        ill = watch(url)
        wait_for(lambda: len(num_checks) > 4)
        assert not ill.is_set()
        assert not failures(caplog)


def test_a_server_that_is_gone_is_ill(app, settings, watch, caplog):
    with serving(app, settings) as url:
        pass
    assert watch(url).wait(10)
    assert "no answer" in caplog.text
