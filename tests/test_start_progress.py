"""A bar per part on a terminal, gone when the part is done; nothing elsewhere."""

from __future__ import annotations

import io

from rich.console import Console

from light_tts.events import NO_PROGRESS
from light_tts.start_progress import TerminalProgress, terminal_progress


def shown() -> tuple[TerminalProgress, io.StringIO]:
    page = io.StringIO()
    return TerminalProgress(Console(file=page, force_terminal=True, width=100)), page


def test_each_part_has_its_bar():
    progress, page = shown()
    for done in (1, 2, 3, 4):
        progress.compiled("language model", done, 4)
    for what, total in (("language model", 3), ("vocoder", 2)):
        for done in range(1, total + 1):
            progress.recorded(what, done, total)
    text = page.getvalue()
    assert text.index("compiling kernels of the language model") < text.index("recording the language model")
    assert text.index("recording the language model") < text.index("recording the vocoder")
    assert "4/4" in text
    assert "3/3" in text
    assert "2/2" in text
    assert progress._bar is None


def test_a_part_that_was_given_up_leaves_no_bar_behind():
    progress, page = shown()
    progress.recorded("flow", 1, 12)
    progress.recorded("vocoder", 1, 2)
    progress.close()
    progress.close()
    assert progress._bar is None
    assert "recording the vocoder" in page.getvalue()


def test_without_a_terminal_there_is_no_bar():
    assert terminal_progress() is NO_PROGRESS  # pytest catches standard error
