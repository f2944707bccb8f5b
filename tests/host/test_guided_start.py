"""Guided Start on the real host: equal to core samplers chained by hand, what it costs, what it
refuses.
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import comfy.model_management
import comfy.samplers
import comfy.utils
import comfy_extras.nodes_custom_sampler as custom
import pytest
import torch
from comfy.patcher_extension import CallbacksMP
from comfy_api.v0_0_2 import io
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.schedules import shift_sigma
from comfyui_fewstep.nodes import accelerator
from comfyui_fewstep.nodes.budget import FewStepBudget
from comfyui_fewstep.nodes.guided_start import FewStepGuidedStart
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.guided_start import GuidedStart, with_guided_start
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.host.provenance import upstream_files
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.nodes.sampler import FewStepSampler, FewStepSchedule
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.samplers.budget.cost import BudgetError
from comfyui_fewstep.samplers.guided import GuidedSettings
from comfyui_fewstep.samplers.plan import PlanError
from thinning import some_of, thorough

import nodes as core
import small_models
from more_models import small_patcher, text_conditioning
from small_loras import write_lora

SEED = 3


@pytest.fixture(scope="module")
def bases(models) -> dict:
    """Undistilled models: sdxl and sd15, a Wan, and both experts of a Wan 2.2 pair."""
    wans = {
        name: small_models.load_model(
            small_models.write_wan(
                models / "diffusion_models" / f"guided_{name}.safetensors", seed=seed
            )
        )
        for seed, name in enumerate(("wan", "high", "low"), 1)
    }
    return {name: small_models.unet_patcher(name) for name in ("sdxl", "sd15")} | wans


def fast_of(bases, models, name: str, id: str):
    """A base with an accelerator's LoRA, by its loader."""
    layout = "native" if name in ("wan", "high", "low") else "kohya-diffusers"
    lora = f"guided_{id}.safetensors"
    write_lora(models / "loras" / lora, bases[name], layout, rank=2, only="attn", seed=7)
    return accelerator.attach_accelerator(bases[name], lora, id, 1.0)[0]


@pytest.fixture(scope="module")
def lightning(bases, models):
    return fast_of(bases, models, "sdxl", "sdxl-lightning-4step-lora")


@pytest.fixture(scope="module")
def lcm(bases, models):
    return fast_of(bases, models, "sd15", "lcm-lora-sd15")


@pytest.fixture(scope="module")
def lightx2v(bases, models):
    return fast_of(bases, models, "wan", "wan21-t2v-lightx2v-4step")


@pytest.fixture(scope="module")
def experts(bases, models):
    return [fast_of(bases, models, expert, f"wan22-t2v-lightning-{expert}") for expert in HIGH_LOW]


HIGH_LOW = ("high", "low")


def texts(model=None) -> tuple:
    """(positive, negative), two different ones."""
    return tuple(small_models.conditioning(model, seed=seed) for seed in (1, 2))


def image(batch=1, **more):
    return {"samples": torch.zeros(batch, 4, 8, 8), **more}


def video(batch=1, **more):
    return {"samples": torch.zeros(batch, 16, 2, 4, 4), **more}


def guided_start(model, model_guided, negative, distilled_steps=1, guided_steps=2, cfg=3.5):
    return FewStepGuidedStart.execute(
        model, model_guided, negative, distilled_steps, guided_steps, cfg
    ).args[0]


def run(model, positive, latent, steps=0, denoise=1.0, **more):
    """(latent tensor, report data, report text) of the Few-Step Sampler."""
    output = FewStepSampler.execute(model, positive, latent, SEED, steps, denoise, **more)
    return output.args[0]["samples"], output.ui["fewstep_report"][0], output.args[1]


def chained(stages, latent, seed=SEED):
    """Core's SamplerCustomAdvanced for each stage: the first adds the noise, the others go on.

    stages: (MODEL, positive, negative, cfg, sampler's name, sigmas)
    """
    for place, (model, positive, negative, cfg, sampler, sigmas) in enumerate(stages):
        noise = custom.DisableNoise if place else custom.RandomNoise
        made = noise.execute(*(() if place else (seed,))).args[0]
        made.seed = seed  # what re-noising solvers draw from
        latent = custom.SamplerCustomAdvanced.execute(
            made,
            custom.CFGGuider.execute(model, positive, negative, cfg).args[0],
            comfy.samplers.sampler_object(sampler),
            torch.tensor(sigmas, dtype=torch.float32),
            latent,
        ).args[0]
    return latent["samples"]


