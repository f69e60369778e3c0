"""What the golden checks of the language model work with: a tiny model, and the network fed by hand."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from light_tts.llm.layout import NOTHING_BLOCKED, Blocked
from light_tts.llm.model_runner import ModelRunner
from light_tts.llm.sampler import Sampler, SamplingBatch
from light_tts.llm.scheduler import Chunk
from light_tts.llm.sequence import RowSampling, Sequence
from light_tts.llm.silence import SilenceFilter
from light_tts.models.nets.speech_lm import SpeechLM, build_speech_lm
from light_tts.models.speech_ids import SpeechIds
from light_tts.types import FinishReason, LLMPrompt
from light_tts.verify.report import Ledger

Case = dict[str, Any]


@dataclass(frozen=True)
class Golden:
    """One model folder: the files of it, and the network built from them."""

    ledger: Ledger
    name: str
    config: Case
    ids: SpeechIds
    lm: SpeechLM

    @classmethod
    def read(cls, ledger: Ledger, name: str) -> Golden:
        """Build the network of the folder `name`."""
        config = read_json(ledger, f"{name}/config.json")
        ids = read_speech_ids(config)
        lm = build_speech_lm(config["qwen2"], ledger.inputs(f"{name}/llm.safetensors"), ids)
        return cls(ledger, name, config, ids, lm)

    def json(self, stem: str) -> Any:
        """Content of `stem`.json of the folder."""
        return read_json(self.ledger, f"{self.name}/{stem}.json")

    def label(self, *parts: str) -> str:
        """Name of a row of the report."""
        return "/".join((self.name, *parts))

    def names_of(self, rows: Iterable[int]) -> list[str]:
        """Joint-table rows in the golden files' spelling."""
        special = {self.ids.sos_row: "sos", self.ids.task_row: "task"}
        text_rows = self.lm.num_text_rows
        return [special.get(r, f"t{r}" if r < text_rows else f"s{r - self.ids.speech_row0}") for r in rows]

    def rows_of(self, names: Iterable[str]) -> list[int]:
        """The other way round."""
        special = {"sos": self.ids.sos_row, "task": self.ids.task_row}
        offsets = {"t": 0, "s": self.ids.speech_row0}
        return [special[name] if name in special else offsets[name[0]] + int(name[1:]) for name in names]

    def sampler(self, head_size: int | None = None) -> Sampler:
        """A sampler with the repetition rule of the folder."""
        rule = self.config["sampling"]
        size = head_size or self.ids.head_size
        return Sampler(win_size=rule["win_size"], tau_r=rule["tau_r"], head_size=size, device="cpu")

    def prompt(self, case: Case) -> LLMPrompt:
        """The input that a case of prefill.json describes."""
        text = tuple(case["text"])
        return LLMPrompt(tuple(case["prompt_text"]), text, tuple(case["prompt_speech"]), len(text))


def read_speech_ids(config: Mapping[str, Any]) -> SpeechIds:
    """The ids of a tiny model, from its config.json."""
    special, text_rows = config["special"], int(config["qwen2"]["vocab_size"])
    # Rows of a table of their own stand between text and speech; otherwise sos and task are speech rows.
    has_control_table = isinstance(special["sos"], str)
    return SpeechIds(
        num_codes=config["speech_token_size"],
        head_size=special["head"],
        eos=special["eos"],
        fill=special["fill"],
        first_stop=special["stop_first"],
        last_stop=special["stop_last"],
        sos_row=text_rows if has_control_table else text_rows + special["sos"],
        task_row=text_rows + 1 if has_control_table else text_rows + special["task_id"],
        speech_row0=text_rows + 2 if has_control_table else text_rows,
        end_of_prompt=config["endofprompt_id"],
        needs_end_of_prompt=not has_control_table,
    )


def sampling_batch(golden: Golden, history: list[int], blocked: Blocked | None, draws: list[float]) -> SamplingBatch:
    """One row for the sampler, its uniforms given: for the first draw, and for the redraw."""
    rule = golden.config["sampling"]
    window = history[-rule["win_size"] :]
    first_range, second_range = blocked or NOTHING_BLOCKED
    return SamplingBatch(
        blocked=torch.tensor([[*first_range, *second_range]]),
        window=torch.tensor([[-1] * (rule["win_size"] - len(window)) + window]),
        top_p=torch.tensor([rule["top_p"]], dtype=torch.float32),
        top_k=torch.tensor([rule["top_k"]]),
        max_top_k=rule["top_k"],
        temperature=None,
        greedy=None,
        uniforms=torch.tensor([[*draws, 0.0, 0.0][:2]], dtype=torch.float32),
    )


class Forward:
    """The network over the rows of one sequence, fed bit by bit, through the runner and its pages."""

    def __init__(self, lm: SpeechLM, num_blocks: int = 64, block_tokens: int = 16, *, kv_int8: bool = False) -> None:
        self._runner = ModelRunner(
            lm, num_blocks=num_blocks, block_tokens=block_tokens, win_size=1, tau_r=1.0, kv_int8=kv_int8
        )
        self._layout = _FixedLayout()
        self._sequence = Sequence(0, self._layout, RowSampling(1.0, 1), 0, _NoSink(), SilenceFilter(()))
        self._sequence.blocks = list(range(num_blocks))

    def hidden(self, rows: list[int]) -> Tensor:
        """Final hidden states [len(rows), C] of the next rows."""
        self._sequence.num_computed = self._layout.num_rows
        self._layout.rows.extend(rows)
        with torch.inference_mode():
            return self._runner.hidden([Chunk.of(self._sequence, len(rows))])

    def logits(self, rows: list[int]) -> Tensor:
        """Logits [len(rows), V] of the next rows."""
        return self._runner.lm.logits(self.hidden(rows))


class _FixedLayout:
    """Rows without a meaning."""

    wants_sample = True
    continues_with_code = False
    blocked = NOTHING_BLOCKED
    num_shareable = num_sure_rows = 0

    def __init__(self) -> None:
        self.rows: list[int] = []
        self.history: list[int] = []
        self.finish_reason: FinishReason | None = None

    @property
    def num_rows(self) -> int:
        """See `Layout.num_rows`."""
        return len(self.rows)

    def blocked_at(self, step: int) -> tuple[Blocked, int]:
        """Nothing is sampled."""
        return NOTHING_BLOCKED, step

    def accept(self, token: int) -> int | None:
        """Nothing is sampled."""
        raise AssertionError(f"id {token} sampled in a run that samples nothing")


class _NoSink:
    """Nothing is handed over."""

    def put(self, tokens: Iterable[int]) -> None:
        """Drop the codes."""

    def end(self, reason: FinishReason) -> None:
        """Drop the end."""

    def fail(self, error: Exception) -> None:
        """Let the error be seen."""
        raise error


def read_json(ledger: Ledger, name: str) -> Any:
    """Content of a JSON file of the golden directory, ticked off."""
    ledger.opened(name)
    return json.loads(Path(ledger.directory / name).read_text(encoding="utf-8"))
