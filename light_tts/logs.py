"""Logging set-up: one line per event, as text (`event key=value ...`) or as JSON; stdlib loggers go the same way."""

from __future__ import annotations

import logging
import sys
from typing import Any, Literal

import structlog

_shared_processors: list[Any] = [
    structlog.stdlib.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_logfmt = structlog.processors.LogfmtRenderer(bool_as_flag=False)


def configure_logging(level: str = "info", log_format: Literal["text", "json"] = "text") -> None:
    """Send all logging, structlog's and the standard library's, to stderr in one format."""
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
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())


def render_text(logger: Any, method: str, event: dict[str, Any]) -> str:
    """`2025-01-01T00:00:00Z info request done id=... route=...`; values with blanks or line breaks are quoted."""
    timestamp, level = event.pop("timestamp", ""), event.pop("level", method)
    message, trace = event.pop("event", ""), event.pop("exception", None)
    fields = _logfmt(logger, method, {key: value for key, value in event.items() if value is not None})
    line = f"{timestamp} {level} {message} {fields}".rstrip()
    return f"{line}\n{trace}" if trace else line
