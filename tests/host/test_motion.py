"""The Motion Module Loader on the real host: what it changes, what it leaves alone, what it works
with, what it refuses.
"""

from __future__ import annotations

import itertools
import weakref

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_management
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.utils
import pytest
import torch
from safetensors.torch import load_file

pytest.importorskip("diffusers")
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_model_advanced import ModelSamplingDiscrete
from comfyui_fewstep.loras.accelerator import Kind
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import accelerator, motion, sampler
from comfyui_fewstep.nodes.host import clip_inputs
from comfyui_fewstep.nodes.host import motion as motion_patch
from comfyui_fewstep.nodes.host.attach import attach_lora
from comfyui_fewstep.nodes.host.model import accelerator_of
from motion_files import animatediff_keys, motion_adapter, save
from thinning import corners, thorough

from left_behind import live_bytes
from small_loras import write_lora
from small_models import RandomWeights, conditioning, shapes_of, unet_config, unet_patcher

pytestmark = pytest.mark.skipif(
    not motion_patch.host_patches_layers(), reason="this ComfyUI is too old for motion modules"
)
LIGHTNING = "animatediff_lightning_4step_comfyui.safetensors"
FRAMES = 4


@pytest.fixture(scope="module")
def adapter():
    return motion_adapter(size=0.3)


@pytest.fixture
def sd15():
    """A model of this test's own: some of them look at what a run leaves behind."""
    yield unet_patcher("sd15")
    comfy.model_management.unload_all_models()


@pytest.fixture
def lightning(models, adapter):
    save(models / "animatediff_models" / LIGHTNING, animatediff_keys(adapter.state_dict()))
    return LIGHTNING


def with_lightning(model, name=LIGHTNING, frames=FRAMES):
    return motion.attach_motion(model, name, frames)[0]


def latent(frames=FRAMES):
    return {"samples": torch.zeros(frames, 4, 8, 8)}


def run(model, frames=FRAMES, positive=None, seed=5):
    """The clip the Few-Step Sampler makes, (T, 4, H, W), and its report's data."""
    output = sampler.FewStepSampler.execute(
        model, positive or conditioning(model, seed=1), latent(frames), seed, 0, 1.0
    )
    return output.result[0]["samples"], output.ui["fewstep_report"][0]


def core_run(model, frames=FRAMES, cfg=1.0, positive=None, negative=None, callback=None, steps=2):
    """The same through what the core KSampler calls."""
    noise = torch.randn(frames, 4, 8, 8, generator=torch.Generator().manual_seed(2))
    positive = positive or conditioning(model, seed=1)
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        "euler",
        "sgm_uniform",
        positive,
        negative or conditioning(model, seed=9),
        torch.zeros_like(noise),
        callback=callback,
        disable_pbar=True,
    )


@torch.no_grad()
def evaluate(model, seed=0, rows=FRAMES):
    """The UNet as this MODEL runs it, without a sampler."""
    generator = torch.Generator().manual_seed(seed)
    x, context = (
        torch.randn(rows, 4, 8, 8, generator=generator),
        torch.randn(rows, 8, 768, generator=generator),
    )
    options = {**model.model_options["transformer_options"], "cond_or_uncond": [0]}
    return model.model.diffusion_model(
        x, torch.full((rows,), 500.0), context=context, transformer_options=options
    )


def assert_same_clip(actual, expected):
    """Equal but for what batches of another size, sums in another order and other processors round:
    to 1e-4 of the clip's own size.

    With random weights that is 150 or so, and a number near 0 in it is rounded as the others are.
    """
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


# --- the original model


def test_without_the_node_the_model_gives_the_same_bits_before_during_and_after(sd15, lightning):
    before, modules = evaluate(sd15), list(sd15.model.diffusion_model.modules())
    weights = {
        name: weight.clone() for name, weight in sd15.model.diffusion_model.state_dict().items()
    }
    during = []
    moving = with_lightning(sd15)
    assert torch.equal(evaluate(sd15), before), "attaching changes nothing"
    core_run(moving, callback=lambda step, x0, x, steps: during.append(evaluate(sd15)))
    assert len(during) == 2 and all(torch.equal(each, before) for each in during)
    assert torch.equal(evaluate(sd15), before)
    assert list(sd15.model.diffusion_model.modules()) == modules, "no layer was put into the UNet"
    assert all(
        torch.equal(weight, weights[name])
        for name, weight in sd15.model.diffusion_model.state_dict().items()
    )
    assert "patches" not in sd15.model_options["transformer_options"]
    assert (
        not sd15.additional_models
        and not sd15.attachments
        and not sd15.get_all_wrappers("outer_sample")
    )


def test_other_branches_of_the_graph_sample_as_if_there_were_no_motion(sd15, lightning):
    still = core_run(sd15)
    moving = with_lightning(sd15)
    first = core_run(moving)
    assert torch.equal(core_run(sd15), still), "after a run with motion"
    assert torch.equal(core_run(moving), first), "and the other way round"
    assert float(sd15.get_model_object("model_sampling").sigma_max) == pytest.approx(
        14.61, abs=0.01
    )


def test_an_interrupt_leaves_nothing_behind(sd15, lightning):
    before, modules = evaluate(sd15), list(sd15.model.modules())
    moving = with_lightning(sd15)
    whole = core_run(moving)

    def stop(step, x0, x, steps):
        raise comfy.model_management.InterruptProcessingException

    with pytest.raises(comfy.model_management.InterruptProcessingException):
        core_run(moving, callback=stop)
    assert torch.equal(evaluate(sd15), before)
    assert torch.equal(core_run(moving), whole), "the next run starts fresh"
    # While a model is loaded the host keeps its object patches, here the noise schedule, in place.
    comfy.model_management.unload_all_models()
    assert list(sd15.model.modules()) == modules


def test_memory_returns_to_the_start(sd15, lightning):
    core_run(sd15)
    comfy.model_management.unload_all_models()
    start = live_bytes()
    moving = with_lightning(sd15)
    network = weakref.ref(moving.get_additional_models()[0].model)
    run(moving)
    assert live_bytes() > start
    comfy.model_management.unload_all_models()
    del moving
    assert live_bytes() == start
    assert network() is None


