"""A front end's process: the same application as ever, around an engine that is elsewhere. Loads no torch."""

from __future__ import annotations

import socket
import sys

from light_tts.errors import LightTTSError
from light_tts.frontdoor.remote_app import RemoteApp
from light_tts.frontdoor.start_sheet import from_values, read_sheet, when_starter_has_gone
from light_tts.frontdoor.unix_socket import connect_to
from light_tts.logs import configure_logging
from light_tts.server.listening import server_of

EXIT_WITHOUT_ENGINE = 4


def main() -> int:
    """`python -m light_tts.frontdoor.front_process`, with a StartSheet on standard input."""
    sheet = read_sheet()
    settings = from_values(sheet.settings)
    configure_logging(settings.server.log_level, settings.server.log_format, settings.server.log_dir)
    listener = socket.socket(fileno=sheet.listener_fd)

    def lose_engine(reason: LightTTSError | None) -> None:
        if reason is None:  # else whoever started all this ends it
            server.hurry()

    app = RemoteApp(settings, lambda: connect_to(sheet.engine_path), lose_engine)
    server = server_of(app.app, settings)

    def stop() -> None:
        server.should_exit = True

    when_starter_has_gone(stop)
    app.start()
    server.run(sockets=[listener])
    app.close()
    return EXIT_WITHOUT_ENGINE if app.has_lost_engine else 0


if __name__ == "__main__":
    sys.exit(main())
