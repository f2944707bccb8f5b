"""Accelerators that core's own LoRA loader put on the model, and those that a user declared."""

from __future__ import annotations

import inspect
import json
from dataclasses import replace
from types import SimpleNamespace

import comfy.sd
import pytest
import torch
from comfy.weight_adapter import LoRAAdapter
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import accelerator, sampler
from comfyui_fewstep.nodes.host import recognise
from comfyui_fewstep.nodes.host.declared import declared_ids, known_accelerators
from comfyui_fewstep.nodes.host.foreign import ForeignLora, foreign_loras
from comfyui_fewstep.nodes.host.model import accelerator_of, look_at
from comfyui_fewstep.samplers.plan import PlanError
from published_headers import WIDTHS, layers_of

import nodes as core
import small_models
from more_models import small_patcher, text_conditioning
from small_loras import write_lora


@pytest.fixture(scope="module")
def sdxl(unets):
    return unets["sdxl"]


def core_loaded(model, name, strength=1.0):
    return core.LoraLoaderModelOnly().load_lora_model_only(model, name, strength)[0]


keeps_titles = pytest.mark.skipif(
    "lora_metadata" not in inspect.signature(comfy.sd.load_lora_for_models).parameters,
    reason="before 0.24 ComfyUI forgets the title of a LoRA it has loaded",
)


def run(model, text, samples, steps=0):
    output = sampler.FewStepSampler.execute(model, text, {"samples": samples}, 3, steps, 1.0)
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


# ---------------------------------------------------------------- core's loader


@keeps_titles
def test_a_title_that_core_leaves_on_the_model_tells_the_accelerator(sdxl, models):
    metadata = {"modelspec.title": "sdxl_lightning_4step_lora"}
    write_lora(
        models / "loras" / "a1.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
        metadata=metadata,
    )
    model = core_loaded(sdxl, "a1.safetensors")
    samples, data = run(model, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))
    assert data["accelerators"] == ["sdxl-lightning-4step-lora"] and data["evaluations"] == 4
    assert any("Recognised from what another loader left" in note for note in data["notes"])
    # The same through our own loader gives the same picture.
    ours, _ = accelerator.attach_accelerator(sdxl, "a1.safetensors", "auto", 1.0)
    assert torch.equal(
        samples, run(ours, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))[0]
    )


@keeps_titles
def test_the_model_sampling_follows_what_was_recognised(unets, models):
    write_lora(
        models / "loras" / "b1.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        only="attn",
        metadata={"ss_output_name": "lcm-lora-sdv1-5"},
    )
    model = core_loaded(unets["sd15"], "b1.safetensors")
    _, data = run(model, small_models.conditioning(unets["sd15"]), torch.zeros(1, 4, 8, 8), steps=8)
    assert data["accelerators"] == ["lcm-lora-sd15"] and data["sampler"] == "lcm"
    sigmas, _, cfg, steps = sampler.FewStepSchedule.execute(model, 8, 1.0).args[:4]
    assert (cfg, steps, len(sigmas)) == (1.0, 8, 9)
    assert accelerator_of(model) is None, "the model given is as it was"


def test_patches_without_a_title_are_refused_with_the_candidates(sdxl, models):
    write_lora(
        models / "loras" / "c1.safetensors", sdxl, "kohya-diffusers", only="attn1|attn2|middle"
    )
    with pytest.raises(
        PlanError,
        match=(
            "another loader put on the model cannot be identified.*LoRA for"
            " SDXL.*sdxl-lightning-2step-lora"
        ),
    ):
        run(
            core_loaded(sdxl, "c1.safetensors"),
            small_models.conditioning(sdxl),
            torch.zeros(1, 4, 8, 8),
        )


def test_several_loras_of_other_loaders_are_refused(sdxl, models):
    for name in ("d1.safetensors", "d2.safetensors"):
        write_lora(models / "loras" / name, sdxl, "kohya-diffusers", only="attn1")
    model = core_loaded(core_loaded(sdxl, "d1.safetensors"), "d2.safetensors")
    with pytest.raises(
        ValueError,
        match="several LoRAs of other loaders.*which of them is .* not sure.*Accelerator Loader",
    ):
        run(model, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))


