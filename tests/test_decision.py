"""What is decided before anything is attached, without a host: which record runs, and what is
refused.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
from comfyui_fewstep.loras.accelerator import Kind
from comfyui_fewstep.loras.bases import Base, unlisted
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.catalog.left_out import LEFT_OUT
from comfyui_fewstep.loras.decision import (
    NO_LORA,
    record_of,
    refuse_carried,
    refuse_distilled_model,
    refuse_left_out,
    refuse_other_base,
    refuse_other_expert,
    refuse_other_kind,
    refuse_other_model,
    refuse_second,
    taking_notes,
)
from comfyui_fewstep.loras.fingerprint import Fingerprint
from comfyui_fewstep.loras.header import FileProblem, Header
from comfyui_fewstep.loras.recognition import Recognition

LIGHTNING = CATALOG["sdxl-lightning-4step-lora"]
TURBO = CATALOG["sdxl-turbo"]
HIGH = CATALOG["wan22-i2v-lightning-high"]
FILE = "some.safetensors"


def taken_for(record=None, candidates=(), kind=Kind.LORA, bases=(Base.SDXL,), width=None):
    fingerprint = Fingerprint(kind, bases, ("header: what it is",), width)
    return Recognition(fingerprint, record, candidates, ("header: what it is", "how"), False)


def test_the_record_is_the_one_chosen_else_the_one_recognised() -> None:
    others = CATALOG.values()
    assert record_of(taken_for(LIGHTNING), FILE, None, others) is LIGHTNING
    chosen = CATALOG["hyper-sdxl-8step-lora"]
    assert record_of(taken_for(LIGHTNING), FILE, chosen, others) is chosen
    with pytest.raises(ValueError, match="is a LoRA for SD 1.5, and .* is one for SDXL"):
        record_of(taken_for(bases=(Base.SD15,)), FILE, chosen, others)
    with pytest.raises(ValueError, match="is a full model, and some.safetensors is a LoRA"):
        record_of(taken_for(), FILE, TURBO, others)


def test_a_file_that_cannot_be_told_is_refused_with_what_it_may_be() -> None:
    with pytest.raises(ValueError, match="not a known accelerator .header: what it is; how"):
        record_of(taken_for(), FILE, None, CATALOG.values())
    with pytest.raises(ValueError, match=f"Choose it in accelerator: {LIGHTNING.id}"):
        record_of(taken_for(candidates=(LIGHTNING,)), FILE, None, CATALOG.values())


def test_of_many_candidates_five_are_named_behind_the_question_and_no_demos() -> None:
    """Wan's text-to-video has more than ten LoRAs, and the pack's own two for its demo model."""
    records = [
        record
        for record in CATALOG.values()
        if Base.WAN_T2V in record.bases and record.kind is Kind.LORA and not record.only_by_choice
    ]
    demos = [record for record in records if record.family == "Demo"]
    assert len(records) > 12 and len(demos) == 2
    with pytest.raises(ValueError) as refusal:
        record_of(taken_for(candidates=(*demos, *records)), FILE, None, CATALOG.values())
    listed = str(refusal.value).partition("which file did you download? Choose it in accelerator: ")
    ids = listed[2].partition(". ")[0].removesuffix(f" and {len(records) - len(demos) - 5} more")
    named = ids.split(", ")
    assert len(named) == 5 and set(named) <= {record.id for record in records}
    assert not set(named) & {record.id for record in demos}


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Kind.MODEL, "a whole diffusion model"),
        (Kind.MOTION_MODULE, "an AnimateDiff motion module"),
        (None, "not an accelerator: it holds neither"),
    ],
)
def test_a_file_that_is_no_lora_is_refused_by_what_it_is(kind, words) -> None:
    with pytest.raises(FileProblem, match=words):
        refuse_other_kind(taken_for(kind=kind), Header({}, {}), FILE)
    refuse_other_kind(taken_for(), Header({}, {}), FILE)


def test_a_release_that_is_left_out_is_refused_in_any_folder() -> None:
    name = next(iter(LEFT_OUT))
    with pytest.raises(FileProblem, match="is known and left out"):
        refuse_left_out(f"mine/{name.upper()}")
    refuse_left_out("mine.safetensors")


def test_another_base_is_refused_in_the_words_of_both() -> None:
    refuse_other_base(LIGHTNING, FILE, Base.SDXL, "SDXL", ())
    with pytest.raises(ValueError, match="is for SDXL.*; the connected model is SD 1.5"):
        refuse_other_base(LIGHTNING, FILE, Base.SD15, "SD15", ())
    with pytest.raises(ValueError, match="is a Kandinsky5 model, for which"):
        refuse_other_base(LIGHTNING, FILE, None, "Kandinsky5", ())
    with pytest.raises(ValueError, match="is a NewModel model, for which"):
        refuse_other_base(LIGHTNING, FILE, unlisted("NewModel"), "NewModel", ())


def test_a_base_takes_what_it_was_made_from_has_and_is_told_so() -> None:
    turbo = CATALOG["flux-turbo-alpha-lora"]
    refuse_other_base(turbo, FILE, Base.FLUX_FILL, "FluxInpaint", ())
    (note,) = taking_notes(turbo, Base.FLUX_FILL, ())
    assert note == (
        "flux-turbo-alpha-lora was distilled for FLUX.1 dev; the connected model is FLUX.1 Fill,"
        " which was made from it. It runs with the settings for FLUX.1 dev."
    )
    own = replace(turbo, id="fill-recipe", bases=(Base.FLUX_FILL,), only_by_choice=True)
    (note,) = taking_notes(turbo, Base.FLUX_FILL, [turbo, own])
    assert note.endswith("official settings on this model, choose fill-recipe in accelerator.")
    assert taking_notes(turbo, Base.FLUX, [turbo, own]) == ()
    assert taking_notes(turbo, None, ()) == taking_notes(own, Base.FLUX_FILL, ()) == ()
    with pytest.raises(ValueError, match="is for FLUX.1 dev; the connected model is Chroma"):
        refuse_other_base(turbo, FILE, Base.CHROMA, "Chroma", ())


def test_a_recipe_that_runs_these_files_on_the_base_is_named() -> None:
    record, recipe, base = next(
        (record, recipe, base)
        for recipe in CATALOG.values()
        if recipe.only_by_choice
        for record in CATALOG.values()
        if not record.only_by_choice
        and {file.name for file in recipe.files} & {file.name for file in record.files}
        for base in recipe.bases
        if base not in record.bases
    )
    with pytest.raises(ValueError, match=f"choose .*{recipe.id}.* in accelerator"):
        refuse_other_base(record, FILE, base, "", CATALOG.values())


def test_a_model_that_is_distilled_takes_only_what_is_made_for_it() -> None:
    refuse_distilled_model(LIGHTNING, FILE, taken_for(), "base.safetensors")
    with pytest.raises(ValueError, match="is distilled already: sdxl-turbo"):
        refuse_distilled_model(LIGHTNING, FILE, taken_for(TURBO), "turbo.safetensors")
    record = next(record for record in CATALOG.values() if record.for_distilled)
    already = CATALOG[record.for_distilled[0]]
    refuse_distilled_model(record, FILE, taken_for(already), "turbo.safetensors")


def test_the_experts_are_told_by_their_files_names() -> None:
    refuse_other_expert(HIGH, FILE, "wan2.2_i2v_high_noise_14B.safetensors")
    refuse_other_expert(HIGH, FILE, "wan.safetensors")
    refuse_other_expert(LIGHTNING, FILE, "low_noise.safetensors")
    with pytest.raises(ValueError, match="is for the high-noise expert"):
        refuse_other_expert(HIGH, FILE, "wan2.2_i2v_low_noise_14B.safetensors")


def test_two_accelerators_are_refused_and_a_style_is_not() -> None:
    refuse_second(LIGHTNING, None)
    with pytest.raises(ValueError, match=f"already carries {TURBO.id}, which another loader"):
        refuse_second(LIGHTNING, taken_for(TURBO))
    # AnimateLCM goes on a model that an LCM LoRA has made a consistency model.
    module, lora = next(
        (module, lora)
        for module in CATALOG.values()
        if module.kind is Kind.MOTION_MODULE
        for lora in CATALOG.values()
        if lora.kind is Kind.LORA and lora.family == module.family
    )
    refuse_second(module, taken_for(lora))
    with pytest.raises(ValueError, match=f"already carries {LIGHTNING.id}"):
        refuse_second(module, taken_for(LIGHTNING))


def test_a_model_that_carries_one_is_refused_with_what_to_do() -> None:
    refuse_carried(None, FILE)
    with pytest.raises(ValueError, match="connect the model as it comes from its loader"):
        refuse_carried(LIGHTNING, FILE)
    with pytest.raises(ValueError, match="connect the model to the Few-Step Sampler"):
        refuse_carried(TURBO, NO_LORA)


def test_a_record_of_another_kind_or_base_is_no_distilled_models() -> None:
    model = taken_for(kind=Kind.MODEL)
    refuse_other_model(TURBO, model, "turbo")
    module = next(record for record in CATALOG.values() if record.kind is Kind.MOTION_MODULE)
    with pytest.raises(ValueError, match="is a motion module, and lora_name is none"):
        refuse_other_model(module, model, "turbo")
    with pytest.raises(ValueError, match="is for SDXL, and turbo is SD 1.5"):
        refuse_other_model(TURBO, taken_for(kind=Kind.MODEL, bases=(Base.SD15,)), "turbo")
