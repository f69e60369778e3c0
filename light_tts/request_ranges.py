"""Ranges of a request's numbers; checked at once, before anything is prepared."""

from __future__ import annotations

from light_tts.errors import InvalidRequest
from light_tts.types import SynthesisRequest

MIN_SPEED, MAX_SPEED = 0.25, 4.0


def check_ranges(request: SynthesisRequest) -> None:
    """Raises InvalidRequest naming the field."""
    if not MIN_SPEED <= request.speed <= MAX_SPEED:
        raise InvalidRequest(f"speed must be from {MIN_SPEED} to {MAX_SPEED}, not {request.speed}.", "speed")
    if request.flow_steps is not None and not 1 <= request.flow_steps <= 50:
        raise InvalidRequest(f"flow_steps must be from 1 to 50, not {request.flow_steps}.", "flow_steps")
    if request.seed is not None and not 0 <= request.seed < 2**63:
        raise InvalidRequest(f"seed must be from 0 to 2^63 - 1, not {request.seed}.", "seed")
    if request.timeout_s is not None and not request.timeout_s > 0.0:
        raise InvalidRequest(f"timeout_s must be more than 0, not {request.timeout_s}.", "timeout_s")
