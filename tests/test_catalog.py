"""The whole catalogue: ids that never change, laws over every record, figures equal to what was
published.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from comfyui_fewstep.loras import schedules
from comfyui_fewstep.loras.accelerator import Expert, Kind, Parameterization, Solver
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG, FAMILIES, index
from comfyui_fewstep.loras.catalog.left_out import LEFT_OUT, LOOK_ALIKES
from comfyui_fewstep.loras.schedules import (
    Flux2Flow,
    FluxFlow,
    LiteralSigmas,
    ShiftedFlow,
    TwoClockFlow,
)
from comfyui_fewstep.samplers.plan import SHARED_BY_EXPERTS, PlanError, make_expert_plan, make_plan
from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu
from diffusers.pipelines.ltx.pipeline_ltx import calculate_shift

DATA = Path(__file__).parent / "data"
GOLDEN_IDS = (DATA / "accelerator_ids.txt").read_text(encoding="utf-8").split()
PUBLISHED = json.loads((DATA / "published_settings.json").read_text(encoding="utf-8"))
# 1024 x 1024 pixels in patches of 16 x 16: the size the published lists of size-dependent schedules
# are for.
TOKENS = 4096

sd_sigma = functools.cache(schedules.scaled_linear_sigma)
ALL = [pytest.param(record, id=record.id) for record in CATALOG.values()]


def sigma_of(record):
    """The sigma of a training timestep of a model of the record's base, a flow's at shift 1."""
    return sd_sigma if record.bases[0].has_timesteps else lambda timestep: timestep / 1000


def sigmas_of(record, steps):
    return record.schedule.sigmas(steps, 1.0, sigma_of(record), TOKENS)


def plan_of(record, steps, denoise=1.0):
    """The plan of a record, with itself as the other expert's where it is one of two."""
    if record.expert is None:
        return make_plan(record, steps, denoise, sigma_of(record), TOKENS)
    experts = [dataclasses.replace(record, expert=expert) for expert in type(record.expert)]
    return make_expert_plan(*experts, steps, denoise, sd_sigma)


# ---------------------------------------------------------------- ids


def test_no_id_was_removed_or_renamed():
    # Saved graphs and API callers hold ids for ever. A new record adds its line to the golden list;
    # no line ever leaves it.
    assert [id for id in GOLDEN_IDS if id not in CATALOG] == []


def test_every_id_is_on_the_golden_list():
    assert [id for id in CATALOG if id not in GOLDEN_IDS] == []
    assert len(GOLDEN_IDS) == len(set(GOLDEN_IDS))


def test_an_id_used_twice_fails_at_import():
    record = CATALOG["lcm-lora-sd15"]
    with pytest.raises(ValueError, match="used by two records"):
        index([record, record])


def test_a_family_is_in_the_index_once():
    assert len(FAMILIES) == len(set(FAMILIES))


# ---------------------------------------------------------------- laws


@pytest.mark.parametrize("record", ALL)
def test_every_record_plans_at_each_of_its_step_counts(record):
    for steps in record.steps:
        plan = plan_of(record, steps)
        assert plan.steps == steps and len(plan.sigmas) == steps + 1
        assert all(now > then for now, then in zip(plan.sigmas, plan.sigmas[1:], strict=False)), (
            plan.sigmas
        )
        assert plan.sigmas[-1] == 0.0 and plan.sigmas[0] <= (
            15.0 if record.bases[0].has_timesteps else 1.0
        )
        assert plan.evaluations == steps * (2 if record.is_guided else 1)
        assert plan.solver is record.solver and plan.cfg == record.cfg


@pytest.mark.parametrize("record", ALL)
def test_every_record_says_where_it_is_from_and_under_which_terms(record):
    assert all(source.strip() for source in record.sources)
    assert record.files and all(file.path or file.repo for file in record.files)
    assert record.licence.name and str(record.licence)
    assert all(file.url.startswith("https://huggingface.co/") for file in record.files if file.repo)
    folder = {
        Kind.LORA: {"loras"},
        Kind.MOTION_MODULE: {"animatediff_models"},
        Kind.MODEL: {"diffusion_models", "checkpoints"},
    }
    assert {file.folder for file in record.files} <= folder[record.kind]


