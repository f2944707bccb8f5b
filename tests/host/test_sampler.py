"""The Few-Step Sampler on the real host: equal to the host's own samplers, and everything they take
works here too.
"""

from __future__ import annotations

import importlib.util
import math
import sys
from dataclasses import replace

import comfy.patcher_extension
import comfy.sample
import comfy.samplers
import comfy.utils
import comfy_extras.nodes_custom_sampler as custom
import latent_preview
import pytest
import torch
from comfy_extras import nodes_sag
from comfy_extras.nodes_custom_sampler import (
    CFGGuider,
    DisableNoise,
    RandomNoise,
    SamplerCustomAdvanced,
    SplitSigmas,
)
from comfy_extras.nodes_nag import NAGuidance
from comfyui_fewstep.loras.accelerator import Expert, Kind, Solver
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.schedules import ConsistencyGrid, ShiftedFlow, Trailing
from comfyui_fewstep.nodes import accelerator
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.model import sigma_of, with_model_sampling
from comfyui_fewstep.nodes.sampler import FewStepSampler, FewStepSchedule
from comfyui_fewstep.samplers.plan import PlanError, make_expert_plan
from comfyui_fewstep.samplers.solvers import seeded_noise
from diffusers_sigmas import scheduler_of, sigmas_of_scheduler
from thinning import thorough

import nodes as core
import small_models
from small_loras import write_lora

# What small_models.py makes of a base.
HERE = {
    Base.SD15: "sd15",
    Base.SDXL: "sdxl",
    Base.SSD1B: "ssd1b",
    Base.WAN_T2V: "wan21_t2v",
    Base.WAN21_I2V: "wan21_i2v",
    Base.WAN22_I2V: "wan22_i2v",
}


def with_settings(model, id: str):
    """The model as the loader leaves it, without the LoRA: what the sampler does does not depend on
    the weights.
    """
    return with_record(with_model_sampling(model, CATALOG[id]), CATALOG[id])


@pytest.fixture
def lcm(unets):
    return with_settings(unets["sd15"], "lcm-lora-sd15")


@pytest.fixture
def hyper(unets):
    return with_settings(unets["sd15"], "hyper-sd15-4step-lora")


@pytest.fixture(scope="module")
def wan_pair(models):
    """Two different small Wan models with the records of Wan2.2-Lightning's experts."""
    pair = []
    for seed, id in ((1, "wan22-t2v-lightning-high"), (2, "wan22-t2v-lightning-low")):
        path = small_models.write_wan(
            models / "diffusion_models" / f"expert{seed}.safetensors", "wan21_t2v", seed=seed
        )
        pair.append(with_settings(small_models.load_model(path), id))
    return pair


@pytest.fixture
def text(unets):
    return small_models.conditioning(unets["sd15"])


@pytest.fixture(scope="module")
def wan_text():
    return small_models.conditioning(length=6)


@pytest.fixture(scope="module")
def small(unets, models):
    """A small model of each base in HERE."""
    wans = {
        base: small_models.load_model(
            small_models.write_wan(
                models / "diffusion_models" / f"{HERE[base]}.safetensors", HERE[base]
            )
        )
        for base in (Base.WAN_T2V, Base.WAN21_I2V, Base.WAN22_I2V)
    }
    return {base: unets[HERE[base]] for base in (Base.SD15, Base.SDXL, Base.SSD1B)} | wans


def assert_within(ours, theirs, bound):
    torch.testing.assert_close(ours, theirs, rtol=0, atol=bound)


def image(batch=1, size=8, **more):
    return {"samples": torch.zeros(batch, 4, size, size), **more}


def video(frames=2, batch=1, **more):
    return {"samples": torch.zeros(batch, 16, frames, 4, 4), **more}


def run(model, positive, latent, seed=3, steps=0, denoise=1.0, **more):
    """(latent tensor, report data) of the sampler node."""
    output = FewStepSampler.execute(model, positive, latent, seed, steps, denoise, **more)
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


# ---------------------------------------------------------------- equal to the host's own samplers


