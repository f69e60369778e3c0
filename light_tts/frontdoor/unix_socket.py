"""Unix sockets at a path."""

from __future__ import annotations

import socket
from pathlib import Path

from light_tts.errors import ConfigError

BACKLOG = 256


def listen_at(path: str) -> socket.socket:
    """A listening socket; a file that an earlier one left there is replaced. Raises ConfigError for a bad path."""
    Path(path).unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(path)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot make a socket at {path}: {error}. Set TMPDIR to a directory with a short name that can be written."
        ) from None
    return listener


def connect_to(path: str) -> socket.socket:
    """A connection to the process that listens there. Raises OSError when nobody does."""
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        connection.close()
        raise
    return connection
