"""The arithmetic of the negative prompt in attention, worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
from comfyui_fewstep.samplers.guidance import (
    CrossAttention,
    Guidance,
    JointAttention,
    SideBySide,
    is_prime,
    laid_out,
)
from torch import Tensor


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention, written out. A mask is added."""
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])
    return (scores if mask is None else scores + mask).softmax(-1) @ v


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- one output of two


def test_the_push_is_bounded_by_tau_times_the_norm_and_mixed_in_by_alpha():
    positive, negative = torch.tensor([[[3.0, 1.0]]]), torch.tensor([[[1.0, 2.0]]])
    # Pushed by scale 3: 3 * (3, 1) - 2 * (1, 2) = (7, -1), of norm 8; the prompt's own is 4. Twice
    # as much is let through, so tau 2 leaves it as it is, and alpha takes a half of each.
    assert Guidance(3, 0.5, 2).combine(positive, negative).tolist() == [[[5.0, 0.0]]]
    # tau 1.5 lets 6 of the 8 through: (5.25, -0.75), and a half of each is (4.125, 0.125).
    assert Guidance(3, 0.5, 1.5).combine(positive, negative).tolist() == [[[4.125, 0.125]]]


def test_each_token_has_a_norm_of_its_own_over_all_its_heads():
    positive, negative = random(2, 5, 12), random(2, 5, 12, seed=1)
    merged = Guidance(6, 0.5, 1.2).combine(positive, negative)
    heads = [part.unflatten(-1, (3, 4)).transpose(1, 2) for part in (positive, negative)]
    apart = Guidance(6, 0.5, 1.2).combine(*heads, (-3, -1))
    assert torch.allclose(apart.transpose(1, 2).flatten(2), merged, atol=1e-6)
    alone = Guidance(6, 0.5, 1.2).combine(positive[1:, 2:3], negative[1:, 2:3])
    assert torch.allclose(alone, merged[1:, 2:3], atol=1e-6)


def test_the_norm_of_many_large_channels_fits_into_half_precision():
    # 8192 channels of 100 add up to 819200, and float16 ends at 65504.
    large = torch.full((1, 1, 8192), 100.0, dtype=torch.float16)
    guided = Guidance(5, 0.5, 2.5).combine(large, -large)
    # 5 * 100 + 4 * 100 is nine times the prompt's; 2.5 times is let through, and a half of each.
    assert guided.unique().tolist() == [175.0]


def test_nothing_comes_of_nothing():
    zero = torch.zeros(1, 2, 3)
    assert torch.equal(Guidance(5, 0.5, 2.5).combine(zero, zero), zero)


@pytest.mark.parametrize(
    ("guidance", "is_idle"),
    [(Guidance(1, 0.5, 2.5), True), (Guidance(5, 0, 2.5), True), (Guidance(1.1, 0.1, 1), False)],
)
def test_scale_1_and_alpha_0_leave_nothing_to_do(guidance, is_idle):
    assert guidance.is_idle is is_idle


# ---------------------------------------------------------------- two texts in one context


def test_texts_are_laid_side_by_side_and_found_again():
    layout = SideBySide(2, 3, 1)
    first, second = random(4, 2, 5), random(4, 3, 5, seed=1)
    context = layout.lay(first, second)
    assert context.shape == (4, 6, 5) and not context[:, 5].any()
    assert all(map(torch.equal, layout.texts_of(context, 1), (first, second)))


@pytest.mark.parametrize(
    ("lengths", "taken", "length"),
    [
        ((77, 77), (), 157),  # 154 to 156 are even or threefold
        ((77, 77), (157,), 163),
        # 257 tokens are CLIP's picture, which Wan attends to as well.
        ((128, 128), (257,), 263),
        ((2, 3), (), 5),
    ],
)
def test_the_length_is_the_next_prime_that_is_not_taken(lengths, taken, length):
    assert laid_out(*lengths, taken).length == length


def test_primes():
    assert [number for number in range(30) if is_prime(number)] == [
        2,
        3,
        5,
        7,
        11,
        13,
        17,
        19,
        23,
        29,
    ]