def boogu_lora(rank, differences, title):
    """What the host leaves of a LoRA for Boogu-Image. Only its Turbo LoRA is of rank 128."""
    layers = {
        name: (outputs, inputs)
        for name, outputs, inputs in layers_of(Base.BOOGU, WIDTHS.get(Base.BOOGU, 0))
    }
    return ForeignLora(
        layers, (rank,), "absent", differences, (1.0,), {"title": title} if title else {}
    )


@pytest.mark.parametrize("title", ["", "my style", CATALOG["boogu-turbo-lora"].files[0].name])
def test_of_several_the_one_whose_contents_decide_is_taken(title):
    loras = [boogu_lora(4, False, title), boogu_lora(128, True, title), boogu_lora(8, False, title)]
    recognised = [recognise.recognise_patches(lora, known_accelerators()) for lora in loras]
    chosen = recognise.RecognisedLoras(tuple(recognised)).the_accelerator()
    assert chosen.lora is loras[1] and chosen.record.id == "boogu-turbo-lora"
    assert chosen.recognition.is_certain
    for others in (recognised[::2], [recognised[1]] * 2):
        with pytest.raises(ValueError, match="which of them is the accelerator is not sure"):
            recognise.RecognisedLoras(tuple(others)).the_accelerator()


@keeps_titles
def test_a_published_title_that_two_loras_share_tells_neither(styles, accelerated_by_core):
    # The style has no title of its own in its file, and so leaves the accelerator's.
    with pytest.raises(ValueError, match="which of them is the accelerator is not sure"):
        recognise.recognise_carried(
            look_at(core_loaded(accelerated_by_core, styles[0])), known_accelerators()
        )


def test_a_style_beside_an_accelerator_of_ours_changes_nothing(sdxl, models):
    write_lora(
        models / "loras" / "sdxl_lightning_4step_lora.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    write_lora(models / "loras" / "style.safetensors", sdxl, "kohya-diffusers", only="attn2")
    model, _ = accelerator.attach_accelerator(
        core_loaded(sdxl, "style.safetensors"), "sdxl_lightning_4step_lora.safetensors", "auto", 1.0
    )
    after = core_loaded(model, "style.safetensors")
    assert run(after, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))[1][
        "accelerators"
    ] == ["sdxl-lightning-4step-lora"]


@keeps_titles
def test_another_strength_than_the_release_is_said(models):
    ltx = small_patcher("LTXAV")
    title = {"title": CATALOG["ltx23-22b-distilled-lora"].files[0].name}
    write_lora(models / "loras" / "e1.safetensors", ltx, "native", only="attn", metadata=title)
    _, data = run(core_loaded(ltx, "e1.safetensors", 1.0), text_conditioning("LTXAV"), latent())
    assert data["accelerators"] == ["ltx23-22b-distilled-lora"]
    assert any(
        "attached at strength 1; ltx23-22b-distilled-lora was released at 0.5" in note
        for note in data["notes"]
    )


def latent():
    from more_models import audio_video_latent

    return audio_video_latent("LTXAV")


@keeps_titles
def test_a_recognised_lora_for_another_base_is_refused(models, unets):
    write_lora(
        models / "loras" / "f1.safetensors",
        unets["ssd1b"],
        "kohya-diffusers",
        only="attn",
        metadata={"title": "lcm-lora-ssd-1b"},
    )
    model = core_loaded(unets["ssd1b"], "f1.safetensors")
    assert run(model, small_models.conditioning(unets["ssd1b"]), torch.zeros(1, 4, 8, 8))[1][
        "accelerators"
    ] == ["lcm-lora-ssd-1b"]


def test_a_model_with_nothing_on_it_is_refused_as_before(sdxl):
    with pytest.raises(PlanError, match="No accelerator is attached to model"):
        run(sdxl, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))


# ---------------------------------------------------------------- one accelerator on a model, whoev

LIGHTNING = "sdxl_lightning_4step_lora"
SECOND = (
    "already carries sdxl-lightning-4step-lora, which another loader put on it.*Two accelerators on"
    " one model spoil each other"
)