@pytest.mark.parametrize(
    ("id", "sampler"), [("lcm-lora-sd15", "lcm"), ("hyper-sd15-4step-lora", "euler")]
)
def test_equals_core_ksampler_at_the_same_sigmas_and_noise(unets, text, id, sampler):
    # `simple` is the same spacing on this schedule, so the whole core node can be the reference.
    model = with_settings(unets["sd15"], id)
    ours, report = run(model, text, image(2))
    theirs = core.KSampler().sample(model, 3, 4, 1.0, sampler, "simple", text, text, image(2))[0][
        "samples"
    ]
    assert torch.equal(ours, theirs)
    assert report["evaluations"] == 4 and report["rows"] == 8 and report["forward_passes"] == 4


@pytest.mark.parametrize("batch", [1, 2])
def test_two_experts_equal_two_chained_core_samplers(wan_pair, wan_text, batch):
    ours, report = run(wan_pair[0], wan_text, video(batch=batch), model_low_noise=wan_pair[1])
    advanced = core.KSamplerAdvanced()
    half = advanced.sample(
        wan_pair[0],
        "enable",
        3,
        4,
        1.0,
        "euler",
        "simple",
        wan_text,
        wan_text,
        video(batch=batch),
        0,
        2,
        "enable",
    )[0]
    theirs = advanced.sample(
        wan_pair[1],
        "disable",
        3,
        4,
        1.0,
        "euler",
        "simple",
        wan_text,
        wan_text,
        half,
        2,
        4,
        "disable",
    )[0]
    assert_within(ours, theirs["samples"], 1e-5)  # a latent handed on is scaled out and in again
    assert (report["evaluations"], report["rows"], report["switch_step"]) == (4, 4 * batch, 2)


@pytest.mark.parametrize("id", ["rcm-wan22-i2v-{}-lora", "wan22-t2v-lightning-{}"])
def test_one_model_as_both_experts_is_one_run(small, wan_text, id):
    """A solver that re-noises must not begin its random numbers again with the second expert."""
    high, low = (CATALOG[id.format(side)] for side in ("high", "low"))
    model = small[high.bases[0]]
    pair = [with_settings(model, record.id) for record in (high, low)]
    split, report = run(pair[0], wan_text, video(), model_low_noise=pair[1])
    single = replace(high, expert=None, boundary=None, partner=None)
    whole, _ = run(with_record(pair[0], single), wan_text, video())
    assert report["switch_step"] not in (0, report["steps"])
    assert_within(split, whole, 1e-5)


@pytest.mark.parametrize(("denoise", "steps"), [(0.1, 1), (0.25, 2), (1.0, 10)])
def test_unipc_of_any_number_of_steps_ends_on_what_the_model_is_sure_of(
    small, wan_text, denoise, steps
):
    """The host's own evaluates a single step and does not take it."""
    model = with_settings(small[Base.WAN_T2V], "accvideo-wan21-t2v-lora")
    sure = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(1))

    def perfect(*given, **more):
        return model.model.process_latent_in(sure)

    model.add_wrapper_with_key(comfy.patcher_extension.WrappersMP.APPLY_MODEL, "sure", perfect)
    made, report = run(model, wan_text, video(), denoise=denoise)
    assert report["steps"] == steps
    assert_within(made, sure, 0.05)  # the host's UniPC stops at sigma 0.001


def test_tcd_takes_the_halves_of_its_schedule(unets, text):
    model = with_settings(unets["sd15"], "hyper-sd15-1step-lora")
    sigmas, sampler, cfg, _ = FewStepSchedule.execute(model, 4, 1.0).args[:4]
    high, low = SplitSigmas.execute(sigmas, 2).args
    guider = CFGGuider.execute(model, text, text, cfg).args[0]
    half = SamplerCustomAdvanced.execute(
        RandomNoise.execute(3).args[0], guider, sampler, high, image()
    ).args[0]
    made = SamplerCustomAdvanced.execute(
        DisableNoise.execute().args[0], guider, sampler, low, half
    ).args[0]["samples"]
    assert made.isfinite().all()
    with pytest.raises(ValueError, match="whole or split"):
        SamplerCustomAdvanced.execute(
            RandomNoise.execute(3).args[0], guider, sampler, sigmas * 0.9, image()
        )


