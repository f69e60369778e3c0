"""The batched sampler against the rule as the spec words it, one row at a time in plain Python."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from light_tts.llm.sampler import INVALID_TOKEN, Sampler, SamplingBatch

V = 40
WIN_SIZE = 10


def plain_sample(logits, blocked, history, u, *, top_p, top_k, least_repeats):
    """Spec llm, section 6, step by step."""
    scores = torch.log_softmax(logits, dim=-1)
    for start, stop in blocked:
        scores[start:stop] = -math.inf
    p = torch.softmax(scores, dim=-1)
    order = sorted(range(len(p)), key=lambda i: (-float(p[i]), i))
    candidates, total = [], torch.zeros(())
    for i in order:
        if not (total < top_p and len(candidates) < top_k):
            break
        candidates.append(i)
        total = total + p[i]

    def draw(ids, weights, u):
        cumulative = torch.cumsum(weights, 0)
        target = u * cumulative[-1]
        gap = float((cumulative - target).abs().min())
        return ids[int((cumulative > target).nonzero()[0])], gap > 1e-6

    first, is_clear = draw(candidates, p[candidates], u[0])
    if history[-WIN_SIZE:].count(first) >= least_repeats:
        scores[first] = -math.inf
        weights = torch.softmax(scores, dim=-1)
        second, is_second_clear = draw(list(range(len(p))), weights, u[1])
        return second, is_clear and is_second_clear
    return first, is_clear


def batch_of(rows, *, temperature=None, greedy=None):
    windows = [([-1] * WIN_SIZE + row["history"])[-WIN_SIZE:] for row in rows]
    return SamplingBatch(
        blocked=torch.tensor([[edge for limits in row["blocked"] for edge in limits] for row in rows]),
        window=torch.tensor(windows),
        top_p=torch.tensor([row["top_p"] for row in rows]),
        top_k=torch.tensor([row["top_k"] for row in rows]),
        max_top_k=max(row["top_k"] for row in rows),
        temperature=temperature,
        greedy=greedy,
        uniforms=torch.tensor([row["u"] for row in rows]),
    )


def row_of(**changes):
    return {"blocked": ((0, 0), (0, 0)), "history": [], "top_p": 0.8, "top_k": 25, "u": (0.5, 0.5)} | changes


def sampler(tau_r=0.1, size=V):
    return Sampler(win_size=WIN_SIZE, tau_r=tau_r, head_size=size, device="cpu")


unit = st.integers(0, 2**24 - 1).map(lambda n: n / 2**24)
rows = st.fixed_dictionaries(
    {
        # Few levels, so that equal logits are common.
        "logits": st.lists(st.integers(-6, 6).map(lambda n: n / 2), min_size=V, max_size=V),
        "blocked": st.tuples(
            st.tuples(st.integers(30, 33), st.integers(33, 35)), st.tuples(st.integers(35, 37), st.integers(37, 40))
        ),
        "history": st.lists(st.integers(0, V - 1), max_size=15),
        "top_p": st.floats(0.0625, 1.0, width=32),
        "top_k": st.integers(1, V),
        "u": st.tuples(unit, unit),
    }
)


@settings(max_examples=150, deadline=None)
@given(st.lists(rows, min_size=1, max_size=5), st.sampled_from([0.1, 0.2, 1.0]))
def test_a_batch_decides_as_the_rule_says_row_by_row(cases, tau_r):
    logits = torch.tensor([case["logits"] for case in cases])
    drawn = sampler(tau_r).sample(logits, batch_of(cases)).tokens.tolist()
    for case, token in zip(cases, drawn, strict=True):
        expected, is_clear = plain_sample(
            torch.tensor(case["logits"]),
            case["blocked"],
            case["history"],
            case["u"],
            top_p=case["top_p"],
            top_k=case["top_k"],
            least_repeats=WIN_SIZE * tau_r,
        )
        # A uniform that falls on an edge may go either way in float32.
        assert token == expected or not is_clear
        assert not any(start <= token < stop for start, stop in case["blocked"])


@pytest.mark.parametrize("u", [0.0, 1.0 - 2.0**-24])
def test_no_uniform_draws_a_blocked_or_impossible_id(u):
    """Rounding may lift u * total up to the total; the draw must still be a possible id."""
    logits = torch.randn(64, V, generator=torch.Generator().manual_seed(0)) * 8
    row = row_of(blocked=((20, V), (0, 0)), u=(u, u), top_p=1.0, top_k=V, history=list(range(20)))
    drawn = sampler().sample(logits, batch_of([row] * 64))
    assert drawn.redrawn.any()
    assert int(drawn.tokens.max()) < 20
    assert int(drawn.tokens.min()) >= 0


def test_a_redraw_survives_a_distribution_of_one_certain_id():
    """All other probabilities underflow to zero before the certain one is taken out."""
    logits = torch.full((1, V), -300.0)
    logits[0, 3] = 0.0
    drawn = sampler().sample(logits, batch_of([row_of(history=[3], u=(0.5, 0.5))]))
    assert bool(drawn.redrawn)
    assert int(drawn.tokens) == 20  # the rest is uniform over 39 ids


def test_frequencies_follow_the_renormalised_candidates():
    logits = torch.log(torch.tensor([0.5, 0.25, 0.125, 0.0625, 0.0625])).expand(4096, -1)
    steps = (torch.arange(4096) + 0.5) / 4096
    batch = batch_of([row_of(top_p=0.8, u=(float(u), 0.0)) for u in steps])
    tokens = sampler(size=5).sample(logits, batch).tokens
    share = torch.bincount(tokens, minlength=5) / 4096
    # 0.5 + 0.25 < 0.8, so the third id is still a candidate and the rest is not.
    assert torch.allclose(share, torch.tensor([4 / 7, 2 / 7, 1 / 7, 0.0, 0.0]), atol=2e-3)


def test_greedy_rows_take_the_best_allowed_id_whatever_was_said_before():
    logits = torch.zeros(2, V)
    logits[:, 5], logits[:, 6] = 9.0, 8.0
    rows = [row_of(blocked=((5, 6), (0, 0)), history=[6] * 10), row_of(u=(0.99, 0.99))]
    tokens = sampler().sample(logits, batch_of(rows, greedy=torch.tensor([True, False]))).tokens
    assert int(tokens[0]) == 6
    assert int(tokens[1]) == 6  # drawn: the second of two candidates


def test_temperature_divides_the_logits_of_its_row_alone():
    logits = torch.randn(2, V, generator=torch.Generator().manual_seed(1)) * 3
    rows = [row_of(top_p=1.0, top_k=V), row_of(top_p=1.0, top_k=V)]
    cooled = sampler().sample(logits, batch_of(rows, temperature=torch.tensor([1.0, 0.5])))
    plain = sampler().sample(logits * torch.tensor([[1.0], [2.0]]), batch_of(rows))
    assert torch.equal(cooled.probabilities, plain.probabilities)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_logits_that_are_not_finite_are_reported_for_their_row_alone(bad):
    logits = torch.randn(3, V, generator=torch.Generator().manual_seed(2))
    expected = sampler().sample(logits, batch_of([row_of()] * 3)).tokens
    logits[1, 7] = bad
    tokens = sampler().sample(logits, batch_of([row_of()] * 3)).tokens
    assert tokens[1] == INVALID_TOKEN
    assert torch.equal(tokens[[0, 2]], expected[[0, 2]])
