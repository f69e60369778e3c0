"""Attention of packed rows: both versions agree with attention written out by hand, whatever the mix of sequences."""

import pytest
import torch

from light_tts.kernels.kv_slots import from_slots, to_slots
from light_tts.kernels.packed_attention import TILE_ROWS, PackedPages, packed_attention_plain


class Case:
    """Runs of rows (place of the first, how many) of sequences in shuffled pages; unseen slots hold `unseen`."""

    def __init__(
        self, runs, *, heads=14, kv_heads=2, head_dim=64, block_tokens=16, dtype, device, unseen=0.0, kv_dtype=None
    ):
        generator = torch.Generator().manual_seed(sum(map(sum, runs)))
        self.runs, self.block_tokens = runs, block_tokens
        lengths = [place + count for place, count in runs]
        widths = [-(-length // block_tokens) for length in lengths]
        order = torch.randperm(sum(widths), generator=generator).tolist()
        table = torch.full((len(runs), max(widths) + 2), sum(widths))
        self.seen_by, tiles, slots, first = [], [], [], 0
        for line, ((place, count), width) in enumerate(zip(runs, widths, strict=True)):
            own, order = order[:width], order[width:]
            table[line, :width] = torch.tensor(own)
            held = [own[t // block_tokens] * block_tokens + t % block_tokens for t in range(place + count)]
            self.seen_by.append(held)
            slots += held[place:]
            for begin in range(0, count, TILE_ROWS):
                tiles.append([line, first + begin, min(TILE_ROWS, count - begin), place + begin])
            first += count
        tiles += [[0, 0, 0, 0]] * 3
        cache = torch.full(((sum(widths) + 1) * block_tokens, 2 * kv_heads * head_dim), unseen)
        for held in self.seen_by:
            cache[held] = torch.randn(len(held), cache.shape[1], generator=generator)
        cache[slots] = unseen
        rows = torch.randn(first, heads + 2 * kv_heads, head_dim, generator=generator)
        self.kv_dtype = kv_dtype or dtype
        self.cache = to_slots(cache.to(device, dtype).unflatten(1, (2 * kv_heads, head_dim)), self.kv_dtype)
        rows = rows.to(device, dtype)
        self.query, self.key_value = rows[:, :heads], rows[:, heads:]
        angles = torch.rand(first, head_dim // 2, generator=generator) * 6
        turns = torch.polar(torch.ones_like(angles), angles)
        self.rotation = torch.view_as_real(turns).to(device)
        self.turns = turns[:, None].to(device)
        self.pages = PackedPages(
            torch.tensor(slots, device=device),
            torch.tensor(tiles, device=device),
            table.flatten().to(device),
            torch.tensor([table.shape[1]], device=device),
        )

    def run(self, attend):
        """Output and the cache afterwards."""
        cache, query = self.cache.clone(), self.query.clone()
        return attend(query, self.key_value, self.rotation, cache, self.pages, self.block_tokens), cache

    def turned(self, heads):
        pairs = torch.view_as_complex(heads.float().unflatten(-1, (-1, 2)).contiguous())
        return torch.view_as_real(pairs * self.turns).flatten(-2).to(heads.dtype)

    def in_slots(self, slots):
        """Keys and values of slots."""
        return from_slots(slots, *self.key_value.shape[1:], self.query.dtype)

    def by_hand(self):
        """Output, of each row and head alone in float64, and the cache."""
        keys, values = self.key_value.chunk(2, dim=1)
        cache = self.cache.clone()
        cache[self.pages.slots] = to_slots(torch.cat([self.turned(keys), values], dim=1), self.kv_dtype)
        query = self.turned(self.query).double()
        kv_heads, out, row = keys.shape[1], [], 0
        for (place, count), held in zip(self.runs, self.seen_by, strict=True):
            for index in range(count):
                seen = self.in_slots(cache[held[: place + index + 1]]).double()
                for head in range(query.shape[1]):
                    group = head * kv_heads // query.shape[1]
                    scores = seen[:, group] @ query[row, head] * query.shape[-1] ** -0.5
                    out.append(torch.softmax(scores, 0) @ seen[:, kv_heads + group])
                row += 1
        return torch.stack(out).view(row, -1), cache


RUNS = [[(0, 1)], [(0, 20)], [(17, 9)], [(0, 3), (40, 1), (5, 1), (0, 17), (100, 8)], [(30, 1)] * 9]


def largest_step(kv_dtype):
    """From one code to the next, of heads of normal numbers."""
    return 0.05 if kv_dtype == torch.int8 else 1e-5


def largest_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("runs", RUNS, ids=str)
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.int8], ids=str)
def test_the_plain_version_is_attention(runs, kv_dtype):
    case = Case(runs, dtype=torch.float32, device="cpu", kv_dtype=kv_dtype)
    out, cache = case.run(packed_attention_plain)
    expected, expected_cache = case.by_hand()
    # A number in the middle of two codes may go to either.
    assert largest_error(out, expected) < (1e-5 if kv_dtype == torch.float32 else 1e-3)
    assert torch.allclose(case.in_slots(cache), case.in_slots(expected_cache), atol=largest_step(kv_dtype))


@pytest.mark.parametrize("runs", RUNS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "sizes"),
    [
        (torch.float32, 1e-5, {}),
        (torch.float32, 1e-5, {"heads": 4, "kv_heads": 2, "head_dim": 32, "block_tokens": 4}),
        (torch.float32, 1e-5, {"heads": 2, "kv_heads": 2, "head_dim": 16, "block_tokens": 7}),
        (torch.bfloat16, 1e-2, {}),
        (torch.float32, 1e-3, {"kv_dtype": torch.int8}),
        (torch.float32, 1e-3, {"heads": 2, "kv_heads": 2, "head_dim": 16, "block_tokens": 7, "kv_dtype": torch.int8}),
        (torch.bfloat16, 1e-2, {"kv_dtype": torch.int8}),
    ],
    ids=["float32", "tiny", "odd", "bfloat16", "int8", "int8 odd", "int8 bfloat16"],
)
def test_the_kernel_agrees_with_attention_by_hand(device, runs, dtype, tolerance, sizes):
    from light_tts.kernels.packed_attention_triton import packed_attention

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    # What nobody sees may be anything for the kernel, even what is no number.
    case = Case(runs, dtype=dtype, device=device, unseen=float("nan"), **sizes)
    out, cache = case.run(packed_attention)
    expected, expected_cache = case.by_hand()
    assert largest_error(out, expected) < tolerance
    found, wanted = (case.in_slots(slots).nan_to_num(7.0) for slots in (cache, expected_cache))
    assert torch.allclose(found, wanted, rtol=1e-2, atol=largest_step(case.kv_dtype))