def test_a_second_run_is_bit_identical(lcm, text, wan_pair, wan_text):
    assert torch.equal(run(lcm, text, image())[0], run(lcm, text, image())[0])
    first, second = (
        run(wan_pair[0], wan_text, video(), model_low_noise=wan_pair[1])[0] for _ in range(2)
    )
    assert torch.equal(first, second)
    assert not torch.equal(run(lcm, text, image(), seed=4)[0], run(lcm, text, image())[0])


def test_the_schedule_node_feeds_core_samplers_the_same_run(lcm, text):
    ours, _ = run(lcm, text, image())
    sigmas, sampler, cfg, steps = FewStepSchedule.execute(lcm, 0, 1.0).args[:4]
    noise = comfy.sample.prepare_noise(image()["samples"], 3)
    theirs = comfy.sample.sample_custom(
        lcm, noise, cfg, sampler, sigmas, text, text, image()["samples"], seed=3
    )
    assert torch.equal(ours, theirs)
    assert (cfg, steps, len(sigmas)) == (1.0, 4, 5)


# ---------------------------------------------------------------- equal to diffusers


def analytic(model, output):
    """The model with its network replaced by the exact answer for Gaussian data, through the host's
    own option for it.
    """

    def denoise(apply_model, args):
        x, sigma = args["input"], args["timestep"]
        sigma_of_row = sigma.view(-1, *[1] * (x.ndim - 1))
        return model.get_model_object("model_sampling").calculate_denoised(
            sigma, output(x, sigma_of_row), x
        )

    patched = model.clone()
    patched.set_model_unet_function_wrapper(denoise)
    return patched


def gaussian_eps(x, sigma):
    """Data of variance 1/4: D = x·s² / (s² + sigma²), eps = (x - D) / sigma."""
    return x * sigma / (0.25 + sigma**2)


def gaussian_flow(x, sigma):
    """The same data as a flow: D = x·(1 - sigma)·s² / ((1 - sigma)²·s² + sigma²), u = (x - D) /
    sigma.
    """
    data = x * (1 - sigma) * 0.25 / ((1 - sigma) ** 2 * 0.25 + sigma**2)
    return (x - data) / sigma


@pytest.mark.parametrize(
    ("id", "steps"),
    [
        *(("lcm-lora-sd15", steps) for steps in CATALOG["lcm-lora-sd15"].steps),
        *((f"hyper-sd15-{steps}step-lora", steps) for steps in (2, 4, 8)),
        *((f"hyper-sd15-{steps}step-cfg-lora", steps) for steps in (8, 12)),
    ],
)
def test_final_latents_equal_diffusers(unets, text, id, steps):
    model, record = with_settings(unets["sd15"], id), CATALOG[id]
    ours, _ = run(
        analytic(model, gaussian_eps),
        text,
        image(),
        steps=steps,
        negative=text if record.is_guided else None,
    )

    reference = scheduler_of(record.schedule, steps)
    sigmas = sigmas_of_scheduler(reference)
    # LCMScheduler keeps latents of variance 1, the Euler one of variance 1 + sigma², from which the
    # host starts too.
    is_lcm = record.solver is Solver.LCM
    sample = comfy.sample.prepare_noise(image()["samples"], 3) * (
        1.0 if is_lcm else math.sqrt(1 + sigmas[0] ** 2)
    )
    generator = torch.Generator().manual_seed(3 + 1)  # the host's default_noise_sampler on the CPU
    for t, sigma in zip(reference.timesteps, sigmas[:-1], strict=True):
        scaled = reference.scale_model_input(sample, t)
        x = scaled * math.sqrt(1 + sigma**2) if is_lcm else sample
        sample = reference.step(gaussian_eps(x, sigma), t, sample, generator=generator).prev_sample
    assert_within(ours, model.model.process_latent_out(sample), 2e-5)


