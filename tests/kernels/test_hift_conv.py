"""The vocoder's fused convolution: the kernel against the plain version, and the plain version against its formula."""

import pytest
import torch
import torch.nn.functional as F

from light_tts.kernels.hift_conv import Activation, ConvWeights, Epilogue, Tail, conv_plain, keep_plain, snakes_plain

CASES = [
    # in, out, kernel, dilation, residuals, kind, has_tail, has_ends, keeps_sum
    (64, 64, 3, 1, 0, "snake", False, True, False),
    (64, 64, 7, 3, 1, "snake", True, False, True),
    (32, 128, 11, 5, 3, "leaky", False, True, True),
    (80, 96, 7, 1, 0, "leaky", True, False, False),
    (64, 18, 7, 1, 0, None, False, True, True),
    (16, 32, 1, 1, 2, "none", False, False, True),
]


def make(case, steps, device, batch=3, dtype=torch.float32):
    channels_in, channels_out, kernel, dilation, residuals, kind, has_tail, has_ends, keeps_sum = case
    generator = torch.Generator().manual_seed(1)

    def draw(*shape):
        return torch.randn(*shape, generator=generator).to(device)

    reach = (kernel - 1) * dilation
    left = reach if has_tail else reach // 2
    right = reach - left
    taps = (draw(kernel, channels_in, channels_out) / (kernel * channels_in) ** 0.5).to(dtype)
    weights = ConvWeights(taps, draw(channels_out), dilation)
    alpha = draw(channels_out).abs() + 0.2
    activation = None
    if kind is not None:
        activation = Activation(kind, dtype, 0.1, alpha, 1.0 / alpha)
    epilogue = Epilogue(
        tuple(draw(batch, steps, channels_out).to(dtype) for _ in range(residuals)),
        0.5 if residuals else 1.0,
        activation,
        keeps_sum,
        torch.tensor([steps, steps // 2, 1][:batch], device=device) if has_ends else None,
        dtype,
    )
    tail = None
    if has_tail and left:
        # Inside wider rows, as states of all layers lie one after another.
        def flat(type_of_row):
            return draw(batch, left * channels_in + 7).to(type_of_row)[:, 5:-2].unflatten(1, (left, channels_in))

        tail = Tail(flat(dtype), flat(torch.float32), torch.tensor([steps, 2, 0][:batch], device=device))
    return draw(batch, steps, channels_in).to(dtype), weights, epilogue, left, right, tail


def tolerance(device, dtype):
    if dtype is torch.float32:
        return 2e-5 if device == "cpu" else 5e-3  # tensor cores round the factors to 10 bits
    return 2e-3  # of both sums and of the tail; products of float16 are exact


@pytest.mark.parametrize("steps", [5, 70])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_kernel_agrees_with_the_plain_version(case, steps, dtype, device):
    from light_tts.kernels.hift_conv_triton import conv

    x, weights, epilogue, left, right, tail = make(case, steps, device, dtype=dtype)
    expected = conv_plain(x, weights, epilogue, left=left, right=right, tail=tail)
    if tail is not None:
        kept = tail.after.clone()
        tail.after.zero_()
    found = conv(x, weights, epilogue, left=left, right=right, tail=tail)
    if tail is not None:
        torch.testing.assert_close(tail.after, kept, atol=0.0, rtol=0.0)
    for mine, plain in zip(found, expected, strict=True):
        assert (mine is None) == (plain is None)
        if plain is not None:
            assert mine.dtype is plain.dtype
            within = tolerance(device, dtype)
            torch.testing.assert_close(mine, plain, atol=within, rtol=within)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_several_snakes_agree(dtype, device):
    from light_tts.kernels.hift_conv_triton import snakes

    x, alphas = torch.randn(2, 37, 48, device=device).to(dtype), torch.rand(3, 48, device=device) + 0.3
    expected = snakes_plain(x, alphas, 1 / alphas, dtype)
    within = 1e-5 if dtype is torch.float32 else 2e-3
    torch.testing.assert_close(snakes(x, alphas, 1 / alphas, dtype), expected, atol=within, rtol=within)


def test_a_tail_is_what_came_before():
    """The second half with the first half's end as its tail equals the second half of the whole."""
    x, weights, epilogue, left, _, _ = make((8, 8, 5, 2, 0, "leaky", True, False, True), 40, "cpu")
    whole, _ = conv_plain(x, weights, epilogue, left=left)
    tail = Tail(x[:, 20 - left : 20], torch.empty(3, left, 8), torch.tensor([20, 20, 20]))
    second, _ = conv_plain(x[:, 20:], weights, epilogue, left=left, tail=tail)
    torch.testing.assert_close(second, whole[:, 20:])


def test_what_is_kept_are_the_steps_before_an_end():
    x, before = torch.randn(3, 9, 4), torch.randn(3, 5, 4)
    tail = Tail(before, torch.empty(3, 5, 4), torch.tensor([9, 2, 0]))
    keep_plain(x, tail)
    assert torch.equal(tail.after[0], x[0, 4:])
    assert torch.equal(tail.after[1], torch.cat([before[1, 2:], x[1, :2]]))
    assert torch.equal(tail.after[2], before[2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_keeping_agrees_with_the_plain_version(dtype, device):
    from light_tts.kernels.hift_conv_triton import keep

    for channels, width in ((18, 121), (80, 4)):
        x, before = (torch.randn(3, steps, channels, device=device).to(dtype) for steps in (130, width))
        ends = torch.tensor([130, 3, 0], device=device)
        found, expected = (Tail(before, torch.zeros(before.shape, device=device), ends) for _ in range(2))
        keep(x, found)
        keep_plain(x, expected)
        assert torch.equal(found.after, expected.after)


def test_rows_end_where_they_should():
    x, weights, epilogue, left, right, _ = make((8, 8, 3, 1, 1, "snake", False, True, True), 10, "cpu")
    total, activated = conv_plain(x, weights, epilogue, left=left, right=right)
    assert total[1, 5:].abs().max() == 0
    assert activated[1, 5:].abs().max() == 0
    kernel = weights.taps.permute(2, 1, 0)
    expected = F.conv1d(x.transpose(1, 2), kernel, weights.bias, padding=1).transpose(1, 2)
    torch.testing.assert_close(total[0], (expected[0] + epilogue.residuals[0][0]) * 0.5)
