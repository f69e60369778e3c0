import json
import logging

import pytest
import structlog

from light_tts.logs import configure_logging


@pytest.fixture(autouse=True)
def _restored_logging():
    root = logging.getLogger()
    handlers, level, configuration = root.handlers, root.level, structlog.get_config()
    yield
    root.handlers, root.level = handlers, level
    structlog.configure(**configuration)


def test_text_lines_are_one_line_whatever_they_carry(capsys):
    configure_logging("info", "text")
    structlog.stdlib.get_logger("a").info("request done", id="x", text='two\nlines "quoted"', rtf=0.5, voice=None)
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert 'info request done id=x text="two\\nlines \\"quoted\\"" rtf=0.5' in line
    assert "voice" not in line


def test_standard_loggers_go_the_same_way(capsys):
    configure_logging("info", "json")
    logging.getLogger("uvicorn.error").warning("port %s", 80)
    logging.getLogger("uvicorn.error").debug("unseen")
    [line] = capsys.readouterr().err.splitlines()
    assert {key: json.loads(line)[key] for key in ("event", "level")} == {"event": "port 80", "level": "warning"}


def test_a_traceback_follows_its_line(capsys):
    configure_logging("info", "text")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("it failed")
    assert "it failed" in (text := capsys.readouterr().err)
    assert "ValueError: why" in text