@pytest.mark.parametrize("experts", [1, 2])
def test_final_video_latents_equal_diffusers_flow(wan_pair, wan_text, experts):
    if experts == 2:
        models = [analytic(model, gaussian_flow) for model in wan_pair]
        ours, _ = run(models[0], wan_text, video(), model_low_noise=models[1])
    else:
        single = with_settings(wan_pair[0], "wan21-t2v-lightx2v-4step")
        ours, _ = run(analytic(single, gaussian_flow), wan_text, video())

    reference = scheduler_of(ShiftedFlow(5.0), 4)
    sample = comfy.sample.prepare_noise(video()["samples"], 3)
    for t, sigma in zip(reference.timesteps, reference.sigmas[:-1], strict=True):
        sample = reference.step(gaussian_flow(sample, sigma), t, sample).prev_sample
    assert_within(ours, wan_pair[0].model.process_latent_out(sample), 2e-5)


@pytest.mark.parametrize(
    ("record", "steps"),
    [
        pytest.param(record, steps, id=f"{record.id}-{steps}")
        for record in CATALOG.values()
        if record.bases[0] in HERE
        and record.expert is None
        and record.kind is not Kind.MOTION_MODULE
        and isinstance(record.schedule, Trailing | ConsistencyGrid | ShiftedFlow)
        for steps in record.steps
    ],
)
def test_the_schedule_node_gives_the_sigmas_of_diffusers(small, record, steps):
    model = with_settings(small[record.bases[0]], record.id)
    sigmas = FewStepSchedule.execute(model, steps, 1.0).args[0]
    assert sigmas.tolist() == pytest.approx(
        sigmas_of_scheduler(scheduler_of(record.schedule, steps)), rel=0, abs=1e-5
    )


@pytest.mark.parametrize(
    ("high", "low"),
    [
        pytest.param(record, low, id=record.id)
        for record in CATALOG.values()
        if record.expert is Expert.HIGH_NOISE
        and isinstance(record.schedule, ShiftedFlow)
        and (low := CATALOG.get(record.id.replace("-high", "-low")))
    ],
)
def test_two_experts_run_on_the_sigmas_of_diffusers(small, high, low):
    model = with_settings(small[high.bases[0]], high.id)
    for steps in high.steps:
        plan = make_expert_plan(high, low, steps, 1.0, sigma_of(model))
        expected = sigmas_of_scheduler(scheduler_of(high.schedule, steps))
        assert plan.sigmas == pytest.approx(expected, rel=0, abs=1e-5)


# ---------------------------------------------------------------- everything core KSampler takes


def test_a_masked_run_keeps_the_unmasked_part_and_equals_core(hyper, text):
    source = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(1, 1, 64, 64)
    mask[..., :32] = 1.0
    latent = {"samples": source, "noise_mask": mask}
    ours, _ = run(hyper, text, latent)
    theirs = core.KSampler().sample(hyper, 3, 4, 1.0, "euler", "simple", text, text, latent)[0][
        "samples"
    ]
    assert torch.equal(ours, theirs)
    assert torch.allclose(ours[..., 4:], source[..., 4:], atol=1e-4)


def test_a_mask_means_the_same_to_both_experts(wan_pair, wan_text):
    source = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    mask = torch.zeros(1, 1, 2, 4, 4)
    mask[..., :2] = 1.0
    ours, _ = run(
        wan_pair[0], wan_text, {"samples": source, "noise_mask": mask}, model_low_noise=wan_pair[1]
    )
    assert torch.allclose(ours[..., 2:], source[..., 2:], atol=1e-4)
    assert not torch.allclose(ours[..., :2], source[..., :2], atol=1e-1)


def test_denoise_below_1_equals_core_at_the_same_sigmas(hyper, text):
    source = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(9))
    ours, report = run(hyper, text, {"samples": source}, denoise=0.5)
    sigmas = comfy.samplers.calculate_sigmas(hyper.get_model_object("model_sampling"), "simple", 4)[
        2:
    ]
    noise = comfy.sample.prepare_noise(source, 3)
    theirs = comfy.sample.sample_custom(
        hyper,
        noise,
        1.0,
        comfy.samplers.sampler_object("euler"),
        sigmas,
        text,
        text,
        source,
        seed=3,
    )
    assert torch.equal(ours, theirs)
    assert report["evaluations"] == 2 and "last 2 of the 4" in report["notes"][0]


