"""The catalogue on the real host: distilled models, schedules that need more than a shift, joint
audio-video latents.
"""

from __future__ import annotations

import dataclasses
import os

import comfy.lora
import comfy.model_sampling
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import comfy.supported_models
import comfyui_version
import pytest
import torch
from comfy_extras.nodes_custom_sampler import SDTurboScheduler
from comfy_extras.nodes_flux import Flux2Scheduler
from comfyui_fewstep.loras.accelerator import Kind, Solver
from comfyui_fewstep.loras.bases import Base, base_in_host
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.catalog.left_out import LOOK_ALIKES
from comfyui_fewstep.loras.decision import refuse_other_base
from comfyui_fewstep.loras.schedules import HostSpacedFlow, ShiftedFlow, TwoClockFlow
from comfyui_fewstep.nodes import accelerator, sampler
from comfyui_fewstep.nodes.host import run as sample_run
from comfyui_fewstep.nodes.host.attach import attach_lora, with_record
from comfyui_fewstep.nodes.host.declared import known_accelerators
from comfyui_fewstep.nodes.host.model import accelerator_of, base_of, with_model_sampling
from comfyui_fewstep.samplers import plan as plans
from safetensors.torch import save_file
from thinning import corners, some_of

import nodes as core
import small_models
from host import DEFAULT_VERSION
from more_models import SMALL, audio_video_latent, small_patcher, text_conditioning
from small_loras import write_lora

MINIMAX = "minimax-h3-fl2v-4step-768p-lora"
DISTILLED_WAN = "wan2.1_t2v_14b_lightx2v_4step.safetensors"


class SmallModels(dict):
    """Each made when it is first asked for: an older ComfyUI does not know all of them."""

    def __missing__(self, name: str):
        self[name] = small_patcher(name)
        return self[name]


@pytest.fixture(scope="module")
def small():
    return SmallModels()


@pytest.fixture(scope="module")
def distilled(models):
    """A small Wan under the name of a published distilled one, loaded by the host's own loader."""
    return small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / DISTILLED_WAN)
    )


def carrying(model, id):
    record = CATALOG[id]
    return with_record(with_model_sampling(model, record), record)


def run(model, conditioning, samples, *, steps=0, denoise=1.0, seed=3, negative=None):
    """(samples, report data) of a Few-Step Sampler run."""
    output = sampler.FewStepSampler.execute(
        model, conditioning, {"samples": samples}, seed, steps, denoise, negative=negative
    )
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


# ---------------------------------------------------------------- models that are themselves distil


def test_a_distilled_model_is_recognised_by_its_file_and_runs(distilled):
    output = accelerator.FewStepAccelerator.execute(distilled, "none", "auto", 1.0)
    model, report = output.args
    assert accelerator_of(model).id == "wan21-t2v-lightx2v-4step-model"
    assert model.get_model_object("model_sampling").shift == 5.0
    assert (
        distilled.get_model_object("model_sampling").shift == 8.0
        and accelerator_of(distilled) is None
    )
    assert (
        "nothing: the model itself is distilled" in report
        and f"published as {DISTILLED_WAN}" in report
    )
    assert not model.patches
    samples, data = run(model, small_models.conditioning(model), torch.zeros(1, 16, 1, 8, 8))
    assert data["evaluations"] == 4 and torch.isfinite(samples).all()


def test_a_lora_on_a_distilled_model_is_refused(distilled, models):
    file = "Wan21_T2V_14B_lightx2v_cfg_step_distill_lora_rank32.safetensors"
    write_lora(models / "loras" / file, distilled, "native", only="self_attn")
    with pytest.raises(
        ValueError,
        match=(
            "is distilled already: wan21-t2v-lightx2v-4step-model.*would distil it twice.*lora_name"
            " to none"
        ),
    ):
        accelerator.attach_accelerator(distilled, file, "auto", 1.0)


def test_a_model_that_nothing_says_is_distilled_is_refused(models):
    model = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "wan2.1_t2v_14B_fp16.safetensors")
    )
    with pytest.raises(
        ValueError,
        match=(
            "Choose the accelerator's file in lora_name: it is none.*"
            "not known as a model that is distilled.*If a LoRA"
        ),
    ):
        accelerator.attach_distilled(model, "auto")  # no release is as small
    attached, report = accelerator.attach_distilled(model, "wan21-t2v-lightx2v-4step-model")
    assert accelerator_of(attached).id == "wan21-t2v-lightx2v-4step-model"
    assert (
        "as chosen" in report.markdown
        and "wan21-t2v-lightx2v-4step-model is 5120 wide, and " in report.notes[0]
    )


def test_an_unknown_model_is_told_what_it_may_be(small):
    with pytest.raises(
        ValueError,
        match="The connected model is not known as .*choose it in accelerator: .*flux1-schnell",
    ):
        accelerator.attach_distilled(small["FluxSchnell"], "auto")


