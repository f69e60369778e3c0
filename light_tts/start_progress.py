"""What a start has still to compile or record, as a bar on a terminal; elsewhere the log's lines will do."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from light_tts.events import NO_PROGRESS, StartProgress


def terminal_progress() -> StartProgress:
    """A bar on standard error where that is a terminal; else nothing."""
    console = Console(stderr=True)
    return TerminalProgress(console) if console.is_terminal else NO_PROGRESS


class TerminalProgress:
    """One bar at a time, which goes when its part is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._what: str | None = None
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def compiled(self, what: str, done: int, total: int) -> None:
        """See StartProgress."""
        self._advance(f"compiling kernels of the {what}", done, total)

    def recorded(self, what: str, done: int, total: int) -> None:
        """See StartProgress."""
        self._advance(f"recording the {what}", done, total)

    def _advance(self, what: str, done: int, total: int) -> None:
        if self._bar is None or what != self._what:
            self.close()
            self._what = what
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._bar.start()
            self._task = self._bar.add_task(what, total=total)
        self._bar.update(self._task, completed=done)
        if done >= total:
            self.close()

    def close(self) -> None:
        """See StartProgress."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