def test_two_experts_below_denoise_1_start_in_the_low_noise_expert(wan_pair, wan_text):
    source = torch.randn(1, 16, 2, 4, 4, generator=torch.Generator().manual_seed(9))
    ours, report = run(
        wan_pair[0], wan_text, {"samples": source}, denoise=0.5, model_low_noise=wan_pair[1]
    )
    sigmas = torch.tensor([2.5 / 3, 0.625, 0.0])
    noise = comfy.sample.prepare_noise(source, 3)
    euler = comfy.samplers.sampler_object("euler")
    theirs = comfy.sample.sample_custom(
        wan_pair[1], noise, 1.0, euler, sigmas, wan_text, wan_text, source, seed=3
    )
    assert torch.equal(ours, theirs)
    assert report["switch_step"] == 0


def test_batch_indices_choose_the_noise(hyper, text):
    both, _ = run(hyper, text, image(2))
    second, _ = run(hyper, text, image(1, batch_index=[1]))
    # Another batch size rounds differently; another noise would differ by the latent's own size.
    assert torch.allclose(both[1:], second, atol=1e-4 * second.std())


def test_an_empty_latent_of_other_channels_is_made_to_fit_as_core_does(wan_pair, wan_text):
    four_channels = {"samples": torch.zeros(1, 4, 8, 8)}
    ours, _ = run(wan_pair[0], wan_text, four_channels, model_low_noise=wan_pair[1])
    assert ours.shape[:3] == (1, 16, 1)


def test_the_latent_given_is_not_changed_and_its_fields_pass(hyper, text):
    latent = image(1, batch_index=[0], downscale_ratio_spacial=8, mine="kept")
    before = latent["samples"].clone()
    output = FewStepSampler.execute(hyper, text, latent, 3, 0, 1.0).args[0]
    assert torch.equal(latent["samples"], before) and "downscale_ratio_spacial" in latent
    assert output["mine"] == "kept" and "downscale_ratio_spacial" not in output


def test_a_guided_accelerator_runs_both_branches_and_needs_a_negative(unets, text):
    model = with_settings(unets["sd15"], "hyper-sd15-8step-cfg-lora")
    with pytest.raises(PlanError, match="connect a negative prompt"):
        run(model, text, image())
    _, report = run(model, text, image(), negative=small_models.conditioning(unets["sd15"], seed=1))
    assert report["evaluations"] == 16 and report["cfg"] == 5.0


def test_a_negative_at_cfg_1_costs_nothing(hyper, text, unets):
    plain, _ = run(hyper, text, image())
    with_negative, report = run(
        hyper, text, image(), negative=small_models.conditioning(unets["sd15"], seed=1)
    )
    assert torch.equal(plain, with_negative) and report["evaluations"] == 4
    assert "negative is connected and was not read" in report["notes"][0]


def test_a_patch_that_brings_the_negative_back_is_counted_and_reported(hyper, text, unets):
    forced = hyper.clone()
    forced.disable_model_cfg1_optimization()
    _, report = run(
        forced, text, image(), negative=small_models.conditioning(unets["sd15"], seed=1)
    )
    assert report["evaluations"] == 8
    assert any("8 evaluations instead of 4" in note for note in report["notes"])


@pytest.fixture(params=["imported", "loaded as by a server"])
def sag(request, monkeypatch):
    """core's Self-Attention Guidance. A server names the modules of its extra nodes by their path
    without .py.
    """
    if request.param == "imported":
        return nodes_sag.SelfAttentionGuidance
    name = nodes_sag.__file__.removesuffix(".py")
    spec = importlib.util.spec_from_file_location(name, nodes_sag.__file__)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, name, module)
    spec.loader.exec_module(module)
    return module.SelfAttentionGuidance