def loaded_patchers() -> list:
    """The MODELs that the host has loaded. Of one that was dropped by a test before, its list keeps
    an entry without a patcher for as long as its weights live.
    """
    models = comfy.model_management.loaded_models()
    return [model for model in models if model is not None]


def test_the_weights_are_the_hosts_to_load_and_to_offload(sd15, lightning):
    moving = with_lightning(sd15)
    (weights,) = moving.get_additional_models()
    assert weights.model_size() >= sum(p.nbytes for p in weights.model.parameters())
    loaded = []
    core_run(moving, callback=lambda step, x0, x, steps: loaded.append(loaded_patchers()))
    assert all(any(weights.is_clone(model) for model in each) for each in loaded)
    comfy.model_management.unload_all_models()
    assert not loaded_patchers()


def test_a_model_that_another_test_dropped_is_not_taken_for_a_loaded_one():
    model = unet_patcher("sd15")
    comfy.model_management.load_models_gpu([model])
    weights = model.model
    del model
    comfy.model_management.unload_all_models()
    assert None in comfy.model_management.loaded_models()
    assert not loaded_patchers()
    del weights
    comfy.model_management.cleanup_models()


def test_partly_loaded_weights_give_the_same_result(sd15, lightning):
    moving = with_lightning(sd15)
    (weights,) = moving.get_additional_models()
    comfy.model_management.load_models_gpu([weights])
    whole, loaded = evaluate(moving), weights.loaded_size()
    weights.detach()
    # One byte of room: every layer is brought in when it is used. Evaluated directly, as a sampling
    # run would load it whole again.
    weights.load(torch.device("cpu"), lowvram_model_memory=1)
    assert weights.loaded_size() < 0.1 * loaded
    assert torch.equal(evaluate(moving), whole)


def test_the_motion_module_takes_the_precision_of_the_model(lightning, monkeypatch):
    model = unet_patcher("sd15")
    monkeypatch.setattr(model.model, "get_dtype_inference", lambda: torch.bfloat16)
    (weights,) = with_lightning(model).get_additional_models()
    assert {p.dtype for p in weights.model.parameters()} == {torch.bfloat16}


def test_half_precision_is_the_same_clip_roughly(sd15, lightning):
    half = unet_patcher("sd15")
    half.model.diffusion_model.to(torch.bfloat16).dtype = torch.bfloat16
    moving = with_lightning(half)
    (weights,) = moving.get_additional_models()
    assert {p.dtype for p in weights.model.parameters()} == {torch.bfloat16}
    exact, still = core_run(with_lightning(sd15), steps=1), core_run(sd15, steps=1)
    # bfloat16 has 8 bits; some thirty layers lie in a row.
    error = (core_run(moving, steps=1) - exact).norm() / exact.norm()
    assert error < 0.05 < (still - exact).norm() / exact.norm()


# --- two motion models


def test_two_motion_models_in_one_graph_do_not_meet(sd15, lightning, models):
    save(
        models / "animatediff_models" / "mm_v3.safetensors",
        motion_adapter(has_middle=False, seed=7, size=0.3).state_dict(),
    )
    one, other = with_lightning(sd15), with_lightning(sd15, "mm_v3.safetensors")
    alone, alone_too = core_run(one), core_run(other)
    assert not torch.equal(alone, alone_too)
    inside = []
    together = core_run(one, callback=lambda step, x0, x, steps: inside.append(evaluate(other)))
    assert torch.equal(together, alone)
    assert torch.equal(inside[0], evaluate(other))
    assert torch.equal(core_run(other), alone_too) and torch.equal(core_run(one), alone)


def test_clones_and_other_patches_keep_the_motion(sd15, lightning):
    moving = with_lightning(sd15)
    other = moving.clone()
    other.set_model_attn1_patch(lambda q, k, v, extra: (q, k, v))
    assert torch.equal(core_run(other), core_run(moving))
    assert motion_patch.motion_of(other).frames == FRAMES
    assert accelerator_of(other).id == "animatediff-lightning-4step"


# --- samplers


def test_four_evaluations_make_the_clip(sd15, lightning):
    clip, report = run(with_lightning(sd15))
    assert clip.shape == (FRAMES, 4, 8, 8) and torch.isfinite(clip).all()
    assert (report["steps"], report["evaluations"], report["forward_passes"]) == (4, 4, 4)
    assert (report["sampler"], report["cfg"], report["accelerators"]) == (
        "euler",
        1.0,
        ["animatediff-lightning-4step"],
    )


def test_frames_depend_on_each_other_only_with_motion(sd15, lightning):
    def changed_frames(model):
        noise = torch.randn(FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(2))
        other = noise.clone()
        other[0] += 1
        clips = [
            comfy.sample.sample(
                model,
                n,
                2,
                1.0,
                "euler",
                "simple",
                conditioning(model),
                conditioning(model),
                torch.zeros_like(n),
                disable_pbar=True,
            )
            for n in (noise, other)
        ]
        return [
            frame
            for frame in range(FRAMES)
            if not torch.allclose(clips[0][frame], clips[1][frame], atol=1e-4)
        ]

    assert changed_frames(sd15) == [0]
    assert changed_frames(with_lightning(sd15)) == [0, 1, 2, 3]


@pytest.mark.parametrize("clips", [1, pytest.param(2, marks=thorough), 3])
def test_a_batch_of_several_clips_makes_each_as_if_alone(sd15, lightning, clips):
    moving = with_lightning(sd15)
    noise = torch.randn(clips * FRAMES, 4, 8, 8, generator=torch.Generator().manual_seed(2))

    def sample(part):
        return comfy.sample.sample(
            moving,
            part,
            2,
            1.0,
            "euler",
            "simple",
            conditioning(sd15),
            conditioning(sd15),
            torch.zeros_like(part),
            disable_pbar=True,
        )

    together = sample(noise)
    for clip in range(clips):
        part = slice(clip * FRAMES, (clip + 1) * FRAMES)
        assert_same_clip(together[part], sample(noise[part]))


def test_a_batch_of_several_clips_is_told(sd15, lightning):
    moving = with_lightning(sd15)
    _, data = run(moving, frames=2 * FRAMES)
    words = "2 clips of 4 frames; for one clip of 8 set frames to 8"
    assert data["entries"] == [{"node": motion_patch.NAME, "summary": words, "clips": 2}]
    assert run(moving)[1]["entries"] == []