@pytest.fixture(scope="module")
def accelerated_by_core(sdxl, models):
    """SDXL with a Lightning LoRA of core's loader, that its title tells."""
    write_lora(
        models / "loras" / "g1.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
        metadata={"title": LIGHTNING},
    )
    return core_loaded(sdxl, "g1.safetensors")


@pytest.fixture(scope="module")
def styles(sdxl, models):
    """Three LoRAs of a user's own, one with a title."""
    for number, title in ((1, {}), (2, {"title": "my style"}), (3, {})):
        file = models / "loras" / f"style{number}.safetensors"
        write_lora(
            file,
            sdxl,
            "kohya-diffusers",
            only="attn2",
            metadata=title,
            seed=number,
            differences=number == 3,
        )
    return [f"style{number}.safetensors" for number in (1, 2, 3)]


def styled(model, styles):
    for name in styles:
        model = core_loaded(model, name)
    return model


def as_sdxl_turbo(model):
    named = model.clone()
    named.cached_patcher_init = (None, ("/models/checkpoints/sd_xl_turbo_1.0_fp16.safetensors", {}))
    return named


@keeps_titles
def test_ours_does_not_go_on_top_of_cores(accelerated_by_core, sdxl, models):
    write_lora(
        models / "loras" / "Hyper-SDXL-8steps-lora.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    with pytest.raises(ValueError, match=f"{SECOND}"):
        accelerator.attach_accelerator(
            accelerated_by_core, "Hyper-SDXL-8steps-lora.safetensors", "auto", 1.0
        )


@keeps_titles
def test_cores_does_not_go_on_top_of_ours(sdxl, accelerated_by_core, models):
    write_lora(
        models / "loras" / "Hyper-SDXL-8steps-lora.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    ours, _ = accelerator.attach_accelerator(
        sdxl, "Hyper-SDXL-8steps-lora.safetensors", "auto", 1.0
    )
    both = core_loaded(ours, "g1.safetensors")
    with pytest.raises(ValueError, match=f"{SECOND}"):
        run(both, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=f"{SECOND}"):
        sampler.FewStepSchedule.execute(both, 0, 1.0)


@keeps_titles
def test_cores_does_not_go_on_a_distilled_model(accelerated_by_core):
    turbo = as_sdxl_turbo(accelerated_by_core)
    with pytest.raises(ValueError, match=f"{SECOND}"):
        accelerator.attach_distilled(turbo, "auto")
    with pytest.raises(ValueError, match=f"{SECOND}"):
        run(turbo, small_models.conditioning(turbo), torch.zeros(1, 4, 8, 8))


@keeps_titles
def test_a_style_beside_it_does_not_hide_cores_accelerator(accelerated_by_core, styles):
    turbo = as_sdxl_turbo(styled(accelerated_by_core, styles[:1]))
    with pytest.raises(ValueError, match=f"{SECOND}"):
        accelerator.attach_distilled(turbo, "auto")


@keeps_titles
def test_a_lora_made_for_a_distilled_model_is_no_second_accelerator(models):
    krea = small_patcher("Krea2")
    title = {"title": "krea2_turbo_4step_rank_64_lora"}
    write_lora(models / "loras" / "k1.safetensors", krea, "native", only="attn", metadata=title)
    turbo = core_loaded(krea, "k1.safetensors")
    turbo.cached_patcher_init = (
        None,
        ("/models/diffusion_models/krea2_turbo_fp8_scaled.safetensors", {}),
    )
    assert (
        recognise.recognise_carried(look_at(turbo), known_accelerators())[0].record.id
        == "krea2-turbo-4step-lora"
    )
    write_lora(
        models / "loras" / "k2.safetensors",
        krea,
        "native",
        only="attn",
        metadata={"title": "krea2_turbo_lora_rank_64_bf16"},
    )
    twice = core_loaded(krea, "k2.safetensors")
    twice.cached_patcher_init = turbo.cached_patcher_init
    with pytest.raises(
        ValueError, match="carries krea2-turbo-lora.*krea2-turbo is an accelerator itself"
    ):
        recognise.recognise_carried(look_at(twice), known_accelerators())


@keeps_titles
def test_a_lora_made_for_the_model_that_the_loader_distilled_belongs_into_the_loader(models):
    krea = small_patcher("Krea2")
    title = {"title": "krea2_turbo_4step_rank_64_lora"}
    write_lora(models / "loras" / "k3.safetensors", krea, "native", only="attn", metadata=title)
    krea.cached_patcher_init = (
        None,
        ("/models/diffusion_models/krea2_turbo_fp8_scaled.safetensors", {}),
    )
    turbo, _ = accelerator.attach_distilled(krea, "auto")
    # The LoRA has its own steps, which the record of the model does not hold.
    with pytest.raises(
        ValueError,
        match="It is made to go on krea2-turbo and has settings of its own: choose its file in",
    ):
        recognise.accelerated(look_at(core_loaded(turbo, "k3.safetensors")))
    with pytest.raises(ValueError, match="It is made to go on krea2-turbo"):
        accelerator.attach_distilled(core_loaded(krea, "k3.safetensors"), "auto")
    ours, _ = accelerator.attach_accelerator(krea, "k3.safetensors", "auto", 1.0)
    assert accelerator_of(ours).id == "krea2-turbo-4step-lora", "as the message says"


# The words of a release, in the title of a style.
WORDY_TITLES = [
    ("sdxl", "hyper detail 8 steps", "hyper-sdxl-8step-lora"),
    ("sdxl", "lcm portrait", "lcm-lora-sdxl"),
    ("sd15", "lcm portrait", "lcm-lora-sd15"),
]


@keeps_titles
@pytest.mark.parametrize(("architecture", "title", "id"), WORDY_TITLES)
def test_words_in_a_title_are_no_second_accelerator(unets, models, architecture, title, id):
    base = unets[architecture]
    file = "lcm-lora-sdv1-5.safetensors" if architecture == "sd15" else f"{LIGHTNING}.safetensors"
    write_lora(models / "loras" / file, base, "kohya-diffusers", only="attn1|attn2|middle")
    write_lora(
        models / "loras" / "n1.safetensors",
        base,
        "kohya-diffusers",
        only="attn2",
        metadata={"ss_output_name": title},
    )
    styled_base = core_loaded(base, "n1.safetensors")
    found = recognise.recognise_patches(
        foreign_loras(styled_base)[0], known_accelerators()
    ).recognition
    assert [record.id for record in found.suspected] == [id], "the words do say so"
    assert found.record is None, "and nothing in it bears them out"
    ours, report = accelerator.attach_accelerator(styled_base, file, "auto", 1.0)
    assert any(f"If it is {id}" in note and title in note for note in report.notes)
    models = recognise.accelerated(look_at(core_loaded(ours, "n1.safetensors")))
    assert models.records[0] is accelerator_of(ours)


@keeps_titles
def test_a_style_titled_after_the_distilled_model_it_is_for_is_let_pass(models):
    krea = small_patcher("Krea2")
    write_lora(
        models / "loras" / "n2.safetensors",
        krea,
        "native",
        only="attn",
        metadata={"ss_output_name": "krea2 turbo portrait lora"},
    )
    krea.cached_patcher_init = (
        None,
        ("/models/diffusion_models/krea2_turbo_fp8_scaled.safetensors", {}),
    )
    turbo = core_loaded(krea, "n2.safetensors")
    assert (
        recognise.recognise_carried(look_at(turbo), known_accelerators())[0].record.id
        == "krea2-turbo"
    )
    _, report = accelerator.attach_distilled(turbo, "auto")
    assert any("If it is krea2-turbo-lora" in note for note in report.notes)


def test_styles_of_any_number_stay_allowed_beside_an_accelerator(sdxl, styles, models):
    write_lora(
        models / "loras" / f"{LIGHTNING}.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    under, _ = accelerator.attach_accelerator(
        styled(sdxl, styles), f"{LIGHTNING}.safetensors", "auto", 1.0
    )
    _, data = run(styled(under, styles), small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))
    assert data["accelerators"] == ["sdxl-lightning-4step-lora"]
    turbo, _ = accelerator.attach_distilled(as_sdxl_turbo(styled(sdxl, styles)), "auto")
    assert accelerator_of(turbo).id == "sdxl-turbo"
    _, data = run(
        as_sdxl_turbo(styled(sdxl, styles)),
        small_models.conditioning(sdxl),
        torch.zeros(1, 4, 8, 8),
    )
    assert data["accelerators"] == ["sdxl-turbo"]