@pytest.mark.parametrize("record", ALL)
def test_denoise_keeps_the_last_of_its_steps_or_is_refused(record):
    steps = record.default_steps
    try:
        plan = plan_of(record, steps, denoise=0.5)
    except PlanError as error:
        assert "denoise" in str(error)
        return
    assert 0 < plan.steps <= steps
    assert plan.sigmas[0] < plan_of(record, steps).sigmas[0]
    assert not plan.starts_on_noise


def test_what_is_not_confirmed_is_said():
    # No published LoRA was read here: every record says so, but those whose headers are known.
    for record in CATALOG.values():
        if record.kind is Kind.LORA and record.files[0].repo:
            are_known = all(file.make is not None and file.make.pairs for file in record.files)
            assert record.unverified or record.only_by_choice or are_known, record.id


def test_non_commercial_and_limited_licences_say_so():
    def terms(id):
        return str(CATALOG[id].licence)

    for id in (
        "dmd2-sdxl-4step-lora",
        "causvid-14b-8step-lora",
        "fusionx-wan21-t2v-lora",
        "sdxl-turbo",
        "sd-turbo",
        "krea-realtime-14b",
        "hyper-flux-8step-lora",
        "flux-turbo-alpha-lora",
        "flux2-klein-9b",
        "flux2-dev-turbo-lora",
    ):
        assert "NON-COMMERCIAL" in terms(id), id
    for id in ("hunyuan15-480p-i2v-step-distilled", "accvideo-wan21-t2v-lora"):
        assert "not granted in the EU, the UK and South Korea" in terms(id)
    assert terms("pcm-sd15-4step-smallcfg-lora").startswith("unknown (commercial use unknown")


def test_guidance_is_kept_only_where_it_was_distilled_so():
    guided = {record.id: record.cfg for record in CATALOG.values() if record.is_guided}
    assert set(guided.values()) == {5.0, 3.0, 1.2}
    assert all(any(part in id for part in ("-cfg", "normalcfg")) for id in guided), guided


def test_experts_come_in_pairs_or_say_that_they_do_not():
    for record in CATALOG.values():
        if record.expert is not None and record.id.endswith("-high"):
            partner = CATALOG.get(record.id[: -len("-high")] + "-low")
            assert partner is not None or record.id == "wan22-t2v-lightning-model-high"


def test_partners_name_each_other():
    pairs = [record for record in CATALOG.values() if record.partner is not None]
    assert len(pairs) == 22
    for record in pairs:
        partner = CATALOG[record.partner]
        assert partner.partner == record.id and {record.expert, partner.expert} == set(Expert)
        for name in SHARED_BY_EXPERTS:
            assert getattr(record, name) == getattr(partner, name)
    alone = [record.id for record in CATALOG.values() if record.expert and not record.partner]
    assert alone == ["wan22-t2v-lightning-model-high"]


@pytest.mark.parametrize("partner", ["no-such-id", "wan22-i2v-lightning-low", "lcm-lora-sdxl"])
def test_a_partner_that_does_not_name_its_own_fails_at_import(partner):
    record = dataclasses.replace(CATALOG["wan22-t2v-lightning-high"], partner=partner)
    others = [other for other in CATALOG.values() if other.id != record.id]
    with pytest.raises(ValueError, match=f"names '{partner}' as its partner"):
        index([record, *others])
    with pytest.raises(ValueError, match="only an expert has a partner"):
        dataclasses.replace(CATALOG["lcm-lora-sdxl"], partner=partner)


def test_any_high_noise_lightning_meets_any_low_noise_one_of_its_task():
    high = [
        record
        for record in CATALOG.values()
        if record.id.startswith("wan22-i2v") and record.id.endswith("-high")
    ]
    low = [
        record
        for record in CATALOG.values()
        if record.id.startswith("wan22-i2v") and record.id.endswith("-low")
    ]
    assert len(high) == 4 and len(low) == 4
    for one in high:
        for other in low:
            assert make_expert_plan(one, other, 4, 1.0, sd_sigma).switch_step == 2


def test_the_wan21_recipe_switches_in_the_middle_of_six_steps():
    high, low = CATALOG["wan22-t2v-wan21-lora-high"], CATALOG["wan22-t2v-wan21-lora-low"]
    plan = make_expert_plan(high, low, 0, 1.0, sd_sigma)
    # 5t / (1 + 4t) at t = 1, 5/6, 4/6, ...: 1, .9615, .9091 are at or above .875, .8333 is not.
    assert plan.steps == 6 and plan.switch_step == 3
    assert (high.strength, low.strength) == (3.0, 1.0)
    assert high.only_by_choice and low.only_by_choice


