"""How connections are kept and how long things may take."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ConnectionProfile:
    """Limits of one client's connections.

    limit:           connections at once; 0: any number.
    limit_per_host:  the same for one server.
    dns_cache_s:     how long a resolved name is believed.
    keep_alive_s:    how long an idle connection is kept for the next request; 0: each request opens its own.
    total_s:         a whole request, its audio included; None: no limit.
    connect_s:       until there is a connection, new or kept.
    read_s:          between two pieces of an answer.
    """

    limit: int = 100
    limit_per_host: int = 0
    dns_cache_s: int = 60
    keep_alive_s: float = 15.0
    total_s: float | None = 300.0
    connect_s: float | None = 5.0
    read_s: float | None = 60.0


DEFAULT = ConnectionProfile()
# Many short texts at a time: connections are kept ready, and whatever takes seconds has failed.
SHORT = ConnectionProfile(
    limit=1000, limit_per_host=100, dns_cache_s=300, keep_alive_s=30.0, total_s=5.0, connect_s=1.0, read_s=2.0
)
# For measurements, which decide for themselves what takes too long.
UNLIMITED = ConnectionProfile(limit=0, keep_alive_s=0.0, total_s=None, connect_s=None, read_s=None)