def test_guidance_in_one_batch_or_in_two_gives_the_same_clip(sd15, lightning, monkeypatch):
    moving = with_lightning(sd15)
    together = core_run(moving, cfg=3.0)
    # No memory for both conditionings at once: the host evaluates one after the other.
    monkeypatch.setattr(type(sd15), "get_free_memory", lambda self, device: 0)
    assert_same_clip(core_run(moving, cfg=3.0), together)


# --- with other nodes


def control_net(seed=0):
    """A ControlNet of the small SD 1.5, random weights, as the host builds it from a file."""
    config = {key: value for key, value in unet_config("sd15").items() if key != "out_channels"}
    network = comfy.cldm.cldm.ControlNet(**config, hint_channels=3)
    network.load_state_dict(RandomWeights(seed).fill(shapes_of(network)))
    network.eval().requires_grad_(False)
    return comfy.controlnet.ControlNet(network, load_device=torch.device("cpu"))


def controlled(positive, net, hint, previous=None):
    """hint: (T or 1, 3, H, W) pictures."""
    applied = net.copy().set_cond_hint(hint, 0.5, (0.0, 1.0))
    applied.set_previous_controlnet(previous)
    return [
        [positive[0][0], {**positive[0][1], "control": applied, "control_apply_to_uncond": True}]
    ]


@pytest.mark.parametrize("pictures", [1, FRAMES])
def test_a_control_net_sees_each_frame_and_no_motion(sd15, lightning, pictures):
    moving, net = with_lightning(sd15), control_net()
    hint = torch.rand(pictures, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    seen = []
    net.control_model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append((kwargs, output)), with_kwargs=True
    )
    positive = controlled(conditioning(sd15, seed=1), net, hint)
    clip = core_run(moving, positive=positive, steps=1)
    assert not torch.equal(clip, core_run(moving, steps=1))
    # The ControlNet has no time: each frame alone gives what all together gave.
    kwargs, output = seen[0]
    for frame in range(FRAMES):
        one = {
            name: value[frame % value.shape[0]][None] if torch.is_tensor(value) else value
            for name, value in kwargs.items()
        }
        with torch.no_grad():
            alone = net.control_model(**one)
        torch.testing.assert_close(
            alone["middle"][0], output["middle"][0][frame : frame + 1] / 0.5, rtol=1e-3, atol=1e-4
        )


def test_attention_patches_meet_the_same_layers_in_the_same_order(sd15, lightning):
    def calls_of(model):
        patched, calls = model.clone(), []

        def patch(q, k, v, options):
            calls.append(
                (
                    options["block"],
                    options["transformer_index"],
                    options["block_index"],
                    tuple(q.shape),
                )
            )
            return q, k, v

        patched.set_model_attn2_patch(patch)
        core_run(patched, steps=1)
        return calls

    still = calls_of(sd15)
    assert len(still) == 16
    assert calls_of(with_lightning(sd15)) == still


def test_a_replaced_attention_is_replaced_before_the_motion(sd15, lightning):
    # As IP-Adapter does it: one block's cross attention is another function.
    def silent(q, k, v, options):
        return torch.zeros_like(q)

    moving = with_lightning(sd15)
    patched = moving.clone()
    patched.set_model_attn2_replace(silent, "input", 4)
    earlier = sd15.clone()
    earlier.set_model_attn2_replace(silent, "input", 4)
    changed = core_run(patched)
    assert not torch.equal(changed, core_run(moving))
    assert torch.equal(changed, core_run(with_lightning(earlier))), "in either order of nodes"


def test_a_lora_on_the_base_is_the_merged_base(sd15, lightning, models):
    written = write_lora(models / "loras" / "style.safetensors", sd15, "kohya-diffusers", rank=4)
    styled, _ = attach_lora(sd15, written.tensors, 1.0)
    merged = unet_patcher("sd15")
    for name, weight in merged.model.diffusion_model.state_dict().items():
        if name in written.changed:
            weight += written.change(name)
    expected = core_run(with_lightning(merged))
    assert_same_clip(core_run(with_lightning(styled)), expected)
    after, _ = attach_lora(with_lightning(sd15), written.tensors, 1.0)
    assert_same_clip(core_run(after), expected)


def test_every_frame_can_have_its_own_prompt(sd15, lightning):
    prompts = torch.cat([conditioning(sd15, seed=seed)[0][0] for seed in range(FRAMES)])
    moving = with_lightning(sd15)
    clip = core_run(moving, positive=[[prompts, {}]])
    # The same prompt for all frames, given as a batch, is the single prompt.
    same = core_run(moving, positive=[[prompts[:1].repeat(FRAMES, 1, 1), {}]])
    assert_same_clip(same, core_run(moving, positive=[[prompts[:1], {}]]))
    assert not torch.allclose(clip, same)


def test_combined_prompts_move_together(sd15, lightning):
    # Two conditionings of equal weight: the host stacks them in the batch and averages.
    positive = conditioning(sd15, seed=1) + conditioning(sd15, seed=2)
    clip = core_run(with_lightning(sd15), positive=positive)
    assert torch.isfinite(clip).all() and not torch.equal(clip, core_run(with_lightning(sd15)))


def test_an_accelerator_lora_drives_an_ordinary_motion_module(sd15, models):
    write_lora(
        models / "loras" / "lcm-lora-sdv1-5.safetensors", sd15, "kohya-diffusers", only="attn"
    )
    save(
        models / "animatediff_models" / "v3_sd15_mm.safetensors",
        animatediff_keys(motion_adapter(has_middle=False, size=0.3).state_dict()),
    )
    fast, _ = accelerator.attach_accelerator(
        sd15, "lcm-lora-sdv1-5.safetensors", accelerator.AUTO, 1.0
    )
    lora_first = with_lightning(fast, "v3_sd15_mm.safetensors")
    motion_first, _ = accelerator.attach_accelerator(
        with_lightning(sd15, "v3_sd15_mm.safetensors"),
        "lcm-lora-sdv1-5.safetensors",
        accelerator.AUTO,
        1.0,
    )
    for model in (lora_first, motion_first):
        assert accelerator_of(model).id == "lcm-lora-sd15"
        sampling = model.get_model_object("model_sampling")
        assert len(sampling.sigmas) == 50, "the LCM grid"
        assert float(sampling.sigma_max) == pytest.approx(25.1, abs=0.1), "on AnimateDiff's betas"
    assert_same_clip(run(lora_first)[0], run(motion_first)[0])


