"""What the starter of a run holds: calls from any thread become commands to the engine's thread."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Sequence as Ids

from light_tts.llm.admission import check_text_ids
from light_tts.llm.sequence import Sequence


class RunInProgress:
    """The `RunHandle` of a run of the built-in backend."""

    def __init__(self, run: Sequence, abort: Callable[[], None]) -> None:
        self._run = run
        self._abort = abort

    @property
    def busy_s(self) -> float:
        """See `RunHandle.busy_s`."""
        return self._run.busy_s

    def abort(self) -> None:
        """See `RunHandle.abort`."""
        self._abort()


class TextRunInProgress(RunInProgress):
    """The `TextRunHandle` of a run of the built-in backend."""

    def __init__(
        self,
        run: Sequence,
        *,
        abort: Callable[[], None],
        append: Callable[[tuple[int, ...]], None],
        finish: Callable[[], None],
        num_text_rows: int,
    ) -> None:
        super().__init__(run, abort)
        self._append, self._finish = append, finish
        self._num_text_rows = num_text_rows
        self._is_finished = False

    def append(self, text_ids: Ids[int]) -> None:
        """See `TextRunHandle.append`. A run that grows over the limit of one sequence fails with TextTooLong."""
        assert not self._is_finished, "text appended after finish"
        check_text_ids(text_ids, self._num_text_rows)
        if text_ids:
            self._append(tuple(text_ids))

    def finish(self) -> None:
        """See `TextRunHandle.finish`; a second call does nothing."""
        if not self._is_finished:
            self._is_finished = True
            self._finish()