def assert_same_run(ours, theirs):
    """To 1e-5 of the latent's own size: core's chain takes the noise's scale off and on again."""
    assert float(theirs.std()) > 0.05
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5 * max(1.0, float(theirs.std())))


# ---------------------------------------------------------------- equal to core samplers by hand


@pytest.mark.parametrize("batch", some_of([1, 2], 2))
def test_sdxl_equals_two_chained_core_samplers(bases, lightning, batch):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    ours, report, _ = run(guided_start(lightning, base, negative), positive, image(batch))
    # Lightning's timesteps are 999, 749, 499, 249; half-way from the first to the second lies 874.
    table = base.get_model_object("model_sampling").sigmas.tolist()
    levels = [table[timestep] for timestep in (999, 874, 749, 499, 249)] + [0.0]
    theirs = chained(
        [
            (base, positive, negative, 3.5, "euler", levels[:3]),
            (lightning, positive, positive, 1.0, "euler", levels[2:]),
        ],
        image(batch),
    )
    assert_same_run(ours, theirs)
    assert (report["evaluations"], report["rows"]) == (7, 7 * batch)
    plain, _, _ = run(lightning, positive, image(batch))
    assert not torch.allclose(ours, plain, atol=1e-2)


def test_wan_equals_core_samplers_on_its_own_shift_and_then_the_accelerators(bases, lightx2v):
    base, (positive, negative) = bases["wan"], texts()
    ours, report, _ = run(
        guided_start(lightx2v, base, negative, guided_steps=4, cfg=5.0), positive, video(2)
    )
    # Shift 5: 1, .9375, .8333, .625, 0. Wan's own shift is 8, where .9375 lies at time 15/23, since
    # 8t / (1 + 7t) is 120/128 there: a quarter of the way from 1 to that is 1 - 2/23.
    between = [shift_sigma(1 - 2 * step / 23, 8.0) for step in range(5)]
    assert math.isclose(between[-1], 0.9375)
    theirs = chained(
        [
            (base, positive, negative, 5.0, "euler", between),
            (lightx2v, positive, positive, 1.0, "euler", [0.9375, 2.5 / 3, 0.625, 0.0]),
        ],
        video(2),
    )
    assert_same_run(ours, theirs)
    assert report["stages"][0]["sigmas"] == pytest.approx(between, abs=1e-6)
    assert report["evaluations"] == 11


@pytest.mark.parametrize("replaced", [1, 2])
def test_wan22_equals_three_core_samplers_chained_by_hand(bases, experts, replaced):
    """The undistilled high-noise expert, the accelerated one, and the low-noise one. Where the
    guided part stands in for both of the high-noise steps, there is no second one.
    """
    (high, low), (positive, negative) = experts, texts()
    model = guided_start(high, bases["high"], negative, distilled_steps=replaced)
    ours, report, _ = run(model, positive, video(), model_low_noise=low)
    levels = [1.0, 0.9375, 2.5 / 3, 0.625, 0.0]
    middle = report["stages"][0]["sigmas"][1]
    guided = [1.0, middle, levels[replaced]]
    stages = [
        (bases["high"], positive, negative, 3.5, "euler", guided),
        (high, positive, positive, 1.0, "euler", levels[replaced:3]),
        (low, positive, positive, 1.0, "euler", levels[2:]),
    ]
    theirs = chained([stage for stage in stages if len(stage[-1]) > 1], video())
    assert_same_run(ours, theirs)
    parts = [stage["part"] for stage in report["stages"]]
    assert parts == (["guided", "first", "low-noise"] if replaced == 1 else ["guided", "low-noise"])
    counts = [stage["evaluations"] for stage in report["stages"]]
    assert counts == ([4, 1, 2] if replaced == 1 else [4, 2])


def test_a_solver_that_renoises_draws_its_noise_once(bases, lcm):
    base, (positive, negative) = bases["sd15"], texts(bases["sd15"])
    ours, report, _ = run(guided_start(lcm, base, negative, guided_steps=3), positive, image())
    sigmas = report["sigmas"]
    guided = report["stages"][0]["sigmas"]
    assert guided[0] == sigmas[0] and guided[-1] == sigmas[1]
    theirs = chained(
        [
            (base, positive, negative, 3.5, "euler", guided),
            (lcm, positive, positive, 1.0, "lcm", sigmas[1:]),
        ],
        image(),
    )
    assert_same_run(ours, theirs)


