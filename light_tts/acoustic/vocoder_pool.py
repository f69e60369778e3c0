"""What streams carry from piece to piece on a GPU: one row of each tensor per stream, so that a recorded call finds it.

The tensors never move. When more streams are under way than there are slots, the state of the one that has not been
decoded for the longest time waits beside them. Knows nothing of what the tensors mean.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from light_tts.acoustic.call_log import CallLog, Retired


class Seat:
    """Where one stream's state is: in a slot of the pool, beside it, or nowhere yet. Made by `StatePool.open`."""

    def __init__(self, pool: StatePool) -> None:
        self.slot: int | None = None
        self.parked: Mapping[str, Tensor] | None = None
        self.is_closed = False
        self.last_call: int | None = None  # see CallLog
        self._pool = pool

    def close(self) -> None:
        """Give the state up. Harmless when already closed. Any thread."""
        self._pool.leave(self)


class StatePool:
    """Named tensors [slots + 1, ...] of zeros; the last row is where rows that only pad a batch leave theirs.

    Seats may be opened and closed by any thread; the tensors belong to the vocoder's, or to those of several vocoders
    that share them.

    calls:  those under way, where there are several streams: what they read is not given out again before.
    """

    def __init__(
        self,
        shapes: Mapping[str, tuple[tuple[int, ...], torch.dtype]],
        slots: int,
        device: torch.device,
        calls: CallLog | None = None,
    ) -> None:
        self.tensors = {
            name: torch.zeros(slots + 1, *shape, dtype=dtype, device=device) for name, (shape, dtype) in shapes.items()
        }
        self.dump_slot = slots
        self._device = device
        self._free = list(range(slots))
        self._calls = CallLog() if calls is None else calls
        self._retired: Retired[int] = Retired(self._calls)
        self._seated: OrderedDict[Seat, int] = OrderedDict()  # -> slot; the one that waits longest first
        self._lock = threading.Lock()

    @property
    def num_used(self) -> int:
        """Slots that somebody has."""
        return len(self._seated)

    @property
    def num_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())

    def open(self) -> Seat:
        """A seat that takes a slot when it needs one."""
        return Seat(self)

    def leave(self, seat: Seat) -> None:
        """See `Seat.close`."""
        with self._lock:
            seat.is_closed, seat.parked, seat.slot = True, None, None
            slot = self._seated.pop(seat, None)
            if slot is not None:
                self._retired.put(slot)

    def seat(self, seats: Sequence[Seat]) -> list[int]:
        """The slot of each seat, with its state in it; a new one's holds the rubbish of whoever had it before.

        No more seats than slots. Somebody else's state is parked where none is free. Seats that have been closed
        meanwhile share the slot of padding.
        """
        assert len(seats) <= self.dump_slot, "fewer slots than rows of a call"
        with self._lock:
            self._free += self._retired.take()
            for seat in seats:
                seat.last_call = self._calls.present
                if seat in self._seated:
                    self._seated.move_to_end(seat)
            return [self._slot_of(seat) for seat in seats]

    def _slot_of(self, seat: Seat) -> int:
        if seat.is_closed:
            return self.dump_slot
        if seat.slot is None:
            seat.slot = self._free.pop() if self._free else self._vacate()
            self._seated[seat] = seat.slot
            if seat.parked is not None:
                for name, state in seat.parked.items():
                    self.tensors[name][seat.slot].copy_(state)
                self._settle()
                seat.parked = None
        return seat.slot

    def _vacate(self) -> int:
        """A slot that nobody reads any more: of whoever waits longest, or of somebody who has just left."""
        oldest = next((seat for seat in self._seated if not self._calls.goes_on(seat.last_call)), None)
        self._settle()
        if oldest is None:
            self._free += self._retired.take_all()
            return self._free.pop()
        slot = self._seated.pop(oldest)
        oldest.parked = {name: tensor[slot].clone() for name, tensor in self.tensors.items()}
        oldest.slot = None
        return slot

    def _settle(self) -> None:
        """Wait for all streams, if there are several: on one, a state may be moved that was made on another."""
        if self._device.type == "cuda" and self._calls.moment > 0:
            torch.cuda.synchronize(self._device)

    def read(self, name: str, slots: Tensor) -> Tensor:
        """Rows of a tensor: slots [B] int64 -> [B, ...]."""
        return self.tensors[name].index_select(0, slots)

    def write(self, name: str, slots: Tensor, values: Tensor) -> None:
        """Replace rows of a tensor."""
        tensor = self.tensors[name]
        tensor.index_copy_(0, slots, values.to(tensor.dtype))