def test_animatelcms_own_image_lora_goes_on_with_cores_loader(sd15, models):
    save(
        models / "animatediff_models" / "AnimateLCM_sd15_t2v.safetensors",
        motion_adapter(positions=64, size=0.3).state_dict(),
    )
    lora = write_lora(
        models / "loras" / "AnimateLCM_sd15_t2v_lora.safetensors",
        sd15,
        "kohya-diffusers",
        only="attn",
    ).tensors

    def with_lora(model):
        return comfy.sd.load_lora_for_models(model, None, lora, 0.8, 0)[0]

    before = with_lightning(with_lora(sd15), "AnimateLCM_sd15_t2v.safetensors")
    behind = with_lora(with_lightning(sd15, "AnimateLCM_sd15_t2v.safetensors"))
    clip, report = run(before)
    assert report["accelerators"] == ["animatelcm-sd15"]
    assert_same_clip(run(behind)[0], clip)
    assert not torch.allclose(
        clip, run(with_lightning(sd15, "AnimateLCM_sd15_t2v.safetensors"))[0], atol=1e-2
    )


def test_cores_loader_takes_a_motion_lora_and_changes_nothing(sd15, lightning):
    place = (
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
        ".attention_blocks.0.processor"
    )
    lora = {
        f"{place}.to_q_lora.down.weight": torch.ones(4, 32),
        f"{place}.to_q_lora.up.weight": torch.ones(32, 4),
    }
    moving = with_lightning(sd15)
    assert torch.equal(
        core_run(comfy.sd.load_lora_for_models(moving, None, lora, 1.0, 0)[0]), core_run(moving)
    )


# --- long clips

LONG = 40
WINDOWS = [range(16), range(12, 28), range(24, 40)]


def windows_by_hand(moving, x, sigma, positive, controls=None, cfg=1.0):
    """The denoised clip of one evaluation in windows of 16, blended with weights that fall towards
    each window's ends.
    """
    short = moving.clone()
    del short.model_options["context_handler"]
    prompts, more = positive[0]
    total, weights = torch.zeros_like(x), torch.zeros(LONG, 1, 1, 1)
    pyramid = torch.tensor([*range(1, 9), *range(8, 0, -1)], dtype=torch.float32).reshape(
        -1, 1, 1, 1
    )
    for window in map(list, WINDOWS):
        part = [[prompts[window] if prompts.shape[0] == LONG else prompts, more]]
        if controls is not None:
            part = controlled(part, controls[0], controls[1][window])
        inner = short.clone()
        inner.attachments[motion_patch.MOTION_KEY] = motion_patch.Motion("", 16, 32)
        total[window] += pyramid * denoised(inner, x[window], sigma, part, cfg)
        weights[window] += pyramid
    return total / weights


def denoised(model, x, sigma, positive, cfg=1.0):
    """One evaluation through the host's guider. x: at noise level sigma."""
    result = []

    def once(model, x, sigmas, extra_args=None, callback=None, disable=None):
        result.append(model(start, sigmas[:1].expand(x.shape[0]), **extra_args))
        return result[0]

    start = x
    comfy.sample.sample_custom(
        model,
        torch.zeros_like(x),
        cfg,
        comfy.samplers.KSAMPLER(once),
        torch.tensor([sigma, 0.0]),
        positive,
        conditioning(model, seed=9),
        torch.zeros_like(x),
        disable_pbar=True,
    )
    return result[0]


def long_noise():
    return 5 * torch.randn(LONG, 4, 8, 8, generator=torch.Generator().manual_seed(1))


def picture_per_frame(pictures=LONG):
    return torch.rand(pictures, 3, 64, 64, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("cfg", [pytest.param(1.0, marks=thorough), 4.0])
@pytest.mark.parametrize("prompts", [pytest.param(1, marks=thorough), LONG])
def test_a_clip_longer_than_the_module_is_made_in_the_hosts_windows(sd15, lightning, prompts, cfg):
    moving = with_lightning(sd15, frames=LONG)
    positive = [[torch.cat([conditioning(sd15, seed=seed)[0][0] for seed in range(prompts)]), {}]]
    actual = denoised(moving, long_noise(), 5.0, positive, cfg)
    assert_same_clip(actual, windows_by_hand(moving, long_noise(), 5.0, positive, cfg=cfg))


@pytest.mark.parametrize(
    "more", [pytest.param(0, marks=thorough), 1, pytest.param(60, marks=thorough)]
)
def test_each_window_of_a_clip_sees_its_own_control_pictures(sd15, lightning, more):
    # A control video longer than the clip is the ordinary case: its first frames are the clip's.
    moving, positive = with_lightning(sd15, frames=LONG), conditioning(sd15, seed=1)
    net, hint = control_net(), picture_per_frame(LONG + more)
    actual = denoised(moving, long_noise(), 5.0, controlled(positive, net, hint))
    expected = windows_by_hand(moving, long_noise(), 5.0, positive, (net, hint[:LONG]))
    assert_same_clip(actual, expected)


def numbered(pictures):
    """Control pictures whose every value is their number."""
    return torch.arange(pictures, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 3, 64, 64)


def pictures_seen(model, pictures, frames=LONG, previous=None, cfg=1.0):
    """The numbers of the pictures that a ControlNet is given, one list for each evaluation."""
    net, seen = control_net(), []
    net.control_model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(
            [int(number) for number in kwargs["hint"][:, 0, 0, 0]]
        ),
        with_kwargs=True,
    )
    positive = controlled(conditioning(model, seed=1), net, numbered(pictures), previous)
    denoised(model, long_noise()[:frames], 5.0, positive, cfg)
    return seen


