"""The sampling kernel draws what the plain sampler draws, row by row."""

import pytest
import torch

from light_tts.kernels.draw import DrawRows
from light_tts.llm.padded_step import sampling_batch
from light_tts.llm.random import run_key
from light_tts.llm.sampler import INVALID_TOKEN, Sampler

# Rows that are not finite are part of the tests; the interpreter is numpy, which warns of them.
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")

WIN_SIZE = 10


def rows_of(num_rows, head_size, device, seed=0):
    generator = torch.Generator().manual_seed(seed)

    def integers(low, high, *shape):
        return torch.randint(low, high, shape, generator=generator)

    fixed = torch.zeros(num_rows, 4, dtype=torch.int64)
    fixed[:, 0] = torch.tensor([run_key(index, seed) for index in range(num_rows)])
    fixed[:, 1] = torch.tensor([25, 1, 3, 64])[integers(0, 4, num_rows)]
    fixed[:, 2] = integers(0, 8, num_rows) == 0
    numbers = fixed.view(torch.float32)
    numbers[:, 6] = torch.tensor([0.8, 0.5, 1.0])[integers(0, 3, num_rows)]
    numbers[:, 7] = torch.tensor([1.0, 0.7, 1.5])[integers(0, 3, num_rows)]
    starts = integers(0, head_size // 2, num_rows, 2).sort(dim=1).values
    blocked = torch.stack([starts, starts + integers(0, head_size // 3, num_rows, 2)], dim=2).flatten(1)
    fixed, blocked = fixed.to(device), blocked.to(device)
    numbers = fixed.view(torch.float32)[:, 6:]
    drawn = torch.full((2 * num_rows + 1,), -7, dtype=torch.int64)
    drawn[:num_rows] = integers(0, 6, num_rows)
    sources = torch.where(integers(0, 2, num_rows) == 0, torch.arange(num_rows), -1)
    return DrawRows(
        sources=sources.to(device),
        targets=(torch.randperm(num_rows, generator=generator) + num_rows).to(device),
        keys=fixed[:, 0],
        steps=integers(0, 1000, num_rows).to(device),
        top_k=fixed[:, 1],
        greedy=fixed[:, 2],
        numbers=numbers,
        blocked=blocked,
        window=integers(-1, 6, num_rows, WIN_SIZE).to(device),
        drawn=drawn.to(device),
    )


def plain(logits, rows, tau_r):
    sampler = Sampler(win_size=WIN_SIZE, tau_r=tau_r, head_size=logits.shape[1], device=logits.device)
    return sampler.sample(logits, sampling_batch(rows))


@pytest.mark.parametrize("head_size", [40, 246, pytest.param(6564, marks=pytest.mark.gpu)])
@pytest.mark.parametrize("spread", [0.5, 4.0])
@pytest.mark.parametrize("tau_r", [0.1, 0.3])
def test_the_kernel_draws_what_the_plain_sampler_draws(device, head_size, spread, tau_r):
    from light_tts.kernels.draw_triton import draw

    num_rows = 40 if device == "cpu" else 500
    rows = rows_of(num_rows, head_size, device)
    generator = torch.Generator().manual_seed(3)
    # Coarse steps, so that many ids are equally probable; the first few are favoured, so that they repeat.
    logits = (torch.randn(num_rows, head_size, generator=generator) * 4).round() / 4 * spread
    logits[:, :6] += 2 * spread
    logits = logits.to(device)
    logits[3, 5], logits[7, 0] = float("nan"), float("inf")
    decision = plain(logits, rows, tau_r)
    draw(logits, rows, least_repeats=WIN_SIZE * tau_r, invalid=INVALID_TOKEN)
    assert rows.drawn[rows.targets].tolist() == decision.tokens.tolist()
    assert rows.drawn[-1] == -7
    assert (rows.drawn[num_rows:-1] == INVALID_TOKEN).sum() == 2
    assert decision.redrawn.any()
    assert not decision.redrawn.all()


def test_a_row_of_which_nothing_is_allowed_is_invalid(device):
    from light_tts.kernels.draw_triton import draw

    rows = rows_of(3, 40, device)
    rows.blocked[1] = torch.tensor([0, 25, 20, 40], device=device)
    draw(torch.zeros(3, 40, device=device), rows, least_repeats=1.0, invalid=INVALID_TOKEN)
    assert (rows.drawn[rows.targets] == INVALID_TOKEN).tolist() == [False, True, False]