# ---------------------------------------------------------------- attention to both


@pytest.fixture
def parts():
    """Queries, and keys and values of both texts: 2 rows, 6 tokens, texts of 3 and 2, padded."""
    layout = SideBySide(3, 2, 2)
    q = random(2, 6, 4)
    keys = [random(2, length, 4, seed=length) for length in (3, 2)]
    values = [random(2, length, 4, seed=10 + length) for length in (3, 2)]
    return layout, q, keys, values


def test_each_text_is_attended_to_as_if_it_stood_alone(parts):
    layout, q, keys, values = parts
    guidance = Guidance(4, 0.5, 2)
    ours = CrossAttention(layout, guidance).attend(
        attention, q, layout.lay(*keys), layout.lay(*values)
    )
    alone = [attention(q, k, v) for k, v in zip(keys, values, strict=True)]
    assert torch.equal(ours, guidance.combine(*alone))


def test_a_mask_goes_to_the_text_it_is_of(parts):
    layout, q, keys, values = parts
    # The last token of each text is not read.
    mask = torch.tensor([0, 0, -torch.inf, 0, -torch.inf, 0, 0]).expand(2, 1, 7)
    guidance = Guidance(4, 0.5, 2)
    ours = CrossAttention(layout, guidance).attend(
        attention, q, layout.lay(*keys), layout.lay(*values), mask
    )
    read = [(k[:, :-1], v[:, :-1]) for k, v in zip(keys, values, strict=True)]
    expected = guidance.combine(*(attention(q, k, v) for k, v in read))
    assert torch.allclose(ours, expected, atol=1e-6)


def test_rows_that_are_not_guided_keep_their_bits(parts):
    layout, q, keys, values = parts
    ours = CrossAttention(layout, Guidance(4, 0.5, 2), torch.tensor([1])).attend(
        attention, q, layout.lay(*keys), layout.lay(*values)
    )
    assert torch.equal(ours[0], attention(q, keys[0], values[0])[0])
    whole = CrossAttention(layout, Guidance(4, 0.5, 2)).attend(
        attention, q, layout.lay(*keys), layout.lay(*values)
    )
    assert torch.allclose(ours[1], whole[1], atol=1e-6)


def test_only_attention_to_the_texts_is_meant(parts):
    layout, q, keys, _ = parts
    ours, context = CrossAttention(layout, Guidance(4, 0.5, 2)), layout.lay(*keys)
    assert ours.is_for(q, context)
    assert not ours.is_for(q, q), "a picture's attention to itself"
    assert not ours.is_for(context, context), "even where it has as many tokens"
    assert not ours.is_for(q, context[:, :-1]), "another text"


def test_joint_attention_lets_no_text_see_the_other():
    """In heads; the picture's two outputs become one, each text keeps its own."""
    layout, guidance = SideBySide(3, 2), Guidance(4, 0.5, 2)
    q, k, v = (random(2, 2, 9, 4, seed=seed) for seed in range(3))

    def merged(q, k, v, mask=None):
        return attention(q, k, v).transpose(1, 2).flatten(2)

    ours = JointAttention(layout, guidance)
    assert ours.is_for(q, k) and not ours.is_for(q, k[:, :, :5])
    out = ours.attend(merged, q, k, v)
    with_first = [torch.cat([part[:, :, :3], part[:, :, 5:]], 2) for part in (q, k, v)]
    with_second = [part[:, :, 3:] for part in (q, k, v)]
    first, second = merged(*with_first), merged(*with_second)
    assert torch.equal(out[:, :3], first[:, :3])
    assert torch.equal(out[:, 3:5], second[:, :2])
    assert torch.equal(out[:, 5:], guidance.combine(first[:, 3:], second[:, 2:]))
    some = JointAttention(layout, guidance, torch.tensor([0])).attend(merged, q, k, v)
    assert torch.equal(some[1, 5:], first[1, 3:])
    assert torch.allclose(some[0], out[0], atol=1e-6)
