"""When a new sequence may join the batch, and how much memory must be free for those that run. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from light_tts.llm.block_manager import BlockManager
from light_tts.llm.sequence import Sequence


@dataclass(frozen=True)
class JoiningRule:
    """The defaults let a sequence in as soon as its own rows find room, and one page for each that runs.

    watermark:             share of all pages that stays free for the running sequences.
    expected_output_rows:  output of each sequence that must find room; more waiting, fewer lost pages.
    steps_between:         steps between two moments at which sequences join.
    """

    watermark: float = 0.0
    expected_output_rows: int = 0
    steps_between: int = 1

    def spare_blocks(self, blocks: BlockManager, sequence: Sequence, running: list[Sequence]) -> int:
        """Pages that must be free beside those `sequence` needs now. None when nothing runs: somebody has to go on."""
        if not running:
            return 0
        # Without a page each, the new one would soon be thrown out again.
        expected = sum(self._expected_blocks(blocks, [*running, sequence])) if self.expected_output_rows else 0
        return max(len(running), expected, math.ceil(self.watermark * blocks.num_total))

    def _expected_blocks(self, blocks: BlockManager, sequences: Iterable[Sequence]) -> Iterable[int]:
        """Pages that each of them will still need, by the estimate."""
        for sequence in sequences:
            rows_left = max(0, self.expected_output_rows - len(sequence.layout.history))
            held = max(len(sequence.blocks), blocks.num_blocks_for(sequence.num_runnable))
            yield max(0, blocks.num_blocks_for(sequence.num_runnable + rows_left) - held)
