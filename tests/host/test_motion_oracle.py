"""The Motion Module Loader against diffusers: evaluations of the whole UNet, alone and with what
other nodes do to it, the noise schedule, and whole runs.
"""

from __future__ import annotations

import comfy.model_management
import comfy.sample
import comfy.samplers
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention

pytest.importorskip("diffusers")
from comfyui_fewstep.nodes import motion, sampler
from comfyui_fewstep.nodes.host import motion as motion_patch
from diffusers import AnimateDiffPipeline, EulerDiscreteScheduler, LCMScheduler
from diffusers.models.attention_processor import IPAdapterAttnProcessor2_0
from motion_files import animatediff_keys, motion_adapter, save
from thinning import corners, thorough

from motion_oracle import diffusers_unet
from small_models import conditioning

pytestmark = pytest.mark.skipif(
    not motion_patch.host_patches_layers(), reason="this ComfyUI is too old for motion modules"
)
LAYOUTS = {"diffusers": dict, "animatediff": animatediff_keys}
LIGHTNING = "animatediff_lightning_4step_comfyui.safetensors"
ANIMATELCM = "AnimateLCM_sd15_t2v.safetensors"
LATENT_SCALE = 0.18215  # SD 1.5's


@pytest.fixture(scope="module")
def adapter():
    return motion_adapter(size=0.3)


def attached(models, unets, adapter, name=LIGHTNING, layout=animatediff_keys, frames=4):
    save(models / "animatediff_models" / name, layout(adapter.state_dict()))
    return motion.attach_motion(unets["sd15"], name, frames)[0]


def without_encodings(tensors):
    """As AnimateLCM's files are: AnimateDiff's names, no position encodings."""
    return {
        key: tensor for key, tensor in animatediff_keys(tensors).items() if not key.endswith(".pe")
    }


def planned_sigmas(model, steps=0):
    return sampler.FewStepSchedule.execute(model, steps, 1.0).result[0]


@torch.no_grad()
def evaluate(model, x, timestep, context, groups=1, control=None):
    """One evaluation, as the host's samplers call it. x: (groups·T, 4, H, W). context: (groups·T,
    tokens, 768).
    """
    comfy.model_management.load_models_gpu([model, *model.get_additional_models()])
    options = {**model.model_options["transformer_options"], "cond_or_uncond": list(range(groups))}
    timesteps = torch.full((x.shape[0],), float(timestep))
    return model.model.diffusion_model(
        x, timesteps, context=context, control=control, transformer_options=options
    )


@torch.no_grad()
def evaluate_theirs(unet, x, timestep, context, groups=1, **residuals):
    clips = x.unflatten(0, (groups, -1)).transpose(1, 2)  # (B, C, T, H, W)
    return unet(clips, timestep, context, **residuals).sample.transpose(1, 2).flatten(0, 1)


def random_input(frames, groups=1, seed=0):
    """(x, context), another prompt for every frame."""
    generator = torch.Generator().manual_seed(seed)
    rows = groups * frames
    x = torch.randn(rows, 4, 8, 8, generator=generator)
    return x, torch.randn(rows, 8, 768, generator=generator)


@corners()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(("frames", "groups"), [(1, 1), (2, 2), (5, 1), (16, 1), (4, 3)])
def test_one_evaluation_is_diffusers(models, unets, adapter, layout, frames, groups):
    model = attached(models, unets, adapter, layout=LAYOUTS[layout], frames=frames)
    x, context = random_input(frames, groups, seed=frames)
    actual = evaluate(model, x, 749, context, groups)
    torch.testing.assert_close(
        actual,
        evaluate_theirs(diffusers_unet(unets["sd15"], adapter), x, 749, context, groups),
        rtol=0,
        atol=1e-4,
    )
    still = evaluate(unets["sd15"], x, 749, context, groups)
    assert (actual - still).abs().max() > 1e-2, "the motion module takes part"


