"""vLLM's engine with our network in it: all that is said to it, in our terms.

vLLM is imported when an engine is made, never before. One thread at a time may call; another may have made it.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, MutableMapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from light_tts.errors import CheckpointError
from light_tts.llm.admission import SamplingValues
from light_tts.llm.sequence import Sequence as Run
from light_tts.models.nets.speech_lm import SpeechLM
from light_tts.settings import LLMSettings

_MUST_BE = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # our network is handed over in memory
    "VLLM_USE_V2_MODEL_RUNNER": "0",  # the newer one calls no logits processors of others
}
_UNLESS_SET = {
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # the flow's threads are in this process too
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}
_SPARE_TOKENS = 256  # vLLM rounds to pages of up to 128 tokens, and keeps one page for itself
_MEMORY_SHARE = 0.01  # must be free when vLLM starts; what it may take is given in bytes


class Drawn(NamedTuple):
    """What a step gave one run.

    tokens:       ids drawn, of the head; its size stands for logits that were not finite.
    end:          vLLM's word for why the run is over; None while it goes on.
    num_reused:   rows of the prompt that were not computed again.
    """

    name: str
    tokens: list[int]
    end: str | None
    num_reused: int


class VLLMEngine:
    """Computes runs. Runs are known by names, which are never used twice.

    lm:        on the CPU; vLLM copies its weights to the device, after which only its tables are kept.
    sampling:  the checkpoint's window and share of the repetition rule.

    kv_bytes:    of keys and values.
    block_size:  tokens of one page.
    num_blocks:  pages.

    Raises CheckpointError for a network that vLLM's body of Qwen2 cannot hold.
    """

    def __init__(self, lm: SpeechLM, sampling: SamplingValues, settings: LLMSettings, device: torch.device) -> None:
        config = lm.config
        if config.head_dim * config.num_heads != config.hidden_size:
            raise CheckpointError(
                f"vLLM cannot hold this language model, whose {config.num_heads} heads of {config.head_dim} are not "
                f"its width of {config.hidden_size}; use llm_backend built-in."
            )
        self._ids = lm.ids
        self._embed = _prompt_embedding(lm)
        token_bytes = 2 * config.num_layers * config.num_kv_heads * config.head_dim * lm.dtype.itemsize
        self.kv_bytes = (settings.max_total_tokens + _SPARE_TOKENS) * token_bytes
        self._engine = _start(lm, sampling, settings, device, self.kv_bytes)
        cache = self._engine.vllm_config.cache_config
        self.block_size, self.num_blocks = int(cache.block_size), int(cache.num_gpu_blocks)

    @property
    def has_runs(self) -> bool:
        """True while there is something to compute."""
        return bool(self._engine.has_unfinished_requests())

    def add(self, name: str, run: Run, min_codes: int, max_codes: int) -> None:
        """Begin a run. Raises whatever vLLM has against it."""
        from light_tts.llm.vllm_sampling import DrawOptions

        ids = self._ids
        options = DrawOptions(run.key, run.sampling, min_codes, (ids.first_stop, ids.last_stop + 1))
        params = options.params(max_codes, list(range(ids.num_codes, ids.head_size + 1)))
        embeds = self._embed(torch.tensor(run.layout.rows))
        (prompt,) = self._engine.renderer.render_cmpl([{"prompt_embeds": embeds}])
        self._engine.add_request(name, prompt, params)

    def abort(self, names: list[str]) -> None:
        """Forget runs; those that have ended already do no harm."""
        self._engine.abort_request(names)

    def step(self) -> list[Drawn]:
        """Compute one step; returns what it gave the runs for which an id was drawn."""
        return [
            Drawn(
                output.request_id,
                list(output.outputs[0].token_ids),
                str(output.outputs[0].finish_reason) if output.finished else None,
                output.num_cached_tokens or 0,
            )
            for output in self._engine.step()
        ]

    def scrub(self) -> None:
        """Let nothing that is not finite stay in the pages: vLLM's kernels read what others left beside a run's rows.

        Runs that go on are computed again from their beginnings, which changes no id of theirs.
        """
        self._engine.reset_prefix_cache(reset_running_requests=True)
        self._engine.collective_rpc(_zero_what_is_not_finite)


def prepare_vllm(environment: MutableMapping[str, str]) -> None:
    """Say how vLLM works here, before it is imported; what somebody has set stays, but for what must be so."""
    environment.update(_MUST_BE)
    for name, value in _UNLESS_SET.items():
        environment.setdefault(name, value)


def _start(lm: SpeechLM, sampling: SamplingValues, settings: LLMSettings, device: torch.device, kv_bytes: int) -> Any:
    prepare_vllm(os.environ)
    from vllm import EngineArgs
    from vllm.v1.engine.llm_engine import LLMEngine

    from light_tts.llm.vllm_model import LOAD_FORMAT, write_config
    from light_tts.llm.vllm_sampling import RepetitionAwareDraws

    max_rows = min(settings.max_request_tokens, settings.max_total_tokens)
    with tempfile.TemporaryDirectory() as folder:
        write_config(Path(folder), lm.config, head_size=lm.ids.head_size, most_tokens=max_rows)
        arguments = EngineArgs(
            model=folder,
            skip_tokenizer_init=True,
            load_format=LOAD_FORMAT,
            model_loader_extra_config={"lm": lm},
            dtype=str(lm.dtype).removeprefix("torch."),
            enable_prompt_embeds=True,
            logits_processors=[RepetitionAwareDraws],
            additional_config={"win_size": sampling.win_size, "tau_r": sampling.tau_r},
            async_scheduling=False,  # the rule must see every id before it draws the next
            enforce_eager=settings.disable_cudagraph or device.type == "cpu",
            enable_prefix_caching=settings.prefix_cache,
            enable_chunked_prefill=True,
            max_model_len=max_rows,
            max_num_seqs=settings.max_running,
            max_num_batched_tokens=max(settings.prefill_budget_tokens, settings.max_running),
            kv_cache_memory_bytes=kv_bytes,
            gpu_memory_utilization=_MEMORY_SHARE,
            disable_log_stats=True,
        )
        return LLMEngine.from_engine_args(arguments)


def _prompt_embedding(lm: SpeechLM) -> Callable[[Tensor], Tensor]:
    """`lm.embed` without the rest of the network, whose memory is not kept."""
    text, speech, head = (each.data for each in (lm.text_table, lm.speech_table, lm.head))
    body = type(lm.body)(lm.config)
    return SpeechLM(lm.config, lm.ids, body, text=text, speech=speech, head=head, bias=None).embed


@torch.inference_mode()
def _zero_what_is_not_finite(worker: Any) -> None:
    for pages in worker.model_runner.kv_caches:
        pages.nan_to_num_(nan=0.0, posinf=0.0, neginf=0.0)
