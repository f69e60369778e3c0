"""What the stages cost on a machine: read from a table that was measured, or derived from its data sheet.

A table is a TOML file in `light_tts/bench/gpus`:

    about                what the figures are and where they come from
    is_measured          false: arithmetic only
    is_shared            the language model and the acoustic stages share one processor
    efficiency           part of the peak that calls with enough work reach
    [llm]                step_floor_ms (chain of kernels), step_ms (weights), row_ms (KV of a row),
                         row_compute_ms, prefill_ms (one prompt); at the peak, floors apart
    [acoustic.<generation>]  flow_floor_ms, flow_frame_ms, vocoder_floor_ms, vocoder_frame_ms: at the peak, floors
                         apart; or measured: a list of [rows, frames of the longest row, seconds] of whole calls
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from light_tts.errors import ConfigError

if TYPE_CHECKING:
    from light_tts.acoustic.stage_costs import CostTable, Measured


class AcousticCosts(Protocol):
    """Seconds of one acoustic call."""

    def call_s(self, frames: Sequence[int]) -> float:
        """frames: that each row computes."""


@dataclass(frozen=True)
class DerivedCosts:
    """Each stage takes its chain of kernels, or its work at a part of the peak, whichever is longer."""

    flow_floor_s: float
    flow_frame_s: float
    vocoder_floor_s: float
    vocoder_frame_s: float

    def call_s(self, frames: Sequence[int]) -> float:
        """frames: that each row computes."""
        work = sum(frames)
        flow_s = max(self.flow_floor_s, self.flow_frame_s * work)
        return flow_s + max(self.vocoder_floor_s, self.vocoder_frame_s * work)


@dataclass(frozen=True)
class MeasuredCosts:
    """Calls that were timed; others are guessed from the nearest of them."""

    table: CostTable

    def call_s(self, frames: Sequence[int]) -> float:
        """frames: that each row computes."""
        return self.table.estimate_s(len(frames), max(frames))


@dataclass(frozen=True)
class LLMCosts:
    """Seconds of the language model: one step gives every running sequence one token."""

    step_floor_s: float
    step_s: float
    row_s: float
    row_compute_s: float
    prefill_s: float

    def decode_s(self, rows: int) -> float:
        """One step of so many sequences."""
        return max(self.step_floor_s, self.step_s + self.row_s * rows, self.row_compute_s * rows)


@dataclass(frozen=True)
class MachineCosts:
    """A machine as the simulation sees it. `labels` say of each stage where its figures come from."""

    name: str
    about: str
    is_shared: bool
    llm: LLMCosts
    acoustic: AcousticCosts
    labels: dict[str, str]

    @classmethod
    def load(cls, name: str, generation: int, measured: Path | None = None) -> MachineCosts:
        """A known machine, for a family of models.

        measured:  JSON with acoustic calls that were timed, instead of the table's.
        Raises ConfigError for a machine or family without a table, and for a file without timings.
        """
        source = resources.files(__package__.rpartition(".")[0] + ".gpus") / f"{name}.toml"
        if not source.is_file():
            raise ConfigError(f"There are no stage costs of '{name}'. Known: {', '.join(machine_names())}.")
        data = tomllib.loads(source.read_text(encoding="utf-8"))
        label = "measured" if data["is_measured"] else "derived, not measured"
        llm = LLMCosts(**_in_seconds(data["llm"], data["efficiency"]))
        tables: dict[str, Any] = data["acoustic"]
        if str(generation) not in tables and measured is None:
            raise ConfigError(f"The stage costs of '{name}' do not cover this family; give measured ones with --costs.")
        if measured is not None:
            acoustic: AcousticCosts = _measured(read_measured(measured))
        else:
            acoustic = _acoustic(tables[str(generation)], data["efficiency"])
        labels = {"llm": label, "acoustic": label if measured is None else f"measured ({measured.name})"}
        return cls(name, data["about"], data["is_shared"], llm, acoustic, labels)


def machine_names() -> list[str]:
    """Machines with a table."""
    folder = resources.files(__package__.rpartition(".")[0] + ".gpus")
    return sorted(entry.name.removesuffix(".toml") for entry in folder.iterdir() if entry.name.endswith(".toml"))


def read_measured(path: Path) -> list[Measured]:
    """Timed calls from JSON: a list of [rows, frames, seconds], alone or as `stage_costs` of a `bench engine` file.

    Raises ConfigError when there are none.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"--costs: {path} cannot be read as JSON: {error}.") from None
    if isinstance(data, dict):
        data = data.get("target", data).get("stage_costs")
    try:
        calls = [(int(rows), int(frames), float(seconds)) for rows, frames, seconds in data]
    except (TypeError, ValueError):
        calls = []
    if not calls or any(min(call) <= 0 for call in calls):
        raise ConfigError(
            f"--costs: {path.name} holds no timed calls; expected a list of [rows, frames, seconds], or the output of "
            "`light-tts bench engine`."
        )
    return calls


def _acoustic(table: dict[str, Any], efficiency: float) -> AcousticCosts:
    if "measured" in table:
        return _measured([(rows, frames, seconds) for rows, frames, seconds in table["measured"]])
    return DerivedCosts(**_in_seconds(table, efficiency))


def _measured(calls: list[Measured]) -> MeasuredCosts:
    from light_tts.acoustic.stage_costs import CostTable  # brings numpy, which a look at the command need not wait for

    return MeasuredCosts(CostTable(calls))


def _in_seconds(table: dict[str, float], efficiency: float) -> dict[str, float]:
    """`x_ms` as `x_s`; everything but the floors at the part of the peak that is reached."""
    return {
        key.removesuffix("_ms") + "_s": value / 1000.0 / (1.0 if "floor" in key else efficiency)
        for key, value in table.items()
    }