def test_loras_are_told_apart_and_our_own_is_none_of_them(sdxl, styles, models):
    write_lora(
        models / "loras" / f"{LIGHTNING}.safetensors",
        sdxl,
        "kohya-diffusers",
        rank=8,
        only="attn1|attn2|middle",
        differences=True,
    )
    ours, _ = accelerator.attach_accelerator(sdxl, f"{LIGHTNING}.safetensors", "auto", 1.0)
    assert foreign_loras(ours) == () and foreign_loras(sdxl) == ()
    found = foreign_loras(styled(ours.clone(), styles))
    assert len(found) == 3 and {lora.ranks for lora in found} == {(4,)}, "the one of rank 8 is ours"
    assert [lora.has_differences for lora in found] == [False, False, True]


# ---------------------------------------------------------------- an alpha that core did not see


@keeps_titles
@pytest.mark.parametrize("alpha", [None, 8.0])
def test_an_alpha_that_the_release_lacks_is_not_the_rank(models, alpha):
    model = small_patcher("MiniMaxH3")
    title = {"title": CATALOG["minimax-h3-fl2v-8step-lora"].files[0].name}
    write_lora(
        models / "loras" / "h1.safetensors",
        model,
        "native",
        rank=16,
        alpha=alpha,
        only="attn",
        metadata=title,
    )
    by_core = core_loaded(model, "h1.safetensors")
    if alpha is None:
        with pytest.raises(
            ValueError,
            match="minimax-h3-fl2v-8step-lora, whose file has no alpha .*is 8. Load it with",
        ):
            recognise.recognise_carried(look_at(by_core), known_accelerators())
    else:
        assert (
            recognise.recognise_carried(look_at(by_core), known_accelerators())[0].record.id
            == "minimax-h3-fl2v-8step-lora"
        )


