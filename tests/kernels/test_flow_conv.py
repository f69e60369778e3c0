"""Causal convolutions over pages: the plain version is a convolution, the Triton version agrees, both keep alike."""

import pytest
import torch
from torch.nn import functional as F

from light_tts.kernels.flow_conv import ConvExtras, ConvTails, ConvWeights, paged_conv_plain
from tests.tf32 import tf32

GUIDANCE_ROWS, PAGE_STEPS, PLACE, VALUES = 2, 10, 32, 700


@pytest.fixture(autouse=True)
def exact_float32():
    """The plain version must be exact; the kernel does not ask torch."""
    with tf32(False):
        yield


class Case:
    """Two sequences, one with frames before it, the other keeping its first chunk."""

    def __init__(
        self, channels, outputs, taps, *, groups=1, has_norm=False, dtype=torch.float32, device="cpu", beside=48
    ):
        generator = torch.Generator().manual_seed(channels + outputs + taps)

        def draw(*sizes, kind=torch.float32):
            return torch.randn(*sizes, generator=generator).to(device, kind)

        self.steps, batch = 2 * PAGE_STEPS, 2 * GUIDANCE_ROWS
        inputs = channels // groups
        self.x = draw(batch, self.steps, channels)
        norm = (1.0 + 0.1 * draw(outputs), draw(outputs), 1e-5) if has_norm else None
        matrix = draw(outputs, taps * inputs, kind=dtype) * (taps * inputs) ** -0.5
        self.weights = ConvWeights(matrix, draw(outputs, kind=dtype), taps, groups, norm)
        self.kept = draw(5, 3, GUIDANCE_ROWS, VALUES, kind=dtype)[:, 1]
        self.last, self.saves = (
            torch.tensor(rows, dtype=torch.int32, device=device) for rows in ([3, -1], [[-1, 1], [0, -1]])
        )
        self.added, self.residual = draw(outputs), draw(batch, self.steps, outputs)
        matrix = draw(outputs, beside, kind=dtype) * beside**-0.5
        self.shortcut = draw(batch, self.steps, beside), matrix, draw(outputs, kind=dtype)

    def run(self, convolve, extras, dtype):
        kept = self.kept.clone(memory_format=torch.contiguous_format)
        tails = ConvTails(kept, PLACE, self.last, self.saves, PAGE_STEPS)
        return convolve(self.x, self.weights, tails, extras, dtype), kept


def test_the_plain_version_is_a_convolution_that_goes_on():
    """A sequence in two calls gives what it gives in one."""
    case = Case(32, 48, 3, has_norm=True)
    extras = ConvExtras(mish=True)
    nothing = torch.full((2,), -1, dtype=torch.int32)
    whole, kept = case.run(paged_conv_plain, extras, torch.float32)
    assert not torch.equal(kept, case.kept)
    rest = case.x[:, PAGE_STEPS:]
    begun = ConvTails(
        case.kept.clone(), PLACE, nothing, torch.tensor([[0, -1], [1, -1]], dtype=torch.int32), PAGE_STEPS
    )
    first = paged_conv_plain(case.x, case.weights, begun, extras, torch.float32)
    follow = begun._replace(last=torch.tensor([0, 1], dtype=torch.int32), saves=torch.full((2, 1), -1))
    second = paged_conv_plain(rest, case.weights, follow, extras, torch.float32)
    assert torch.allclose(second, first[:, PAGE_STEPS:], atol=1e-5)
    kernel = case.weights.matrix.view(48, 3, 32).transpose(1, 2)
    plain = F.conv1d(F.pad(case.x.transpose(1, 2), (2, 0)), kernel, case.weights.bias).transpose(1, 2)
    weight, bias, eps = case.weights.norm
    assert torch.allclose(first, F.mish(F.layer_norm(plain, (48,), weight, bias, eps)), atol=1e-5)
    assert torch.allclose(whole[1::2], first[1::2], atol=1e-5), "the sequence without a past"


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 2e-5), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("sizes", "options"),
    [
        ((256, 256, 3), {"has_norm": True}),
        ((320, 32, 3), {"has_norm": True}),
        ((64, 80, 3), {}),
        ((64, 64, 10), {"groups": 4}),
        ((16, 16, 5), {"groups": 4}),
    ],
    ids=["block", "first", "bare", "grouped", "narrow"],
)
@pytest.mark.parametrize("names", [(), ("added",), ("shortcut",), ("residual",)], ids=str)
def test_the_kernel_agrees(device, sizes, options, dtype, tolerance, names):
    from light_tts.kernels.flow_conv_triton import paged_conv

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    if "shortcut" in names and "groups" in options:
        pytest.skip("no network has a shortcut around groups")
    case = Case(*sizes, **options, dtype=dtype, device=device)
    extras = ConvExtras(mish=bool(names), **{name: getattr(case, name) for name in names})
    expected, kept = case.run(paged_conv_plain, extras, torch.float32)
    found, found_kept = case.run(paged_conv, extras, torch.float32)
    assert ((found - expected).norm() / expected.norm()).item() < tolerance
    assert torch.equal(found_kept, kept)
    rounded, _ = case.run(paged_conv, extras, torch.bfloat16)
    assert torch.allclose(rounded.float(), found, rtol=1e-2, atol=1e-2)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("tile", [(16, 64, 3), (16, 32, 3), (32, 32, 5)], ids=str)