@pytest.mark.parametrize("pictures", [pytest.param(LONG, marks=thorough), LONG + 20])
@pytest.mark.parametrize(
    "whose", ["ours", pytest.param("another node's", marks=thorough), "another node's, in front"]
)
def test_the_pictures_of_a_window_are_those_of_its_frames(sd15, lightning, pictures, whose):
    model = {
        "ours": lambda: with_lightning(sd15, frames=LONG),
        "another node's": lambda: others_windows(with_lightning(sd15, frames=LONG), 16),
        "another node's, in front": lambda: with_lightning(others_windows(sd15, 16), frames=LONG),
    }[whose]()
    assert pictures_seen(model, pictures) == [list(window) for window in WINDOWS]
    assert pictures_seen(model, 1) == [[0]] * 3


def test_a_frame_that_another_nodes_windows_put_in_front_has_its_own_picture(sd15, lightning):
    model = others_windows(with_lightning(sd15, frames=LONG), 16)
    handler = model.model_options["context_handler"]
    if "causal_window_fix" not in vars(handler):
        pytest.skip("this ComfyUI puts no frame in front of a window")
    handler.causal_window_fix = True
    # Every window but the first, with the frame before it.
    assert pictures_seen(model, LONG) == [[*range(16)], [*range(11, 28)], [*range(23, 40)]]


def test_chained_control_nets_each_see_their_own_pictures(sd15, lightning):
    moving = with_lightning(sd15, frames=LONG)
    before, seen_before = control_net(seed=1), []
    before.control_model.register_forward_hook(
        lambda module, args, kwargs, output: seen_before.append(int(kwargs["hint"][0, 0, 0, 0])),
        with_kwargs=True,
    )
    previous = before.set_cond_hint(numbered(LONG), 0.5, (0.0, 1.0))
    assert pictures_seen(moving, LONG + 5, previous=previous) == [list(each) for each in WINDOWS]
    assert seen_before == [0, 12, 24]
    seen_before.clear()
    assert pictures_seen(moving, 1, previous=previous) == [[0]] * 3
    assert seen_before == [0, 12, 24], "behind one that has a single picture for all"
    assert previous.cond_hint_original.shape[0] == LONG and previous.previous_controlnet is None


def test_pictures_of_a_window_are_seen_by_both_prompts_together(sd15, lightning):
    # One evaluation of a window for both, as without windows: 16 pictures twice.
    seen = pictures_seen(with_lightning(sd15, frames=LONG), LONG, cfg=3.0)
    assert seen == [[*window] * 2 for window in WINDOWS]


@pytest.mark.parametrize(
    ("pictures", "seen"),
    [
        (1, [0]),
        (4, [*range(4)] * 2),  # as many as a clip has frames: both clips see them
        (8, [*range(8)]),  # as many as the latent has: each sees its own
        (6, [*range(4)] * 2),  # a longer video: its first frames
        (20, [*range(4)] * 2),
    ],
)
def test_a_batch_of_clips_shares_a_control_video(sd15, lightning, pictures, seen):
    assert pictures_seen(with_lightning(sd15, frames=4), pictures, frames=8) == [seen]


@pytest.mark.parametrize(("frames", "pictures"), [(LONG, 20), (LONG, 39), (4, 2), (4, 3)])
def test_control_pictures_for_some_of_the_frames_are_refused(sd15, lightning, frames, pictures):
    words = (
        f"{pictures} ControlNet pictures for a clip of {frames} frames. Give it {frames} or more,"
        f" of which the first {frames} are used, or 1 for the whole clip"
    )
    moving = with_lightning(sd15, frames=frames)
    assert words in refusal(pictures_seen, moving, pictures, frames)
    if frames == LONG:
        assert words in refusal(pictures_seen, others_windows(moving, 16), pictures)


def test_more_prompts_than_frames_are_those_of_the_first_frames(sd15, lightning):
    moving = with_lightning(sd15, frames=LONG)
    prompts = torch.cat([conditioning(sd15, seed=seed)[0][0] for seed in range(LONG + 20)])
    actual = denoised(moving, long_noise(), 5.0, [[prompts, {}]])
    expected = windows_by_hand(moving, long_noise(), 5.0, [[prompts[:LONG], {}]])
    assert_same_clip(actual, expected)
    assert "20 prompts for a clip of 40 frames" in refusal(
        denoised, moving, long_noise(), 5.0, [[prompts[:20], {}]]
    )


@pytest.mark.parametrize("masks", [LONG, LONG + 20])
def test_a_mask_for_every_frame_of_a_clip_holds_in_every_window(sd15, lightning, masks):
    moving = with_lightning(sd15, frames=LONG)
    mask = torch.zeros(masks, 64, 64)
    mask[10:30] = 1
    options = {"mask": mask, "mask_strength": 1.0, "set_area_to_bounds": False}
    clip = denoised(
        moving, long_noise(), 5.0, [[conditioning(sd15, seed=1)[0][0], options]]
    ).flatten(1)
    # Where nothing is asked for, the host leaves nothing.
    assert [frame for frame in range(LONG) if clip[frame].std() > 0.1] == list(range(10, 30))


class PicturesByFrame(comfy.controlnet.ControlBase):
    """As Advanced-ControlNet's are: it cuts its pictures itself where it is told the frames."""

    def __init__(self):
        super().__init__()
        self.sub_idxs = None

    def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
        told.append(transformer_options["ad_params"]["sub_idxs"])
        if self.previous_controlnet is None:
            return None
        return self.previous_controlnet.get_control(
            x_noisy, t, cond, batched_number, transformer_options
        )

    def copy(self):
        copied = PicturesByFrame()
        self.copy_to(copied)
        return copied


told: list[list[int]] = []


@pytest.mark.parametrize("whose", ["ours", "another node's"])
def test_patches_with_pictures_of_their_own_are_told_the_frames_of_a_window(sd15, lightning, whose):
    moving = with_lightning(sd15, frames=LONG)
    patched = (moving if whose == "ours" else others_windows(moving, 16)).clone()
    seen = []

    # IP-Adapter keeps embeddings for each frame in its patch, and looks for them by these names.
    def replace(q, k, v, options):
        seen.append(dict(options["ad_params"]))
        return torch.zeros_like(q)

    patched.set_model_attn2_replace(replace, "input", 4)
    denoised(patched, long_noise(), 5.0, conditioning(sd15, seed=1))
    assert seen == [
        {"sub_idxs": list(window), "full_length": LONG, "context_length": 16} for window in WINDOWS
    ]
    whole = with_lightning(sd15, frames=16).clone()
    whole.set_model_attn2_replace(lambda q, k, v, options: seen.append(options) or q, "input", 4)
    denoised(whole, long_noise()[:16], 5.0, conditioning(sd15, seed=1))
    assert "ad_params" not in seen[-1], "a clip that is seen whole has no window"