def test_sag_without_a_negative_is_refused_and_runs_with_one(hyper, text, unets, sag):
    model = sag.execute(hyper, 0.5, 2.0).args[0]
    with pytest.raises(PlanError, match="(?s)Self-Attention Guidance.*connect one to negative"):
        run(model, text, image())
    _, report = run(
        model, text, image(size=16), negative=small_models.conditioning(unets["sd15"], seed=1)
    )
    # Both prompts at each of 4 steps, and what SAG evaluates again.
    assert report["evaluations"] == 12
    assert any("12 evaluations instead of 4" in note for note in report["notes"])


def test_nag_without_a_negative_runs_as_without_nag_and_says_so(hyper, text):
    # NAG looks for the negative prompt's rows at every evaluation and does nothing where there are
    # none.
    plain, _ = run(hyper, text, image())
    made, report = run(NAGuidance.execute(hyper, 5.0, 0.5, 1.5).args[0], text, image())
    assert torch.equal(made, plain) and report["evaluations"] == 4
    assert not any("instead of" in note for note in report["notes"])
    assert any("connect one to negative" in note for note in report["notes"])


# ---------------------------------------------------------------- nothing is left behind


class StopHere(Exception):
    """Stands for the host's interrupt and for any error inside a model."""


# The first step of each expert, and the ones between.
@pytest.mark.parametrize(
    "step", [0, pytest.param(1, marks=thorough), 2, pytest.param(3, marks=thorough)]
)
def test_interrupting_at_any_step_leaves_nothing_behind(wan_pair, wan_text, step):
    expected, _ = run(wan_pair[0], wan_text, video(), model_low_noise=wan_pair[1])
    seen = []

    def stop(args):
        seen.append(1)
        if len(seen) == step + 1:
            raise StopHere
        return args["denoised"]

    models = [model.clone() for model in wan_pair]
    for model in models:
        model.set_model_sampler_post_cfg_function(stop)
    with pytest.raises(StopHere):
        run(models[0], wan_text, video(), model_low_noise=models[1])
    again, report = run(wan_pair[0], wan_text, video(), model_low_noise=wan_pair[1])
    assert torch.equal(expected, again) and report["evaluations"] == 4
    for model in wan_pair:
        assert "fewstep.run" not in model.model_options.get("transformer_options", {})
        assert not model.wrappers.get("apply_model")


def test_a_run_does_not_make_the_host_load_the_weights_again(hyper, text):
    run(hyper, text, image())
    loaded = hyper.model.current_weight_patches_uuid
    run(hyper, text, image())
    assert hyper.model.current_weight_patches_uuid == loaded
    assert hyper.clone_has_same_weights(hyper.clone())


def test_tcd_runs_on_the_host_with_its_own_noise(unets, text):
    model = with_settings(unets["sd15"], "hyper-sd15-1step-lora")
    state = torch.get_rng_state()
    seeded_noise(torch.zeros(1), 3)(1.0, 0.5)
    assert torch.equal(state, torch.get_rng_state())
    one, report = run(model, text, image())
    assert report["evaluations"] == 1 and report["sampler"] == "tcd"
    four, report = run(model, text, image(), steps=4)
    assert report["evaluations"] == 4
    assert torch.isfinite(one).all() and torch.isfinite(four).all()


# ---------------------------------------------------------------- what is shown while it runs


@pytest.fixture
def shown(monkeypatch):
    """Every (value, total, picture) that goes to the host's progress hook, with the previews it
    makes without a decoder.
    """
    seen = []
    monkeypatch.setattr(
        comfy.utils,
        "PROGRESS_BAR_HOOK",
        lambda value, total, preview, node_id=None: seen.append((value, total, preview)),
    )
    monkeypatch.setattr(
        latent_preview.args, "preview_method", latent_preview.LatentPreviewMethod.Latent2RGB
    )
    return seen


def assert_four_pictures(shown):
    assert [(value, total) for value, total, _ in shown] == [(1, 4), (2, 4), (3, 4), (4, 4)]
    pictures = [preview[1].tobytes() for _, _, preview in shown]
    assert len(set(pictures)) == 4, "each step shows what it has come to"


