"""The table of recognition_table.py: no row of it is wrong, and what has to be right is."""

from __future__ import annotations

import pytest
from ordinary_loras import ORDINARY_LORAS, RANKS
from recognition_table import ASKED, RIGHT, WRONG, counted, of_ordinary, of_published
from thinning import EVERYTHING

LOOKED_AT = RANKS if EVERYTHING else RANKS[:1]

REPORTED = (
    "lightning_style",
    "causvid_style",
    "lcm_style",
    "Lightning_4step_style_xl",
    "hyper_8steps_look",
    "demo_lcm",
    "accvid_style",
    "tcd_girl",
    "dmd_anime",
    "wan22_i2v_lightning_strike_high_noise",
)


@pytest.fixture(scope="module")
def published():
    return list(of_published())


@pytest.fixture(scope="module")
def ordinary():
    return list(of_ordinary(LOOKED_AT))


def test_no_published_file_is_taken_for_another_or_turned_away(published):
    assert [outcome for outcome in published if outcome.verdict == WRONG] == []


def test_no_ordinary_lora_is_taken_for_an_accelerator(ordinary):
    assert [outcome for outcome in ordinary if outcome.verdict == WRONG] == []
    assert len(ordinary) > 5_000 * len(LOOKED_AT)


def test_published_names_are_recognised_resized_or_not(published):
    counts = counted(published)
    for group in ("published files, with their folders", "resized files, published names"):
        assert counts[group][ASKED] == 0 and counts[group][RIGHT] >= 60
    # Those asked about have the name that every trainer gives.
    asked = {
        outcome.name
        for outcome in published
        if outcome.group == "published files, names alone" and outcome.verdict == ASKED
    }
    assert asked == {"pytorch_lora_weights.safetensors", "diffusion_pytorch_model.safetensors"}


@pytest.mark.parametrize("name", REPORTED)
def test_the_styles_of_the_reports_are_never_attached_as_accelerators(ordinary, name):
    """As a file's name and as the title in its metadata."""
    named = [outcome for outcome in ordinary if outcome.name == f"{name}.safetensors"]
    titled = [outcome for outcome in ordinary if outcome.file.endswith(f", titled {name}")]
    assert len(named) >= len(titled) == len(ORDINARY_LORAS) * len(LOOKED_AT)
    assert {outcome.taken_for for outcome in (*named, *titled)} == {""}
