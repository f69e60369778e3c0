"""Records over a connected socket: a length and MessagePack each. Sending never blocks; one thread writes.

A frame is a little-endian uint32, the number of bytes that follow, and those bytes.
"""

from __future__ import annotations

import contextlib
import logging
import queue
import socket
import struct
import threading
from collections.abc import Callable
from typing import Generic, TypeVar

import msgspec

R = TypeVar("R")
logger = logging.getLogger(__name__)

MAX_FRAME_BYTES = 2**30
_LENGTH = struct.Struct("<I")
_WRITE_BYTES = 2**20  # gathered before one write
_BUFFER_BYTES = 2**18


class Channel(Generic[R]):
    """One end of a connection.

    connection:  becomes the channel's own.
    decoder:     bytes to the records that may arrive here.
    name:        of the other side, for logs and the thread.
    """

    def __init__(self, connection: socket.socket, decoder: msgspec.msgpack.Decoder[R], name: str) -> None:
        self._socket = connection
        self._decoder = decoder
        self._name = name
        self._outgoing: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._writer = threading.Thread(target=self._write, name=f"to {name}", daemon=True)
        self._writer.start()

    def send(self, record: msgspec.Struct) -> None:
        """Queue a record, which is lost when the other side has gone. Any thread.

        Raises UnicodeEncodeError for half a surrogate pair.
        """
        self.send_frame(encode(record))

    def send_frame(self, frame: bytes) -> None:
        """Queue a record that has been encoded."""
        self._outgoing.put(frame)

    def receive_all(self, receive: Callable[[R], None]) -> None:
        """Pass on every record that comes, on this thread, until the other side ends or sends what is no record."""
        try:
            with self._socket.makefile("rb", buffering=_BUFFER_BYTES) as stream:
                while len(prefix := stream.read(_LENGTH.size)) == _LENGTH.size:
                    (num_bytes,) = _LENGTH.unpack(prefix)
                    if num_bytes > MAX_FRAME_BYTES:
                        raise msgspec.DecodeError(f"a frame of {num_bytes} bytes")
                    if len(frame := stream.read(num_bytes)) < num_bytes:
                        return
                    receive(self._decoder.decode(frame))
        except msgspec.DecodeError as error:
            logger.error("%s sent something unreadable: %s", self._name, error)
        except OSError as error:
            logger.debug("the connection with %s broke: %s", self._name, error)

    def finish(self) -> None:
        """Send what is queued and then the end; the other side's records are still received."""
        self._outgoing.put(None)

    def close(self) -> None:
        """End both directions at once. After `receive_all` has returned, or to make it return."""
        _shut(self._socket, socket.SHUT_RDWR)
        self._outgoing.put(None)

    def join(self) -> None:
        """Wait for the writing thread after `finish` or `close`, and free the socket."""
        self._writer.join()
        self._socket.close()

    def _write(self) -> None:
        is_broken = False
        is_over = False
        while not is_over:
            gathered: list[bytes] = []
            num_bytes = 0
            while not is_over and num_bytes < _WRITE_BYTES and not (gathered and self._outgoing.empty()):
                frame = self._outgoing.get()
                if frame is None:
                    is_over = True
                else:
                    gathered += (_LENGTH.pack(len(frame)), frame)
                    num_bytes += len(frame)
            if is_broken:
                continue
            try:
                self._socket.sendall(b"".join(gathered))
            except OSError as error:
                logger.debug("the connection with %s broke: %s", self._name, error)
                is_broken = True
                _shut(self._socket, socket.SHUT_RDWR)
        _shut(self._socket, socket.SHUT_WR)


def encode(record: msgspec.Struct) -> bytes:
    """A record as it is sent. Raises UnicodeEncodeError."""
    return msgspec.msgpack.encode(record)


def _shut(connection: socket.socket, how: int) -> None:
    with contextlib.suppress(OSError):  # it has ended already
        connection.shutdown(how)
