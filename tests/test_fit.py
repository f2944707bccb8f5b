"""Which LoRA layers can go on their weights, and that no file makes anything larger than its own
weights be computed.
"""

from __future__ import annotations

import math

import pytest
from comfyui_fewstep.loras.fingerprint import DOWN_ENDINGS, UP_ENDINGS
from comfyui_fewstep.loras.fit import misfits
from hypothesis import given
from hypothesis import strategies as st
from thinning import examples

# A linear layer, a 1x1 and a 3x3 convolution, a norm.
LINEAR, CONV1, CONV3, NORM = (64, 32), (64, 32, 1, 1), (64, 32, 3, 3), (32,)


def fits(parts: dict[str, tuple[int, ...]], weight: tuple[int, ...] | None) -> bool:
    return not misfits(
        {f"layer{ending}": shape for ending, shape in parts.items()}, {"layer": weight}.get
    )


def pair(
    down: tuple[int, ...], up: tuple[int, ...], **more: tuple[int, ...]
) -> dict[str, tuple[int, ...]]:
    return {".lora_down.weight": down, ".lora_up.weight": up} | {
        f".{name}": shape for name, shape in more.items()
    }


@pytest.mark.parametrize(
    ("parts", "weight"),
    [
        (pair((4, 32), (64, 4)), LINEAR),
        (pair((4, 32), (64, 4), alpha=()), LINEAR),
        (pair((4, 32), (64, 4), alpha=(1,), dora_scale=(64, 1)), LINEAR),
        (pair((4, 32), (64, 4), dora_scale=(1, 32)), LINEAR),
        (pair((4, 32), (64, 4)), CONV1),
        (pair((4, 32, 1, 1), (64, 4, 1, 1)), CONV1),
        (pair((4, 32, 3, 3), (64, 4, 1, 1)), CONV3),
        (pair((4, 32, 1, 1), (64, 4, 1, 1)) | {".lora_mid.weight": (4, 4, 3, 3)}, CONV3),
        ({".diff": (32,), ".diff_b": (32,)}, NORM),
        ({".diff": (64, 32)}, LINEAR),
        (pair((7, 999), (5, 7)), None),
    ],
)
def test_what_fits(parts, weight):
    assert fits(parts, weight)


@pytest.mark.parametrize(
    ("parts", "weight"),
    [
        (pair((4, 33), (64, 4)), LINEAR),
        (pair((4, 32), (65, 4)), LINEAR),
        (pair((4, 32), (64, 5)), None),  # two ranks
        (pair((0, 32), (64, 0)), LINEAR),
        (pair((4,), (64,)), LINEAR),
        ({".lora_down.weight": (4, 32)}, LINEAR),
        ({".lora_up.weight": (64, 4)}, None),
        (pair((4, 32), (64, 4), alpha=(3,)), LINEAR),
        (pair((4, 32), (64, 4), alpha=(0,)), LINEAR),
        (pair((4, 32), (64, 4), reshape_weight=(2,)), LINEAR),
        (pair((4, 32, 1, 1), (64, 4, 1, 1)) | {".lora_mid.weight": (4, 4, 30, 30)}, CONV3),
        (pair((4, 32, 1, 1), (64, 4, 1, 1)) | {".lora_mid.weight": (4, 5, 3, 3)}, CONV3),
        ({".lora_mid.weight": (4, 4, 3, 3)}, CONV3),
        ({".diff": (33,)}, NORM),
        ({".set_weight": (64,)}, LINEAR),
        (pair((4, 32), (64, 4), diff_b=(65,)), LINEAR),
        (pair((4, 32), (64, 4), dora_scale=(3, 3)), LINEAR),
        (pair((4, 32), (64, 4), dora_scale=(64, 1)), CONV1),
        (pair((4, 32), (64, 4)) | {".lora_A.weight": (4, 32), ".lora_B.weight": (64, 4)}, LINEAR),
    ],
)
def test_what_does_not(parts, weight):
    assert not fits(parts, weight)


def test_one_misfit_says_nothing_of_the_others():
    tensors = {
        "a.lora_down.weight": (4, 32),
        "a.lora_up.weight": (64, 4),
        "b.lora_down.weight": (4, 31),
        "b.lora_up.weight": (64, 4),
    }
    assert misfits(tensors, lambda layer: LINEAR) == {"b"}


HEADS = {"head.set_weight": (32 * 96, 64), "head.set_bias": (32 * 96,)}


@pytest.mark.parametrize(
    ("parts", "is_bank"),
    [
        (HEADS, True),
        ({**HEADS, "head.set_bias": (31 * 96,)}, False),  # of another number of heads
        ({"head.set_weight": (100, 64)}, False),  # no whole number of them
        ({"head.set_weight": (32 * 96, 65)}, False),
        ({"head.set_weight": (65 * 96, 64)}, False),  # of more than anybody published
        ({"head.set_weight": ()}, False),
        ({"head.diff": (32 * 96, 64)}, False),  # a change is added to one head
    ],
)
def test_a_bank_of_heads_fits_where_the_host_reads_one(parts, is_bank):
    shapes = {"head": (96, 64)}.get
    assert misfits(parts, shapes, banks={"head"}) == (set() if is_bank else {"head"})
    assert misfits(parts, shapes) == misfits(parts, shapes, banks={"other"}) == {"head"}


DIMENSIONS = st.lists(
    st.integers(0, 2**40) | st.sampled_from([1, 3, 4, 32, 64, 288]), max_size=5
).map(tuple)
ENDINGS = st.sampled_from(
    [
        *DOWN_ENDINGS,
        *UP_ENDINGS,
        ".lora_mid.weight",
        ".alpha",
        ".dora_scale",
        ".diff",
        ".diff_b",
        ".set_weight",
        ".set_bias",
        ".reshape_weight",
        ".w_norm",
        ".b_norm",
        ".lokr_w1",
        ".lokr_w2",
        "",
    ]
)


def stays_within(parts: dict[str, tuple[int, ...]], weight: tuple[int, ...] | None) -> None:
    """What is said to fit makes nothing larger than the weight it is for."""
    if not fits(parts, weight):
        return
    assert ".reshape_weight" not in parts
    down, up = (
        next((parts[ending] for ending in endings if ending in parts), None)
        for endings in (DOWN_ENDINGS, UP_ENDINGS)
    )
    assert (down is None) == (up is None)
    if down is not None and weight is not None:
        kernel = math.prod(parts.get(".lora_mid.weight", (1, 1, 1, 1))[2:])
        assert up[0] * math.prod(down[1:]) * kernel == math.prod(weight)


@examples(5000)
@given(
    st.dictionaries(ENDINGS, DIMENSIONS, max_size=6),
    st.sampled_from([LINEAR, CONV1, CONV3, NORM, None]),
)
def test_what_is_said_to_fit_makes_nothing_larger_than_its_weight(parts, weight):
    stays_within(parts, weight)