def test_experts_without_a_shared_step_count_are_refused():
    high = dataclasses.replace(CATALOG["wan22-t2v-lightning-high"], steps=(4,), default_steps=4)
    low = dataclasses.replace(CATALOG["wan22-t2v-lightning-low"], steps=(8,), default_steps=8)
    with pytest.raises(PlanError, match="share no step count"):
        make_expert_plan(high, low, 0, 1.0, sd_sigma)


@pytest.mark.parametrize(
    ("change", "law"),
    [
        ({"schedule": ShiftedFlow(3.0)}, "goes? with Stable Diffusion|go with Stable Diffusion"),
        ({"bases": (Base.FLUX,)}, "go with Stable Diffusion"),
        ({"schedule": LiteralSigmas(((1.0, 0.5),))}, "every step count"),
        ({"schedule": LiteralSigmas(((0.5, 0.9, 0.4, 0.2),))}, "fall"),
        (
            {"schedule": LiteralSigmas(((14.6, 5.0, 2.0, 1.0),)), "bases": (Base.WAN_T2V,)},
            "a sigma of a flow lies in 0..1",
        ),
        ({"solver": Solver.TCD, "gamma": {4: 0.3}}, "grid of a consistency model"),
        ({"noise_clip": 2.5}, "clipped by LCM"),
        ({"missing_alpha": 0.0}, "missing_alpha"),
        (
            {
                "parameterization": Parameterization.X0,
                "bases": (Base.FLUX,),
                "schedule": ShiftedFlow(1.0),
            },
            "Stable Diffusion",
        ),
    ],
)
def test_a_record_that_breaks_a_law_does_not_exist(change, law):
    with pytest.raises(ValueError, match=law):
        dataclasses.replace(CATALOG["sdxl-lightning-4step-lora"], **change)


def test_what_is_left_out_is_left_out_for_a_reason():
    names = {file.name for record in CATALOG.values() for file in record.files}
    assert all(reason for reason in LEFT_OUT.values())
    assert not set(LEFT_OUT) & names
    assert all(other.reason and other.bases and other.id not in CATALOG for other in LOOK_ALIKES)


# ---------------------------------------------------------------- equal to what was published

# Where the catalogue differs from the list of published settings on purpose: id -> settings, and
# why.
DEVIATIONS = {
    "sd35-large-turbo": ("cfg",),  # 1.2 is the ComfyUI example's: sd35-large-turbo-cfg has it
    # An extract of the 9-step model, run at 8 by everybody; shift 7 to 8, of which the official
    # templates have 8.
    "causvid-14b-8step-lora": ("steps", "shift"),
    "causvid-1-3b-8step-lora": ("steps",),  # an extract of the 3-step model, run at 8
    "fasthunyuan-6step-lora": (
        "default_steps",
    ),  # 8 is recommended, 6 is what it was distilled for
    "ltxv-13b-098-distilled": ("steps",),  # the second pass's three steps are a list of their own
    "ltxv-2b-098-distilled": ("steps",),
    "minimax-h3-fl2v-4step-v0-1-lora": (
        "strength",
    ),  # 0.0625 is 8/128: written as the alpha its file lacks
    "causvid-14b-causal": ("licence",),  # CausVid's own, which it derives from
    "self-forcing-dmd": (
        "licence",
    ),  # Apache-2.0 is the code's; the card of the weights says CC BY-NC-SA 4.0
    "qwen-image-distill-full-15step": ("shift",),  # trained shift not published: the template's 3.1
    "ltxv-2b-096-distilled": (
        "samplers",
    ),  # stochastic_sampling of its config, which re-noises: lcm and not euler
    "sd-turbo": ("unverified",),  # of how another program sorts it, which no record holds
    "causal-forcing-plus-framewise-1step": ("unverified",),  # of the list of two steps
}


def published(name):
    return [
        pytest.param(row, CATALOG[id], id=f"{id}: {row['file']}")
        for row in PUBLISHED
        if name in row
        for id in row["records"]
        if name not in DEVIATIONS.get(id, ())
    ]