@keeps_titles
def test_an_alpha_in_the_metadata_is_not_the_rank(sdxl, models):
    for name, alpha in (("i1.safetensors", 1.0), ("i2.safetensors", 4.0)):
        write_lora(
            models / "loras" / name,
            sdxl,
            "kohya-diffusers",
            rank=4,
            alpha=alpha,
            alpha_in="metadata",
            only="attn1|attn2|middle",
            metadata={"title": LIGHTNING},
        )
    with pytest.raises(
        ValueError, match="took its rank for alpha, which is 1. Load it with the Accelerator Loader"
    ):
        recognise.recognise_carried(
            look_at(core_loaded(sdxl, "i1.safetensors")), known_accelerators()
        )
    # An alpha that is the rank changes nothing.
    assert (
        recognise.recognise_carried(
            look_at(core_loaded(sdxl, "i2.safetensors")), known_accelerators()
        )[0].record.id
        == "sdxl-lightning-4step-lora"
    )


def test_of_several_loras_the_metadata_of_the_last_is_nobodys_alpha():
    ours, style = (
        replace(boogu_lora(*lora, ""), metadata={"lora_alpha": "1"})
        for lora in ((128, True), (4, False))
    )
    known = known_accelerators()
    for foreign in ((ours, style), (ours,)):
        loaded = SimpleNamespace(upstream=(), foreign_loras=foreign)
        chosen = recognise.recognise_loras(loaded, known).the_accelerator()
        assert chosen.record.id == "boogu-turbo-lora"
        if len(foreign) > 1:
            recognise.refuse_unscaled(chosen)
        else:
            with pytest.raises(ValueError, match="took its rank for alpha, which is 1"):
                recognise.refuse_unscaled(chosen)


def test_a_style_that_the_graph_names_never_stops_a_run(sdxl, models):
    write_lora(
        models / "loras" / "odd_style.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn2",
        metadata={"lora_alpha": "many"},
    )
    file = SimpleNamespace(
        name="odd_style.safetensors", is_lora=True, class_type="Other", is_certain=True
    )
    loaded = SimpleNamespace(upstream=(file,))
    assert list(recognise.recognise_named(loaded, known_accelerators())) == []


