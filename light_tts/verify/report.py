"""Rows of a verification, and the ledger that notices what was not checked.

Knows nothing of models: a check reads tensors through a `Ledger` and adds rows to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Row:
    """One line of the report. `error` and `tolerance` are None for exact (non-numeric) cases."""

    name: str
    shape: str
    error: float | None
    tolerance: float | None
    ok: bool
    informative: bool = False  # printed, never counted as a miss
    note: str = ""


class Ledger:
    """Collects rows and keeps account of which tensors and cases of a golden directory were looked at.

    Every tensor of an opened file must be read as an input, compared, or named as informative; `finish` adds a failing
    row for each that was not, and for each file nobody opened.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.rows: list[Row] = []
        self._files: dict[str, dict[str, torch.Tensor]] = {}
        self._seen: set[tuple[str, str]] = set()
        self._opened: set[str] = set()

    def opened(self, *names: str) -> None:
        """Say that these files (relative names) are read by other means than `tensors`."""
        self._opened.update(names)

    def tensors(self, filename: str) -> dict[str, torch.Tensor]:
        """All tensors of a safetensors file; reading one through `input` or `compare` ticks it off."""
        if filename not in self._files:
            from safetensors.torch import load_file

            self._files[filename] = load_file(str(self.directory / filename))
            self._opened.add(filename)
        return self._files[filename]

    def input(self, filename: str, name: str) -> torch.Tensor:
        """One tensor used as an input of a check."""
        self._seen.add((filename, name))
        return self.tensors(filename)[name]

    def inputs(self, filename: str) -> dict[str, torch.Tensor]:
        """A whole file of inputs (weights)."""
        tensors = self.tensors(filename)
        self._seen.update((filename, name) for name in tensors)
        return tensors

    def compare(
        self,
        filename: str,
        name: str,
        actual: torch.Tensor,
        tolerance: float,
        *,
        informative: bool = False,
        min_snr_db: float | None = None,
    ) -> None:
        """Compare with the stored tensor: same shape, finite, max abs error within the tolerance (and SNR if asked)."""
        import torch

        expected = self.input(filename, name)
        label = f"{filename.removesuffix('.safetensors')}/{name}"
        shape = "x".join(map(str, expected.shape)) or "scalar"
        if tuple(actual.shape) != tuple(expected.shape):
            got = "x".join(map(str, actual.shape))
            self.rows.append(Row(label, shape, None, tolerance, False, informative, f"got shape {got}"))
            return
        left, right = actual.detach().double().cpu(), expected.double()
        difference = (left - right).abs()
        error = float(difference.max()) if difference.numel() else 0.0
        ok = bool(torch.isfinite(left).all()) and error <= tolerance
        note = ""
        if min_snr_db is not None and difference.numel():
            noise = float((difference**2).sum())
            snr_db = 10.0 * float(torch.log10((right**2).sum() / max(noise, 1e-300)))
            ok = ok and snr_db >= min_snr_db
            note = f"SNR {snr_db:.0f} dB (>= {min_snr_db:.0f})"
        self.rows.append(Row(label, shape, error, tolerance, ok, informative, note))

    def exact(self, name: str, actual: Any, expected: Any, *, informative: bool = False) -> None:
        """Compare anything that must be equal."""
        ok = actual == expected
        note = "" if ok else f"got {_short(actual)}, expected {_short(expected)}"
        self.rows.append(Row(name, "exact", None, None, ok, informative, note))

    def note(self, name: str, text: str) -> None:
        """An informative row without a comparison."""
        self.rows.append(Row(name, "-", None, None, True, True, text))

    def skip(self, filename: str, names: Iterable[str], why: str) -> None:
        """Tensors that a README calls informative and that have nothing to be compared with."""
        for name in names:
            self._seen.add((filename, name))
            self.note(f"{filename}/{name}", why)

    def finish(self) -> list[Row]:
        """The rows, with one failing row for everything that was not looked at."""
        for path in sorted(self.directory.rglob("*")):
            name = path.relative_to(self.directory).as_posix()
            if path.is_file() and name not in self._opened and not name.endswith("README.md"):
                self.rows.append(Row(name, "-", None, None, False, note="file not checked"))
        for filename, tensors in self._files.items():
            for name in tensors:
                if (filename, name) not in self._seen:
                    self.rows.append(Row(f"{filename}/{name}", "-", None, None, False, note="tensor not checked"))
        return self.rows


def _short(value: Any, limit: int = 120) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."