def test_lcm_is_refused_on_a_model_that_predicts_v(unets):
    sampling = type(
        "V", (comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION), {}
    )
    model = unets["sdxl"].clone()
    model.add_object_patch("model_sampling", sampling(model.model.model_config))
    with pytest.raises(
        ValueError,
        match=(
            "predicts v .*, and lcm-lora-sdxl, distilled on one that predicts noise.*such as"
            " Lightning"
        ),
    ):
        carrying(model, "lcm-lora-sdxl")
    assert accelerator_of(carrying(model, "sdxl-lightning-4step-lora")) is not None


def test_the_schedule_of_what_needs_more_than_sigmas_asks_for_the_loader(unets):
    id = "sdxl-lightning-1step-x0"
    model = unets["sdxl"].clone()
    model.cached_patcher_init = (None, ("/models/checkpoints/" + CATALOG[id].files[0].name,))
    with pytest.raises(
        plans.PlanError,
        match=f"{id} was recognised without .*in front of this node and of the sampler",
    ):
        sampler.FewStepSchedule.execute(model, 0, 1.0)
    assert sampler.FewStepSchedule.execute(carrying(model, id), 0, 1.0).args[3] == 1


@pytest.mark.parametrize(
    ("id", "message"),
    [
        ("flux1-schnell", "is for FLUX.1 schnell, and .* is Wan 2.1/2.2 text-to-video"),
        ("lcm-lora-sdxl", "is for SDXL, and .* is Wan 2.1/2.2 text-to-video"),
        ("animatediff-lightning-4step", "Load it with the Motion Module Loader"),
        ("no-such-thing", "is not a known accelerator"),
    ],
)
def test_a_record_that_is_not_the_models_is_refused(distilled, id, message):
    with pytest.raises(ValueError, match=message):
        accelerator.attach_distilled(distilled, id)


def test_a_model_record_is_refused_for_a_lora_file(distilled, models):
    write_lora(models / "loras" / "some.safetensors", distilled, "native", only="self_attn")
    with pytest.raises(ValueError, match="is a full model, and some.safetensors is a LoRA"):
        accelerator.attach_accelerator(
            distilled, "some.safetensors", "wan21-t2v-lightx2v-4step-model", 1.0
        )


def under_the_name(model, file):
    """The model as the host's loader leaves one of this file."""
    named = model.clone()
    named.cached_patcher_init = (None, (f"/models/diffusion_models/{file}", {}))
    return named


LOOKING_DISTILLED = {
    "flux-2-klein-base-4b.safetensors": (
        "Flux2",
        "flux2-klein-4b",
        "the klein base files are not distilled",
    ),
    "z_image_bf16.safetensors": (
        "ZImage",
        "z-image-turbo",
        "Z-Image is not distilled; Z-Image-Turbo is",
    ),
    "z-image-de-turbo_bf16.safetensors": ("ZImage", "z-image-turbo", "its distillation was undone"),
    "krea2_raw_fp8_scaled.safetensors": ("Krea2", "krea2-turbo", "Krea-2 Raw is not distilled"),
    "hunyuanvideo1.5_480p_t2v_cfg_distilled_fp16.safetensors": (
        "HunyuanVideo15",
        "hunyuan15-480p-i2v-step-distilled",
        "its guidance is distilled and its steps are not",
    ),
}


def test_every_look_alike_family_is_tried():
    bases = {base_in_host(name) for name, _, _ in LOOKING_DISTILLED.values()}
    # Those of classes that came later are tried in test_new_releases.py and test_releases.py.
    assert bases == {base for other in LOOK_ALIKES for base in other.bases if not base.since}


@pytest.mark.parametrize("file", LOOKING_DISTILLED)
def test_a_look_alike_is_refused_with_the_reason_unless_its_record_is_chosen(small, file):
    name, id, reason = LOOKING_DISTILLED[file]
    model = under_the_name(small[name], file)
    refusal = f"{file} only looks like a few-step model: {reason}"
    with pytest.raises(ValueError, match=refusal):
        accelerator.FewStepAccelerator.execute(model, "none", "auto", 1.0)
    with pytest.raises(ValueError, match=refusal):
        # The sampler alone, without our loader.
        sampler.FewStepSampler.execute(
            model, text_conditioning(name), {"samples": torch.zeros(1, 16, 8, 8)}, 1, 0, 1.0
        )
    chosen, report = accelerator.attach_distilled(model, id)
    assert accelerator_of(chosen).id == id, "a name may mislead: what is chosen by hand is taken"
    assert any(
        reason in note and note.startswith(f"Chosen by hand, though {file} only looks like")
        for note in report.notes
    )


def test_a_model_with_anothers_published_name_is_refused_naming_both(models):
    file = "wan2.1_i2v_480p_lightx2v_4step.safetensors"
    model = small_models.load_model(small_models.write_wan(models / "diffusion_models" / file))
    with pytest.raises(
        ValueError,
        match="text-to-video.*its name is that of wan21-i2v-lightx2v-4step-model, .*image-to-video",
    ):
        accelerator.attach_distilled(model, "auto")