def test_renoising_experts_go_on_in_the_same_random_numbers(bases):
    """One model as both experts is one run: the second one must not begin its draws again."""
    high, low = (CATALOG[f"rcm-wan22-i2v-{side}-lora"] for side in HIGH_LOW)
    base, (positive, negative) = bases["wan"], texts()
    sampled = with_model_sampling(base, high)
    pair = [with_record(sampled, record) for record in (high, low)]
    single = with_record(sampled, replace(high, expert=None, boundary=None, partner=None))
    split, report, _ = run(
        with_guided_start(pair[0], GuidedStart(base, negative, GuidedSettings(1, 2, 3.5))),
        positive,
        video(),
        model_low_noise=pair[1],
    )
    whole, _, _ = run(
        with_guided_start(single, GuidedStart(base, negative, GuidedSettings(1, 2, 3.5))),
        positive,
        video(),
    )
    assert [stage["part"] for stage in report["stages"]] == ["guided", "first", "low-noise"]
    assert_same_run(split, whole)


@pytest.mark.parametrize(
    ("name", "id"), [("sd15", "hyper-sd15-1step-lora"), ("wan", "accvideo-wan21-t2v-lora")]
)
def test_tcd_and_unipc_go_on_from_the_guided_part(bases, name, id):
    """Both look at their whole schedule: at one that begins later they must not stumble."""
    base = bases[name]
    fast = with_record(with_model_sampling(base, CATALOG[id]), CATALOG[id])
    positive, negative = texts(base if name == "sd15" else None)
    latent = image() if name == "sd15" else video()
    made, report, _ = run(guided_start(fast, base, negative), positive, latent, steps=4)
    assert made.isfinite().all() and report["evaluations"] == 7


@pytest.mark.parametrize(
    ("name", "id"),
    [("Flux", "flux-turbo-alpha-lora"), ("QwenImage", "qwen-image-lightning-4step-lora")],
)
def test_other_flows_equal_two_chained_core_samplers(name, id):
    base = small_patcher(name)
    fast = with_record(with_model_sampling(base, CATALOG[id]), CATALOG[id])
    positive, negative = (text_conditioning(name, seed) for seed in (1, 2))
    latent = {"samples": torch.zeros(1, 16, *(1,) * (name == "QwenImage"), 8, 8)}
    ours, report, text = run(guided_start(fast, base, negative, cfg=2.0), positive, latent)
    assert ("takes guidance as an input of its network" in text) is (name == "Flux")
    sigmas, guided = report["sigmas"], report["stages"][0]["sigmas"]
    # Half-way in the training time of the model's own shift, which its own table has.
    table = base.get_model_object("model_sampling").sigmas
    places = [(table - sigma).abs().argmin().item() for sigma in guided]
    assert abs(places[1] - (places[0] + places[2]) / 2) <= 1
    theirs = chained(
        [
            (base, positive, negative, 2.0, "euler", guided),
            (fast, positive, positive, 1.0, "euler", sigmas[1:]),
        ],
        latent,
    )
    assert_same_run(ours, theirs)


@thorough
def test_a_mask_and_less_denoise_mean_the_same_to_both_parts(bases, lightning):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    source = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    model, latent = guided_start(lightning, base, negative), {"samples": source}
    masked, report, _ = run(model, positive, {**latent, "noise_mask": mask}, denoise=0.75)
    whole, _, _ = run(model, positive, latent, denoise=0.75)
    assert torch.allclose(masked[..., 4:], source[..., 4:], atol=1e-4)
    assert not torch.allclose(whole[..., 4:], source[..., 4:], atol=1e-1)
    table = base.get_model_object("model_sampling").sigmas.tolist()
    levels = [table[timestep] for timestep in (749, 624, 499, 249)] + [0.0]
    theirs = chained(
        [
            (base, positive, negative, 3.5, "euler", levels[:3]),
            (lightning, positive, positive, 1.0, "euler", levels[2:]),
        ],
        latent,
    )
    assert_same_run(whole, theirs)
    assert report["evaluations"] == 6


def test_a_second_run_is_bit_identical_and_the_models_are_as_they_were(bases, lightning):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    before, _, _ = run(lightning, positive, image())
    model = guided_start(lightning, base, negative)
    first, _, _ = run(model, positive, image())
    assert torch.equal(first, run(model, positive, image())[0])
    assert torch.equal(before, run(lightning, positive, image())[0])
    assert "fewstep.guided_start" not in lightning.model_options


