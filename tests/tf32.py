"""Whether float32 convolutions may be computed in TF32, for the length of a test on a GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def tf32(is_allowed: bool) -> Iterator[None]:
    """Set it, and back as it was. Products of matrices are exact meanwhile, as torch computes them by default.

    By hand: torch keeps these attributes outside of its modules' dictionaries, where pytest's monkeypatch cannot
    restore them.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = False, is_allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
