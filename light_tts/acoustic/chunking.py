"""The chunk grid: which speech tokens of a stream are decoded when, and where its mel may be cut. Pure arithmetic.

The models were trained with attention over chunks of 25 tokens counted from the first *prompt* token. A call that ends
on that grid yields frames which never change again; so every streamed hop but the last ends there, whatever its size.
A non-final call also sees a few tokens of lookahead whose frames it does not yield (spec: pipeline, section 3;
token2wav, section 2).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from light_tts.types import FRAMES_PER_TOKEN

MIN_FIRST_PIECE_FRAMES = 16  # a vocoder call on less has more edge than inside (the state it keeps is 8 frames)
_MIN_FIRST_HOP_TOKENS = MIN_FIRST_PIECE_FRAMES // FRAMES_PER_TOKEN


@dataclass(frozen=True)
class Hop:
    """One call of the acoustic model.

    visible_tokens:  the call is given speech tokens `0 .. visible_tokens - 1` of the utterance, prompt not counted.
    offset_tokens:   first token whose frames are wanted.
    hop_tokens:      tokens whose frames it yields.
    is_final:        the utterance ends here; nothing of what is visible is lookahead.
    full_mask:       every frame sees every frame; otherwise chunks see themselves and what is before them.
    """

    visible_tokens: int
    offset_tokens: int
    hop_tokens: int
    is_final: bool
    full_mask: bool

    @property
    def num_frames(self) -> int:
        """Mel frames that result."""
        return FRAMES_PER_TOKEN * self.hop_tokens


class HopPlan:
    """Which hop of one utterance comes next. One per utterance, owned by the thread that decodes it; nothing is shared.

    `next_hop` says what can run now on the fixed schedule; `smallest_hop`, `more_chunks` and `grown` are for a planner
    that sizes hops by the clock. None of them changes anything; `advance` takes note that a hop has run. Made by
    `streaming` or `offline`.

    again_tokens:  that the next hop computes besides its own, set by whoever knows. It may be as long as they are,
                   beyond the largest hop: so a stream without states does about twice the work, however long it gets.
    """

    def __init__(
        self,
        hop_sizes: Iterator[int],
        lookahead_tokens: int,
        *,
        full_final_mask: bool,
        chunk_tokens: int = 1,
        max_hop_tokens: int = 0,
        even_hop_tokens: int | None = None,
    ) -> None:
        self._hop_sizes = hop_sizes
        self._even_hop_tokens = even_hop_tokens
        self.chunk_tokens = chunk_tokens
        self._max_hop_tokens = max_hop_tokens
        self._hop_tokens = next(hop_sizes, None)  # None: nothing but the final hop is left
        self._first_tokens = self._hop_tokens or 0
        self._lookahead_tokens = lookahead_tokens
        self._full_final_mask = full_final_mask
        self._offset_tokens = 0
        self._is_finished = False
        self.again_tokens = 0

    @classmethod
    def offline(cls, prompt_tokens: int = 0, *, full_mask: bool = True) -> HopPlan:
        """One call with everything when all tokens are there; the same for every prompt.

        full_mask:  as the reference; False: the mask of streams, under which the states of a voice may be used.
        """
        _require(prompt_tokens >= 0, f"a prompt cannot have {prompt_tokens} tokens")
        return cls(iter(()), 0, full_final_mask=full_mask)

    @classmethod
    def streaming(
        cls,
        prompt_tokens: int,
        *,
        chunk_tokens: int = 25,
        lookahead_tokens: int = 3,
        first_hop_tokens: int = 25,
        max_hop_tokens: int = 100,
        growth: int = 2,
        even_hop_tokens: int | None = None,
        final_full_mask: bool = False,
    ) -> HopPlan:
        """Hops that end on the grid, then one with the rest.

        prompt_tokens:      speech tokens of the flow prompt, P; the grid counts from the first of them.
        first_hop_tokens:   the first hop is the shortest of at least this many tokens (and 16 frames) that ends on the
                            grid: with the default, 25 plus what the prompt's last chunk lacks, 25 to 49.
        max_hop_tokens, growth:  each hop is `growth` times the one before, up to the maximum, in whole chunks.
        even_hop_tokens:    in place of growth: each hop after the first has so many tokens, on average if those are no
                            whole chunks, and no smaller one is offered.
        final_full_mask:    the reference's choice for the last hop, which computes the whole utterance again.

        The defaults with final_full_mask are the reference's schedule of a fresh stream; growth 1 is the variant with
        a constant hop.
        """
        _require(prompt_tokens >= 0, f"a prompt cannot have {prompt_tokens} tokens")
        _require(lookahead_tokens >= 0, f"a lookahead cannot be {lookahead_tokens} tokens")
        sizes = (chunk_tokens, first_hop_tokens, max_hop_tokens, growth)
        least = min(*sizes, even_hop_tokens or 1)
        _require(least >= 1, f"chunk, first hop, largest hop, growth and even hop must be at least 1, got {sizes}")
        hop_sizes = _hop_sizes(prompt_tokens, *sizes)
        return cls(
            hop_sizes,
            lookahead_tokens,
            full_final_mask=final_full_mask,
            chunk_tokens=chunk_tokens,
            max_hop_tokens=max_hop_tokens,
            even_hop_tokens=even_hop_tokens,
        )

    @property
    def offset_tokens(self) -> int:
        """Tokens whose frames are done."""
        return self._offset_tokens

    @property
    def is_finished(self) -> bool:
        """True after the final hop has run."""
        return self._is_finished

    @property
    def tokens_needed(self) -> int | None:
        """Tokens of the utterance that the smallest non-final hop must see, lookahead included; None: there is none."""
        size = self._smallest_tokens
        return None if size is None else self._offset_tokens + size + self._lookahead_tokens

    def next_hop(self, available_tokens: int, ended: bool) -> Hop | None:
        """The planned hop if it can run now; None when more tokens are needed or the utterance is finished.

        available_tokens:  tokens of the utterance so far, from its beginning.
        ended:             no more will come. The final hop always comes, even when no token is left for it.
        """
        return self._hop_of(self._hop_tokens, available_tokens, ended)

    def smallest_hop(self, available_tokens: int, ended: bool) -> Hop | None:
        """The least that can run now: the first hop as planned, then one chunk, or an even hop where those are wanted.

        With the full mask for the last hop there is no choice: what that hop computes, and so how the audio sounds,
        depends on where it begins. Such a plan keeps to its schedule.
        """
        return self._hop_of(self._smallest_tokens, available_tokens, ended)

    def more_chunks(self, hop: Hop, available_tokens: int, *, ended: bool) -> int:
        """Chunks that this hop could take along. A tail that is too short for a hop of its own counts as the last."""
        if hop.is_final or self._full_final_mask:
            return 0
        whole = self._whole_chunks(hop, available_tokens)
        tail = available_tokens - hop.offset_tokens - hop.hop_tokens - whole * self.chunk_tokens
        return whole + (1 if ended and tail < self.chunk_tokens + self._lookahead_tokens else 0)

    def grown(self, hop: Hop, chunks: int, available_tokens: int, *, ended: bool) -> Hop:
        """This hop with so many of its `more_chunks`; with the tail it is the final one."""
        if chunks == 0:
            return hop
        assert chunks <= self.more_chunks(hop, available_tokens, ended=ended), "a hop takes no more than there is"
        if chunks > self._whole_chunks(hop, available_tokens):
            rest = available_tokens - hop.offset_tokens
            return Hop(available_tokens, hop.offset_tokens, rest, is_final=True, full_mask=False)
        extra = chunks * self.chunk_tokens
        return Hop(hop.visible_tokens + extra, hop.offset_tokens, hop.hop_tokens + extra, False, False)

    def next_change(self, available_tokens: int) -> int | None:
        """Tokens with which more can be done than with so many, while others are still to come; None: with none."""
        hop = self.smallest_hop(available_tokens, ended=False)
        if hop is None:
            return self.tokens_needed
        hop_tokens = hop.hop_tokens + (self._whole_chunks(hop, available_tokens) + 1) * self.chunk_tokens
        if self._full_final_mask or hop_tokens > self._most_tokens:
            return None
        return hop.offset_tokens + hop_tokens + self._lookahead_tokens

    def _whole_chunks(self, hop: Hop, available_tokens: int) -> int:
        room = min(available_tokens - hop.visible_tokens, self._most_tokens - hop.hop_tokens)
        return max(0, room // self.chunk_tokens)

    def can_grow(self, hop: Hop, *, beyond_schedule: bool = False) -> bool:
        """True when waiting for tokens could bring this hop to its planned size, or to the largest one."""
        wanted = self._most_tokens if beyond_schedule else min(self._hop_tokens or 0, self._max_hop_tokens)
        return not hop.is_final and not self._full_final_mask and hop.hop_tokens + self.chunk_tokens <= wanted

    @property
    def _most_tokens(self) -> int:
        return max(self._max_hop_tokens, self.again_tokens)

    @property
    def _smallest_tokens(self) -> int | None:
        keeps_to_schedule = self._full_final_mask or self._even_hop_tokens is not None
        if self._hop_tokens is None or self._offset_tokens == 0 or keeps_to_schedule:
            return self._hop_tokens
        return self.chunk_tokens

    def _hop_of(self, hop_tokens: int | None, available_tokens: int, ended: bool) -> Hop | None:
        if self._is_finished:
            return None
        offset = self._offset_tokens
        if hop_tokens is not None and available_tokens >= offset + hop_tokens + self._lookahead_tokens:
            visible = offset + hop_tokens + self._lookahead_tokens
            return Hop(visible, offset, hop_tokens, is_final=False, full_mask=False)
        if not ended:
            return None
        rest = available_tokens - offset
        return Hop(available_tokens, offset, rest, is_final=True, full_mask=self._full_final_mask)

    def advance(self, hop: Hop) -> None:
        """Take note that this hop has run."""
        assert not self._is_finished, "the final hop has run"
        assert hop.offset_tokens == self._offset_tokens, "hops run once, in order"
        self._offset_tokens += hop.hop_tokens
        self.again_tokens = 0
        self._is_finished = hop.is_final
        if self._even_hop_tokens is None:
            self._hop_tokens = next(self._hop_sizes, None)
        else:
            done_tokens = self._offset_tokens - self._first_tokens
            self._hop_tokens = _even_hop(done_tokens, self._even_hop_tokens, self.chunk_tokens)


def grid_pieces(start_frame: int, num_frames: int, prompt_frames: int, chunk_frames: int) -> tuple[int, ...]:
    """Lengths of the pieces into which the frames of a hop are cut for the vocoder.

    Cuts are at the grid points (multiples of `chunk_frames` counted from the first prompt frame). The first piece of a
    stream takes the following one in while it is shorter than 16 frames. For hops that end on the grid, as a HopPlan's
    do, the pieces of a whole stream are then the same whatever the sizes of its hops.

    start_frame:    first frame of the hop, counted from the first frame after the prompt.
    prompt_frames:  frames of the flow prompt.
    Returns lengths that add up to `num_frames`; empty for an empty hop.
    """
    if num_frames == 0:
        return ()
    end = start_frame + num_frames
    first_cut = _round_up(prompt_frames + start_frame + 1, chunk_frames) - prompt_frames
    cuts = [cut for cut in range(first_cut, end, chunk_frames) if start_frame or cut >= MIN_FIRST_PIECE_FRAMES]
    edges = [start_frame, *cuts, end]
    return tuple(after - before for before, after in pairwise(edges))


def _hop_sizes(prompt_tokens: int, chunk: int, first_hop: int, max_hop: int, growth: int) -> Iterator[int]:
    """Sizes of the non-final hops, without end."""
    first_end = prompt_tokens + max(first_hop, _MIN_FIRST_HOP_TOKENS)
    yield _round_up(first_end, chunk) - prompt_tokens
    most = max(chunk, max_hop // chunk * chunk)
    size = first_hop  # what the first hop was padded with does not grow
    while True:
        # A first hop below one chunk grows to one chunk first.
        size = min(most, _round_up(size * growth, chunk)) if size >= chunk else chunk
        yield size


def _even_hop(done_tokens: int, hop_tokens: int, chunk: int) -> int:
    """Whole chunks of which hops of `hop_tokens` each would reach into the last; at least what fits into one such hop.

    done_tokens: whole chunks that are done since the first hop.
    """
    target = (done_tokens // hop_tokens + 1) * hop_tokens
    return max(_round_up(target, chunk) - done_tokens, max(chunk, hop_tokens // chunk * chunk))


def _round_up(value: int, step: int) -> int:
    return -(-value // step) * step


def _require(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)