def test_a_lora_with_anothers_published_name_is_refused_naming_both(unets, models):
    file = "Hyper-SD15-8steps-lora.safetensors"
    write_lora(models / "loras" / file, unets["sdxl"], "kohya-diffusers", only="attn1|attn2|middle")
    with pytest.raises(
        ValueError,
        match="LoRA for SDXL.*its name is that of hyper-sd15-8step-lora, which is for SD 1.5",
    ):
        accelerator.attach_accelerator(unets["sdxl"], file, "auto", 1.0)
    attached, _ = accelerator.attach_accelerator(unets["sdxl"], file, "hyper-sdxl-8step-lora", 1.0)
    assert accelerator_of(attached).id == "hyper-sdxl-8step-lora"


def test_the_sampler_recognises_a_distilled_model_without_a_loader(distilled):
    _, data = run(distilled, small_models.conditioning(distilled), torch.zeros(1, 16, 1, 8, 8))
    assert data["accelerators"] == ["wan21-t2v-lightx2v-4step-model"] and data["evaluations"] == 4
    assert any("Recognised without an Accelerator Loader" in note for note in data["notes"])


def test_styles_on_a_distilled_model_do_not_hide_it(distilled, models):
    for name in ("style1.safetensors", "style2.safetensors"):
        write_lora(models / "loras" / name, distilled, "native", only="self_attn.q")
    styled = distilled
    for name in ("style1.safetensors", "style2.safetensors"):
        styled = core.LoraLoaderModelOnly().load_lora_model_only(styled, name, 0.5)[0]
    _, data = run(styled, small_models.conditioning(styled), torch.zeros(1, 16, 1, 8, 8))
    assert data["accelerators"] == ["wan21-t2v-lightx2v-4step-model"]


@corners("record", of=lambda record: record.bases)
@pytest.mark.parametrize(
    "record", [pytest.param(r, id=r.id) for r in CATALOG.values() if r.kind is Kind.LORA]
)
def test_no_lora_of_the_catalogue_is_accepted_on_another_base(record, unets, small, distilled):
    models = [
        *unets.values(),
        *(small[name] for name in SMALL if hasattr(comfy.supported_models, name)),
        distilled,
    ]
    known = known_accelerators().records.values()
    for model in models:
        if base_of(model) in record.bases:
            refuse_other_base(record, "x.safetensors", base_of(model), "", known)
            continue
        with pytest.raises(ValueError, match="is for .*; the connected model is "):
            refuse_other_base(record, "x.safetensors", base_of(model), "", known)


@pytest.fixture(scope="module")
def by_name(unets, small, distilled):
    """A small MODEL of every architecture that this ComfyUI has."""
    return {
        **unets,
        **{name: small[name] for name in SMALL if hasattr(comfy.supported_models, name)},
        "WAN21_T2V": distilled,
    }


ARCHITECTURES = some_of(["sd15", "sdxl", "ssd1b", *SMALL, "WAN21_T2V"], "sd15", "Flux", "WAN21_T2V")


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_lora_of_one_base_under_the_name_of_another_is_never_accepted_as_a_third(
    by_name, models, name
):
    if name not in by_name:
        pytest.skip(f"this ComfyUI has no {name}")
    model, folder = under_the_name(by_name[name], "a_model.safetensors"), models / "loras"
    written = folder / "confused.safetensors"
    write_lora(
        written,
        model,
        "kohya-diffusers" if name in ("sd15", "sdxl", "ssd1b") else "native",
        only="attn|attention|img_mlp",
    )
    tried = 0
    for record in CATALOG.values():
        if record.kind is not Kind.LORA or record.only_by_choice or base_of(model) in record.bases:
            continue
        for file in record.files:
            link = folder / (file.name or "nothing.safetensors")
            link.unlink(missing_ok=True)
            os.link(written, link)
            tried += 1
            with pytest.raises(ValueError, match="known|cannot be identified|is for"):
                accelerator.attach_accelerator(model, link.name, "auto", 1.0)
            link.unlink()
    assert tried > 100


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_model_of_one_base_under_the_name_of_another_is_never_accepted_as_a_third(by_name, name):
    if name not in by_name:
        pytest.skip(f"this ComfyUI has no {name}")
    base, tried = base_of(by_name[name]), 0
    for record in CATALOG.values():
        if record.kind is not Kind.MODEL or base in record.bases:
            continue
        for file in record.files:
            if file.name:
                tried += 1
                with pytest.raises(
                    ValueError,
                    match=(
                        "not known as a model that is distilled|only looks like|is a causal model"
                    ),
                ):
                    accelerator.attach_distilled(under_the_name(by_name[name], file.path), "auto")
    assert tried > 60


def test_every_base_is_one_the_newest_host_detects():
    if comfyui_version.__version__ != DEFAULT_VERSION:
        pytest.skip("an older ComfyUI knows fewer")
    for base in Base:
        assert base.host_classes or base.since
        for name in base.host_classes:
            # Those that came later are named with the ComfyUI that has them.
            assert hasattr(comfy.supported_models, name) is (base.since == ""), name
            assert base_in_host(name, base.input_channels or 16) is base


# ---------------------------------------------------------------- schedules as the host's own nodes