def test_every_published_file_is_in_the_catalogue_or_left_out_for_a_reason():
    assert len(PUBLISHED) == 295
    missing = [row["file"] for row in PUBLISHED if not row["records"]]
    reasons = {*LEFT_OUT, "tencent/HunyuanVideo-1.5/"}  # the cfg_distilled model: a look-alike
    assert [
        file
        for file in missing
        if not any(file.endswith(reason) for reason in reasons) and file != "/"
    ] == []
    assert missing.count("/") == 1, "FastVideo A14B, of which neither repository nor file is known"


def test_every_published_file_is_one_of_the_records_it_is_mapped_to():
    diffusers_folder = (  # of which no one file is known
        "tencent/HunyuanVideo-1.5/transformer/720p_sr_distilled (diffusers folder)"
    )
    astray = [
        (row["file"], id)
        for row in PUBLISHED
        for id in row["records"]
        if row["file"] not in {f"{file.repo}/{file.path}" for file in CATALOG[id].files}
    ]
    assert astray == [(diffusers_folder, "hunyuan15-720p-sr-6step")]


MODEL_FILE = re.compile(r"[\w.-]+\.(?:safetensors|sft|ckpt|pt|pth|gguf)")
FEW_STEP_WORDS = re.compile(
    r"turbo|distill|lightning|lightx2v|schnell|_fast_|seedvr2_\d|stable_audio_3_medium\.|\d+[-_]?steps?",
    re.IGNORECASE,
)
# Made for a few-step model, and none themselves.
NO_ACCELERATOR = re.compile(r"controlnet|style|embeddings_connector", re.IGNORECASE)


def test_every_few_step_model_of_the_official_templates_is_known():
    # ComfyUI requires both: a Python that has the one and not the other is a broken install, no
    # reason to skip.
    if importlib.util.find_spec("comfyui_frontend_package") is None:
        pytest.skip("this is not a ComfyUI's Python")
    package = importlib.util.find_spec("comfyui_workflow_templates")
    assert package is not None, "ComfyUI requires comfyui-workflow-templates"
    folders = Path(package.origin).parent.parent.glob("comfyui_workflow_templates*")
    texts = [
        path.read_text(encoding="utf-8")
        for folder in folders
        if folder.is_dir()
        for path in folder.rglob("*.json")
    ]
    named = {
        name for text in texts for name in MODEL_FILE.findall(text) if FEW_STEP_WORDS.search(name)
    }
    named = {name.lower() for name in named if not NO_ACCELERATOR.search(name)}
    assert len(named) > 30, "the templates were found and read"
    known = {file.name.lower() for record in CATALOG.values() for file in record.files} | {
        name.lower() for name in LEFT_OUT
    }
    assert sorted(named - known) == []


@pytest.mark.parametrize(
    "name", ["steps", "default_steps", "cfg", "strength", "embedded_guidance", "boundary"]
)
def test_steps_and_scales_are_the_published_ones(name):
    def ours(record):
        value = getattr(record, name)
        return list(value) if name == "steps" else value

    wrong = [case.id for case in published(name) if ours(case.values[1]) != case.values[0][name]]
    assert wrong == []


def test_samplers_are_the_published_ones():
    # Several where the sources differ or leave the choice; re-noising is lcm by the host's name.
    assert [
        case.id
        for case in published("samplers")
        if case.values[1].solver.value not in case.values[0]["samplers"]
    ] == []


def test_shifts_are_the_published_ones():
    def shift(record):
        return getattr(record.schedule, "shift", getattr(record.schedule, "video_shift", None))

    assert len(published("shift")) > 130
    assert [
        case.id for case in published("shift") if shift(case.values[1]) != case.values[0]["shift"]
    ] == []


def test_what_the_sources_could_not_confirm_is_said_in_the_record():
    assert [case.id for case in published("unverified") if not case.values[1].unverified] == []


def test_scales_that_the_files_do_not_carry():
    # github vllm-project/vllm-omni pull request 7062: alpha 8 of rank 128, a sixteenth of what
    # alpha = rank gives.
    h3 = CATALOG["minimax-h3-fl2v-4step-v0-1-lora"]
    assert (h3.missing_alpha, h3.files[0].rank, h3.strength) == (8.0, 128, 1.0)
    # Wan2GP's profiles: 0.8 to 1.0 at 4 steps, 0.5 to 0.7 at 8, 0.3 at 12.
    causvid = [CATALOG[f"causvid-14b-{steps}step-lora"] for steps in (4, 8, 12)]
    assert {record.steps[0]: record.strength for record in causvid} == {4: 0.9, 8: 0.7, 12: 0.3}