# ---------------------------------------------------------------- what it costs


def test_the_base_is_held_once_and_patched_once_a_part(bases, models, lightning):
    """By the host's own calls after loading: the weights are those of one network, which the
    accelerator is taken off and put on again.
    """
    loads = []
    base, fast = bases["sdxl"].clone(), lightning.clone()
    for name, model in (("base", base), ("accelerated", fast)):
        model.add_callback_with_key(
            CallbacksMP.ON_LOAD, "test", lambda *_, name=name: loads.append(name)
        )
    positive, negative = texts(base)
    model = guided_start(fast, base, negative)
    assert model.clone_has_same_weights(fast), "nothing of it looks like other weights"
    comfy.model_management.unload_all_models()
    for _ in range(2):
        run(model, positive, image())
    assert loads == ["base", "accelerated"] * 2
    loaded = comfy.model_management.current_loaded_models
    assert [entry.model.model for entry in loaded] == [base.model]
    assert loaded[0].model_loaded_memory() <= base.model_size()
    # Without a guided start the accelerated weights stay, and are loaded once.
    loads.clear()
    for _ in range(2):
        run(fast, positive, image())
    assert loads == []


def test_a_pair_loads_its_low_noise_expert_once(bases, experts):
    loads = []
    named = dict(zip(("base", "high", "low"), (bases["high"], *experts)))
    copies = {name: model.clone() for name, model in named.items()}
    for name, model in copies.items():
        model.add_callback_with_key(
            CallbacksMP.ON_LOAD, "test", lambda *_, name=name: loads.append(name)
        )
    positive, negative = texts()
    model = guided_start(copies["high"], copies["base"], negative)
    comfy.model_management.unload_all_models()
    for _ in range(2):
        run(model, positive, video(), model_low_noise=copies["low"])
    assert loads == ["base", "high", "low", "base", "high"]


def test_at_cfg_1_the_negative_is_not_read_and_a_step_costs_one(bases, lightning):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    made, report, _ = run(guided_start(lightning, base, negative, cfg=1.0), positive, image())
    other, _, _ = run(guided_start(lightning, base, positive, cfg=1.0), positive, image())
    assert report["evaluations"] == 5
    assert torch.equal(made, other)
    guided, _, _ = run(guided_start(lightning, base, negative), positive, image())
    swapped, _, _ = run(guided_start(lightning, base, positive), positive, image())
    assert not torch.allclose(guided, swapped, atol=1e-3), "above 1 it is read"


def test_the_report_says_what_each_part_was(bases, lightning):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    _, report, text = run(guided_start(lightning, base, negative), positive, image())
    assert "- evaluations: 7: 2 guided steps of 2, then 3\n" in text
    assert "- guided part: 4 evaluations in 2 steps of euler at CFG 3.5, " in text
    assert "- accelerated part: 3 evaluations in 3 steps of euler at CFG 1, " in text
    assert "- guided sigmas: 14.61, " in text
    assert "- CFG: 3.5, then 1 (locked)" in text
    assert "share their weights, which are in memory once" in text
    assert report["summary"].startswith("2 guided steps, then the last 3 of 4 steps, 7 evaluations")
    parts = report["stages"]
    assert sum(part["seconds"] for part in parts) <= report["seconds"]
    assert all(0 < part["loading_seconds"] < part["seconds"] for part in parts)
    other = small_models.unet_patcher("sdxl", seed=5)
    _, _, text = run(guided_start(lightning, other, negative), positive, image())
    assert "are two files, and ComfyUI loads both" in text


def test_it_is_shown_as_one_run(bases, lightning, monkeypatch):
    seen = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: seen.append((value, total)),
    )
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    run(guided_start(lightning, base, negative), positive, image())
    # The host leaves out updates that follow one another too fast.
    assert seen[0] == (1, 5) and seen[-1] == (5, 5)
    assert seen == sorted(set(seen)) and {total for _, total in seen} == {5}