@pytest.mark.parametrize("size", [(512, 768), (1024, 1024), (2048, 1408)])
def test_flux2_sigmas_are_the_hosts_for_the_latents_size(small, size):
    width, height = size
    model = carrying(small["Flux2"], "flux2-klein-4b")
    latent = {"samples": torch.zeros(1, 128, height // 16, width // 16)}
    sigmas, _, cfg, steps = sampler.FewStepSchedule.execute(model, 0, 1.0, latent).args[:4]
    assert torch.allclose(sigmas, Flux2Scheduler.execute(4, width, height).args[0], atol=1e-5)
    assert (cfg, steps) == (1.0, 4)
    # An empty latent of another scale, as core's EmptyLatentImage makes it: the host rescales it,
    # and so the size is the same.
    small_scale = {
        "samples": torch.zeros(1, 4, height // 8, width // 8),
        "downscale_ratio_spacial": 8,
    }
    assert torch.equal(sampler.FewStepSchedule.execute(model, 0, 1.0, small_scale).args[0], sigmas)


def test_a_schedule_that_needs_a_size_asks_for_the_latent(small):
    with pytest.raises(plans.PlanError, match="connect latent_image"):
        sampler.FewStepSchedule.execute(carrying(small["Flux2"], "flux2-klein-4b"), 0, 1.0)


@pytest.mark.parametrize("steps", [1, 2, 3, 4])
def test_sd_turbo_sigmas_are_the_hosts(unets, steps):
    model = carrying(unets["sdxl"], "sdxl-turbo")
    ours = sampler.FewStepSchedule.execute(model, steps, 1.0).args[0]
    assert torch.allclose(
        ours, SDTurboScheduler.execute(unets["sdxl"], steps, 1.0).args[0], rtol=1e-5
    )


@pytest.mark.parametrize(
    "record",
    [pytest.param(r, id=r.id) for r in CATALOG.values() if isinstance(r.schedule, HostSpacedFlow)],
)
def test_host_spaced_sigmas_are_the_hosts(record):
    sampling = type(
        "Sampling", (comfy.model_sampling.ModelSamplingDiscreteFlow, comfy.model_sampling.CONST), {}
    )()
    sampling.set_parameters(shift=record.schedule.shift, multiplier=1.0)
    for steps in record.steps:
        theirs = comfy.samplers.calculate_sigmas(sampling, record.schedule.scheduler, steps)
        ours = plans.make_plan(record, steps, 1.0, float).sigmas
        assert torch.allclose(torch.tensor(ours), theirs, atol=1e-5)


@pytest.mark.parametrize("name", ["FluxSchnell", "QwenImage"])
def test_shifted_sigmas_are_the_hosts_simple_ones_on_the_model_we_leave(small, name):
    record = CATALOG[
        {"FluxSchnell": "flux1-schnell", "QwenImage": "qwen-image-lightning-8step-lora"}[name]
    ]
    assert isinstance(record.schedule, ShiftedFlow)
    sampling = carrying(small[name], record.id).get_model_object("model_sampling")
    theirs = comfy.samplers.calculate_sigmas(sampling, "simple", record.default_steps)
    assert torch.allclose(
        torch.tensor(plans.make_plan(record, 0, 1.0, float).sigmas), theirs, atol=1e-5
    )


@pytest.mark.parametrize(
    ("id", "timestep"), [("hyper-sdxl-1step-unet", 800), ("dmd2-sdxl-1step", 399)]
)
def test_a_one_step_start_is_whole_noise_as_in_diffusers(unets, id, timestep):
    model = carrying(unets["sdxl"], id)
    seen = []

    def watch(apply_model, options):
        seen.append((options["input"].clone(), options["timestep"].clone()))
        return apply_model(options["input"], options["timestep"], **options["c"])

    model.set_model_unet_function_wrapper(watch)
    run(model, small_models.conditioning(model), torch.zeros(1, 4, 8, 8), seed=7)
    (x, sigma), noise = seen[0], torch.randn(1, 4, 8, 8, generator=torch.manual_seed(7))
    assert len(seen) == 1
    # diffusers feeds unit noise at this timestep: x / sqrt(1 + sigma²) in the host's
    # variance-exploding form.
    assert torch.allclose(x / torch.sqrt(1 + sigma**2), noise, atol=1e-4)
    assert model.get_model_object("model_sampling").timestep(sigma).item() == timestep


def test_x0_prediction_is_set_for_the_one_step_lightning(unets):
    model = carrying(unets["sdxl"], "sdxl-lightning-1step-x0")
    assert any(
        kind.__name__ == "X0" for kind in type(model.get_model_object("model_sampling")).__mro__
    )
    assert (
        run(model, small_models.conditioning(model), torch.zeros(1, 4, 8, 8))[1]["evaluations"] == 1
    )


# ---------------------------------------------------------------- every solver makes one evaluation


@pytest.mark.parametrize("solver", [solver for solver in Solver if solver is not Solver.TCD])
def test_a_solver_of_the_host_makes_one_evaluation_a_step(small, solver):
    record = dataclasses.replace(CATALOG["flux1-schnell"], id="any", solver=solver)
    model = with_record(small["FluxSchnell"], record)
    for steps in record.steps:
        samples, data = run(
            model, text_conditioning("FluxSchnell"), torch.zeros(1, 16, 8, 8), steps=steps
        )
        assert data["evaluations"] == steps and data["sampler"] == solver.value
        assert torch.isfinite(samples).all()


def test_noise_is_clipped_where_the_release_clips_it():
    record = CATALOG["hidream-o1-dev"]
    made = sample_run.host_sampler(plans.make_plan(record, 0, 1.0, float))
    assert made.extra_options["noise_clip_std"] == 2.5
    assert (
        "noise_clip_std"
        not in sample_run.host_sampler(
            plans.make_plan(CATALOG["hidream-i1-fast"], 0, 1.0, float)
        ).extra_options
    )


# ---------------------------------------------------------------- sound and video in one latent


def core_run(model, conditioning, latent, sigmas, sampler_object, seed, mask=None):
    """The host's own guider on the same noise and sigmas."""
    guider = comfy.samplers.CFGGuider(model)
    guider.inner_set_conds({"positive": conditioning})
    guider.set_cfg(1.0)
    noise = comfy.sample.prepare_noise(latent, seed)
    return guider.sample(
        noise, latent, sampler_object, sigmas, denoise_mask=mask, disable_pbar=True, seed=seed
    )


@pytest.mark.parametrize(
    ("name", "id", "batch"),
    # MiniMax-H3 makes one sample at a time.
    [
        ("LTXAV", "ltx2-19b-distilled", 1),
        ("LTXAV", "ltx23-22b-distilled", 2),
        ("MiniMaxH3", MINIMAX, 1),
    ],
)
def test_joint_latents_sample_as_the_hosts_own_guider_does(small, name, id, batch):
    model, text = carrying(small[name], id), text_conditioning(name)
    latent = audio_video_latent(name, batch)
    ours, data = run(model, text, latent, seed=11)
    sigmas = torch.tensor(data["sigmas"], dtype=torch.float32)
    theirs = core_run(model, text, latent, sigmas, comfy.samplers.sampler_object("euler"), 11)
    assert isinstance(ours, comfy.nested_tensor.NestedTensor) and len(ours.unbind()) == 2
    for mine, hosts, empty in zip(ours.unbind(), theirs.unbind(), latent.unbind(), strict=True):
        assert mine.shape == empty.shape and torch.isfinite(mine).all()
        assert torch.allclose(mine, hosts.to(mine), atol=1e-5)
    assert data["evaluations"] == CATALOG[id].default_steps
    again, _ = run(model, text, latent, seed=11)
    assert all(
        torch.equal(one, other) for one, other in zip(ours.unbind(), again.unbind(), strict=True)
    )


def test_a_joint_mask_keeps_what_it_covers(small):
    model, text = carrying(small["LTXAV"], "ltx2-19b-distilled"), text_conditioning("LTXAV")
    latent = audio_video_latent("LTXAV")
    generator = torch.Generator().manual_seed(1)
    given = comfy.nested_tensor.NestedTensor(
        [torch.randn(part.shape, generator=generator) for part in latent.unbind()]
    )
    video, sound = given.unbind()
    # The sound is kept, the video made anew.
    mask = comfy.nested_tensor.NestedTensor(
        [torch.ones_like(video)[:, :1], torch.zeros_like(sound)[:, :1]]
    )
    output = sampler.FewStepSampler.execute(
        model, text, {"samples": given, "noise_mask": mask}, 5, 0, 1.0
    )
    made = output.args[0]["samples"].unbind()
    assert torch.allclose(made[1], sound, atol=1e-5)
    assert not torch.allclose(made[0], video, atol=0.1)


def test_two_clocks_are_the_hosts_own(small):
    shift = pytest.importorskip(
        "comfy_extras.nodes_minimax_h3", reason="this ComfyUI has no MiniMax-H3"
    ).MiniMaxH3SigmaShift
    record = CATALOG[MINIMAX]
    ours = with_model_sampling(small["MiniMaxH3"], record)
    theirs = shift.execute(small["MiniMaxH3"], 6.0, 3.0).args[0]
    for key in ("minimax_h3_sigma_shift_video", "minimax_h3_sigma_shift_audio"):
        assert (
            ours.model_options["transformer_options"][key]
            == theirs.model_options["transformer_options"][key]
        )
    assert (
        ours.get_model_object("model_sampling").shift
        == theirs.get_model_object("model_sampling").shift
        == 6.0
    )
    assert (
        "minimax_h3_sigma_shift_video"
        not in small["MiniMaxH3"].model_options["transformer_options"]
    )
    text, latent = text_conditioning("MiniMaxH3"), audio_video_latent("MiniMaxH3")
    sigmas = torch.tensor(plans.make_plan(record, 0, 1.0, float).sigmas)
    euler = comfy.samplers.sampler_object("euler")
    mine, hosts = (
        core_run(ours, text, latent, sigmas, euler, 2),
        core_run(theirs, text, latent, sigmas, euler, 2),
    )
    assert all(
        torch.equal(one, other) for one, other in zip(mine.unbind(), hosts.unbind(), strict=True)
    )
    # The second clock matters: at another audio shift the sound is another.
    other = shift.execute(small["MiniMaxH3"], 6.0, 6.0).args[0]
    assert not torch.allclose(
        core_run(other, text, latent, sigmas, euler, 2).unbind()[1], hosts.unbind()[1]
    )


@pytest.mark.parametrize(
    ("schedule", "clocks"),
    # A schedule of one clock leaves the sound on the model's own.
    [(TwoClockFlow(6.0, 2.0), (6.0, 2.0)), (ShiftedFlow(6.0), (6.0, 3.0))],
)
def test_the_sounds_clock_is_kept_where_the_hosts_sampling_has_one(small, schedule, clocks):
    record = dataclasses.replace(CATALOG[MINIMAX], schedule=schedule)
    sampling = with_model_sampling(small["MiniMaxH3"], record).get_model_object("model_sampling")
    if not hasattr(sampling, "audio_shift"):
        pytest.skip("this ComfyUI has the second clock in the network's options alone")
    assert (sampling.shift, sampling.audio_shift) == clocks
    # What the sampler carries the sound at; 1 without a clock of its own.
    assert sampling.audio_scale == clocks[0] / clocks[1]


def test_a_plain_latent_runs_as_the_hosts_own_sampler_runs_it(small):
    # Since 0.31 an empty clip for MiniMax-H3 is given its sound when it is fitted to the model.
    model, text = carrying(small["MiniMaxH3"], MINIMAX), text_conditioning("MiniMaxH3")
    plain = torch.zeros(1, 24, 2, 4, 4)
    fitted = comfy.sample.fix_empty_latent_channels(model, plain)
    if not fitted.is_nested:
        pytest.skip("this ComfyUI gives a plain latent no sound, and the network wants one")
    ours, data = run(model, text, plain, seed=7)
    sigmas = torch.tensor(data["sigmas"], dtype=torch.float32)
    theirs = core_run(model, text, fitted, sigmas, comfy.samplers.sampler_object("euler"), 7)
    for mine, hosts in zip(ours.unbind(), theirs.unbind(), strict=True):
        assert torch.isfinite(mine).all() and torch.allclose(mine, hosts.to(mine), atol=1e-5)


# ---------------------------------------------------------------- causal models


def test_a_causal_model_is_not_sampled_all_at_once(models):
    name = "causal_forcing-framewise.safetensors"
    model = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / name, "wan21_causal")
    )
    attached, _ = accelerator.attach_distilled(model, "auto")
    assert accelerator_of(attached).id == "causal-forcing-framewise"
    with pytest.raises(
        plans.PlanError, match="is causal: it makes 1 latent frame at a time.*Streaming Sampler"
    ):
        run(attached, small_models.conditioning(attached), torch.zeros(1, 16, 3, 8, 8))
    sigmas, _, cfg, steps = sampler.FewStepSchedule.execute(attached, 0, 1.0).args[:4]
    assert torch.allclose(sigmas, torch.tensor([1, 0.9375, 2.5 / 3, 0.625, 0])) and (
        cfg,
        steps,
    ) == (1.0, 4)


# ---------------------------------------------------------------- embedded guidance


def test_embedded_guidance_is_left_alone_and_shown(small):
    model = carrying(small["Flux"], "hyper-flux-8step-lora")
    text = text_conditioning("Flux")
    with_guidance = [[text[0][0], {**text[0][1], "guidance": 2.0}]]
    plain = sampler.FewStepSampler.execute(
        model, text, {"samples": torch.zeros(1, 16, 8, 8)}, 1, 0, 1.0
    )
    guided = sampler.FewStepSampler.execute(
        model, with_guidance, {"samples": torch.zeros(1, 16, 8, 8)}, 1, 0, 1.0
    )
    assert (
        "the model's default, as the graph sets it; hyper-flux-8step-lora was distilled at 3.5"
        in plain.args[1]
    )
    assert "2, as the graph sets it" in guided.args[1] and "- CFG: 1 (locked)" in guided.args[1]
    assert not torch.equal(plain.args[0]["samples"], guided.args[0]["samples"]), (
        "the network was given what the graph sets"
    )
    assert guided.ui["fewstep_report"][0]["evaluations"] == 8, "it costs nothing"


# ---------------------------------------------------------------- what is applied, and what is not


def test_alphas_alone_are_no_applied_layers(unets, models):
    # Alphas of two real layers with nothing to go with them, and one pair for a layer that no model
    # has.
    names = [
        key.removesuffix(".weight")
        for key in unets["sd15"].model.state_dict()
        if key.endswith("attn1.to_q.weight")
    ][:2]
    alphas = {
        f"lora_unet_{name.removeprefix('diffusion_model.').replace('.', '_')}.alpha": torch.tensor(
            4.0
        )
        for name in names
    }
    patched, coverage = attach_lora(unets["sd15"], alphas, 1.0)
    assert (
        len(alphas) == 2 and coverage.applied == 0 and patched.patches == {} and coverage.lost == ()
    )
    pair = {
        f"lora_unet_no_such_layer.lora_{end}.weight": torch.zeros(4, 4) for end in ("down", "up")
    }
    save_file({**alphas, **pair}, models / "loras" / "alphas.safetensors")
    with pytest.raises(
        ValueError,
        match="does not fit the connected model: its 1 layer is not in this model.*Choose the file",
    ):
        accelerator.attach_accelerator(unets["sd15"], "alphas.safetensors", "lcm-lora-sd15", 1.0)


def test_a_bias_alone_is_an_applied_layer(unets):
    name = next(
        key for key in unets["sd15"].model.state_dict() if key.endswith("attn1.to_out.0.bias")
    )
    bias = unets["sd15"].model.state_dict()[name]
    layer = "lora_unet_" + name.removeprefix("diffusion_model.").removesuffix(".bias").replace(
        ".", "_"
    )
    patched, coverage = attach_lora(unets["sd15"], {f"{layer}.diff_b": torch.ones_like(bias)}, 1.0)
    assert coverage.applied == 1 and list(patched.patches) == [name]


@pytest.mark.parametrize("strength", [float("nan"), float("inf")])
def test_a_strength_that_is_no_number_is_refused(unets, models, strength):
    write_lora(
        models / "loras" / "lcm-lora-sdv1-5.safetensors",
        unets["sd15"],
        "kohya-diffusers",
        only="attn1|attn2",
    )
    with pytest.raises(ValueError, match="It must be a finite number; 1 is the strength"):
        accelerator.attach_accelerator(
            unets["sd15"], "lcm-lora-sdv1-5.safetensors", "lcm-lora-sd15", strength
        )


# ---------------------------------------------------------------- scales


def test_an_alpha_the_file_lacks_is_the_releases_own(small, models):
    model = small["MiniMaxH3"]
    file = "minimax_h3_fl2v_turbo_8step_v1.0_comfyui_bf16.safetensors"
    written = write_lora(models / "loras" / file, model, "native", rank=16, only="attn", size=1.0)
    attached, report = accelerator.attach_accelerator(model, file, "auto", 1.0)
    assert accelerator_of(attached).id == "minimax-h3-fl2v-8step-lora"
    assert any("alpha 8 taken" in note and "the release's own" in note for note in report.notes)
    name = "blocks.0.attn.qkv_proj.weight"
    before = model.model.diffusion_model.state_dict()[name].float()
    expected = before + written.change(name) * 8 / 16
    patch = attached.patches[f"diffusion_model.{name}"]
    changed = comfy.lora.calculate_weight(patch, before.clone(), name)
    assert torch.allclose(changed, expected, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "id", "strength"),
    [("Flux", "hyper-flux-8step-lora", 0.125), ("LTXAV", "ltx23-22b-distilled-lora", 0.5)],
)
def test_a_release_strength_is_its_own(small, models, name, id, strength):
    file = CATALOG[id].files[0].name
    write_lora(models / "loras" / file, small[name], "native", only="attn")
    attached, report = accelerator.attach_accelerator(small[name], file, "auto", 2.0)
    assert (
        accelerator_of(attached).id == id
        and report.data["layers_lost"] == 0
        and report.data["layers_applied"] > 0
    )
    assert report.data["strength"] == pytest.approx(2 * strength)
    assert {patch[0] for patches in attached.patches.values() for patch in patches} == {
        2 * strength
    }