@corners()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("frames", [3, 16])
@pytest.mark.parametrize("positions", [24, 32], ids=["v1", "v3"])
def test_v1_and_v3_have_no_middle_module(models, unets, layout, frames, positions):
    adapter = motion_adapter(positions=positions, has_middle=False, size=0.3)
    model = attached(models, unets, adapter, "mm.safetensors", LAYOUTS[layout], frames)
    x, context = random_input(frames, seed=7)
    torch.testing.assert_close(
        evaluate(model, x, 249, context),
        evaluate_theirs(diffusers_unet(unets["sd15"], adapter), x, 249, context),
        rtol=0,
        atol=1e-4,
    )


@pytest.mark.parametrize("frames", [6, 64])
def test_animatelcm_without_position_encodings_is_diffusers_with_sixty_four(models, unets, frames):
    adapter = motion_adapter(positions=64, size=0.3)
    model = attached(models, unets, adapter, ANIMATELCM, without_encodings, frames)
    assert motion_patch.motion_of(model).positions == 64
    # Evaluated without a sampler, and so whole: a sampler sees 64 frames in windows of 16.
    x, context = random_input(frames)
    torch.testing.assert_close(
        evaluate(model, x, 499, context),
        evaluate_theirs(diffusers_unet(unets["sd15"], adapter), x, 499, context),
        rtol=0,
        atol=1e-4,
    )


# --- with what other nodes do to the UNet


def test_the_residuals_of_a_control_net_come_where_diffusers_adds_them(models, unets, adapter):
    model, (x, context) = attached(models, unets, adapter), random_input(4)
    generator = torch.Generator().manual_seed(4)
    # Of the input convolution and, at each resolution, two blocks and the downsampling but for the
    # last.
    shapes = [(32, 8)] * 3 + [(32, 4)] + [(64, 4)] * 2 + [(64, 2)] + [(128, 2)] * 2 + [(128, 1)] * 3
    down = [0.3 * torch.randn(4, width, side, side, generator=generator) for width, side in shapes]
    middle = 0.3 * torch.randn(4, 128, 1, 1, generator=generator)
    actual = evaluate(
        model,
        x,
        749,
        context,
        control={"output": [part.clone() for part in down], "middle": [middle.clone()]},
    )
    theirs = diffusers_unet(unets["sd15"], adapter)
    expected = evaluate_theirs(
        theirs,
        x,
        749,
        context,
        down_block_additional_residuals=tuple(down),
        mid_block_additional_residual=middle,
    )
    torch.testing.assert_close(actual, expected, rtol=0, atol=1e-4)
    assert (expected - evaluate_theirs(theirs, x, 749, context)).abs().max() > 1e-2, (
        "they change the result"
    )


def test_a_silenced_attention_is_diffusers_with_its_values_zero(models, unets, adapter):
    model, (x, context) = attached(models, unets, adapter).clone(), random_input(4)
    model.set_model_attn2_replace(lambda q, k, v, options: torch.zeros_like(q), "input", 4)
    theirs = diffusers_unet(unets["sd15"], adapter)
    cross_attention_of_input_4(theirs).to_v.weight.data.zero_()
    torch.testing.assert_close(
        evaluate(model, x, 749, context),
        evaluate_theirs(theirs, x, 749, context),
        rtol=0,
        atol=1e-4,
    )


@torch.no_grad()
def test_a_picture_prompt_is_diffusers_ip_adapter(models, unets, adapter):
    model, (x, context) = attached(models, unets, adapter).clone(), random_input(4)
    generator = torch.Generator().manual_seed(6)
    tokens = torch.randn(4, 4, 768, generator=generator)  # four of a picture for each frame

    class OnePicture(IPAdapterAttnProcessor2_0):
        """The UNet hands on the text alone."""

        def __call__(self, attn, hidden_states, encoder_hidden_states=None, **more):
            return super().__call__(attn, hidden_states, (encoder_hidden_states, [tokens]), **more)

    torch.manual_seed(6)
    picture = OnePicture(hidden_size=64, cross_attention_dim=768)
    theirs = diffusers_unet(unets["sd15"], adapter)
    base = evaluate_theirs(theirs, x, 749, context)
    cross_attention_of_input_4(theirs).set_processor(picture)
    expected = evaluate_theirs(theirs, x, 749, context)

    def decoupled(q, k, v, options):
        heads = options["n_heads"]
        return optimized_attention(q, k, v, heads) + optimized_attention(
            q, picture.to_k_ip[0](tokens), picture.to_v_ip[0](tokens), heads
        )

    model.set_model_attn2_replace(decoupled, "input", 4)
    torch.testing.assert_close(evaluate(model, x, 749, context), expected, rtol=0, atol=1e-4)
    assert (expected - base).abs().max() > 1e-2, "the picture takes part"


