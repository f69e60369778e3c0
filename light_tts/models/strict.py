"""Strict loading of a state dict into a module: every key, every shape, or one sentence that names what is wrong."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch

from light_tts.errors import CheckpointError


def load_strict(
    module: torch.nn.Module,
    state: Mapping[str, torch.Tensor],
    what: str,
    *,
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    ignore: Collection[str] = (),
) -> None:
    """Give `module` (usually built on the meta device) the tensors of `state`, cast to `dtype` on `device`.

    what:    how the user knows these weights, for the message ("flow.pt").
    ignore:  keys of `state` that are known and unused.
    Raises CheckpointError naming the first missing, unexpected or wrongly shaped keys.
    """
    expected = module.state_dict()
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected and key not in ignore]
    misshapen = [
        f"{key} is {list(state[key].shape)}, expected {list(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = [
        f"{label}: {_first(keys)}"
        for label, keys in (("missing keys", missing), ("unexpected keys", unexpected), ("wrong shapes", misshapen))
        if keys
    ]
    if problems:
        raise CheckpointError(f"{what} does not fit this model ({'; '.join(problems)}).")
    # Tensors that share storage in the file stay one tensor here: half the memory for tied heads.
    moved: dict[tuple[int, int], torch.Tensor] = {}
    ready: dict[str, torch.Tensor] = {}
    for key in expected:
        source = state[key]
        identity = (source.data_ptr(), source.numel())
        if identity not in moved:
            wanted = dtype if source.is_floating_point() else source.dtype
            moved[identity] = source.to(device=device, dtype=wanted)
        ready[key] = moved[identity].view(expected[key].shape)
    module.load_state_dict(ready, strict=True, assign=True)
    module.requires_grad_(False)
    module.eval()


def _first(keys: list[str], count: int = 5) -> str:
    rest = f" and {len(keys) - count} more" if len(keys) > count else ""
    return ", ".join(keys[:count]) + rest
