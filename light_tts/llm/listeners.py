"""The boundary of one run: whatever its listener does wrong must not reach the others."""

from __future__ import annotations

import logging

from light_tts.llm.sequence import Sequence
from light_tts.types import FinishReason

logger = logging.getLogger(__name__)


def put_each(heard: list[tuple[Sequence, int]]) -> list[Sequence]:
    """Hand codes to the runs' listeners; returns the runs whose listener failed."""
    failed = []
    for run, code in heard:
        try:
            run.sink.put((code,))
        except Exception:
            logger.exception("a listener of speech tokens failed; its run ends")
            failed.append(run)
    return failed


def tell_outcome(run: Sequence, outcome: FinishReason | Exception) -> None:
    """Tell a run's listener how it has ended."""
    try:
        if isinstance(outcome, FinishReason):
            run.sink.end(outcome)
        else:
            run.sink.fail(outcome)
    except Exception:
        logger.exception("a listener of speech tokens failed at the end of its run")
