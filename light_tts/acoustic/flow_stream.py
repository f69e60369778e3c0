"""One utterance on its way through the flow: what it has kept, and whose prompt it builds on."""

from __future__ import annotations

import threading

from torch import Tensor

from light_tts.acoustic.flow_cache import ByteBudget, PromptCache, PromptEntry, PromptKey
from light_tts.acoustic.flow_states import KeptStates
from light_tts.types import FlowPrompt


class FlowStream:
    """One utterance on its way through the flow; made by `FlowDecoder.open`.

    offset_tokens:  tokens whose frames have been computed so far.
    """

    def __init__(
        self,
        prompt: FlowPrompt,
        steps: int,
        guidance: float,
        keeps_states: bool,
        cache: PromptCache,
        budget: ByteBudget,
    ) -> None:
        self.prompt = prompt
        self.steps = steps
        self.guidance = guidance
        self.keeps_states = keeps_states
        self.offset_tokens = 0
        self._cache, self._budget = cache, budget
        self._entry: PromptEntry | None = None
        self._own: list[KeptStates] = []
        self.speaker_vector: Tensor | None = None  # [80], set by the first hop
        self._is_closed = False
        self._lock = threading.Lock()

    @property
    def prompt_key(self) -> PromptKey:
        """What the states of the prompt depend on."""
        return (self.prompt.key, self.steps, self.guidance)

    @property
    def is_closed(self) -> bool:
        """True once `close` was called."""
        return self._is_closed

    @property
    def bytes_held(self) -> int:
        """Bytes of the stream's own states; those of the prompt are shared and not counted."""
        return sum(states.num_bytes for states in self._own)

    @property
    def kept_tokens(self) -> int:
        """Tokens, the prompt's first, that the next hop under the chunk mask need not compute."""
        with self._lock:
            own = sum(states.num_tokens for states in self._own)
            if self._entry is not None:
                return self._entry.states.num_tokens + own
        return own or self._cache.num_tokens(self.prompt_key)

    def close(self) -> None:
        """Free everything at once. Any thread; a second call does nothing."""
        with self._lock:
            self._is_closed = True
            self._drop()

    def _drop(self) -> None:
        while self._own:
            self._budget.release(self._own.pop().num_bytes)
        if self._entry is not None:
            self._cache.release(self._entry)
            self._entry = None

    def acquire_prompt(self) -> bool:
        """Build on the cached states of the prompt, if there are any and nothing was kept without them."""
        with self._lock:
            if self._entry is None and not self._own and not self._is_closed:
                self._entry = self._cache.acquire(self.prompt_key)
            return self._entry is not None

    def past(self, last_token: int) -> tuple[KeptStates, ...]:
        """Kept states up to `last_token` at most; own ones beyond it are dropped (a hop that is asked for again)."""
        with self._lock:
            shared = [self._entry.states] if self._entry is not None else []
            while self._own and sum(states.num_tokens for states in [*shared, *self._own]) > last_token:
                self._budget.release(self._own.pop().num_bytes)
            if self._entry is not None and shared[0].num_tokens > last_token:
                # A prompt whose mel is shorter than its tokens: frames inside the kept chunks are wanted too.
                self._cache.release(self._entry)
                self._entry = None
                return ()
            return (*shared, *self._own)

    def keep(self, states: KeptStates) -> None:
        """Take over filled states, whose bytes are reserved; a stream closed meanwhile lets them go."""
        with self._lock:
            if self._is_closed:
                self._budget.release(states.num_bytes)
            else:
                self._own.append(states)

    def finish(self) -> None:
        """Let go of all states; the stream stays open, since its last hop may be asked for again."""
        with self._lock:
            self._drop()