@thorough
def test_step_skip_works_on_a_long_guided_part_and_is_told_on_a_short_one(bases, lightning):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    skipping = FewStepSkip.execute(base, "forecast", 1.5, 3.0, 0.15, 0.95, 3, "auto").args[0]
    long = guided_start(lightning, skipping, negative, distilled_steps=2, guided_steps=16)
    ours, report, _ = run(long, positive, image())
    sigmas, guided = report["sigmas"], report["stages"][0]["sigmas"]
    (entry,) = report["entries"]
    assert entry["evaluations_asked"] == 16 and entry["evaluations_made"] < 13
    assert report["evaluations"] == 2 * entry["evaluations_made"] + 2
    theirs = chained(
        [
            (skipping, positive, negative, 3.5, "euler", guided),
            (lightning, positive, positive, 1.0, "euler", sigmas[2:]),
        ],
        image(),
    )
    assert_same_run(ours, theirs)
    short = guided_start(lightning, skipping, negative)
    _, report, text = run(short, positive, image())
    assert report["evaluations"] == 7
    assert "Step Skip: forecast: all 2 evaluations made" in text
    assert "Step Skip on the guided model changes nothing at 2 steps" in text


# ---------------------------------------------------------------- other nodes


def test_step_budget_counts_it(bases, lightning):
    base, (_, negative) = bases["sdxl"], texts(bases["sdxl"])
    model = guided_start(lightning, base, negative)
    output = FewStepBudget.execute(model, image(), "batch", 0.0, 2.0, 0.0)
    data = output.ui["fewstep_report"][0]
    # Two guided steps at 4 seconds each and three at 2.
    assert (data["steps"], data["evaluations"], data["predicted_seconds"]) == (4, 7, 14.0)
    both = [way for way in data["ways"] if way["accelerators"] == ["sdxl-lightning-4step-lora"]]
    assert [(way["guided_start"], way["evaluations"]) for way in both] == [(True, 7), (False, 4)]
    assert "2 steps of 2 evaluations each in place of the first 1 step" in output.args[2]
    beyond = guided_start(lightning, base, negative, distilled_steps=4)
    with pytest.raises(BudgetError, match="no more than 4: none would be left"):
        FewStepBudget.execute(beyond, image(), "batch", 0.0, 2.0, 0.0)


def test_the_schedule_node_refuses_it(bases, lightning):
    model = guided_start(lightning, bases["sdxl"], texts(bases["sdxl"])[1])
    with pytest.raises(ValueError, match="sigmas cannot say.*in front of Guided Start"):
        FewStepSchedule.execute(model, 0, 1.0)


def test_a_core_sampler_is_stopped_before_it_leaves_it_out(bases, lightning):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    model = guided_start(lightning, base, negative)
    with pytest.raises(ValueError, match="this sampler would leave out. Use the Few-Step Sampler"):
        core.KSampler().sample(model, SEED, 4, 1.0, "euler", "simple", positive, negative, image())


def test_streams_refuse_it(models, bases):
    path = models / "diffusion_models" / "guided_causal.safetensors"
    causal = small_models.load_model(small_models.write_wan(path, "wan21_causal"))
    record = CATALOG["self-forcing-dmd"]
    causal = with_record(with_model_sampling(causal, record), record)
    positive, negative = texts()
    with pytest.raises(PlanError, match="self-forcing-dmd is causal"):
        guided_start(causal, bases["wan"], negative)
    # As a loader behind Guided Start might leave it.
    start = GuidedStart(bases["wan"], negative, GuidedSettings(1, 2, 3.5))
    carrying = with_guided_start(causal, start)
    with pytest.raises(ValueError, match="every block of a stream begins with noise of its own"):
        FewStepStream.execute(carrying, positive, video(), SEED, 0, 0, 0)


# ---------------------------------------------------------------- what is refused


def test_what_would_leave_the_accelerator_nothing_is_refused(bases, lightning):
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    model = guided_start(lightning, base, negative, distilled_steps=4)
    with pytest.raises(PlanError, match="Set distilled_steps to at most 3"):
        run(model, positive, image())
    with pytest.raises(PlanError, match="this run of .* has 2 steps.*to at most 1"):
        run(guided_start(lightning, base, negative, 2), positive, image(), denoise=0.5)
    with pytest.raises(PlanError, match="a single step"):
        run(guided_start(lightning, base, negative), positive, image(), denoise=0.25)


def test_it_is_for_the_high_noise_experts_part_alone(bases, experts):
    (high, low), (positive, negative) = experts, texts()
    model = guided_start(high, bases["high"], negative, distilled_steps=3)
    with pytest.raises(PlanError, match="makes the first 2 steps of this run.*at most 2"):
        run(model, positive, video(), model_low_noise=low)
    model = guided_start(high, bases["high"], negative)
    with pytest.raises(PlanError, match="begins below the boundary.*Raise denoise"):
        run(model, positive, video(), denoise=0.5, model_low_noise=low)
    on_low = guided_start(low, bases["low"], negative)
    with pytest.raises(ValueError, match="does not begin in the low-noise expert"):
        run(high, positive, video(), model_low_noise=on_low)