def test_a_control_net_that_knows_windows_keeps_its_pictures(sd15, lightning):
    moving, knowing = with_lightning(sd15, frames=LONG), PicturesByFrame()
    # Two pictures, as SparseCtrl's for the first and the last frame: none of ours to refuse.
    knowing.set_cond_hint(numbered(2), 1.0, (0.0, 1.0))
    told.clear()
    assert pictures_seen(moving, LONG, previous=knowing) == [list(each) for each in WINDOWS]
    assert told == [list(window) for window in WINDOWS]
    net, seen = control_net(), []
    net.control_model.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(int(kwargs["hint"][0, 0, 0, 0])),
        with_kwargs=True,
    )
    # The other way round: one that knows in front of one that does not.
    knowing.set_previous_controlnet(net.set_cond_hint(numbered(LONG), 0.5, (0.0, 1.0)))
    applied = [[conditioning(sd15, seed=1)[0][0], {"control": knowing}]]
    denoised(moving, long_noise(), 5.0, applied)
    assert seen == [0, 12, 24] and knowing.previous_controlnet is net


def test_a_control_nets_memory_and_models_are_the_hosts_to_manage_under_windows(sd15, lightning):
    net = control_net().set_cond_hint(numbered(LONG), 0.5, (0.0, 1.0))
    clips = clip_inputs.Clips(LONG, LONG, has_windows=True)
    windowed = clip_inputs.fit_control(net, clips, {})
    assert windowed is not net and windowed.get_models() == net.get_models()
    assert windowed.inference_memory_requirements(torch.float32) == 0
    clone = windowed.deepclone_multigpu("meta", autoregister=True)
    assert windowed.get_instance_for_device("meta") is clone
    assert torch.equal(clone.pictures, windowed.pictures)
    windowed.control.cond_hint = numbered(1)
    windowed.cleanup()
    assert windowed.control.cond_hint is None


def test_windows_are_counted_and_reported(sd15, lightning):
    moving, report = motion.attach_motion(sd15, LIGHTNING, 28)
    assert report.data["windows"] == 2 and "2 windows" in report.summary
    clip, data = run(moving, frames=28)
    assert clip.shape[0] == 28
    # 2 windows of 16 rows for 28 frames, four times.
    assert (data["forward_passes"], data["rows"]) == (8, 4 * 2 * 16)


@pytest.mark.parametrize(
    ("frames", "count"), [(16, 1), (17, 2), (28, 2), (29, 3), (32, 3), (40, 3), (41, 4), (52, 4)]
)
def test_the_window_count_is_the_hosts(sd15, lightning, frames, count):
    moving, report = motion.attach_motion(sd15, LIGHTNING, frames)
    assert report.data["windows"] == count
    handler = moving.model_options.get("context_handler")
    assert (handler is None) == (count == 1)
    if handler is not None:
        assert len(handler.get_context_windows(None, torch.zeros(frames, 1), {})) == count


def test_the_users_own_context_windows_are_kept(sd15, lightning):
    own = ContextWindowsManualNode.execute(
        sd15, 8, 2, "standard_static", 1, False, "pyramid", 0, False
    ).result[0]
    own.model_options["context_handler"].causal_window_fix = False
    moving = with_lightning(own, frames=24)
    assert moving.model_options["context_handler"].context_length == 8
    _, data = run(moving, frames=24)
    # Windows of 8 each 6 further: (24 - 8) / 6 = 2.67, so 4 of them; four steps.
    assert data["forward_passes"] == 4 * 4


def test_windows_of_another_node_behind_the_loader_work_too(sd15, lightning):
    moving = with_lightning(sd15, frames=16)
    # With the node's defaults, which prepend a frame to every window but the first.
    windowed = ContextWindowsManualNode.execute(
        moving, 8, 2, "standard_uniform", 1, False, "pyramid", 0, False
    ).result[0]
    clip, _ = run(windowed, frames=16)
    assert torch.isfinite(clip).all()


# --- what is refused


def refusal(call, *args):
    with pytest.raises(ValueError) as error:
        call(*args)
    return str(error.value)


