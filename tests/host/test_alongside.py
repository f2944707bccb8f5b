"""Beside other packs: whatever they put on the model by the host's own means works on, before our
nodes or behind them, and so do ours.

What is right is told by the host: the other's patch on the same model under core's own LoRA loader
and KSampler.
"""

from __future__ import annotations

import comfy.hooks
import comfy.model_management
import comfy.sample
import comfy.sd
import pytest
import torch
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import accelerator, motion
from comfyui_fewstep.nodes.host import motion as motion_patch
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.model import look_at, with_linear_betas, with_model_sampling
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from thinning import some_of
from torch import Tensor

import nodes as core
import small_models
from left_behind import footprint
from other_packs import STAND_INS, load_packed, style_lora
from small_loras import write_lora

LCM, STYLE = "alongside-lcm-lora-sdv1-5.safetensors", "alongside-style.safetensors"
LIGHTNING = "alongside_animatediff_lightning_4step_comfyui.safetensors"
FRAMES = 2


@pytest.fixture(scope="module")
def sd15(unets):
    return unets["sd15"]


@pytest.fixture(scope="module")
def texts(sd15):
    return tuple(small_models.conditioning(sd15, seed=seed) for seed in (1, 2))


@pytest.fixture(scope="module")
def style(models, sd15):
    return write_lora(
        models / "loras" / STYLE, sd15, "kohya-diffusers", rank=2, seed=5, only="attn2"
    ).tensors


@pytest.fixture(scope="module")
def lcm(models, sd15):
    """Our loader as a node between others."""
    write_lora(models / "loras" / LCM, sd15, "kohya-diffusers", rank=2, only="attn1")
    return lambda model: accelerator.attach_accelerator(model, LCM, "lcm-lora-sd15", 1.0)[0]


@pytest.fixture(scope="module")
def others(style):
    return {**STAND_INS, "LoRA loader": style_lora(style)}


def latent(rows=1) -> dict[str, Tensor]:
    return {"samples": torch.zeros(rows, 4, 8, 8)}


def ours(model, texts, rows=1) -> tuple[Tensor, dict]:
    """(latent, report data) of the Few-Step Sampler."""
    output = FewStepSampler.execute(model, texts[0], latent(rows), 3, 0, 1.0, negative=texts[1])
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


def core_sampled(model, texts) -> Tensor:
    """core's KSampler, at what an LCM LoRA needs."""
    return core.KSampler().sample(model, 3, 4, 1.0, "lcm", "simple", *texts, latent())[0]["samples"]


def both_orders(first, second, model) -> list:
    return [second(first(model)), first(second(model))]


# ---------------------------------------------------------------- accelerator and sampler


@pytest.mark.parametrize(
    "name",
    some_of([*STAND_INS, "LoRA loader"], "AnimateDiff-Evolved", "NAG", "wrappers", "LoRA loader"),
)
def test_the_picture_is_the_one_core_makes_with_both_patches_in_either_order(
    sd15, lcm, others, texts, name
):
    seen_by_core: list = []
    by_core = core.LoraLoaderModelOnly().load_lora_model_only(
        others[name](sd15, seen_by_core), LCM, 1.0
    )[0]
    expected = core_sampled(with_model_sampling(by_core, CATALOG["lcm-lora-sd15"]), texts)
    alone, _ = ours(lcm(sd15), texts)
    assert not torch.allclose(expected, alone, atol=1e-3), "the other node changes the picture"
    seen: list = []
    for model in both_orders(lcm, lambda model: others[name](model, seen), sd15):
        seen.clear()
        made, report = ours(model, texts)
        torch.testing.assert_close(made, expected, rtol=1e-4, atol=1e-5)
        assert len(seen) == len(seen_by_core) or name == "LoRA loader", (
            "as often at work as under core's sampler"
        )
        assert report["evaluations"] == (8 if name == "NAG" else 4)
        told = any("8 evaluations instead of 4" in note for note in report["notes"])
        assert told == (name == "NAG"), "what brings the negative prompt back is told"


def test_all_of_them_at_once_in_either_order(sd15, lcm, others, texts):
    def everything(model):
        for name, put in others.items():
            model = put(model, seen[name])
        return model

    # While a model is loaded the host keeps its patches in its weights and layers.
    comfy.model_management.unload_all_models()
    before, pictures, seen = footprint(sd15), [], dict[str, list]()
    for order in (lambda: lcm(everything(sd15)), lambda: everything(lcm(sd15))):
        seen = {name: [] for name in others}
        pictures.append(ours(order(), texts)[0])
        assert all(seen.values()), [name for name, count in seen.items() if not count]
    torch.testing.assert_close(pictures[0], pictures[1], rtol=1e-4, atol=1e-5)
    comfy.model_management.unload_all_models()
    after = footprint(sd15)
    assert {what for what in before if after[what] != before[what]} <= {"attributes"}, (
        "the model all this was put on is as it was"
    )


