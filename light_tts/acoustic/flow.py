"""Speech tokens to mel: hops of many streams in one batch, and nothing computed twice while the budgets last.

What a hop returns does not depend on caches or on the other hops of the batch, rounding aside.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass

import torch
from torch import Tensor

from light_tts.acoustic.flow_batch import FlowRow
from light_tts.acoustic.flow_cache import ByteBudget, PromptCache, PromptKey
from light_tts.acoustic.flow_runner import FlowRunner, PlainRunner
from light_tts.acoustic.flow_states import KeptStates
from light_tts.acoustic.flow_stream import FlowStream
from light_tts.errors import EngineFailure, InvalidRequest, TextTooLong
from light_tts.events import NO_PROGRESS, StartProgress
from light_tts.models.nets.flow_net import MAX_FRAMES, FlowNet
from light_tts.types import FRAMES_PER_TOKEN, MEL_BINS, FlowPrompt

MOST_SPEAKERS = 1024  # whose vectors are kept


@dataclass(frozen=True, eq=False)
class FlowHop:
    """A piece of mel to compute.

    tokens:         [n] int64: all codes from the beginning of the utterance that this call may see, the prompt's not
                    among them; unless final, the last ones are lookahead only.
    offset_tokens:  first code whose frames are wanted.
    is_final:       `tokens` is complete.
    full_mask:      every frame sees every frame, and everything is computed again; else the chunk mask.
    """

    stream: FlowStream
    tokens: Tensor
    offset_tokens: int
    is_final: bool
    full_mask: bool = False


@dataclass(eq=False)
class _Work:
    """A hop with its row of the batch. `index` is None for rows that only fill the prompt cache."""

    index: int | None
    row: FlowRow
    steps: int
    is_chunked: bool
    skip_frames: int = 0
    prompt_states: tuple[PromptKey, KeptStates] | None = None
    own_states: KeptStates | None = None


class FlowDecoder:
    """Flow of one loaded model. `decode` belongs to one thread; `open` and `close` of streams may come from any.

    prompt_cache_bytes:  states of prompts kept for later requests; 0: none.
    stream_cache_bytes:  states of running streams; 0: every hop computes the utterance again.
    runner:              computes rows together and makes what keeps their states; default: the plain one.
    """

    def __init__(
        self, net: FlowNet, *, prompt_cache_bytes: int, stream_cache_bytes: int, runner: FlowRunner | None = None
    ) -> None:
        self.net = net
        self.runner = PlainRunner(net) if runner is None else runner
        self.prompts = PromptCache(prompt_cache_bytes)
        self.stream_budget = ByteBudget(stream_cache_bytes)
        self._fills_prompts = True
        self._speakers: dict[str, Tensor] = {}  # vectors by the prompt's key, those that came first go first

    def beside(self, runner: FlowRunner) -> FlowDecoder:
        """Another one for the same streams, each of which only one may have at a time; for another thread.

        It builds on the prompts' states that are cached, but adds none: whoever finds them there must not have to wait
        for another stream of the device.
        """
        other = copy(self)
        other.runner, other._fills_prompts = runner, False
        other._speakers = {}  # as soon as they are computed, but on this stream
        return other

    def forget(self, prompts: PromptCache, stream_budget: ByteBudget) -> None:
        """Begin anew with these, after a failure of the device: what it holds of old states, nobody knows."""
        self.prompts, self.stream_budget = prompts, stream_budget
        self._speakers = {}

    def warm_up(self, max_rows: int, progress: StartProgress = NO_PROGRESS) -> None:
        """Get ready for the hops of up to so many streams, which may take seconds. When nobody else calls `decode`."""
        self.runner.warm_up(max_rows, progress)

    def open(self, prompt: FlowPrompt, *, steps: int = 10, guidance: float = 0.7, stream: bool = True) -> FlowStream:
        """A new utterance in this voice.

        steps:   Euler steps.
        stream:  states of finished chunks are worth keeping; False for utterances computed in one hop.
        """
        return FlowStream(prompt, steps, guidance, stream, self.prompts, self.stream_budget)

    def decode(self, hops: Sequence[FlowHop]) -> list[Tensor]:
        """Mel of each hop, [80, frames] float32, in order: frames from `offset_tokens` to the end of the hop.

        Nothing is computed when a hop cannot be: raises TextTooLong beyond 300 s (prompt included), InvalidRequest for
        tokens outside the vocabulary, EngineFailure for a closed stream. A failed call may be repeated.
        """
        for hop in hops:
            self._check(hop)
        results = [torch.zeros(MEL_BINS, 0, device=self.net.device) for _ in hops]
        wanted = [index for index, hop in enumerate(hops) if self._wanted_frames(hop)[1] > 0]
        self._describe_speakers([hops[index].stream for index in wanted])
        self._fill_prompts([hops[index] for index in wanted])
        building: set[PromptKey] = set()
        work: list[_Work] = []
        try:
            work.extend(self._plan(index, hops[index], building) for index in wanted)
            for group in self._groups(work):
                for item, mel in zip(group, self._run(group), strict=True):
                    assert item.index is not None
                    hop = hops[item.index]
                    results[item.index] = mel[item.skip_frames :].T.contiguous()
                    hop.stream.offset_tokens = int(hop.tokens.shape[0]) - self._lookahead(hop)
                    self._settle(item, hop)
        finally:
            # Reserved for states that were never filled: the call failed half-way.
            for item in work:
                if item.own_states is not None:
                    self.stream_budget.release(item.own_states.num_bytes)
        return results

    def _check(self, hop: FlowHop) -> None:
        if hop.stream.is_closed:
            raise EngineFailure("This flow stream is closed; open a new one.")
        total = FRAMES_PER_TOKEN * self._end(hop)
        if total > MAX_FRAMES:
            raise TextTooLong(
                f"The speech would have {total} mel frames with its prompt; at most {MAX_FRAMES} (300 s) are possible. "
                "Split the text.",
                "text",
            )
        if hop.tokens.numel() and int(hop.tokens.max()) >= self.net.vocabulary:
            raise InvalidRequest(
                f"Speech token {int(hop.tokens.max())} is outside this model's {self.net.vocabulary} codes.", "tokens"
            )

    def _lookahead(self, hop: FlowHop) -> int:
        return 0 if hop.is_final else self.net.lookahead_tokens

    def _end(self, hop: FlowHop) -> int:
        """Tokens to be turned into frames, the prompt's included."""
        return int(hop.stream.prompt.tokens.shape[0]) + int(hop.tokens.shape[0]) - self._lookahead(hop)

    def _wanted_frames(self, hop: FlowHop) -> tuple[int, int]:
        """(first, number of) frames wanted, counted from the first prompt frame.

        The prompt's mel need not have two frames per token; the utterance begins where the mel ends.
        """
        if not hop.tokens.shape[0]:
            return 0, 0
        first = int(hop.stream.prompt.mel.shape[0]) + FRAMES_PER_TOKEN * hop.offset_tokens
        return first, max(0, FRAMES_PER_TOKEN * self._end(hop) - first)

    def _prompt_tokens(self, prompt: FlowPrompt) -> int:
        """Tokens of the prompt's chunks that are complete whatever follows."""
        settled = int(prompt.tokens.shape[0]) - self.net.lookahead_tokens
        return max(0, settled // self.net.chunk_tokens) * self.net.chunk_tokens

    def _fill_prompts(self, hops: Sequence[FlowHop]) -> None:
        """Prompts that several hops of this call need are computed once, ahead of them."""
        missing: dict[PromptKey, list[FlowStream]] = {}
        for hop in hops:
            if not hop.full_mask and not hop.stream.acquire_prompt() and self._can_cache(hop.stream):
                missing.setdefault(hop.stream.prompt_key, []).append(hop.stream)
        shared = [streams for streams in missing.values() if len(set(map(id, streams))) > 1]
        work = [item for streams in shared if (item := self._plan_prompt(streams[0])) is not None]
        for group in self._groups(work):
            self._run(group)
            for item in group:
                self._settle(item, None)
        for streams in shared:
            for stream in streams:
                stream.acquire_prompt()

    def _describe_speakers(self, streams: Sequence[FlowStream]) -> None:
        """Give each stream its speaker's vector; new ones go to the device together, a copy of each takes as long."""
        waiting = [stream for stream in streams if stream.speaker_vector is None]
        new = {stream.prompt.key: stream.prompt for stream in waiting if stream.prompt.key not in self._speakers}
        if new:
            with torch.inference_mode():
                speakers = torch.stack([prompt.speaker.cpu() for prompt in new.values()])
                if self.net.device.type == "cuda":  # a copy of what is not pinned would wait for the call before
                    speakers = speakers.pin_memory().to(self.net.device, non_blocking=True)
                # One by one: in company one might be rounded differently.
                vectors = [self.net.speaker_vector(speaker[None])[0] for speaker in speakers]
                self._speakers.update(zip(new, vectors, strict=True))
        for stream in waiting:
            stream.speaker_vector = self._speakers[stream.prompt.key]
        while len(self._speakers) > MOST_SPEAKERS:
            del self._speakers[next(iter(self._speakers))]

    def _can_cache(self, stream: FlowStream) -> bool:
        """True when the prompt's states may be computed for the cache now."""
        tokens = self._prompt_tokens(stream.prompt)
        if not (tokens and self._fills_prompts) or stream.bytes_held or stream.prompt_key in self.prompts:
            return False
        return self.prompts.can_admit(self.runner.states_bytes(tokens, stream.steps))

    def _allocate_prompt(self, num_tokens: int, steps: int) -> KeptStates | None:
        """Empty states for a prompt, for which unused ones leave."""
        self.prompts.make_room(self.runner.states_bytes(num_tokens, steps))
        return self.runner.allocate(num_tokens, steps)

    def _plan_prompt(self, stream: FlowStream) -> _Work | None:
        tokens = self._prompt_tokens(stream.prompt)
        states = self._allocate_prompt(tokens, stream.steps)
        if states is None:
            return None
        seen = stream.prompt.tokens[: tokens + self.net.lookahead_tokens]
        row = self._row(stream, seen, 0, tokens, (), ((states, 0, tokens),))
        return _Work(None, row, stream.steps, True, prompt_states=(stream.prompt_key, states))

    def _plan(self, index: int, hop: FlowHop, building: set[PromptKey]) -> _Work:
        """The row of a hop. Reserves bytes for what the stream will keep."""
        stream, end = hop.stream, self._end(hop)
        first_frame, _ = self._wanted_frames(hop)
        tokens = torch.cat([stream.prompt.tokens, hop.tokens.to(stream.prompt.tokens.device)])
        if hop.full_mask:
            return _Work(index, self._row(stream, tokens, 0, end), stream.steps, False, skip_frames=first_frame)
        past = stream.past(first_frame // FRAMES_PER_TOKEN)
        begin = kept = sum(states.num_tokens for states in past)
        saves: list[tuple[KeptStates, int, int]] = []
        prompt_states = own_states = None
        if not past and stream.prompt_key not in building and self._can_cache(stream):
            prompt_tokens = self._prompt_tokens(stream.prompt)
            states = self._allocate_prompt(prompt_tokens, stream.steps)
            if states is not None:
                kept, prompt_states = prompt_tokens, (stream.prompt_key, states)
                building.add(stream.prompt_key)
                saves.append((states, 0, kept))
        complete = end // self.net.chunk_tokens * self.net.chunk_tokens
        if stream.keeps_states and not hop.is_final and complete > kept:
            own_states = self._allocate_own(complete - kept, stream.steps)
            if own_states is not None:
                saves.append((own_states, kept - begin, complete - begin))
        row = self._row(stream, tokens, begin, end, past, tuple(saves))
        skip = first_frame - FRAMES_PER_TOKEN * begin
        return _Work(index, row, stream.steps, True, skip, prompt_states, own_states)

    def _allocate_own(self, num_tokens: int, steps: int) -> KeptStates | None:
        """Empty states for a stream's own chunks, their bytes reserved; None over the budget."""
        num_bytes = self.runner.states_bytes(num_tokens, steps)
        if not self.stream_budget.reserve(num_bytes):
            return None
        states = None
        try:
            states = self.runner.allocate(num_tokens, steps)
        finally:
            if states is None:  # no room although within the budget, or out of memory
                self.stream_budget.release(num_bytes)
        return states

    def _row(
        self,
        stream: FlowStream,
        tokens: Tensor,
        begin: int,
        end: int,
        past: tuple[KeptStates, ...] = (),
        saves: tuple[tuple[KeptStates, int, int], ...] = (),
    ) -> FlowRow:
        assert stream.speaker_vector is not None, "speakers are described first"
        return FlowRow(
            tokens=tokens[begin:],
            num_tokens=end - begin,
            first_token=begin,
            prompt_mel=stream.prompt.mel,
            speaker=stream.speaker_vector,
            guidance=stream.guidance,
            past=past,
            saves=saves,
        )

    def _groups(self, work: Sequence[_Work]) -> list[list[_Work]]:
        """Rows that run together: same steps, same mask, what the runner would join."""
        alike: dict[tuple[int, bool], list[_Work]] = {}
        for item in work:
            alike.setdefault((item.steps, item.is_chunked), []).append(item)
        return [
            [items[index] for index in group]
            for items in alike.values()
            for group in self.runner.groups([item.row for item in items])
        ]

    def _run(self, group: Sequence[_Work]) -> list[Tensor]:
        rows = [item.row for item in group]
        return self.runner.run(rows, steps=group[0].steps, is_chunked=group[0].is_chunked)

    def _settle(self, item: _Work, hop: FlowHop | None) -> None:
        """Hand filled states to their owners."""
        if item.prompt_states is not None:
            self.prompts.insert(*item.prompt_states)
        if hop is None:
            return
        if hop.is_final:
            hop.stream.finish()
            return
        if item.prompt_states is not None and not hop.stream.acquire_prompt():
            return  # the cache had no room after all; without the prompt's states the stream's own are of no use
        own, item.own_states = item.own_states, None
        if own is not None:
            hop.stream.keep(own)