def test_more_tokens_for_every_cross_attention_are_a_longer_prompt(models, unets, adapter):
    # The other way in which picture prompts come: keys and values longer than the text's, in all
    # sixteen layers.
    model, (x, context) = attached(models, unets, adapter).clone(), random_input(4)
    tokens = torch.randn(4, 4, 768, generator=torch.Generator().manual_seed(6))

    def longer(n, context, value, options):
        longer = torch.cat((context, tokens), dim=1)
        return n, longer, longer

    model.set_model_attn2_patch(longer)
    expected = evaluate_theirs(
        diffusers_unet(unets["sd15"], adapter), x, 749, torch.cat((context, tokens), dim=1)
    )
    torch.testing.assert_close(evaluate(model, x, 749, context), expected, rtol=0, atol=1e-4)


def cross_attention_of_input_4(unet):
    """diffusers' name for it: input blocks 1 and 2 are its first resolution, 3 halves the size, 4
    and 5 are its second.
    """
    return unet.down_blocks[1].attentions[0].transformer_blocks[0].attn2


# --- the noise schedule and whole runs


def test_the_noise_schedule_is_linear_in_the_betas(models, unets, adapter):
    model = attached(models, unets, adapter)
    scheduler = euler_trailing()
    scheduler.set_timesteps(4)
    assert scheduler.timesteps.tolist() == [999, 749, 499, 249]
    sigmas = planned_sigmas(model)
    torch.testing.assert_close(sigmas, scheduler.sigmas, rtol=1e-5, atol=1e-5)
    # SD 1.5's own first sigma is 14.61.
    assert float(sigmas[0]) == pytest.approx(25.1, abs=0.1)
    assert float(unets["sd15"].get_model_object("model_sampling").sigma_max) == pytest.approx(
        14.61, abs=0.01
    )


@corners()
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("steps", "frames"),
    [
        (1, 5),
        pytest.param(2, 5, marks=thorough),
        (4, 16),
        pytest.param(8, 5, marks=thorough),
    ],
)
def test_a_lightning_run_is_the_diffusers_pipelines(models, unets, adapter, layout, steps, frames):
    """To 1e-3 in latents of deviation 150 or so, random weights denoising nothing; from one start,
    see rescaled.
    """
    model = attached(
        models,
        unets,
        adapter,
        f"animatediff_lightning_{steps}step_comfyui.safetensors",
        LAYOUTS[layout],
        frames,
    )
    positive = conditioning(unets["sd15"], seed=3)
    latent = {"samples": torch.zeros(frames, 4, 8, 8)}
    made = sampler.FewStepSampler.execute(model, positive, latent, 11, 0, 1.0).result[0]["samples"]
    noise = comfy.sample.prepare_noise(latent["samples"], 11)
    expected = run_pipeline(
        unets, adapter, euler_trailing(), positive, rescaled(noise, model), steps
    )
    torch.testing.assert_close(made, expected, rtol=0, atol=1e-3)
    assert made.std() > 0.1


