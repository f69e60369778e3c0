"""Byte budgets of the flow: states of prompts shared between requests, states of running streams."""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

from light_tts.acoustic.flow_states import KeptStates

PromptKey = tuple[str, int, float]  # content of the prompt, Euler steps, guidance


class ByteBudget:
    """A number of bytes that may be held at once. Any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        self._lock = threading.Lock()

    def reserve(self, num_bytes: int) -> bool:
        """Take the bytes if they are there."""
        with self._lock:
            if self.used_bytes + num_bytes > self.limit_bytes:
                return False
            self.used_bytes += num_bytes
            return True

    def release(self, num_bytes: int) -> None:
        """Give bytes back."""
        with self._lock:
            self.used_bytes -= num_bytes


@dataclass(eq=False)
class PromptEntry:
    """States of one prompt. While `users` is not zero, streams build on it and it stays."""

    key: PromptKey
    states: KeptStates
    users: int = 0


class PromptCache:
    """Least recently used prompts go first, never one in use; over the budget nothing is admitted. Any thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self._entries: OrderedDict[PromptKey, PromptEntry] = OrderedDict()
        self._used_bytes = 0
        self._lock = threading.Lock()

    @property
    def used_bytes(self) -> int:
        """Bytes of all entries."""
        return self._used_bytes

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: PromptKey) -> bool:
        return key in self._entries

    def num_tokens(self, key: PromptKey) -> int:
        """Tokens whose states are there; 0 when none are."""
        with self._lock:
            entry = self._entries.get(key)
            return 0 if entry is None else entry.states.num_tokens

    def acquire(self, key: PromptKey) -> PromptEntry | None:
        """The entry, now in use by one more; None if it is not there."""
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None:
                self._entries.move_to_end(key)
                entry.users += 1
            return entry

    def release(self, entry: PromptEntry) -> None:
        """One user less."""
        with self._lock:
            entry.users -= 1

    def can_admit(self, num_bytes: int) -> bool:
        """True when so many bytes would fit after throwing out what nobody uses."""
        with self._lock:
            in_use = sum(entry.states.num_bytes for entry in self._entries.values() if entry.users)
            return in_use + num_bytes <= self.limit_bytes

    def make_room(self, num_bytes: int) -> None:
        """Throw out the least recently used entries until so many bytes fit, or all that is left is in use."""
        with self._lock:
            self._make_room(num_bytes)

    def insert(self, key: PromptKey, states: KeptStates) -> None:
        """Add an entry, throwing out the least recently used; does nothing if it does not fit or is there already."""
        with self._lock:
            if key not in self._entries and self._make_room(states.num_bytes):
                self._entries[key] = PromptEntry(key, states)
                self._used_bytes += states.num_bytes

    def _make_room(self, num_bytes: int) -> bool:
        for candidate in [entry for entry in self._entries.values() if not entry.users]:
            if self._used_bytes + num_bytes <= self.limit_bytes:
                break
            del self._entries[candidate.key]
            self._used_bytes -= candidate.states.num_bytes
        return self._used_bytes + num_bytes <= self.limit_bytes
