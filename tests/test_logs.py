import json
import logging

import pytest
import structlog

from light_tts.errors import ConfigError
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
    assert line.rstrip().endswith("rtf=0.5 voice=-")


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


def test_the_same_lines_go_into_a_file(capsys, tmp_path):
    configure_logging("info", "text", tmp_path / "logs" / "deep")
    structlog.stdlib.get_logger("a").info("request done", id="x")
    logging.getLogger("uvicorn").warning("port %s", 80)
    file = tmp_path / "logs" / "deep" / "light-tts.log"
    written, shown = (text.splitlines() for text in (file.read_text(), capsys.readouterr().err))
    assert [line.split(" ", 1)[1] for line in written] == [line.split(" ", 1)[1] for line in shown]
    file.rename(file.with_suffix(".1"))
    logging.getLogger("uvicorn").warning("after a rotation")
    assert "after a rotation" in file.read_text()
    for handler in logging.getLogger().handlers[1:]:
        handler.close()


def test_a_directory_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match=r"log_dir .*file cannot be written: "):
        configure_logging(log_dir=tmp_path / "file")