def test_the_core_ksampler_on_simple_is_the_diffusers_pipeline(models, unets, adapter):
    model = attached(models, unets, adapter)
    positive, noise = (
        conditioning(unets["sd15"], seed=3),
        torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    core = comfy.sample.sample(
        model,
        noise,
        4,
        1.0,
        "euler",
        "simple",
        positive,
        positive,
        torch.zeros_like(noise),
        disable_pbar=True,
    )
    expected = run_pipeline(unets, adapter, euler_trailing(), positive, rescaled(noise, model), 4)
    torch.testing.assert_close(core, expected, rtol=0, atol=1e-3)


def euler_trailing():
    return EulerDiscreteScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="linear", timestep_spacing="trailing"
    )


def rescaled(noise, model):
    """The noise from which diffusers starts where the host does: with trailing spacing it
    multiplies by sigma, the host by sqrt(1 + sigma^2) (25.10 and 25.12). What is left to compare
    are the steps.
    """
    sigma = float(model.get_model_object("model_sampling").sigma_max)
    return noise * ((1 + sigma**2) ** 0.5 / sigma)


def run_pipeline(unets, adapter, scheduler, positive, noise, steps):
    """diffusers' pipeline without guidance, in the scale of the host's latents. noise and result:
    (T, C, H, W).
    """
    pipeline = AnimateDiffPipeline(
        vae=None,
        text_encoder=None,
        tokenizer=None,
        unet=diffusers_unet(unets["sd15"], adapter),
        motion_adapter=adapter,
        scheduler=scheduler,
    )
    pipeline.set_progress_bar_config(disable=True)
    frames, _, height, width = noise.shape
    clip = pipeline(
        prompt_embeds=positive[0][0],
        guidance_scale=1.0,
        num_inference_steps=steps,
        num_frames=frames,
        height=8 * height,
        width=8 * width,
        latents=noise.transpose(0, 1).unsqueeze(0),
        output_type="latent",
    ).frames  # (1, C, T, H, W)
    return clip[0].transpose(0, 1) / LATENT_SCALE


def test_the_core_ksampler_makes_the_same_clip_within_its_rounded_timesteps(models, unets, adapter):
    # sgm_uniform, which the release names for ComfyUI, takes 999, 749.25, 499.5 and 249.75 where
    # the distillation has whole ones.
    model = attached(models, unets, adapter)
    positive, noise = (
        conditioning(unets["sd15"], seed=3),
        torch.randn(4, 4, 8, 8, generator=torch.Generator().manual_seed(1)),
    )
    empty = torch.zeros(4, 4, 8, 8)
    core = comfy.sample.sample(
        model, noise, 4, 1.0, "euler", "sgm_uniform", positive, positive, empty
    )
    sigmas = planned_sigmas(model)
    exact = comfy.sample.sample_custom(
        model, noise, 1.0, comfy.samplers.sampler_object("euler"), sigmas, positive, positive, empty
    )
    assert (core - exact).abs().max() < 0.05 * exact.std()


def test_animatelcm_has_diffusers_noise_levels_and_parameterization(models, unets):
    # Without a run: its steps are re-noised, each side with noise of its own.
    model = attached(
        models, unets, motion_adapter(positions=64, size=0.3), ANIMATELCM, without_encodings
    )
    scheduler = LCMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    scheduler.set_timesteps(4)
    sigmas = planned_sigmas(model, steps=4)[:-1]
    alphas = scheduler.alphas_cumprod[scheduler.timesteps]
    torch.testing.assert_close(sigmas, ((1 - alphas) / alphas).sqrt(), rtol=1e-4, atol=1e-4)

    sampling = model.get_model_object("model_sampling")
    eps, x = torch.randn(2, 2, 4, 4, 4, generator=torch.Generator().manual_seed(0))
    for step, sigma in enumerate(sigmas.tolist()):
        # x = x0 + sigma n here, sqrt(a) x0 + sqrt(1 - a) n there.
        ours = sampling.calculate_denoised(torch.full((2,), sigma), eps, x)
        scheduler._step_index = None
        theirs = scheduler.step(eps, scheduler.timesteps[step], x / (1 + sigma**2) ** 0.5).denoised
        # Their skip connection takes the scaled x; it weighs less than 1e-4 at every step.
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)
