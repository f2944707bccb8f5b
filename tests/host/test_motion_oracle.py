"""The Motion Module Loader against diffusers: one evaluation of the whole UNet, the noise schedule, and a run of four steps."""

from __future__ import annotations

import sys
from pathlib import Path

import comfy.model_management
import comfy.samplers
import pytest
import torch

pytest.importorskip("diffusers")
sys.path.append(str(Path(__file__).resolve().parents[1]))
from comfyui_fewstep.nodes import motion, motion_patch, sampler
from diffusers import AnimateDiffPipeline, EulerDiscreteScheduler, LCMScheduler
from motion_files import animatediff_keys, motion_adapter, save

from motion_oracle import diffusers_unet
from small_models import conditioning

pytestmark = pytest.mark.skipif(not motion_patch.host_patches_layers(), reason="this ComfyUI is too old for motion modules")
LAYOUTS = {"diffusers": dict, "animatediff": animatediff_keys}
LIGHTNING = "animatediff_lightning_4step_comfyui.safetensors"
LATENT_SCALE = 0.18215  # SD 1.5's


@pytest.fixture(scope="module")
def adapter():
    return motion_adapter(size=0.3)


def attached(models, unets, adapter, name=LIGHTNING, layout=animatediff_keys, frames=4):
    save(models / "animatediff_models" / name, layout(adapter.state_dict()))
    return motion.attach(unets["sd15"], name, frames)[0]


def planned_sigmas(model, steps=0):
    return sampler.FewStepSchedule.execute(model, steps, 1.0).result[0]


@torch.no_grad()
def evaluate(model, x, timestep, context, groups):
    """One evaluation, as the host's samplers call it. x: (groups·T, 4, H, W)."""
    comfy.model_management.load_models_gpu([model, *model.get_additional_models()])
    options = {**model.model_options["transformer_options"], "cond_or_uncond": list(range(groups))}
    timesteps = torch.full((x.shape[0],), float(timestep))
    return model.model.diffusion_model(x, timesteps, context=context, transformer_options=options)


@torch.no_grad()
def evaluate_theirs(unet, x, timestep, context, groups):
    clips = x.unflatten(0, (groups, -1)).transpose(1, 2)  # (B, C, T, H, W)
    return unet(clips, timestep, context).sample.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("frames", "groups"), [(1, 1), (2, 2), (5, 1), (16, 1), (4, 3)])
def test_one_evaluation_is_diffusers(models, unets, adapter, layout, frames, groups):
    model = attached(models, unets, adapter, layout=LAYOUTS[layout], frames=frames)
    generator = torch.Generator().manual_seed(frames)
    x = torch.randn(groups * frames, 4, 8, 8, generator=generator)
    context = torch.randn(groups, 77, 768, generator=generator).repeat_interleave(frames, dim=0)
    actual = evaluate(model, x, 749, context, groups)
    torch.testing.assert_close(actual, evaluate_theirs(diffusers_unet(unets["sd15"], adapter), x, 749, context, groups), rtol=0, atol=1e-4)
    still = evaluate(unets["sd15"], x, 749, context, groups)
    assert (actual - still).abs().max() > 1e-2, "the motion module takes part"


@pytest.mark.parametrize(("positions", "has_middle"), [(24, False), (32, False)])
def test_v1_and_v3_have_no_middle_module(models, unets, positions, has_middle):
    adapter = motion_adapter(positions=positions, has_middle=has_middle, size=0.3)
    model = attached(models, unets, adapter, name="mm.safetensors", frames=6)
    x, context = torch.randn(6, 4, 8, 8), torch.randn(6, 77, 768)
    torch.testing.assert_close(evaluate(model, x, 249, context, 1),
                               evaluate_theirs(diffusers_unet(unets["sd15"], adapter), x, 249, context, 1), rtol=0, atol=1e-4)


def test_the_noise_schedule_is_linear_in_the_betas(models, unets, adapter):
    model = attached(models, unets, adapter)
    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="trailing")
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    sigmas = planned_sigmas(model)
    torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=1e-5, atol=1e-5)
    # SD 1.5's own first sigma is 14.61.
    assert float(sigmas[0]) == pytest.approx(25.1, abs=0.1)
    assert float(unets["sd15"].get_model_object("model_sampling").sigma_max) == pytest.approx(14.61, abs=0.01)