def test_the_wan21_recipe_is_chosen_by_hand_at_its_two_strengths(models):
    t2v = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "wan_t2v_plain.safetensors")
    )
    file = "lightx2v_T2V_14B_cfg_step_distill_v2_lora_rank64_bf16.safetensors"
    write_lora(models / "loras" / file, t2v, "native", only="self_attn")
    assert (
        accelerator_of(accelerator.attach_accelerator(t2v, file, "auto", 1.0)[0]).id
        == "wan21-t2v-lightx2v-4step"
    )
    high, report = accelerator.attach_accelerator(t2v, file, "wan22-t2v-wan21-lora-high", 1.0)
    assert not any(note.startswith("Chosen by hand") for note in report.notes), (
        "a recipe is there to be chosen"
    )
    low, _ = accelerator.attach_accelerator(t2v, file, "wan22-t2v-wan21-lora-low", 1.0)
    assert {patch[0] for patches in high.patches.values() for patch in patches} == {3.0}
    text = small_models.conditioning(t2v)
    output = sampler.FewStepSampler.execute(
        high, text, {"samples": torch.zeros(1, 16, 1, 8, 8)}, 1, 0, 1.0, model_low_noise=low
    )
    data = output.ui["fewstep_report"][0]
    assert (data["steps"], data["switch_step"], data["evaluations"]) == (6, 3, 6)