def test_every_step_is_shown_with_a_picture(lcm, text, shown):
    run(lcm, text, image())
    assert_four_pictures(shown)


def test_two_experts_are_shown_as_one_run(wan_pair, wan_text, shown):
    run(wan_pair[0], wan_text, video(), model_low_noise=wan_pair[1])
    assert_four_pictures(shown)


# ---------------------------------------------------------------- refusals reach the node


def test_a_model_without_accelerator_is_refused(unets, text):
    with pytest.raises(PlanError, match="No accelerator"):
        run(unets["sd15"], text, image())


def test_the_low_noise_input_refuses_the_high_noise_expert(wan_pair, wan_text):
    with pytest.raises(PlanError, match="Swap the two models"):
        run(wan_pair[1], wan_text, video(), model_low_noise=wan_pair[0])


def test_the_schedules_two_parts_in_cores_samplers_are_the_few_step_samplers_run(wan_pair):
    high, low = wan_pair
    text, latent = small_models.conditioning(high), {"samples": torch.zeros(1, 16, 3, 8, 8)}
    sigmas, solver, cfg, steps, low_noise_sigmas = FewStepSchedule.execute(
        high, 0, 1.0, model_low_noise=low
    ).args
    assert steps == 4 and cfg == 1.0
    assert sigmas[-1] == low_noise_sigmas[0]
    half = custom.SamplerCustomAdvanced.execute(
        custom.RandomNoise.execute(3).args[0],
        custom.BasicGuider.execute(high, text).args[0],
        solver,
        sigmas,
        latent,
    ).args[0]
    chained = custom.SamplerCustomAdvanced.execute(
        custom.DisableNoise.execute().args[0],
        custom.BasicGuider.execute(low, text).args[0],
        solver,
        low_noise_sigmas,
        half,
    ).args[0]["samples"]
    ours = FewStepSampler.execute(high, text, latent, 3, 0, 1.0, model_low_noise=low).args[0]
    # Between its two samplers core takes the noise's scale off the latent and puts it on again.
    assert torch.allclose(chained, ours["samples"], rtol=0, atol=1e-5 * float(chained.std()))


def test_of_a_high_noise_expert_the_schedule_gives_its_part_alone(wan_pair):
    sigmas, *_, rest = FewStepSchedule.execute(wan_pair[0], 0, 1.0).args
    whole = FewStepSchedule.execute(wan_pair[0], 0, 1.0, model_low_noise=wan_pair[1]).args
    assert torch.equal(sigmas, whole[0])
    assert torch.equal(rest, whole[4])


def test_a_single_models_schedule_has_no_second_part(hyper):
    *_, rest = FewStepSchedule.execute(hyper, 0, 1.0).args
    assert rest.numel() == 0


def test_a_cfg_in_the_api_prompt_is_refused(hyper, text):
    from comfy_api.v0_0_2 import io

    prompt = {"7": {"class_type": "FewStepSampler", "inputs": {"cfg": 7}}}
    node = FewStepSampler.PREPARE_CLASS_CLONE(
        {"hidden_inputs": {io.Hidden.unique_id: "7", io.Hidden.prompt: prompt}}
    )
    with pytest.raises(PlanError, match="cfg is locked"):
        node.execute(hyper, text, image(), 3, 0, 1.0)


def test_the_whole_chain_from_file_to_latent(unets, models, text):
    write_lora(
        models / "loras" / "lcm_sd15.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        rank=2,
        only="attn",
    )
    loaded = accelerator.FewStepAccelerator.execute(
        unets["sd15"], "lcm_sd15.safetensors", "lcm-lora-sd15", 1.0
    )
    latent, report = run(loaded.args[0], text, image())
    plain, _ = run(with_settings(unets["sd15"], "lcm-lora-sd15"), text, image())
    assert report["accelerators"] == ["lcm-lora-sd15"]
    assert torch.isfinite(latent).all() and not torch.allclose(latent, plain)