@pytest.mark.parametrize("frames", [4, 16])
def test_four_lightning_steps_are_the_diffusers_pipelines(models, unets, adapter, frames):
    model = attached(models, unets, adapter, frames=frames)
    positive = conditioning(unets["sd15"], seed=3)
    latent = {"samples": torch.zeros(frames, 4, 8, 8)}
    made = sampler.FewStepSampler.execute(model, positive, latent, 11, 0, 1.0).result[0]["samples"]

    scheduler = EulerDiscreteScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="trailing")
    noise = comfy.sample.prepare_noise(latent["samples"], 11)
    sigma = float(model.get_model_object("model_sampling").sigma_max)
    # The host starts at sqrt(1 + sigma^2) where diffusers' trailing spacing starts at sigma (25.12 and 25.10): the run is compared
    # from one start.
    expected = run_pipeline(unets, adapter, scheduler, positive, noise * ((1 + sigma**2) ** 0.5 / sigma))
    torch.testing.assert_close(made, expected, rtol=1e-3, atol=1e-3)
    assert made.std() > 0.1


def run_pipeline(unets, adapter, scheduler, positive, noise, **options):
    """Four steps of diffusers' pipeline without guidance, in the scale of the host's latents. noise and result: (T, C, H, W)."""
    pipeline = AnimateDiffPipeline(
        vae=None, text_encoder=None, tokenizer=None, unet=diffusers_unet(unets["sd15"], adapter), motion_adapter=adapter,
        scheduler=scheduler)
    pipeline.set_progress_bar_config(disable=True)
    frames, _, height, width = noise.shape
    clip = pipeline(
        prompt_embeds=positive[0][0], guidance_scale=1.0, num_inference_steps=4, num_frames=frames, height=8 * height, width=8 * width,
        latents=noise.transpose(0, 1).unsqueeze(0), output_type="latent", **options).frames  # (1, C, T, H, W)
    return clip[0].transpose(0, 1) / LATENT_SCALE


def test_the_core_ksampler_makes_the_same_clip_within_its_rounded_timesteps(models, unets, adapter):
    # sgm_uniform, which the release names for ComfyUI, takes 999, 749.25, 499.5 and 249.75 where the distillation has whole ones.
    model = attached(models, unets, adapter)
    positive, noise = conditioning(unets["sd15"], seed=3), torch.randn(4, 4, 8, 8, generator=torch.manual_seed(1))
    empty = torch.zeros(4, 4, 8, 8)
    core = comfy.sample.sample(model, noise, 4, 1.0, "euler", "sgm_uniform", positive, positive, empty)
    sigmas = planned_sigmas(model)
    exact = comfy.sample.sample_custom(model, noise, 1.0, comfy.samplers.sampler_object("euler"), sigmas, positive, positive, empty)
    assert (core - exact).abs().max() < 0.05 * exact.std()


def test_animatelcm_samples_as_diffusers_does(models, unets):
    # Re-noised steps: compared with no noise between them, as the last step shows the parameterization and the betas.
    adapter = motion_adapter(positions=64, size=0.3)
    tensors = {key: tensor for key, tensor in animatediff_keys(adapter.state_dict()).items() if not key.endswith(".pe")}
    save(models / "animatediff_models" / "AnimateLCM_sd15_t2v.safetensors", tensors)
    model, _ = motion.attach(unets["sd15"], "AnimateLCM_sd15_t2v.safetensors", 4)
    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    scheduler.set_timesteps(4)
    sigmas = planned_sigmas(model, steps=4)[:-1]
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    torch.testing.assert_close(sigmas, ((1 - alphas) / alphas).sqrt(), rtol=1e-4, atol=1e-4)

    sampling = model.get_model_object("model_sampling")
    eps, x = torch.randn(2, 4, 4, 4), torch.randn(2, 4, 4, 4)
    for step, sigma in enumerate(sigmas.tolist()):
        # x = x0 + sigma n here, sqrt(a) x0 + sqrt(1 - a) n there.
        ours = sampling.calculate_denoised(torch.full((2,), sigma), eps, x)
        scheduler._step_index = None
        theirs = scheduler.step(eps, scheduler.timesteps[step], x / (1 + sigma**2) ** 0.5).denoised
        # Their skip connection takes the scaled x; it weighs less than 1e-4 at every step.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