def test_a_pair_as_large_as_its_layer_says_nothing_of_the_rank():
    """As in fingerprint.py, by which the two are compared."""

    class Model:
        def __init__(self, *shapes):
            keys = set()
            self.patches = {
                f"diffusion_model.{at}.weight": [
                    (1.0, LoRAAdapter(keys, (torch.empty(up), torch.empty(down), *[None] * 4)))
                ]
                for at, (up, down) in enumerate(shapes)
            }

        def get_attachment(self, _):
            return None

    plain, capped = ((64, 8), (8, 64)), ((64, 4), (4, 4))
    by_kernel = ((64, 6), (6, 2, 3, 3))
    assert foreign_loras(Model(plain, capped))[0].ranks == (8,)
    assert foreign_loras(Model(plain, by_kernel))[0].ranks == (6, 8)
    assert foreign_loras(Model(capped))[0].ranks == (4,)


# ---------------------------------------------------------------- declared by the user

DECLARED = {
    "file": "mine.safetensors",
    "base": "SDXL",
    "steps": [3],
    "schedule": {"type": "trailing"},
    "sampler": "euler",
    "strength": 0.5,
    "licence": {"name": "my own", "commercial": False},
}


@pytest.fixture
def declare(models):
    """Write a declaration; gone after the test."""
    written = []

    def write(text, name="my-own.fewstep.json", folder="loras"):
        path = models / folder / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text if isinstance(text, str) else json.dumps(text), encoding="utf-8")
        written.append(path)
        return path

    yield write
    for path in written:
        path.unlink(missing_ok=True)


def test_a_declaration_beside_the_lora_is_an_accelerator_like_the_others(sdxl, models, declare):
    declare(DECLARED)
    assert "my-own" in declared_ids()
    options = next(
        i for i in accelerator.FewStepAccelerator.define_schema().inputs if i.id == "accelerator"
    ).options
    assert "my-own" in options and "lcm-lora-sdxl" in options
    write_lora(
        models / "loras" / "mine.safetensors", sdxl, "kohya-diffusers", only="attn1|attn2|middle"
    )
    model, report = accelerator.attach_accelerator(sdxl, "mine.safetensors", "auto", 1.0)
    assert accelerator_of(model).id == "my-own" and report.data["strength"] == 0.5
    assert "my own (NON-COMMERCIAL)" in report.markdown
    assert (
        run(model, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))[1]["evaluations"] == 3
    )


def test_a_declaration_goes_before_the_catalogue_for_its_own_file(sdxl, models, declare):
    name = "sdxl_lightning_4step_lora.safetensors"
    declare({**DECLARED, "file": name}, "three.fewstep.json")
    write_lora(models / "loras" / name, sdxl, "kohya-diffusers", only="attn1|attn2|middle")
    assert accelerator_of(accelerator.attach_accelerator(sdxl, name, "auto", 1.0)[0]).id == "three"
    assert (
        accelerator_of(
            accelerator.attach_accelerator(sdxl, name, "sdxl-lightning-4step-lora", 1.0)[0]
        ).id
        == "sdxl-lightning-4step-lora"
    )


@pytest.mark.parametrize(
    ("file", "lies", "elsewhere"),
    [
        ("pytorch_lora_weights.safetensors", "pytorch_lora_weights.safetensors", None),
        ("mine/model.safetensors", "mine/model.safetensors", "other/model.safetensors"),
    ],
)
def test_a_declaration_for_a_generic_file_name_is_recognised(
    sdxl, models, declare, file, lies, elsewhere
):
    declare({**DECLARED, "file": file})
    for name in filter(None, (lies, elsewhere)):
        path = models / "loras" / name
        path.parent.mkdir(exist_ok=True)
        write_lora(path, sdxl, "kohya-diffusers", only="attn1|attn2|middle")
    model, report = accelerator.attach_accelerator(sdxl, lies, "auto", 1.0)
    assert accelerator_of(model).id == "my-own"
    assert "declared for" in report.markdown
    if elsewhere is not None:
        with pytest.raises(ValueError, match="cannot be identified by its contents"):
            accelerator.attach_accelerator(sdxl, elsewhere, "auto", 1.0)


