"""Logging set-up: one line per event, as text (`event key=value ...`) or as JSON; stdlib loggers go the same way."""

from __future__ import annotations

import logging
import sys
from logging.handlers import WatchedFileHandler
from pathlib import Path
from typing import Any, Literal

import structlog

from light_tts.errors import ConfigError

_shared_processors: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


LOG_FILENAME = "light-tts.log"


def configure_logging(
    level: str = "info", log_format: Literal["text", "json"] = "text", log_dir: Path | None = None
) -> None:
    """Send all logging, structlog's and the standard library's, to stderr in one format.

    log_dir:  directory of a file that gets the same lines; made if it is missing. Several processes may write it, and
              tools that rotate logs may move it away. Raises ConfigError when it cannot be written.
    """
    structlog.configure(
        processors=[*_shared_processors, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    renderer: Any = structlog.processors.JSONRenderer(ensure_ascii=False) if log_format == "json" else render_text
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=_shared_processors,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            renderer,
        ],
    )
    handlers: list[logging.Handler] = [logging.StreamHandler(sys.stderr)]
    if log_dir is not None:
        handlers.append(_file_handler(log_dir))
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = handlers
    root.setLevel(level.upper())


def _file_handler(log_dir: Path) -> logging.Handler:
    try:
        log_dir.mkdir(parents=True, exist_ok=True)
        return WatchedFileHandler(log_dir / LOG_FILENAME, encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"log_dir {log_dir} cannot be written: {error.strerror or error}") from None


def render_text(logger: Any, method: str, event: dict[str, Any]) -> str:
    """`2025-01-01T00:00:00Z info request done id=... route=...`; values with blanks or line breaks are quoted,
    those that there are none of are "-".
    """
    timestamp, level = event.pop("timestamp", ""), event.pop("level", method)
    message, trace = event.pop("event", ""), event.pop("exception", None)
    fields = _logfmt(logger, method, {key: "-" if value is None else value for key, value in event.items()})
    line = f"{timestamp} {level} {message} {fields}".rstrip()
    return f"{line}\n{trace}" if trace else line