def test_experts_are_the_published_ones():
    assert [
        case.id
        for case in published("expert")
        if case.values[1].expert.value.split("-")[0] != case.values[0]["expert"]
    ] == []


def test_ranks_are_the_published_ones():
    def rank(row, record):
        return next(
            (file.rank for file in record.files if row["file"] == f"{file.repo}/{file.path}"), None
        )

    assert [
        case.id for case in published("rank") if rank(*case.values) != case.values[0]["rank"]
    ] == []


def test_licences_are_the_published_ones():
    def agree(row, record):
        stated, ours = row["licence"].lower(), record.licence.name.lower()
        return ours in stated or stated.split(" (")[0] in ours

    assert [case.id for case in published("licence") if not agree(*case.values)] == []


@pytest.mark.parametrize(("row", "record"), published("sigmas"))
def test_sigmas_are_the_published_list(row, record):
    # The lists were published to four places, some to five.
    assert sigmas_of(record, len(row["sigmas"]) - 1) == pytest.approx(row["sigmas"], abs=6e-5)


# ---------------------------------------------------------------- equal to their references


def test_sd_turbo_takes_the_first_of_the_hundredths():
    # SDTurboScheduler of the host; sigma steps 0, 100, 200, 300 of 1000 in the authors' demo.
    assert schedules.first_timesteps(CATALOG["sd-turbo"].schedule.timesteps, 4) == [
        999,
        899,
        799,
        699,
    ]
    assert schedules.first_timesteps(CATALOG["sd-turbo"].schedule.timesteps, 2, denoise=0.5) == [
        499,
        399,
    ]
    assert schedules.first_timesteps(CATALOG["sd-turbo"].schedule.timesteps, 4, denoise=0.2) == [
        199,
        99,
    ]
    assert sigmas_of(CATALOG["sd-turbo"], 4) == pytest.approx(
        [sd_sigma(t) for t in (999, 899, 799, 699)] + [0.0]
    )


@pytest.mark.parametrize(
    ("id", "timestep", "sigma"),
    [("hyper-sdxl-1step-unet", 800, 5.11103), ("dmd2-sdxl-1step", 399, 1.16058)],
)
def test_one_step_unets_start_where_they_were_trained_to(id, timestep, sigma):
    reference = EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    a = reference.alphas_cumprod[timestep].item()
    assert sigmas_of(CATALOG[id], 1) == pytest.approx([math.sqrt((1 - a) / a), 0.0], rel=1e-5)
    assert sigmas_of(CATALOG[id], 1)[0] == pytest.approx(sigma, abs=1e-5)
    assert make_plan(CATALOG[id], 1, 1.0, sd_sigma).starts_on_noise


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (768, 1344), (2048, 2048)])
@pytest.mark.parametrize("steps", [1, 4, 8, 50])
def test_flux2_sigmas_equal_diffusers(size, steps):
    tokens = size[0] * size[1] // 256
    mu = compute_empirical_mu(tokens, steps)
    reference = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    reference.set_timesteps(sigmas=np.linspace(1.0, 1.0 / steps, steps).tolist(), mu=mu)
    assert schedules.flux2_mu(tokens, steps) == pytest.approx(mu, rel=1e-6)
    assert Flux2Flow().sigmas(steps, 1.0, sd_sigma, tokens) == pytest.approx(
        reference.sigmas.tolist(), abs=1e-5
    )


@pytest.mark.parametrize("size", [(512, 512), (1024, 1024), (1440, 1488)])
def test_flux_sigmas_equal_diffusers(size):
    tokens = size[0] * size[1] // 256
    mu = calculate_shift(tokens, 256, 4096, 0.5, 1.15)
    reference = FlowMatchEulerDiscreteScheduler(use_dynamic_shifting=True)
    reference.set_timesteps(sigmas=np.linspace(1.0, 1.0 / 8, 8).tolist(), mu=mu)
    assert FluxFlow().sigmas(8, 1.0, sd_sigma, tokens) == pytest.approx(
        reference.sigmas.tolist(), abs=1e-5
    )


