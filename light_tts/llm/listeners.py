"""The boundary of one run: whatever its listener does wrong must not reach the others."""

from __future__ import annotations

import logging
from collections.abc import Iterable

from light_tts.llm.sequence import Sequence
from light_tts.types import FinishReason

logger = logging.getLogger(__name__)


def put_each(runs: Iterable[Sequence], codes: Iterable[int]) -> list[Sequence]:
    """Hand a code to the listener of each run that lets it be heard; returns the runs whose listener failed."""
    failed = []
    for run, code in zip(runs, codes, strict=True):
        silence = run.silence
        # Mostly there is no silence that the filter must be asked about.
        if (not silence.run_length and code not in silence.silent_codes) or silence.keeps(code):
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
