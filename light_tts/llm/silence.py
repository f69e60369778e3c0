"""Long silences cut short, after sampling (spec: llm, section 7). Pure."""

from __future__ import annotations

from collections.abc import Collection

MAX_SILENT_RUN = 5  # codes of a silence that are heard


class SilenceFilter:
    """Drops what follows the first five codes of an unbroken silence; one filter belongs to one run.

    silent_codes:  codes of silence or breath; empty: everything passes.
    run_length:    codes of the silence that lasts, those dropped included.
    """

    def __init__(self, silent_codes: Collection[int]) -> None:
        self.silent_codes = silent_codes
        self.run_length = 0

    def keeps(self, code: int) -> bool:
        """True when `code`, the next of the run, goes to the acoustic model."""
        if code not in self.silent_codes:
            self.run_length = 0
            return True
        self.run_length += 1
        return self.run_length <= MAX_SILENT_RUN