def test_ltx_sigmas_are_a_line_and_a_parabola():
    # Lightricks' linear-quadratic schedule with threshold 0.025, as diffusers' Mochi pipeline has
    # it too.
    from diffusers.pipelines.mochi.pipeline_mochi import linear_quadratic_schedule

    reference = [*linear_quadratic_schedule(8, 0.025), 0.0]
    assert sigmas_of(CATALOG["ltx2-19b-distilled"], 8) == pytest.approx(reference, abs=1e-5)
    refining = CATALOG["ltx2-19b-distilled"].schedule.sigmas(8, 0.375, sd_sigma)
    assert refining == pytest.approx([0.909375, 0.725, 0.421875, 0.0])


def test_rcm_sigmas_are_tangents():
    # With x = cos t · x0 + sin t · n, dividing by cos + sin gives a flow with sigma = tan t / (1 +
    # tan t).
    angles = [math.atan(80.0), 1.5, 1.4, 1.0]
    for steps in (1, 2, 3, 4):
        expected = [math.tan(t) / (1 + math.tan(t)) for t in angles[:steps]]
        assert sigmas_of(CATALOG["rcm-wan21-t2v-14b"], steps) == pytest.approx(
            [*expected, 0.0], abs=1e-5
        )
    assert sigmas_of(CATALOG["rcm-wan22-i2v-high"], 4)[0] == pytest.approx(200 / 201, abs=1e-6)
    # The published list of sigma_max 80, with its five places.
    assert sigmas_of(CATALOG["rcm-wan21-t2v-14b"], 4) == pytest.approx(
        [0.98765, 0.93378, 0.8529, 0.60898, 0.0], abs=1e-5
    )


@pytest.mark.parametrize(
    ("id", "sigmas"),
    [
        # ModelTC/LightX2V configs: denoising_step_list 999, 934, ... 74 of 1000.
        ("causvid-14b", [0.999, 0.934, 0.862, 0.756, 0.603, 0.41, 0.25, 0.14, 0.074, 0.0]),
        ("causvid-14b-causal", [0.999, 0.934, 0.862, 0.756, 0.603, 0.41, 0.25, 0.14, 0.074, 0.0]),
        # Lightricks/LTX-Video configs/ltxv-*-0.9.8-distilled.yaml, second_pass.
        ("ltxv-13b-098-distilled", [0.9094, 0.725, 0.4219, 0.0]),
        ("ltxv-2b-098-distilled", [0.9094, 0.725, 0.4219, 0.0]),
        # ComfyUI 0.30.0 comfy/supported_models.py, the comment of class PiD.
        *(
            (f"pid-{latents}-4step", [0.999, 0.866, 0.634, 0.342, 0.0])
            for latents in ("flux1", "flux2", "sd3")
        ),
    ],
)
def test_lists_that_no_row_of_the_published_settings_holds(id, sigmas):
    assert sigmas_of(CATALOG[id], len(sigmas) - 1) == sigmas


def test_two_clocks_walk_the_videos():
    ours = sigmas_of(CATALOG["minimax-h3-fl2v-4step-768p-lora"], 4)
    reference = FlowMatchEulerDiscreteScheduler(shift=6.0)
    reference.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    assert ours == pytest.approx(reference.sigmas.tolist(), abs=1e-5)
    assert CATALOG["minimax-h3-fl2v-4step-768p-lora"].schedule == TwoClockFlow(
        video_shift=6.0, audio_shift=3.0
    )


def test_the_first_block_has_a_list_of_its_own():
    for steps in (1, 2):
        causal = CATALOG[f"causal-forcing-plus-framewise-{steps}step"].causal
        first = causal.first_block.sigmas(causal.first_block_steps, 1.0, sd_sigma)
        assert first == pytest.approx([1.0, 0.9375, 2.5 / 3, 0.625, 0.0])
        assert causal.frames_per_block == 1
    # 1000 and 500 of its config, warped by shift 5.
    assert sigmas_of(CATALOG["causal-forcing-plus-framewise-2step"], 2) == pytest.approx(
        [1.0, 2.5 / 3, 0.0]
    )


def test_a_size_that_is_needed_and_missing_is_refused():
    with pytest.raises(PlanError, match="depends on the size of the picture: connect latent_image"):
        make_plan(CATALOG["flux2-klein-4b"], 4, 1.0, sd_sigma)


@pytest.mark.parametrize("kind", schedules.Schedule.__subclasses__())
def test_every_kind_of_schedule_is_in_use(kind):
    assert any(isinstance(record.schedule, kind) for record in CATALOG.values())