def test_models_that_do_not_belong_together_are_refused(bases, lightning, lcm, experts):
    negative = texts(bases["sdxl"])[1]
    with pytest.raises(PlanError, match="No accelerator is attached to model"):
        guided_start(bases["sdxl"], bases["sdxl"], negative)
    with pytest.raises(PlanError, match="undistilled model.*sdxl-lightning-4step-lora"):
        guided_start(lightning, lightning, negative)
    with pytest.raises(PlanError, match="model is .*SDXL.* and model_guided is .*1.5"):
        guided_start(lightning, bases["sd15"], negative)
    with pytest.raises(ValueError, match="already|only one can begin"):
        guided_start(guided_start(lightning, bases["sdxl"], negative), bases["sdxl"], negative)


def test_another_loaders_accelerator_on_the_guided_model_is_refused_and_a_style_is_not(
    bases, models, lightning
):
    negative, loader = texts(bases["sdxl"])[1], core.LoraLoaderModelOnly()
    for title in ("inkwash", "sdxl_lightning_4step_lora"):
        write_lora(
            models / "loras" / f"guided_{title}.safetensors",
            bases["sdxl"],
            "kohya-diffusers",
            rank=2,
            only="attn",
            metadata={"ss_output_name": title},
        )
    style, fast = (
        loader.load_lora_model_only(bases["sdxl"], f"guided_{title}.safetensors", 1.0)[0]
        for title in ("inkwash", "sdxl_lightning_4step_lora")
    )
    assert guided_start(lightning, style, negative) is not None
    if fast.get_attachment("lora_metadata"):  # an older ComfyUI keeps no title
        with pytest.raises(PlanError, match="carries sdxl-lightning-4step-lora"):
            guided_start(lightning, fast, negative)


def test_the_low_noise_expert_by_its_name_does_not_begin_a_run(models, experts):
    path = models / "diffusion_models" / "wan2.2_t2v_low_noise_14B.safetensors"
    low = small_models.load_model(small_models.write_wan(path, seed=9))
    with pytest.raises(PlanError, match="by its name Wan 2.2's low-noise expert"):
        guided_start(experts[0], low, texts()[1])


def test_files_upstream_of_the_guided_model_are_not_the_runs_own(bases):
    """Provenance walks the graph from the sampler: the accelerated model's loader counts alone."""
    prompt = {
        "1": {"class_type": "UnetLoaderGGUF", "inputs": {"unet_name": "base.gguf"}},
        "2": {"class_type": "UnetLoaderGGUF", "inputs": {"unet_name": "distilled.gguf"}},
        "3": {
            "class_type": "FewStepGuidedStart",
            "inputs": {"model_guided": ["1", 0], "model": ["2", 0], "negative": ["1", 0]},
        },
        "4": {"class_type": "FewStepSampler", "inputs": {"model": ["3", 0]}},
    }
    node = FewStepSampler.PREPARE_CLASS_CLONE(
        {"hidden_inputs": {io.Hidden.unique_id: "4", io.Hidden.prompt: prompt}}
    )
    assert [file.name for file in upstream_files(node.hidden, "model")] == ["distilled.gguf"]


@thorough
def test_a_negative_at_cfg_1_goes_with_it_in_either_order(bases, lightning):
    """Few-Step Negative Prompt on the accelerated model works in the accelerated part."""
    base, (positive, negative) = bases["sdxl"], texts(bases["sdxl"])
    keep_out = partial(
        FewStepNegative.execute,
        negative=negative,
        scale=5.0,
        alpha=0.25,
        tau=2.5,
        start_percent=0.0,
        end_percent=1.0,
    )
    plain, _, _ = run(guided_start(lightning, base, negative), positive, image())
    before, report, _ = run(
        guided_start(keep_out(lightning).args[0], base, negative), positive, image()
    )
    after, _, _ = run(keep_out(guided_start(lightning, base, negative)).args[0], positive, image())
    assert torch.equal(before, after)
    assert report["evaluations"] == 7
    assert not torch.allclose(plain, before, atol=1e-3)