@pytest.mark.parametrize(
    ("sizes", "has_norm", "names"),
    [
        ((64, 48, 3), True, ("added",)),
        ((80, 32, 3), True, ("shortcut",)),
        ((64, 24, 4), False, ()),
        ((32, 32, 2), False, ("residual",)),
    ],
    ids=["block", "uneven", "bare", "residual"],
)
def test_few_rows_share_their_outputs(device, monkeypatch, dtype, tolerance, tile, sizes, has_norm, names):
    """In 16 bits, where each program computes some outputs; a tile of 16 rows lies in two of 20 frames."""
    from light_tts.kernels import flow_conv_split_triton as split
    from light_tts.kernels.flow_conv_triton import paged_conv

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    monkeypatch.setattr(split, "_tile", lambda *_: split._Tile(*tile))
    monkeypatch.setattr(split, "takes_conv", lambda *_: False)
    case = Case(*sizes, has_norm=has_norm, dtype=dtype, device=device)
    assert split.can_split(case.x, case.weights)
    extras = ConvExtras(mish=bool(names), **{name: getattr(case, name) for name in names})
    expected, kept = case.run(paged_conv_plain, extras, torch.float32)
    found, found_kept = case.run(paged_conv, extras, torch.float32)
    assert ((found - expected).norm() / expected.norm()).item() < tolerance
    assert torch.equal(found_kept, kept)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 2e-3), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize(
    ("sizes", "has_norm", "names"),
    [
        ((64, 48, 3), True, ("added",)),
        ((128, 32, 3), True, ("shortcut",)),
        ((64, 24, 4), False, ()),
        ((32, 32, 2), False, ("residual",)),
    ],
    ids=["block", "shortcut", "bare", "residual"],
)
def test_all_weights_of_few_rows_at_once(device, dtype, tolerance, sizes, has_norm, names):
    from light_tts.kernels import flow_conv_split_triton as split
    from light_tts.kernels.flow_conv_triton import paged_conv

    if device == "cpu" and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 matrices")
    case = Case(*sizes, has_norm=has_norm, dtype=dtype, device=device, beside=256)
    extras = ConvExtras(mish=bool(names), **{name: getattr(case, name) for name in names})
    assert split.can_split(case.x, case.weights)
    assert split.takes_conv(case.weights, extras)
    expected, kept = case.run(paged_conv_plain, extras, torch.float32)
    found, found_kept = case.run(paged_conv, extras, torch.float32)
    assert ((found - expected).norm() / expected.norm()).item() < tolerance
    assert torch.equal(found_kept, kept)


def test_what_registers_do_not_hold():
    pytest.importorskip("triton")
    from light_tts.kernels.flow_conv_split_triton import takes_conv

    case = Case(64, 48, 3, dtype=torch.float16, beside=256)
    assert takes_conv(case.weights, ConvExtras(shortcut=case.shortcut))
    assert not takes_conv(case.weights, ConvExtras(shortcut=Case(64, 48, 3).shortcut)), "48 inputs beside"
    assert not takes_conv(Case(80, 48, 3).weights, ConvExtras()), "no power of 2"
    assert not takes_conv(Case(512, 16, 3).weights, ConvExtras()), "many inputs"


def test_what_cannot_be_split():
    pytest.importorskip("triton")
    from light_tts.kernels.flow_conv_split_triton import can_split

    case = Case(64, 48, 3, dtype=torch.float16)
    assert can_split(case.x, case.weights)
    assert not can_split(case.x[:, :15], case.weights), "a tile would lie in three batch rows"
    assert not can_split(case.x.repeat(4, 1, 1), case.weights), "many rows"
    assert not can_split(case.x, Case(64, 64, 3, groups=4, dtype=torch.float16).weights)
    assert not can_split(case.x, Case(64, 48, 3).weights), "float32"


def test_many_rows_use_larger_tiles(device):
    from light_tts.kernels.flow_conv_triton import paged_conv

    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 600, 16, generator=generator).to(device)
    weights = ConvWeights(torch.randn(16, 48, generator=generator).to(device), torch.zeros(16, device=device), 3)
    nothing = torch.full((1, 60), -1, dtype=torch.int32, device=device)
    tails = ConvTails(torch.zeros(1, 2, 64, device=device), 0, nothing[:, 0].contiguous(), nothing, PAGE_STEPS)
    expected = paged_conv_plain(x, weights, tails, ConvExtras(), torch.float32)
    found = paged_conv(x, weights, tails, ConvExtras(), torch.float32)
    assert ((found - expected).norm() / expected.norm()).item() < 2e-5