def test_other_files_are_refused_by_what_they_are(sd15, models, lightning):
    folder = models / "animatediff_models"
    save(
        folder / "mm_sdxl.safetensors",
        animatediff_keys(motion_adapter(widths=(32, 64, 128), has_middle=False).state_dict()),
    )
    assert "for SDXL" in refusal(motion.attach_motion, sd15, "mm_sdxl.safetensors", 16)
    write_lora(folder / "style.safetensors", sd15, "kohya-diffusers", rank=1)
    assert "is a LoRA for pictures" in refusal(motion.attach_motion, sd15, "style.safetensors", 16)
    whole = (folder / LIGHTNING).read_bytes()
    (folder / "broken.safetensors").write_bytes(whole[: len(whole) // 2])
    assert "not a complete .safetensors file" in refusal(
        motion.attach_motion, sd15, "broken.safetensors", 16
    )
    (folder / "mm_sd_v15_v2.ckpt").write_bytes(b"PK")
    pickled = refusal(motion.attach_motion, sd15, "mm_sd_v15_v2.ckpt", 16)
    assert (
        "can carry code" in pickled
        and "guoyww/animatediff-motion-adapter-v1-5" in pickled
        and "mm_sd_v15_v2.safetensors" in pickled
    )
    assert "is not in models/animatediff_models" in refusal(
        motion.attach_motion, sd15, "nothing.safetensors", 16
    )
    place = (
        "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0"
        ".attention_blocks.0.processor"
    )
    save(
        folder / "zoom-in.safetensors",
        {
            f"{place}.to_q_lora.down.weight": torch.zeros(4, 32),
            f"{place}.to_q_lora.up.weight": torch.zeros(32, 4),
        },
    )
    assert "is a motion LoRA" in refusal(motion.attach_motion, sd15, "zoom-in.safetensors", 16)
    # And where a LoRA would be loaded:
    save(models / "loras" / "zoom-in.safetensors", load_file(folder / "zoom-in.safetensors"))
    save(models / "loras" / "module.safetensors", load_file(folder / LIGHTNING))
    # Also behind a Lightning module, which is an accelerator: what the file is comes first.
    for model in (sd15, with_lightning(sd15)):
        for name, words in (
            ("zoom-in.safetensors", "a motion LoRA is not applied"),
            ("module.safetensors", "is an AnimateDiff motion module: load it with the Motion"),
            ("no-such-file.safetensors", "is not in models/loras"),
            ("style.safetensors", "style.safetensors cannot be identified by its contents"),
        ):
            save(models / "loras" / "style.safetensors", load_file(folder / "style.safetensors"))
            assert words in refusal(
                accelerator.FewStepAccelerator.execute, model, name, accelerator.AUTO, 1.0
            )


def test_other_models_are_refused(unets, sd15, lightning, models):
    assert "the connected model is SDXL" in refusal(
        motion.attach_motion, unets["sdxl"], LIGHTNING, 16
    )
    save(
        models / "animatediff_models" / "wide.safetensors",
        motion_adapter(widths=(64, 128, 256, 256)).state_dict(),
    )
    assert "widths [64, 128, 256, 256]" in refusal(
        motion.attach_motion, sd15, "wide.safetensors", 16
    )
    assert "already carries the motion module" in refusal(
        motion.attach_motion, with_lightning(sd15), LIGHTNING, 16
    )


def test_a_host_that_would_not_run_the_motion_is_refused(sd15, lightning, monkeypatch):
    monkeypatch.setattr(
        motion_patch, "forward_timestep_embed", lambda layers, x, emb, **options: layers[0](x, emb)
    )
    assert "too old for motion modules" in refusal(motion.attach_motion, sd15, LIGHTNING, 16)


def test_two_accelerators_are_refused(sd15, lightning, models):
    write_lora(
        models / "loras" / "lcm-lora-sdv1-5.safetensors", sd15, "kohya-diffusers", only="attn"
    )
    fast, _ = accelerator.attach_accelerator(
        sd15, "lcm-lora-sdv1-5.safetensors", accelerator.AUTO, 1.0
    )
    assert "already carries lcm-lora-sd15" in refusal(motion.attach_motion, fast, LIGHTNING, 16)
    assert "already carries animatediff-lightning" in refusal(
        accelerator.FewStepAccelerator.execute,
        with_lightning(sd15),
        "lcm-lora-sdv1-5.safetensors",
        accelerator.AUTO,
        1.0,
    )
    assert "take a motion module that is not an accelerator" in refusal(
        accelerator.FewStepAccelerator.execute,
        with_lightning(sd15),
        accelerator.NO_LORA,
        accelerator.AUTO,
        1.0,
    )


def test_a_latent_that_is_no_clip_is_refused_before_anything_is_evaluated(sd15, lightning):
    moving = with_lightning(sd15, frames=16)
    assert "should have 16 frames and the latent holds 4" in refusal(core_run, moving, 4)
    assert "not a whole number of clips of 16" in refusal(core_run, moving, 20)
    long = with_lightning(sd15, frames=LONG)
    assert "one at a time" in refusal(core_run, long, 2 * LONG)


@pytest.mark.parametrize("rows", [1, 7, 8, 12])
def test_a_latent_that_is_too_short_never_leads_to_a_clip_of_few_frames(sd15, lightning, rows):
    message = refusal(core_run, with_lightning(sd15, frames=16), rows)
    assert "Set batch_size of the empty latent to 16" in message
    assert (f"frames of the Motion Module Loader to {rows}" in message) == (rows >= 8)


@pytest.mark.parametrize(
    ("frames", "words"),
    [
        (1, "1 frame is few: motion modules were trained on clips of 16"),
        (7, "7 frames are few: motion modules were trained on clips of 16"),
        (8, None),
        (16, None),
        (17, "17 frames in windows (motion modules were trained on 16)"),
        (32, "32 frames in windows (motion modules were trained on 16)"),
    ],
)
def test_clips_of_other_lengths_than_the_training_are_told(sd15, lightning, frames, words):
    _, report = motion.attach_motion(sd15, LIGHTNING, frames)
    assert f"{frames} frame{'s' * (frames > 1)} " in report.summary
    about_length = [note for note in report.notes if "trained on" in note and "16" in note]
    assert [note.startswith(words) for note in about_length] == ([True] if words else [])


@thorough
def test_a_window_longer_than_the_training_is_told_by_the_loader_and_by_the_run(sd15, lightning):
    words = "24 frames are seen at once, and motion modules were trained on 16"
    loaded, report = motion.attach_motion(others_windows(sd15, 24), LIGHTNING, LONG)
    assert any(words in note for note in report.notes)
    behind = others_windows(with_lightning(sd15, frames=LONG), 24)
    for model in (loaded, behind):
        _, data = run(model, frames=LONG)
        assert [words in entry["summary"] for entry in data["entries"]] == [True]
    _, data = run(with_lightning(sd15, frames=LONG), frames=LONG)
    assert data["entries"] == []


def test_windows_that_the_module_cannot_see_are_refused(sd15, lightning):
    def windowed(length, dim):
        return ContextWindowsManualNode.execute(
            with_lightning(sd15, frames=LONG),
            length,
            4,
            "standard_static",
            1,
            False,
            "pyramid",
            dim,
            False,
        ).result[0]

    # From 0.24 on the host puts one more frame before each window, so that 32 are too many as well;
    # 64 is one window for everything.
    before = int(hasattr(windowed(36, 0).model_options["context_handler"], "causal_window_fix"))
    for length, seen in ((32, 33),) * before + ((36, 36 + before), (64, LONG)):
        assert f"show it {seen}" in refusal(core_run, windowed(length, 0), LONG)
    assert "dimension 2" in refusal(core_run, windowed(16, 2), LONG)


def others_windows(model, length):
    """The model under the host's Context Windows node, without its fix for causal models."""
    windowed = ContextWindowsManualNode.execute(
        model, length, 4, "standard_static", 1, False, "pyramid", 0, False
    ).result[0]
    windowed.model_options["context_handler"].causal_window_fix = False
    return windowed


@pytest.mark.parametrize("sampling", ["eps", "lcm"])
def test_a_noise_schedule_is_put_on_before_the_motion_module_not_behind_it(sd15, models, sampling):
    save(
        models / "animatediff_models" / "mm_v3.safetensors",
        motion_adapter(has_middle=False, size=0.3).state_dict(),
    )
    scheduled = ModelSamplingDiscrete().patch(sd15, sampling, False)[0]
    before = with_lightning(scheduled, "mm_v3.safetensors")
    assert float(before.get_model_object("model_sampling").sigma_max) == pytest.approx(
        25.1, abs=0.1
    )
    assert torch.isfinite(core_run(before)).all()
    # The node builds its schedule on SD 1.5's own betas.
    behind = ModelSamplingDiscrete().patch(
        with_lightning(sd15, "mm_v3.safetensors"), sampling, False
    )[0]
    message = refusal(core_run, behind)
    assert "sigma 14.61" in message and "before the Motion Module Loader" in message


def test_a_patch_that_hides_the_motion_is_refused(sd15, lightning):
    from comfy.ldm.modules.attention import SpatialTransformer

    def plain(layer, x, emb, context, options, *rest):
        return layer(x, context, options)

    hiding = sd15.clone()
    hiding.set_model_forward_timestep_embed_patch((SpatialTransformer, plain))
    assert "would not run" in refusal(core_run, with_lightning(hiding))


def test_a_lightning_module_whose_name_hides_its_steps_is_asked_for(sd15, models, adapter):
    save(models / "animatediff_models" / "AnimateDiff-Lightning.safetensors", adapter.state_dict())
    assert "Put the step count in the name" in refusal(
        motion.attach_motion, sd15, "AnimateDiff-Lightning.safetensors", 16
    )


# --- recognition and report


@corners("record", of=lambda record: record.solver)
@pytest.mark.parametrize(
    "record",
    [record for record in CATALOG.values() if record.kind is Kind.MOTION_MODULE],
    ids=lambda r: r.id,
)
def test_every_motion_module_of_the_catalogue_is_recognised_attached_and_planned(
    sd15, models, record
):
    is_lcm = record.solver.value == "lcm"
    tensors = animatediff_keys(
        motion_adapter(positions=64 if is_lcm else 32, size=0.3).state_dict()
    )
    name = "AnimateLCM_sd15_t2v.safetensors" if is_lcm else record.files[0].name
    save(models / "animatediff_models" / name, tensors)
    moving, report = motion.attach_motion(sd15, name, FRAMES)
    assert accelerator_of(moving) is record
    assert report.data["accelerator"] == record.id and record.id in report.markdown
    _, data = run(moving)
    assert data["evaluations"] == record.default_steps


@pytest.mark.parametrize("positions", [32, 64])
def test_animatelcm_in_diffusers_layout_is_recognised_by_its_name(sd15, models, positions):
    # The authors' .safetensors file is a converter's, position encodings written out.
    save(
        models / "animatediff_models" / "AnimateLCM_sd15_t2v.safetensors",
        motion_adapter(positions=positions, size=0.3).state_dict(),
    )
    assert (
        accelerator_of(with_lightning(sd15, "AnimateLCM_sd15_t2v.safetensors")).id
        == "animatelcm-sd15"
    )


@pytest.mark.parametrize(
    ("name", "version"),
    [
        ("mm_sd_v15_v2.safetensors", "AnimateDiff v2"),
        ("v3_sd15_mm.safetensors", "AnimateDiff v3"),
        ("mm_sd_v14.safetensors", "AnimateDiff v1"),
    ],
)
def test_ordinary_modules_carry_no_accelerator_and_say_so(sd15, models, name, version):
    positions, has_middle = {
        "AnimateDiff v1": (24, False),
        "AnimateDiff v2": (32, True),
        "AnimateDiff v3": (32, False),
    }[version]
    save(
        models / "animatediff_models" / name,
        animatediff_keys(
            motion_adapter(positions=positions, has_middle=has_middle, size=0.3).state_dict()
        ),
    )
    moving, report = motion.attach_motion(sd15, name, FRAMES)
    assert accelerator_of(moving) is None and report.data["version"] == version
    assert any("not an accelerator" in note for note in report.notes)
    assert torch.isfinite(core_run(moving, cfg=3.0)).all()


def test_the_node_lists_the_files_and_answers_for_the_rest(sd15, lightning, models):
    (models / "animatediff_models" / "readme.md").write_text("")
    (name_input,) = (
        i for i in motion.FewStepMotion.define_schema().inputs if i.id == "motion_name"
    )
    assert LIGHTNING in name_input.options and "readme.md" not in name_input.options
    assert motion.FewStepMotion.validate_inputs(LIGHTNING) is True
    assert LIGHTNING in motion.FewStepMotion.validate_inputs(LIGHTNING.replace("4step", "5step"))
    before = motion.FewStepMotion.fingerprint_inputs(LIGHTNING)
    save(models / "animatediff_models" / LIGHTNING, motion_adapter(seed=1).state_dict())
    assert motion.FewStepMotion.fingerprint_inputs(LIGHTNING) != before
    output = motion.FewStepMotion.execute(sd15, LIGHTNING, FRAMES)
    assert "Motion Module Loader" in output.result[1]
    assert output.ui["fewstep_report"][0]["frames"] == FRAMES


def test_places_are_the_published_ones(sd15, lightning):
    (weights,) = with_lightning(sd15).get_additional_models()
    places = {
        place: layer.__name__
        for (place, layer), _ in motion_patch.places_of(sd15.model.diffusion_model, weights.model)
    }
    # Down: two a level behind the attention, at the coarsest behind the residual layer. Blocks 3, 6
    # and 9 only halve the size.
    assert places == {
        **{("input", i): "SpatialTransformer" for i in (1, 2, 4, 5, 7, 8)},
        ("input", 10): "ResBlock",
        ("input", 11): "ResBlock",
        ("middle", 0): "SpatialTransformer",
        **{("output", i): "ResBlock" for i in (0, 1, 2)},
        **{("output", i): "SpatialTransformer" for i in range(3, 12)},
    }
    assert len(list(itertools.chain.from_iterable(weights.model.up))) == 12
