"""Inputs of flow calls in tensors that stay where they are; packed on the host, sent in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import numpy as np
import torch
from torch import Tensor

from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_pages import PagedStates
from light_tts.acoustic.flow_sizes import MOST_ROWS, CallSize
from light_tts.acoustic.flow_states import GUIDANCE_ROWS
from light_tts.models.nets.flow_net import MAX_FRAMES, FlowNet
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS

EVERYTHING = 1 << 20  # tokens of a chunk when every step sees every step
_STACKED = 4  # mels that the estimator reads of a frame
_GIVEN, _NUM_TOKENS, _FIRST_TOKEN, _NUM_PAST, _CHUNK, _GUIDANCE, _NUM_COUNTS = range(7)


class InputMemory:
    """Tensors in which the inputs and results of calls lie that run one after the other; on the host pinned.

    rows:    of the largest call.
    chunks:  rows x chunks of the largest call; default: the longest utterance.

    Flat: packed [..] int32, cond and mel [..] float32, the first two on the host and the device; stacked [..] in the
    network's precision; speaker [rows, 80].
    """

    def __init__(self, net: FlowNet, *, rows: int = MOST_ROWS, chunks: int | None = None) -> None:
        self.rows, self.table_width = rows, -(-MAX_FRAMES // net.chunk_frames)
        self.chunks = self.table_width if chunks is None else chunks
        num_packed = rows * (_NUM_COUNTS + net.lookahead_tokens + self.table_width)
        num_packed += self.chunks * (net.chunk_tokens + 1)
        num_values = self.chunks * net.chunk_frames * MEL_BINS
        is_cuda = net.device.type == "cuda"
        self.packed_host = torch.zeros(num_packed, dtype=torch.int32, pin_memory=is_cuda)
        self.cond_host = torch.zeros(num_values, pin_memory=is_cuda)
        self.packed = torch.zeros(num_packed, dtype=torch.int32, device=net.device)
        self.cond, self.mel = (torch.zeros(num_values, device=net.device) for _ in range(2))
        num_stacked = GUIDANCE_ROWS * _STACKED * num_values
        self.stacked = torch.zeros(num_stacked, dtype=net.dtype, device=net.device)
        self.speaker = torch.zeros(rows, MEL_BINS, device=net.device)
        self.num_cond = 0  # values of `cond`, the first ones, that may not be zero
        self.sent = torch.cuda.Event() if is_cuda else None  # after the last copy out of the host's tensors

    def holds(self, size: CallSize) -> bool:
        """True when a call of this size has room."""
        return size.rows <= self.rows and size.rows * size.chunks <= self.chunks


class FlowInputs:
    """The tensors of one size: filled row by row, read by the call. `fill` overwrites those of other sizes.

    The views of `packed`, [R, X] int32 on the device:
    tokens  [R, T + lookahead], past [R, W] pages right-aligned, saves [R, C] pages or -1, and a column for each count.
    cond:     [R, M, 80] float32, the prompt's mel where the new frames lie inside it, else zeros.
    speaker:  [R, 80] float32.
    mel:      [R, M, 80] float32, room for the result.
    stacked:  [2R, M, 320] in the network's precision, room for what the estimator reads: state, mu, speaker, cond.
    """

    def __init__(self, net: FlowNet, size: CallSize, memory: InputMemory | None = None) -> None:
        if memory is None or not memory.holds(size):
            memory = InputMemory(net, rows=size.rows, chunks=size.rows * size.chunks)
        assert size.past_pages <= memory.table_width, "no utterance has so many pages"
        self.size, self._memory = size, memory
        self._chunk_tokens = net.chunk_tokens
        num_tokens = size.chunks * net.chunk_tokens
        self.num_frames = FRAMES_PER_TOKEN * num_tokens
        widths = [_NUM_COUNTS, num_tokens + net.lookahead_tokens, memory.table_width, size.chunks]
        ends = np.cumsum(widths).tolist()
        self._tokens, self._past, self._saves = (slice(*pair) for pair in pairwise(ends))
        num_packed, num_values = size.rows * ends[-1], size.rows * self.num_frames * MEL_BINS
        self._packed_host = memory.packed_host[:num_packed]
        self._packed = np.asarray(self._packed_host).reshape(size.rows, ends[-1])
        self._cond = np.asarray(memory.cond_host[:num_values]).reshape(size.rows, self.num_frames, MEL_BINS)
        self.packed = memory.packed[:num_packed].view(size.rows, ends[-1])
        self.cond, self.mel = (
            flat[:num_values].view(size.rows, self.num_frames, MEL_BINS) for flat in (memory.cond, memory.mel)
        )
        stacked = memory.stacked[: GUIDANCE_ROWS * _STACKED * num_values]
        self.stacked = stacked.view(GUIDANCE_ROWS * size.rows, self.num_frames, _STACKED * MEL_BINS)
        self.speaker = memory.speaker[: size.rows]

    @property
    def tokens(self) -> Tensor:
        """Codes, the lookahead's after the new ones, zeros where there are none."""
        return self.packed[:, self._tokens]

    @property
    def past(self) -> Tensor:
        """Pages of the past."""
        return self.packed[:, self._past]

    @property
    def saves(self) -> Tensor:
        """Pages to be filled."""
        return self.packed[:, self._saves]

    @property
    def given(self) -> Tensor:
        """[R] tokens that there are, lookahead included."""
        return self.packed[:, _GIVEN]

    @property
    def num_tokens(self) -> Tensor:
        """[R] tokens to compute."""
        return self.packed[:, _NUM_TOKENS]

    @property
    def first_token(self) -> Tensor:
        """[R] index of the first of them from the first prompt token on."""
        return self.packed[:, _FIRST_TOKEN]

    @property
    def num_past(self) -> Tensor:
        """[R] pages of past."""
        return self.packed[:, _NUM_PAST]

    @property
    def chunk(self) -> Tensor:
        """[R] tokens per chunk of the mask."""
        return self.packed[:, _CHUNK]

    @property
    def guidance(self) -> Tensor:
        """[R] float32."""
        return self.packed.view(torch.float32)[:, _GUIDANCE]

    def fill(self, rows: Sequence[FlowRow], *, is_chunked: bool) -> None:
        """Send the rows; further rows of the size become short and harmless ones."""
        memory, packed = self._memory, self._packed
        if memory.sent is not None:
            memory.sent.synchronize()  # the last copy out of the host's tensors, long over as a rule
        packed[:] = 0
        packed[:, self._saves] = -1
        packed[len(rows) :, [_GIVEN, _NUM_TOKENS]] = 1
        packed[:, _CHUNK] = self._chunk_tokens if is_chunked else EVERYTHING
        packed[: len(rows), _GUIDANCE] = np.array([row.guidance for row in rows], dtype=np.float32).view(np.int32)
        for place, row in zip(packed, rows, strict=False):
            self._fill_row(place, row)
        self.packed.view(-1).copy_(self._packed_host, non_blocking=True)
        self._send_cond(rows)
        if rows:
            torch.stack([row.speaker for row in rows], out=self.speaker[: len(rows)])
        if memory.sent is not None:
            memory.sent.record()

    def _fill_row(self, place: np.ndarray, row: FlowRow) -> None:
        given = len(row.tokens)
        place[:_NUM_PAST] = given, row.num_tokens, row.first_token
        place[self._tokens.start : self._tokens.start + given] = row.tokens.cpu().numpy()
        past = [page for states in row.past for page in cast(PagedStates, states).pages]
        if past:
            place[_NUM_PAST] = len(past)
            place[self._past.stop - len(past) : self._past.stop] = past
        for states, begin, _ in row.saves:
            pages = cast(PagedStates, states).pages
            first = self._saves.start + begin // self._chunk_tokens
            place[first : first + len(pages)] = pages

    def _send_cond(self, rows: Sequence[FlowRow]) -> None:
        memory = self._memory
        parts = [
            row.prompt_mel[FRAMES_PER_TOKEN * row.first_token :][: FRAMES_PER_TOKEN * row.num_tokens] for row in rows
        ]
        if any(len(part) for part in parts):
            host = self._cond[: len(rows)]
            host.fill(0.0)
            for place, part in zip(host, parts, strict=True):
                place[: len(part)] = part.cpu().numpy()
            memory.cond[: host.size].copy_(memory.cond_host[: host.size], non_blocking=True)
            memory.num_cond = max(memory.num_cond, host.size)
        elif memory.num_cond:
            memory.cond[: memory.num_cond].zero_()
            memory.num_cond = 0
