"""Weight files as dictionaries of tensors, without running anything that stands in them.

`NAME.pt` (the published form: a torch zip archive, read with weights-only unpickling and memory-mapped) or
`NAME.safetensors`. Knows nothing of what the keys mean. Tensors that share storage in the file stay shared.
"""

from __future__ import annotations

import struct
import zipfile
from collections.abc import Mapping
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING, Any

from light_tts.errors import CheckpointError

if TYPE_CHECKING:
    import torch

SUFFIXES = (".pt", ".safetensors")
BOOKKEEPING_KEYS = frozenset({"epoch", "step"})  # plain numbers that fine-tuned files carry
_LFS_POINTER = b"version https://git-lfs"
# What the archive reader, the restricted unpickler and the rebuilding of tensors raise on bytes that are no checkpoint.
_READ_ERRORS = (
    RuntimeError,
    UnpicklingError,
    EOFError,
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
    MemoryError,
    OverflowError,
    struct.error,
    zipfile.BadZipFile,
)


def find_weights(directory: Path, stem: str) -> Path | None:
    """`stem.pt` or, where that does not exist, `stem.safetensors`.

    With both present the `.pt` wins: it is the published name, the one every other program reads and a fine-tuning
    run replaces, so a forgotten conversion never hides it.
    """
    return next((path for suffix in SUFFIXES if (path := directory / f"{stem}{suffix}").is_file()), None)


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a weight file, on the CPU, memory-mapped where the file allows; dtypes as stored.

    `epoch` and `step` entries are left out. Raises CheckpointError: no such file, truncated, foreign, holding anything
    but tensors, or asking to run code when loaded.
    """
    if not path.is_file():
        raise CheckpointError(f"There is no weight file {path}; copy it there or correct the model directory.")
    require_content(path)
    entries = _read_safetensors(path) if path.suffix == ".safetensors" else read_torch_file(path)
    return _only_tensors(entries, path.name)


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Key -> shape of every tensor of a weight file, without reading their numbers. Raises CheckpointError."""
    return {key: tuple(tensor.shape) for key, tensor in load_weights(path).items()}


def first_not_finite(state: Mapping[str, torch.Tensor]) -> str | None:
    """Key of the first floating-point tensor with a NaN or infinity in it, or None."""
    import torch

    for key, tensor in state.items():
        if tensor.is_floating_point() and tensor.numel():
            low, high = torch.aminmax(tensor)  # both become NaN if any value is
            if not (torch.isfinite(low) and torch.isfinite(high)):
                return key
    return None


def require_finite(state: Mapping[str, torch.Tensor], what: str) -> None:
    """Raise CheckpointError naming the first key with NaN or infinity in it. `what`: the file's name, for messages."""
    key = first_not_finite(state)
    if key is not None:
        raise CheckpointError(f"{what} holds NaN or infinity (first in {key}); use a sound copy of the file.")


def require_content(path: Path) -> None:
    """Raise CheckpointError for a file that is empty, unreadable, or a Git LFS pointer in place of the real one."""
    try:
        with path.open("rb") as file:
            start = file.read(len(_LFS_POINTER))
    except OSError as error:
        raise CheckpointError(f"{path.name} cannot be read: {error.strerror or error}.") from error
    if not start:
        raise CheckpointError(f"{path.name} is empty; download it again.")
    if start == _LFS_POINTER:
        raise CheckpointError(
            f"{path.name} is a Git LFS pointer, not the file itself; run 'git lfs pull' or download it."
        )


def _read_safetensors(path: Path) -> dict[str, Any]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return dict(load_file(str(path)))
    except (SafetensorError, *_READ_ERRORS) as error:
        raise CheckpointError(
            f"{path.name} is not a complete safetensors file ({_short(error)}); download or convert it again."
        ) from error


def read_torch_file(path: Path) -> Any:
    """Whatever plain data and tensors a torch file holds. Raises CheckpointError for anything that is no such file."""
    import torch

    try:
        is_archive = zipfile.is_zipfile(path)
        if is_archive:
            _refuse_inflating_archive(path)
        # Only the archive form can be memory-mapped; the older single-stream form is read whole.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=is_archive)
    except UnpicklingError as error:
        if "weights_only" in str(error) or "Unsupported global" in str(error) or "GLOBAL" in str(error):
            raise CheckpointError(
                f"{path.name} wants to run code when it is loaded, or is no torch file; a weight file holds tensors "
                "only, so it was not loaded. Use the published file or convert it to safetensors."
            ) from error
        raise _not_torch(path, error) from error
    except _READ_ERRORS as error:
        raise _not_torch(path, error) from error


def _not_torch(path: Path, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"{path.name} cannot be read as a torch weight file ({_short(error)}); it is truncated or something else. "
        "Download it again."
    )


def _refuse_inflating_archive(path: Path) -> None:
    """Torch stores archives uncompressed; anything else could inflate to any size."""
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
    if any(member.compress_type != zipfile.ZIP_STORED for member in members):
        raise CheckpointError(f"{path.name} is a compressed archive; torch weight files are never compressed.")
    if sum(member.file_size for member in members) > path.stat().st_size:
        raise CheckpointError(f"{path.name} claims more content than the file has; download it again.")


def _only_tensors(entries: Any, name: str) -> dict[str, torch.Tensor]:
    import torch

    if not isinstance(entries, Mapping):
        raise CheckpointError(
            f"{name} holds a {type(entries).__name__}, not a dictionary of tensors; use the published weight file."
        )
    state: dict[str, torch.Tensor] = {}
    for key, value in entries.items():
        if key in BOOKKEEPING_KEYS and not isinstance(value, torch.Tensor):
            continue
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise CheckpointError(
                f"{name} holds a {type(value).__name__} under {str(key)[:80]!r}; a weight file is a flat dictionary of "
                "tensors."
            )
        state[key] = _plain(value.detach(), f"{name}: {key}")
    if not state:
        raise CheckpointError(f"{name} holds no tensors; download it again.")
    return state


def _plain(tensor: torch.Tensor, what: str) -> torch.Tensor:
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.device.type != "cpu":
        raise CheckpointError(f"{what} is a {tensor.dtype} tensor of layout {tensor.layout}; expected plain numbers.")
    # A stride of zero makes a tensor of any size out of one stored number; the next conversion would allocate it.
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise CheckpointError(f"{what} is larger than what the file stores for it; use a sound copy of the file.")
    return tensor


def _short(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    text = lines[0] if lines else type(error).__name__
    return text if len(text) <= 120 else text[:117] + "..."