def test_a_lora_hook_on_the_prompt_is_the_same_lora_on_the_model(sd15, lcm, style, texts):
    model = lcm(sd15)
    hooked_model, _, hooks = comfy.hooks.load_hook_lora_for_models(
        model, None, dict(style), 0.8, 0.0
    )
    hooked = [comfy.hooks.set_hooks_for_conditioning(text, hooks) for text in texts]
    permanent = comfy.sd.load_lora_for_models(model, None, dict(style), 0.8, 0.0)[0]
    expected = ours(permanent, texts)[0]
    torch.testing.assert_close(ours(hooked_model, hooked)[0], expected, rtol=1e-3, atol=1e-4)
    assert not torch.allclose(ours(model, texts)[0], expected, atol=1e-3)


# ---------------------------------------------------------------- Step Skip


# One for each place around an evaluation; what changes layers inside one is skipped with it.
@pytest.mark.parametrize(
    "name",
    some_of(
        ["model function wrapper", "post-CFG function", "NAG", "AnimateDiff-Evolved", "wrappers"],
        "model function wrapper",
    ),
)
def test_step_skip_leaves_out_whole_evaluations_of_the_other_and_nothing_else(
    sd15, others, texts, name
):
    def skip(target_speedup):
        return lambda model: FewStepSkip.execute(
            model, "forecast", target_speedup, 0.2, 0.15, 1.0, 3, "auto"
        ).args[0]

    def sampled(model) -> Tensor:
        noise = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(5))
        return comfy.sample.sample(
            model,
            noise,
            12,
            2.0,
            "dpmpp_2m",
            "karras",
            *texts,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=5,
        )

    seen: list = []
    expected, evaluated = sampled(others[name](sd15, seen)), len(seen)
    for speed in (1.0, 1.6):
        for model in both_orders(skip(speed), lambda model: others[name](model, seen), sd15):
            seen.clear()
            made = sampled(model)
            if speed == 1.0:
                assert torch.equal(made, expected) and len(seen) == evaluated
            else:
                # Random weights bend more than trained ones; a patch that is lost is far beyond
                # this.
                assert ((made - expected).norm() / expected.norm()) < 0.2
                # AnimateDiff-Evolved's traces are one a run.
                assert len(seen) < evaluated or name == "AnimateDiff-Evolved"


# ---------------------------------------------------------------- motion


@pytest.mark.skipif(
    not motion_patch.host_patches_layers(), reason="motion modules need ComfyUI 0.20 or newer"
)
@pytest.mark.parametrize("name", some_of([*STAND_INS, "LoRA loader"], "wrappers", "LoRA loader"))
def test_a_motion_module_and_another_node_both_work_in_either_order(
    sd15, models, others, texts, name
):
    from motion_files import animatediff_keys, motion_adapter, save

    path = models / "animatediff_models" / LIGHTNING
    if not path.exists():
        save(path, animatediff_keys(motion_adapter(size=0.3).state_dict()))

    def moving(model):
        return motion.attach_motion(model, LIGHTNING, FRAMES)[0]

    alone, _ = ours(moving(sd15), texts, FRAMES)
    clips, seen = [], []
    for model in both_orders(moving, lambda model: others[name](model, seen), sd15):
        seen.clear()
        # The LoRA loader leaves its trace when it is put on; the others when they are at work.
        clips.append(ours(model, texts, FRAMES)[0])
        assert seen or name == "LoRA loader"
    torch.testing.assert_close(clips[0], clips[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(clips[0], alone, atol=1e-3), "the other node changes the clip"
    still = others[name](
        with_record(with_linear_betas(sd15), CATALOG["animatediff-lightning-4step"]), []
    )
    assert not torch.allclose(clips[0], ours(still, texts, FRAMES)[0], atol=1e-3), (
        "and so does the motion"
    )


# ---------------------------------------------------------------- packed weights


def test_packed_weights_take_an_accelerator_as_from_cores_loader(models):
    name = "wan2.1_t2v_14b_lora_rank64_lightx2v_4step_packed.safetensors"
    whole = small_models.write_wan(models / "diffusion_models" / "alongside_wan.safetensors")
    write_lora(models / "loras" / name, small_models.load_model(whole), "native", rank=8, size=0.3)
    text, record = small_models.conditioning(length=6), "wan21-t2v-lightx2v-4step"

    def made(model) -> Tensor:
        return FewStepSampler.execute(
            model, text, {"samples": torch.zeros(1, 16, 1, 4, 4)}, 3, 0, 1.0
        ).args[0]["samples"]

    packed = load_packed(whole)
    attached, _ = accelerator.attach_accelerator(packed, name, record, 1.0)
    assert type(attached) is type(packed) and look_at(packed).width == small_models.WAN_SMALL["dim"]
    by_core = core.LoraLoaderModelOnly().load_lora_model_only(load_packed(whole), name, 1.0)[0]
    by_core = with_record(with_model_sampling(by_core, CATALOG[record]), CATALOG[record])
    assert torch.equal(made(attached), made(by_core))
    # Near the same LoRA on whole weights, and far from none at all.
    reference = made(
        accelerator.attach_accelerator(small_models.load_model(whole), name, record, 1.0)[0]
    )
    without = made(with_record(with_model_sampling(packed, CATALOG[record]), CATALOG[record]))
    assert (made(attached) - reference).norm() < 0.3 * (without - reference).norm()
