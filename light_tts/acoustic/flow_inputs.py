"""Inputs of a flow call of one size in tensors that stay where they are; packed on the host, sent in one copy."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple, cast

import numpy as np
import torch
from torch import Tensor

from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_pages import PagedStates
from light_tts.models.nets.flow_net import MAX_FRAMES, FlowNet
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS

ANY_PAST = -1  # of a body that reads pages in place
EVERYTHING = 1 << 20  # tokens of a chunk when every step sees every step
_GIVEN, _NUM_TOKENS, _FIRST_TOKEN, _NUM_PAST, _CHUNK, _GUIDANCE, _NUM_COUNTS = range(7)


class CallSize(NamedTuple):
    """What the shapes of a flow call depend on.

    rows:        sequences.
    chunks:      new tokens of each, in whole chunks.
    past_pages:  pages of past that the token-to-mel body can see, or ANY_PAST; the estimator sees any number.
    steps:       Euler steps.
    """

    rows: int
    chunks: int
    past_pages: int
    steps: int


class FlowInputs:
    """The tensors of one size: filled row by row, read by the call.

    The views of `packed`, [R, X] int32 on the device:
    tokens  [R, T + lookahead], past [R, W] pages right-aligned, saves [R, C] pages or -1, and a column for each count.
    cond:     [R, M, 80] float32, the prompt's mel where the new frames lie inside it, else zeros.
    speaker:  [R, 80] float32.
    """

    def __init__(self, net: FlowNet, size: CallSize) -> None:
        self.size = size
        self._chunk_tokens, self._device = net.chunk_tokens, net.device
        num_tokens = size.chunks * net.chunk_tokens
        self.num_frames = FRAMES_PER_TOKEN * num_tokens
        self._table_width = max(size.past_pages, -(-MAX_FRAMES // net.chunk_frames))
        ends = np.cumsum([_NUM_COUNTS, num_tokens + net.lookahead_tokens, self._table_width, size.chunks]).tolist()
        self._tokens, self._past, self._saves = (slice(*pair) for pair in pairwise(ends))
        is_cuda = net.device.type == "cuda"
        self._packed_host = torch.zeros(size.rows, ends[-1], dtype=torch.int32, pin_memory=is_cuda)
        self._packed = np.asarray(self._packed_host)
        self.packed = torch.zeros(size.rows, ends[-1], dtype=torch.int32, device=net.device)
        shape = (size.rows, self.num_frames, MEL_BINS)
        self._cond_host = torch.zeros(shape, pin_memory=is_cuda)
        self.cond = torch.zeros(shape, device=net.device)
        self._cond_is_zero = True
        self.speaker = torch.zeros(size.rows, MEL_BINS, device=net.device)
        self._sent = torch.cuda.Event() if is_cuda else None

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
        if self._sent is not None:
            self._sent.synchronize()  # the last copy out of the host's buffers, long over as a rule
        packed = self._packed
        packed[:, : self._tokens.stop] = 0
        packed[:, self._saves] = -1
        packed[len(rows) :, [_GIVEN, _NUM_TOKENS]] = 1
        packed[:, _CHUNK] = self._chunk_tokens if is_chunked else EVERYTHING
        packed[: len(rows), _GUIDANCE] = np.array([row.guidance for row in rows], dtype=np.float32).view(np.int32)
        for place, row in zip(packed, rows, strict=False):
            self._fill_row(place, row)
        self.packed.copy_(self._packed_host, non_blocking=True)
        self._send_cond(rows)
        if rows:
            torch.stack([row.speaker for row in rows], out=self.speaker[: len(rows)])
        if self._sent is not None:
            self._sent.record()

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
        parts = [row.prompt_mel[FRAMES_PER_TOKEN * row.first_token :][: self.num_frames] for row in rows]
        parts = [part[: FRAMES_PER_TOKEN * row.num_tokens].cpu() for part, row in zip(parts, rows, strict=True)]
        if any(len(part) for part in parts):
            host = self._cond_host[: len(rows)].zero_()
            for place, part in zip(host, parts, strict=True):
                place[: len(part)] = part
            self.cond[: len(rows)].copy_(host, non_blocking=True)
            self._cond_is_zero = False
        elif not self._cond_is_zero:
            self.cond.zero_()
            self._cond_is_zero = True