def test_the_one_experts_lora_on_the_others_model_is_refused(models):
    low = small_models.load_model(
        small_models.write_wan(models / "diffusion_models" / "wan2.2_t2v_low_noise_14B.safetensors")
    )
    file = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_{}_noise.safetensors"
    for word in ("high", "low"):
        write_lora(models / "loras" / file.format(word), low, "native", only="self_attn")
    with pytest.raises(
        ValueError,
        match=(
            "is for the high-noise expert, and wan2.2_t2v_low_noise_14B.safetensors is the"
            " other one"
        ),
    ):
        accelerator.attach_accelerator(low, file.format("high"), "auto", 1.0)
    assert (
        accelerator_of(accelerator.attach_accelerator(low, file.format("low"), "auto", 1.0)[0]).id
        == "wan22-t2v-lightning-low"
    )


@pytest.mark.parametrize(
    ("model_file", "expert"),
    [
        # Folders are their owner's order, and say nothing of experts.
        ("low_vram/wan22_t2v_highnoise_14B.safetensors", "high"),
        ("high quality/wan22_t2v_LowNoise_14B.safetensors", "low"),
        ("low_vram/wan22_t2v_14B.safetensors", None),
        ("Wan22-T2V-HIGH-14B.safetensors", "high"),
        ("wan22_t2v_high_noise_low_vram.safetensors", "high"),
    ],
)
def test_the_models_own_name_says_which_expert_it_is(models, model_file, expert):
    path = models / "diffusion_models" / model_file
    path.parent.mkdir(exist_ok=True)
    model = small_models.load_model(small_models.write_wan(path))
    file = "wan2.2_t2v_lightx2v_4steps_lora_v1.1_{}_noise.safetensors"
    for word in ("high", "low"):
        write_lora(models / "loras" / file.format(word), model, "native", only="self_attn")
        if expert in (word, None):
            attached, _ = accelerator.attach_accelerator(model, file.format(word), "auto", 1.0)
            assert accelerator_of(attached).id == f"wan22-t2v-lightning-{word}"
            continue
        with pytest.raises(ValueError, match=f"is for the {word}-noise expert"):
            accelerator.attach_accelerator(model, file.format(word), "auto", 1.0)


