"""Kept states of the flow in pages of one chunk, inside a few tensors that never move: what recorded calls can read.

What a state is, and why it may be kept: `flow_states.py`.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from light_tts.acoustic.call_log import CallLog, Retired
from light_tts.acoustic.flow_states import GUIDANCE_ROWS
from light_tts.kernels.kv_slots import slot_width
from light_tts.models.nets.dense import Tail
from light_tts.models.nets.flow_net import FlowNet


class PagedLevel(NamedTuple):
    """Pages of one network: N pages of S steps, E evaluations, G guidance rows.

    keys_values:  [N or N + 1, E, layers, G, S, 2 W], keys before values; or in int8 with a slot of
                  `kernels/kv_slots.py` for each step.
    tails:        [N + 1, E, G, V], last inputs of all convolutions at the end of the chunk, one after the other.
    places:       where each convolution begins in V.
    A last page beyond the N takes what is not to be kept.
    """

    keys_values: Tensor
    tails: Tensor
    places: tuple[int, ...]

    @property
    def dump_page(self) -> int:
        """The page nobody reads."""
        return self.tails.shape[0] - 1

    def page_bytes(self) -> int:
        """Bytes of one page."""
        return sum(tensor[0].numel() * tensor.element_size() for tensor in (self.keys_values, self.tails))


@dataclass(frozen=True, eq=False)
class PagedStates:
    """KeptStates in pages; they return to the pool when nobody holds the object any more."""

    num_tokens: int
    num_bytes: int
    pages: tuple[int, ...]


class PagePool:
    """All pages of one flow. `allocate` and the end of states may come from any thread.

    num_bytes:  of all pages; as many as fit are made, at once.
    steps:      evaluations that a page has room for; calls with more steps keep nothing.
    is_int8:    keep the estimator's keys and values, nearly all of a page, in int8.
    calls:      those under way, where there are several streams: what they read is not given out again before.
    """

    def __init__(
        self, net: FlowNet, num_bytes: int, *, steps: int, is_int8: bool = False, calls: CallLog | None = None
    ) -> None:
        body, estimator = net.body.shape, net.estimator
        num_heads = 2 * estimator.attention_heads  # of keys and values
        step_type = torch.int8 if is_int8 else net.dtype
        step_width = slot_width(num_heads, 2 * estimator.attention_width // num_heads, step_type)
        self.steps = steps
        self.chunk_tokens = net.chunk_tokens

        def levels(pages: int, device: torch.device | str) -> tuple[PagedLevel, PagedLevel, PagedLevel]:
            make = partial(_level, pages, dtype=net.dtype, device=device)
            tokens, frames = (
                make((1, layers, 1, length, 2 * body.width), tails)
                for layers, length, tails in (
                    (body.token_layers, net.chunk_tokens, body.token_tails),
                    (body.frame_layers, net.chunk_frames, body.frame_tails),
                )
            )
            shape = (steps, estimator.num_attention_layers, GUIDANCE_ROWS, net.chunk_frames, step_width)
            return tokens, frames, make(shape, net.estimator_tails, step_type=step_type, has_dump=False)

        self.page_bytes = sum(level.page_bytes() for level in levels(1, "meta"))
        self.num_pages = num_bytes // self.page_bytes
        self.tokens, self.frames, self.estimator = levels(self.num_pages, net.device)
        self._free = list(range(self.num_pages))
        self._retired: Retired[tuple[int, ...]] = Retired(CallLog() if calls is None else calls)
        self._lock = threading.Lock()

    @property
    def num_free(self) -> int:
        """Pages that nobody holds or reads."""
        with self._lock:
            self._reclaim()
            return len(self._free)

    def allocate(self, num_tokens: int) -> PagedStates | None:
        """Pages for so many tokens, whole chunks; None when there are not enough."""
        count = num_tokens // self.chunk_tokens
        with self._lock:
            self._reclaim()
            if count > len(self._free):
                return None
            pages = tuple(self._free.pop() for _ in range(count))
        states = PagedStates(num_tokens, count * self.page_bytes, pages)
        weakref.finalize(states, self._retired.put, pages).atexit = False
        return states

    def _reclaim(self) -> None:
        for pages in self._retired.take():
            self._free.extend(pages)


def _level(
    pages: int,
    sizes: tuple[int, int, int, int, int],
    tails: Sequence[Tail],
    *,
    dtype: torch.dtype,
    device: torch.device | str,
    step_type: torch.dtype | None = None,
    has_dump: bool = True,
) -> PagedLevel:
    evaluations, _, rows, _, _ = sizes
    values = [tail.num_values for tail in tails]
    # What is masked is multiplied by zero by plain operations, so it must be finite; the kernel does not read it.
    make = torch.zeros if has_dump else torch.empty
    return PagedLevel(
        make((pages + has_dump, *sizes), dtype=step_type or dtype, device=device),
        torch.zeros(pages + 1, evaluations, rows, sum(values), dtype=dtype, device=device),
        tuple(accumulate(values, initial=0))[:-1],
    )
