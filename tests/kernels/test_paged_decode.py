"""The two versions of decoding attention agree, with each other and with attention written out by hand.

Without a GPU the Triton version runs in Triton's interpreter: `TRITON_INTERPRET=1 pytest tests/kernels`.
"""

import pytest
import torch

from light_tts.kernels.kv_slots import from_slots, slot_width, to_slots
from light_tts.kernels.paged_decode import DecodePages, decode_attention_plain


class Case:
    """Rows with pasts of different lengths in shuffled pages; pages that nobody sees hold NaN or `unseen`."""

    def __init__(
        self, lengths, *, heads=14, kv_heads=2, head_dim=64, block_tokens=16, dtype, device, unseen=0.0, kv_dtype=None
    ):
        generator = torch.Generator().manual_seed(sum(lengths))
        self.block_tokens = block_tokens
        self.past = lengths
        widths = [length // block_tokens + 1 for length in lengths]
        num_pages = sum(widths) + 1
        order = torch.randperm(num_pages - 1, generator=generator).tolist()
        table = torch.full((len(lengths), max(widths) + 2), num_pages - 1)
        slots = []
        for row, (width, length) in enumerate(zip(widths, lengths, strict=True)):
            own, order = order[:width], order[width:]
            table[row, :width] = torch.tensor(own)
            slots.append(own[-1] * block_tokens + length % block_tokens)
        cache = torch.randn(num_pages * block_tokens, 2 * kv_heads * head_dim, generator=generator)
        cache[-block_tokens:] = unseen
        cache[slots] = unseen
        # As in the model: queries, keys and values of a row are parts of one longer row.
        rows = torch.randn(len(lengths), heads + 2 * kv_heads, head_dim, generator=generator)
        self.kv_dtype = kv_dtype or dtype
        self.cache = to_slots(cache.to(device, dtype).unflatten(1, (2 * kv_heads, head_dim)), self.kv_dtype)
        rows = rows.to(device, dtype)
        self.query, self.key_value = rows[:, :heads], rows[:, heads:]
        angles = torch.rand(len(lengths), head_dim // 2, generator=generator) * 6
        self.rotation = torch.view_as_real(torch.polar(torch.ones_like(angles), angles)).to(device)
        # The same values as rotation by complex products gives them.
        self.stored = self.key_value.clone()
        turned = torch.view_as_complex(self.stored[:, :kv_heads].float().unflatten(-1, (-1, 2)).contiguous())
        turned = torch.view_as_real(turned * torch.view_as_complex(self.rotation)[:, None])
        self.stored[:, :kv_heads] = turned.flatten(-2).to(dtype)
        self.stored = self.in_slots(to_slots(self.stored, self.kv_dtype))
        self.pages = DecodePages(
            torch.tensor(lengths, device=device),
            torch.tensor(slots, device=device),
            table.flatten().to(device),
            torch.tensor([table.shape[1]], device=device),
        )

    def run(self, attend):
        """Output and the cache afterwards."""
        cache = self.cache.clone()
        out = attend(self.query, self.key_value, self.rotation, cache, self.pages, self.block_tokens)
        return out, cache

    def in_slots(self, slots):
        """Keys and values of slots."""
        return from_slots(slots, *self.key_value.shape[1:], self.query.dtype)

    def same_in_cache(self, cache):
        # The two versions may round what lies in the middle of two codes each to another one.
        tolerance = {"rtol": 1e-2, "atol": 0.05 if self.kv_dtype == torch.int8 else 1e-6}
        return torch.allclose(self.in_slots(cache[self.pages.slots]).float(), self.stored.float(), **tolerance)

    def by_hand(self):
        """Attention of each row and head alone, in float64."""
        width = int(self.pages.table_width)
        heads, (_, twice, head_dim) = self.query.shape[1], self.key_value.shape
        query = torch.view_as_complex(self.query.double().unflatten(-1, (-1, 2)).contiguous())
        query = query * torch.view_as_complex(self.rotation.double())[:, None]
        query = torch.view_as_real(query).flatten(-2)
        result = []
        for row, length in enumerate(self.past):
            places = [
                int(self.pages.table[row * width + t // self.block_tokens]) * self.block_tokens + t % self.block_tokens
                for t in range(length)
            ]
            seen = torch.cat([self.in_slots(self.cache[places]), self.stored[row : row + 1]]).double()
            for head in range(heads):
                group = head * (twice // 2) // heads
                scores = seen[:, group] @ query[row, head] * head_dim**-0.5
                result.append(torch.softmax(scores, 0) @ seen[:, twice // 2 + group])
        return torch.stack(result).view(len(self.past), -1)


LENGTHS = [[0], [1, 15], [16, 17, 31], [300], [0, 5, 64, 200, 129], [40] * 33]


def largest_error(found, expected):
    return ((found.double() - expected).norm() / expected.norm()).item()


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.int8], ids=str)
def test_the_plain_version_is_attention(lengths, kv_dtype):
    case = Case(lengths, dtype=torch.float32, device="cpu", kv_dtype=kv_dtype)
    out, cache = case.run(decode_attention_plain)
    assert largest_error(out, case.by_hand()) < 1e-5
    assert case.same_in_cache(cache)


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize(
    ("dtype", "tolerance", "sizes"),
    [
        (torch.float32, 1e-5, {}),
        (torch.float32, 1e-5, {"heads": 4, "kv_heads": 2, "head_dim": 32, "block_tokens": 4}),
        (torch.float32, 1e-5, {"heads": 3, "kv_heads": 1, "head_dim": 16, "block_tokens": 7}),
        (torch.bfloat16, 1e-2, {}),
        (torch.float32, 1e-3, {"kv_dtype": torch.int8}),
        (torch.float32, 1e-3, {"heads": 3, "kv_heads": 1, "head_dim": 16, "block_tokens": 7, "kv_dtype": torch.int8}),
        (torch.bfloat16, 1e-2, {"kv_dtype": torch.int8}),
    ],
    ids=["float32", "tiny", "odd", "bfloat16", "int8", "int8 odd", "int8 bfloat16"],
)
def test_the_kernel_agrees_with_the_plain_version(device, lengths, dtype, tolerance, sizes):
    from light_tts.kernels.paged_decode_triton import DecodeAttention

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    if device == "cpu" and len(lengths) > 9 and "kv_dtype" in sizes:
        pytest.skip("many rows take long in the interpreter")
    # What a row does not see may be anything for the kernel, even what is no number.
    case = Case(lengths, dtype=dtype, device=device, unseen=float("nan"), **sizes)
    out, cache = case.run(DecodeAttention())
    assert largest_error(out.cpu(), case.by_hand().cpu()) < tolerance
    finite = Case(lengths, dtype=dtype, device=device, **sizes)
    assert largest_error(out.cpu(), finite.run(decode_attention_plain)[0].double().cpu()) < tolerance
    assert case.same_in_cache(cache)
    untouched = torch.ones(len(cache), dtype=torch.bool, device=device)
    untouched[case.pages.slots] = False
    assert torch.equal(cache[untouched].nan_to_num(7.0), case.cache[untouched].nan_to_num(7.0))
    early_out, early_cache = case.run(DecodeAttention(reads_ahead=True))
    assert largest_error(early_out.cpu(), case.by_hand().cpu()) < tolerance
    assert torch.equal(early_cache.nan_to_num(7.0), cache.nan_to_num(7.0))


@pytest.mark.parametrize("lengths", LENGTHS, ids=str)
@pytest.mark.parametrize("kv_dtype", [torch.float32, torch.int8], ids=str)
def test_the_last_program_of_a_row_joins_what_a_kernel_would_join(device, lengths, kv_dtype):
    """Twice, since the counters must be zero again."""
    from light_tts.kernels.paged_decode_triton import DecodeAttention

    if device == "cpu" and len(lengths) > 9:
        pytest.skip("many rows take long in the interpreter")
    counters = torch.zeros(2 * len(lengths), dtype=torch.int32, device=device)
    case = Case(lengths, dtype=torch.float32, device=device, unseen=float("nan"), kv_dtype=kv_dtype)
    expected, expected_cache = case.run(DecodeAttention())
    attend = DecodeAttention(counters)
    for _ in range(2):
        out, cache = case.run(attend)
        assert torch.allclose(out, expected, atol=1e-6)
        assert torch.equal(cache.nan_to_num(7.0), expected_cache.nan_to_num(7.0))
        assert not counters.any()


def test_int8_slots_lose_less_than_half_a_code_and_keep_zeros():
    heads = torch.randn(50, 4, 64, generator=torch.Generator().manual_seed(1))
    heads[0], heads[1, 2] = 0.0, heads[1, 2] * 1e4
    slots = to_slots(heads, torch.int8)
    assert slots.shape == (50, slot_width(4, 64, torch.int8))
    half_a_code = heads.abs().amax(dim=-1, keepdim=True) / 127.0 / 2.0
    assert ((from_slots(slots, 4, 64, torch.float32) - heads).abs() <= half_a_code * 1.001).all()
    assert not from_slots(torch.zeros_like(slots), 4, 64, torch.float32).any()
    heads[3, 1, 5] = float("nan")
    is_number = from_slots(to_slots(heads, torch.int8), 4, 64, torch.float32).isfinite().all(dim=-1)
    assert is_number.logical_not().nonzero().tolist() == [[3, 1]]


@pytest.mark.parametrize("reads_ahead", [False, True])
@pytest.mark.parametrize("num_rows", [1, 2, 3, 16, 64, 100, 256])
def test_few_rows_are_cut_into_many_parts_and_many_into_none(num_rows, reads_ahead):
    pytest.importorskip("triton")
    from light_tts.kernels.paged_decode_triton import cut_past

    splits, _, is_ahead = cut_past(num_rows, 2, reads_ahead=reads_ahead)
    assert splits in (1, 2, 4, 8, 16)
    assert splits == 1 or splits * num_rows * 2 <= 512
    assert (splits > 1) == (num_rows <= 128)
    assert is_ahead == (reads_ahead and splits > 1)
