"""Pages of the KV cache: who holds which, and which beginnings are computed (Kwon et al. 2023, arXiv:2309.06180).

Pure bookkeeping over page numbers. A page is free (reference count 0) or held by one or more sequences; a page that
holds a published beginning keeps its content while free, until the space is needed.
"""

from __future__ import annotations

from array import array
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from hashlib import blake2b


class BlockManager:
    """A fixed number of pages of `block_tokens` tokens. The engine's thread owns it.

    prefix_cache:  False publishes nothing, so that every sequence computes all of its rows.
    """

    def __init__(self, num_blocks: int, block_tokens: int, *, prefix_cache: bool = True) -> None:
        self.block_tokens = block_tokens
        self.num_total = num_blocks
        self._prefix_cache = prefix_cache
        self._reference_counts = [0] * num_blocks
        # Last freed, first used: memory that was never needed is never touched.
        self._blank = list(range(num_blocks - 1, -1, -1))
        self._kept: OrderedDict[int, None] = OrderedDict()  # free but published, oldest first
        self._block_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def num_free(self) -> int:
        """Pages that `allocate` can give."""
        return len(self._blank) + len(self._kept)

    @property
    def num_used(self) -> int:
        """Pages held by sequences."""
        return self.num_total - self.num_free

    @property
    def num_kept(self) -> int:
        """Free pages that hold a published beginning."""
        return len(self._kept)

    def num_blocks_for(self, num_tokens: int) -> int:
        """Pages that hold `num_tokens` tokens."""
        return -(-num_tokens // self.block_tokens)

    def allocate(self, count: int) -> list[int]:
        """Take `count` free pages with one reference each; the caller has looked at `num_free`."""
        assert count <= self.num_free, f"{count} pages asked for, {self.num_free} are free"
        taken = [self._blank.pop() if self._blank else self._evict() for _ in range(count)]
        for block in taken:
            self._reference_counts[block] = 1
        return taken

    def release(self, blocks: Sequence[int]) -> None:
        """Give back one reference to each page."""
        # From the end, so that a beginning outlives what follows it.
        for block in reversed(blocks):
            assert self._reference_counts[block] > 0, f"page {block} released twice"
            self._reference_counts[block] -= 1
            if self._reference_counts[block]:
                continue
            if block in self._key_of:
                self._kept[block] = None
            else:
                self._blank.append(block)

    def is_shared(self, block: int) -> bool:
        """True when more than one sequence holds the page."""
        return self._reference_counts[block] > 1

    def attach(self, keys: Iterable[bytes]) -> list[int]:
        """Take a reference to each page of the longest published beginning of `keys` (see `chain_keys`)."""
        found: list[int] = []
        for key in keys:
            block = self._block_of.get(key)
            if block is None:
                break
            self._kept.pop(block, None)
            self._reference_counts[block] += 1
            found.append(block)
        return found

    def publish(self, block: int, key: bytes) -> None:
        """Let later sequences find a full, computed page by its key. A page already known by that key stays the one."""
        if self._prefix_cache and key not in self._block_of and block not in self._key_of:
            self._block_of[key] = block
            self._key_of[block] = key

    def forget(self, blocks: Iterable[int]) -> None:
        """Take back what was published of these pages; their content is not to be trusted."""
        for block in blocks:
            key = self._key_of.pop(block, None)
            if key is None:
                continue
            del self._block_of[key]
            if block in self._kept:
                del self._kept[block]
                self._blank.append(block)

    def _evict(self) -> int:
        block, _ = self._kept.popitem(last=False)
        del self._block_of[self._key_of.pop(block)]
        return block


def chain_keys(rows: Sequence[int], block_tokens: int, previous: bytes = b"") -> Iterator[bytes]:
    """One key per full page of `rows`; equal keys mean equal rows from the very first on.

    previous:  key of the page before `rows`, empty at the start of a sequence.
    """
    for start in range(0, len(rows) - block_tokens + 1, block_tokens):
        content = array("q", rows[start : start + block_tokens]).tobytes()
        previous = blake2b(previous + content, digest_size=16).digest()
        yield previous