def test_declared_experts_that_do_not_name_each_other_are_told(declare):
    wan = {
        **DECLARED,
        "base": "wan_t2v",
        "schedule": {"type": "shifted", "shift": 5},
        "boundary": 0.875,
    }
    declare({**wan, "expert": "high", "partner": "my-low"}, "my-high.fewstep.json")
    (problem,) = known_accelerators().problems
    assert "my-high.fewstep.json: its partner is my-low, and no declaration of that name" in problem
    declare({**wan, "expert": "low", "partner": "my-high"}, "my-low.fewstep.json")
    known = known_accelerators()
    assert known.problems == () and known.records["my-high"].partner == "my-low"


def test_a_declaration_for_another_base_than_its_files_is_refused(unets, models, declare):
    declare({**DECLARED, "file": "sd15_thing.safetensors"})
    write_lora(
        models / "loras" / "sd15_thing.safetensors", unets["sd15"], "kohya-diffusers", only="attn"
    )
    with pytest.raises(ValueError, match="declared as my-own for SDXL.* those of SD 1.5"):
        accelerator.attach_accelerator(unets["sd15"], "sd15_thing.safetensors", "auto", 1.0)
    with pytest.raises(ValueError, match="is a LoRA for SD 1.5.*my-own is one for SDXL"):
        accelerator.attach_accelerator(unets["sdxl"], "sd15_thing.safetensors", "my-own", 1.0)


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("{", "broken.fewstep.json", "broken.fewstep.json: it is not JSON"),
        ({**DECLARED, "sampler": "magic"}, "broken.fewstep.json", "sampler must be one of"),
        (DECLARED, "LCM-LoRA SDXL.fewstep.json", "taken"),
    ],
)
def test_a_wrong_declaration_harms_nobody_and_is_named_when_asked_for(
    sdxl, models, declare, text, name, message
):
    declare(text, name)
    known = known_accelerators()
    assert (
        set(CATALOG) <= set(known.records)
        and len(known.problems) == 1
        and message in known.problems[0]
    )
    write_lora(
        models / "loras" / "sdxl_lightning_4step_lora.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
    )
    _, report = accelerator.attach_accelerator(
        sdxl, "sdxl_lightning_4step_lora.safetensors", "auto", 1.0
    )
    assert any(message in note for note in report.notes)
    if name.startswith("broken"):
        with pytest.raises(ValueError, match=message):
            accelerator.attach_accelerator(
                sdxl, "sdxl_lightning_4step_lora.safetensors", "broken", 1.0
            )


def test_a_declaration_that_changes_is_read_again(declare):
    path = declare(DECLARED)
    before = accelerator.FewStepAccelerator.fingerprint_inputs("none")
    assert known_accelerators().records["my-own"].steps == (3,)
    path.write_text(json.dumps({**DECLARED, "steps": [5, 6, 7]}), encoding="utf-8")
    assert known_accelerators().records["my-own"].steps == (5, 6, 7)
    assert accelerator.FewStepAccelerator.fingerprint_inputs("none") != before


def test_a_declared_full_model_is_recognised(models, declare):
    schedule = {"type": "shifted", "shift": 7}
    settings = {
        "file": "mine_fast.safetensors",
        "base": "wan_t2v",
        "steps": 2,
        "schedule": schedule,
        "sampler": "euler",
    }
    declare({**settings, "kind": "full model"})
    model = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "mine_fast.safetensors")
    )
    attached, _ = accelerator.attach_distilled(model, "auto")
    assert (
        accelerator_of(attached).id == "my-own"
        and attached.get_model_object("model_sampling").shift == 7.0
    )


@keeps_titles
def test_a_declared_accelerator_of_cores_loader_is_recognised(sdxl, models, declare):
    declare(DECLARED)
    write_lora(
        models / "loras" / "mine.safetensors",
        sdxl,
        "kohya-diffusers",
        only="attn1|attn2|middle",
        metadata={"title": "mine"},
    )
    model = core_loaded(sdxl, "mine.safetensors", 0.5)
    _, data = run(model, small_models.conditioning(sdxl), torch.zeros(1, 4, 8, 8))
    assert data["accelerators"] == ["my-own"] and data["steps"] == 3
