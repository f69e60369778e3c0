"""How large the calls of an express lane may be. Pure numbers: plans of memory read them before torch is loaded."""

from __future__ import annotations

EXPRESS_ROWS = 4  # hops of its largest call
EXPRESS_CHUNKS = 2  # of the longest hop that it takes: others wait for it
_WITHHELD_FRAMES = 8  # that a vocoder may hold of a piece before it


def express_vocoder_frames(chunk_frames: int) -> int:
    """Mel frames of the longest piece that the vocoder is given there."""
    return EXPRESS_CHUNKS * chunk_frames + _WITHHELD_FRAMES