def test_a_file_for_another_base_names_the_recipe_that_takes_it(models):
    i2v = small_models.load_model(
        small_models.write_wan(
            models / "diffusion_models" / "wan22_i2v_plain.safetensors", "wan22_i2v"
        )
    )
    file = "lightx2v_I2V_14B_480p_cfg_step_distill_rank64_bf16.safetensors"
    donor = small_models.load_model(
        small_models.write_wan(
            models / "diffusion_models" / "wan21_i2v_plain.safetensors", "wan21_i2v"
        )
    )
    write_lora(models / "loras" / file, donor, "native", only="attn")
    with pytest.raises(
        ValueError,
        match="choose wan22-i2v-wan21-lora-high or wan22-i2v-wan21-lora-low in accelerator",
    ):
        accelerator.attach_accelerator(i2v, file, "auto", 1.0)
    attached, report = accelerator.attach_accelerator(i2v, file, "wan22-i2v-wan21-lora-low", 1.0)
    assert accelerator_of(attached).strength == 1.0
    assert report.data["layers_not_needed"] > 0 and report.data["layers_lost"] == 0


def test_a_release_that_is_left_out_is_refused_with_the_reason(small, models):
    file = "MiniMax-H3-FL2VA-Acc-8Step.safetensors"
    write_lora(models / "loras" / file, small["MiniMaxH3"], "native", only="attn")
    with pytest.raises(
        ValueError, match="left out: parallel decoding distillation: needs its own loader"
    ):
        accelerator.attach_accelerator(small["MiniMaxH3"], file, "auto", 1.0)


