"""Where the noise of the harmonic source comes from: keyed by the request, or the fixed table of causal models."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Protocol

import torch
from torch import Tensor

from light_tts import splitmix


class NoiseSource(Protocol):
    """Noise of one stream."""

    def rows(self, piece: int, start: int, count: int) -> Tensor:
        """[count, harmonics] float32 for samples start ... of the vocoder call number `piece` of the stream."""


class NormalNoise:
    """Standard normal noise that depends on (seed, piece) alone: the same request sounds the same in any company."""

    def __init__(self, seed: int, harmonics: int, device: torch.device) -> None:
        self._seed, self._harmonics, self._device = seed, harmonics, device

    def rows(self, piece: int, start: int, count: int) -> Tensor:
        """Rows of one piece; `start` counts from the piece's own first sample and is 0 here."""
        generator = torch.Generator(self._device).manual_seed(mix(self._seed, piece))
        noise = torch.randn(start + count, self._harmonics, generator=generator, device=self._device)
        return noise[start:]


def mix(seed: int, index: int) -> int:
    """A 63-bit key from two numbers, so that neighbours differ."""
    return splitmix.mix(seed * splitmix.GAMMA + (index + 1) * 0xD1B54A32D192ED03) >> 1


class UniformTable:
    """The fixed table of causal models, uniform on [0, 1), indexed from the first sample of an utterance.

    The published table is one draw of 300 s (259 MB). Uniform draws of torch's CPU generator are serial, so blocks
    drawn one after the other are the same numbers: blocks are made when first needed, the generator's state in front of
    each is kept (5 kB), and only the most recently used blocks stay in memory. Shared by all streams; one thread at a
    time.

    Spec: vocoder, section 4, "v3 table recipe". After 300 s the table starts again.
    """

    block_rows = 96_000  # 4 s, 3.5 MB
    kept_blocks = 16
    table_rows = 75 * block_rows  # 7,200,000 rows, 300 s

    def __init__(self, harmonics: int, device: torch.device) -> None:
        self._harmonics, self._device = harmonics, device
        self._states: list[Tensor] = []
        self._blocks: OrderedDict[int, Tensor] = OrderedDict()

    def rows(self, piece: int, start: int, count: int) -> Tensor:
        """Rows start ... start + count of the table, whatever the piece."""
        parts = []
        while count > 0:
            index, offset = divmod(start % self.table_rows, self.block_rows)
            part = self._block(index)[offset : offset + count]
            parts.append(part)
            start, count = start + part.shape[0], count - part.shape[0]
        return torch.cat(parts) if parts else torch.empty(0, self._harmonics, device=self._device)

    def _block(self, index: int) -> Tensor:
        if index not in self._blocks:
            if not self._states:
                self._states.append(_state_before_table())
            for missing in range(min(index, len(self._states) - 1), index + 1):
                self._draw(missing)
        self._blocks.move_to_end(index)
        return self._blocks[index]

    def _draw(self, index: int) -> None:
        generator = torch.Generator()
        generator.set_state(self._states[index])
        block = torch.rand(self.block_rows, self._harmonics, generator=generator)
        if len(self._states) == index + 1:
            self._states.append(generator.get_state())
        self._blocks[index] = block.to(self._device)
        while len(self._blocks) > self.kept_blocks:
            self._blocks.popitem(last=False)


class DeviceTable:
    """The same table in one tensor of fixed place, for recorded calls; drawn as far as somebody has spoken.

    numbers:  [7,200,000, harmonics]; in half precision on a GPU (130 MB): what it is multiplied by is below 0.04.
    """

    def __init__(self, harmonics: int, device: torch.device) -> None:
        self._table = UniformTable(harmonics, torch.device("cpu"))
        dtype = torch.float16 if device.type == "cuda" else torch.float32
        self.numbers = torch.empty(self._table.table_rows, harmonics, dtype=dtype, device=device)
        self._num_drawn = 0
        self._lock = threading.Lock()

    def row_of(self, start: int, count: int) -> int:
        """The row of an utterance's sample `start`; it and `count - 1` more are there afterwards. Any thread."""
        first = start % self._table.table_rows
        needed = min(first + count, self._table.table_rows)
        if self._num_drawn < needed:
            with self._lock:
                self._draw(needed)
        return first

    def _draw(self, needed: int) -> None:
        while self._num_drawn < needed:
            block = self._table.rows(0, self._num_drawn, self._table.block_rows)
            self.numbers[self._num_drawn : self._num_drawn + len(block)] = block
            if self.numbers.is_cuda:  # calls on other streams read it, too
                torch.cuda.current_stream(self.numbers.device).synchronize()
            self._num_drawn += len(block)


def _state_before_table() -> Tensor:
    """The generator after everything that the reference draws while it builds the modules before the table."""
    generator = torch.Generator().manual_seed(0)
    torch.randn(1, 80, 15000, generator=generator)  # the flow's noise
    torch.randn(6561, 80, generator=generator)  # its token embedding
    f0_predictor = 512 * 80 * 4 + 512 + 4 * (512 * 512 * 3 + 512) + 512 + 1
    initial_phases = 9
    torch.rand(80 * 192 + 80 + f0_predictor + initial_phases, generator=generator)
    return generator.get_state()
