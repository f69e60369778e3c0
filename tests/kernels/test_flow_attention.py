"""Chunk-masked attention over pages: both versions agree with attention by hand, and keep what they should."""

import pytest
import torch

from light_tts.kernels.flow_attention import FlowPages, RelativePositions, paged_chunk_attention_plain
from light_tts.kernels.kv_slots import from_slots, to_slots

GUIDANCE_ROWS = 2


class Case:
    """Sequences with pasts of different lengths in shuffled pages; pages that nobody sees hold NaN.

    sequences: (pages of past, valid new steps, steps per chunk of the mask, new chunks that are kept) of each.
    """

    def __init__(
        self, sequences, steps, *, heads=2, head_dim=16, page_steps=10, dtype=torch.float32, device="cpu", int8=False
    ):
        generator = torch.Generator().manual_seed(len(sequences) + steps)
        self.heads, self.head_dim, self.page_steps, self.steps = heads, head_dim, page_steps, steps
        self.sequences = sequences
        width, chunks = heads * head_dim, -(-steps // page_steps)
        used = sum(past + len(kept) for past, _, _, kept in sequences)
        order = (torch.randperm(used + 3, generator=generator)).tolist()
        table = torch.full((len(sequences), 12), order[-1])
        saves = torch.full((len(sequences), chunks), -1)
        self.kept = torch.full((used + 3, GUIDANCE_ROWS, page_steps, 2 * width), float("nan"))
        for row, (past, _, _, kept) in enumerate(sequences):
            for column in range(12 - past, 12):
                table[row, column] = order.pop(0)
                self.kept[table[row, column]] = torch.randn(self.kept.shape[1:], generator=generator)
            for chunk in kept:
                saves[row, chunk] = order.pop(0)
        self.qkv = torch.randn(GUIDANCE_ROWS * len(sequences), steps, 3 * width, generator=generator).to(device, dtype)
        self.kept = self.kept.to(device, dtype)
        if int8:
            self.kept = self.slots(self.kept.nan_to_num(1e30))  # what nobody sees would show
        columns = [torch.tensor(column) for column in list(zip(*sequences, strict=True))[:3]]
        self.pages = FlowPages(
            *(x.to(device, torch.int32).contiguous() for x in (table, columns[0], columns[1], columns[2], saves))
        )

    def slots(self, steps):
        """[..., 2W] -> int8 slots."""
        return to_slots(steps.reshape(-1, 2 * self.heads, self.head_dim), torch.int8).unflatten(0, steps.shape[:-1])

    def seen(self, slots):
        """What int8 slots stand for, [..., 2W]; anything else as it is."""
        if slots.dtype != torch.int8:
            return slots
        return from_slots(slots, 2 * self.heads, self.head_dim, self.qkv.dtype).flatten(-2)

    def run(self, attend, rotation=None, positions=None):
        kept = self.kept.clone()
        return attend(self.qkv, kept, self.pages, self.heads, rotation, positions), kept

    def by_hand(self):
        """Attention of each valid step alone, in float64: {(row, step): [W]}."""
        found = {}
        count, width = len(self.sequences), self.qkv.shape[2] // 3
        exact, kept = self.qkv.double().cpu(), self.seen(self.kept).double().cpu()
        rounded = exact.clone()
        if self.kept.dtype == torch.int8:
            rounded[..., width:] = self.seen(self.slots(self.qkv[..., width:])).double().cpu()
        for row in range(GUIDANCE_ROWS * count):
            past, length, chunk, _ = self.sequences[row % count]
            qkv = rounded if chunk <= self.page_steps else exact
            before = kept[self.pages.past[row % count].long().cpu()[12 - past :], row // count].flatten(0, 1)
            for step in range(length):
                end = min(length, (step // chunk + 1) * chunk)
                seen = torch.cat([before, qkv[row, :end, width:]])
                heads = zip(
                    qkv[row, step, :width].chunk(self.heads),
                    seen[:, :width].chunk(self.heads, 1),
                    seen[:, width:].chunk(self.heads, 1),
                    strict=True,
                )
                found[row, step] = torch.cat([torch.softmax(k @ q * len(q) ** -0.5, 0) @ v for q, k, v in heads])
        return found


CASES = {
    "whole sequences": ([(0, 17, 1000, [])], 17),
    "chunks, one incomplete": ([(0, 27, 10, [0, 1])], 30),
    "a past and a crowd": ([(3, 20, 10, [1]), (0, 5, 10, []), (12, 11, 1000, [0, 1]), (1, 1, 10, [])], 20),
    "long": ([(11, 150, 10, list(range(14))), (2, 150, 1000, [])], 150),
}


def check(case, attend, tolerance):
    out, kept = case.run(attend)
    assert out.isfinite().all()
    expected = case.by_hand()
    pairs = torch.stack([out[place].double().cpu() for place in expected]), torch.stack(list(expected.values()))
    assert ((pairs[0] - pairs[1]).norm() / pairs[1].norm()).item() < tolerance
    width, size = out.shape[2], case.page_steps
    untouched = torch.ones(len(kept), dtype=torch.bool)
    for row, chunk in (case.pages.saves >= 0).nonzero().tolist():
        page = int(case.pages.saves[row, chunk])
        untouched[page] = False
        new = case.qkv[row :: len(case.sequences), chunk * size : (chunk + 1) * size, width:]
        if kept.dtype == torch.int8:
            largest = new.unflatten(-1, (-1, case.head_dim)).abs().amax(-1, keepdim=True)
            steps = (case.seen(kept[page, :, : new.shape[1]]) - new).unflatten(-1, (-1, case.head_dim)) / largest
            assert steps.abs().max().item() < 0.51 / 127 + (0.0 if new.dtype == torch.float32 else 0.005)
        else:
            assert torch.equal(kept[page, :, : new.shape[1]], new)
    assert torch.equal(kept.cpu()[untouched].nan_to_num(7.0), case.kept.cpu()[untouched].nan_to_num(7.0))


@pytest.mark.parametrize("name", CASES)
def test_the_plain_version_is_attention(name):
    check(Case(*CASES[name]), paged_chunk_attention_plain, 1e-5)


@pytest.mark.parametrize("name", CASES)
def test_the_plain_version_rounds_what_it_keeps(name):
    check(Case(*CASES[name], int8=True), paged_chunk_attention_plain, 1e-5)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("int8", [False, True], ids=["as computed", "int8"])
@pytest.mark.parametrize(
    ("dtype", "tolerance", "sizes"),
    [
        (torch.float32, 1e-5, {}),
        (torch.float32, 1e-5, {"heads": 1, "head_dim": 64, "page_steps": 50}),
        (torch.bfloat16, 1e-2, {"heads": 8, "head_dim": 64, "page_steps": 50}),
    ],
    ids=["tiny", "float32", "bfloat16"],
)
def test_the_kernel_agrees(device, name, dtype, tolerance, sizes, int8):
    from light_tts.kernels.flow_attention_triton import paged_chunk_attention

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    sequences, steps = CASES[name]
    scale = sizes.get("page_steps", 10) // 10
    sequences = [(past, length * scale, chunk * scale, kept) for past, length, chunk, kept in sequences]
    case = Case(sequences, steps * scale, dtype=dtype, device=device, int8=int8, **sizes)
    # A number half-way between two codes may become either.
    check(case, paged_chunk_attention, max(tolerance, 3e-4) if int8 else tolerance)


def turned(x, angles):
    """Neighbours as complex numbers, multiplied. x: [..., d], angles: [..., d / 2]."""
    pairs = torch.view_as_complex(x.double().unflatten(-1, (-1, 2)).contiguous())
    turns = torch.polar(torch.ones_like(angles, dtype=torch.float64), angles.double())
    return torch.view_as_real(pairs * turns).flatten(-2)


def check_rotation(case, attend, tolerance):
    """Rotation inside is rotation before, of the first head's queries and keys."""
    head_dim = case.qkv.shape[2] // 3 // case.heads
    angles = torch.rand(len(case.sequences), case.steps, head_dim // 2) * 6
    rotation = torch.stack([angles.cos(), angles.sin()]).to(case.qkv.device)
    out, kept = case.run(attend, rotation)
    every = angles.repeat(GUIDANCE_ROWS, 1, 1)
    before = case.qkv.cpu().clone()
    width = case.qkv.shape[2] // 3
    for start in (0, width):
        part = before[..., start : start + head_dim]
        part.copy_(turned(part, every))
    case.qkv = before.to(case.qkv)
    expected, expected_kept = case.run(paged_chunk_attention_plain)
    assert ((out - expected).float().norm() / expected.float().norm()).item() < tolerance
    assert torch.allclose(kept.nan_to_num(7.0).float(), expected_kept.nan_to_num(7.0).float(), rtol=1e-2, atol=1e-5)


def test_the_plain_version_rotates():
    check_rotation(Case(*CASES["a past and a crowd"]), paged_chunk_attention_plain, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_the_kernel_rotates(device, dtype, tolerance):
    from light_tts.kernels.flow_attention_triton import paged_chunk_attention

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    check_rotation(Case(*CASES["a past and a crowd"], dtype=dtype, device=device), paged_chunk_attention, tolerance)


def check_positions(case, attend, tolerance):
    """Against scores written out for every pair."""
    generator = torch.Generator().manual_seed(4)
    head_dim, reach = case.qkv.shape[2] // 3 // case.heads, 280
    table = torch.randn(case.heads, 2 * reach - 1, head_dim, generator=generator) * head_dim**-0.5
    shift = torch.randn(case.heads, head_dim, generator=generator)
    positions = RelativePositions(*(x.to(case.qkv.device, case.qkv.dtype) for x in (table, shift)))
    out, _ = case.run(attend, None, positions)
    qkv, kept, table, shift = (x.double().cpu() for x in (case.qkv, case.kept, *positions))
    count, width = len(case.sequences), qkv.shape[2] // 3
    pairs = []
    for row in range(GUIDANCE_ROWS * count):
        past, length, chunk, _ = case.sequences[row % count]
        before = kept[case.pages.past[row % count].long().cpu()[12 - past :], row // count].flatten(0, 1)
        for step in range(length):
            seen = torch.cat([before, qkv[row, : min(length, (step // chunk + 1) * chunk), width:]])
            distances = step - (torch.arange(len(seen)) - len(before)) + reach - 1
            for head in range(case.heads):
                part = slice(head * head_dim, (head + 1) * head_dim)
                q, k, v = qkv[row, step, :width][part], seen[:, :width][:, part], seen[:, width:][:, part]
                scores = k @ q * head_dim**-0.5 + table[head, distances] @ (q + shift[head])
                pairs.append((out[row, step, part].double().cpu(), torch.softmax(scores, 0) @ v))
    found, expected = (torch.stack(side) for side in zip(*pairs, strict=True))
    assert ((found - expected).norm() / expected.norm()).item() < tolerance


def test_the_plain_version_scores_distances():
    check_positions(Case(*CASES["a past and a crowd"]), paged_chunk_attention_plain, 1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("name", ["a past and a crowd", "long"])
def test_the_kernel_scores_distances(device, name, dtype, tolerance):
    from light_tts.kernels.flow_attention_triton import paged_chunk_attention

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    heads = 1 if name == "long" else 2
    check_positions(Case(*CASES[name], heads=heads, dtype=dtype, device=device), paged_chunk_attention, tolerance)