def test_animatelcms_image_lora_is_sent_to_cores_loader(unets, models):
    file = "AnimateLCM_sd15_t2v_lora.safetensors"
    write_lora(models / "loras" / file, unets["sd15"], "kohya-diffusers", only="attn")
    with pytest.raises(
        ValueError,
        match="load it with core's Load LoRA, then AnimateLCM with the Motion Module Loader",
    ):
        accelerator.attach_accelerator(unets["sd15"], file, "auto", 1.0)


def test_a_published_file_the_host_has_no_names_for_says_which_to_take(small, models):
    file = "minimax_h3_fl2v_turbo_4step_v0.1.safetensors"
    pair = {
        f"transformer_blocks.0.attn.x.{end}.weight": torch.zeros(8, 8)
        for end in ("lora_A.default", "lora_B.default")
    }
    save_file(pair, models / "loras" / file)
    with pytest.raises(
        ValueError, match="the host does not map to this model: take a _comfyui one"
    ):
        accelerator.attach_accelerator(small["MiniMaxH3"], file, "auto", 1.0)


def test_licences_are_in_the_report(small, models):
    file = "Hyper-FLUX.1-dev-8steps-lora.safetensors"
    write_lora(models / "loras" / file, small["Flux"], "native", only="attn")
    _, report = accelerator.attach_accelerator(small["Flux"], file, "auto", 1.0)
    assert "NON-COMMERCIAL" in report.markdown
    save_file({"x": torch.zeros(1)}, models / "loras" / "nothing.safetensors")
    with pytest.raises(ValueError, match="neither a LoRA nor a diffusion model"):
        accelerator.attach_accelerator(small["Flux"], "nothing.safetensors", "auto", 1.0)
