"""The lock on CFG, which goes with the MODEL into other samplers than this pack's."""

from __future__ import annotations

import logging

import pytest
import torch
from comfy_extras.nodes_custom_sampler import BasicGuider, DualCFGGuider, SamplerCustomAdvanced
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes.host.lock import tell_other_levels, with_lock
from comfyui_fewstep.nodes.host.model import sigma_of
from comfyui_fewstep.nodes.host.timeline import with_start
from comfyui_fewstep.nodes.sampler import FewStepSampler, FewStepSchedule

import nodes

LIGHTNING = "sdxl-lightning-4step-lora"


@pytest.fixture(scope="module")
def sdxl_text():
    generator = torch.Generator().manual_seed(3)
    cross = torch.randn(1, 8, 2048, generator=generator)
    return [[cross, {"pooled_output": torch.randn(1, 1280, generator=generator)}]]


@pytest.fixture
def latent():
    return {"samples": torch.zeros(1, 4, 16, 16)}


@pytest.fixture
def model(unets):
    from comfyui_fewstep.nodes.host.attach import with_accelerator

    return lambda is_locked=True: with_accelerator(unets["sdxl"], CATALOG[LIGHTNING], is_locked)


def core_ksampler(model, text, latent, cfg, steps=4, scheduler="sgm_uniform"):
    return nodes.KSampler().sample(
        model, 7, steps, cfg, "euler", scheduler, text, text, latent, denoise=1.0
    )[0]["samples"]


def ours(caplog) -> list[str]:
    """What this pack logged, and not the host of another test's models."""
    records = [record for record in caplog.records if record.name.startswith("comfyui_fewstep")]
    return [record.getMessage() for record in records]


def test_cores_sampler_at_another_cfg_is_refused_with_both_ways_out(model, sdxl_text, latent):
    with pytest.raises(ValueError) as refusal:
        core_ksampler(model(), sdxl_text, latent, 8.0)
    message = str(refusal.value)
    assert f"{LIGHTNING} was distilled to run at CFG 1, and this sampler runs it at 8" in message
    assert "use the Few-Step Sampler, or take cfg and sigmas from the Few-Step Schedule" in message
    assert "lock_cfg" in message


def test_switched_off_it_runs_as_without_a_lock_and_is_logged(
    model, unets, sdxl_text, latent, caplog
):
    from comfyui_fewstep.nodes.host.attach import with_record

    bare = with_record(unets["sdxl"], CATALOG[LIGHTNING])
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        told = core_ksampler(model(is_locked=False), sdxl_text, latent, 8.0)
    assert torch.equal(told, core_ksampler(bare, sdxl_text, latent, 8.0))
    assert "runs it at 8, which burns or blurs the picture." in caplog.text


def test_at_its_own_cfg_and_levels_nothing_is_told(model, unets, sdxl_text, latent, caplog):
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        # sgm_uniform is the trailing schedule of Lightning.
        core_ksampler(model(), sdxl_text, latent, 1.0)
        sigmas, sampler, *_ = FewStepSchedule.execute(model(), 0, 1.0).args
        guider = BasicGuider.execute(model(), sdxl_text).args[0]
        noise = comfy_noise(7)
        SamplerCustomAdvanced.execute(noise, guider, sampler, sigmas, latent)
    assert ours(caplog) == []


@pytest.mark.parametrize(
    ("id", "architecture", "steps"),
    [
        ("lcm-lora-sdxl", "sdxl", 4),
        ("lcm-lora-sdxl", "sdxl", 2),
        ("sdxl-turbo", "sdxl", 4),
        (LIGHTNING, "sdxl", 4),
    ],
)
def test_the_packs_own_schedule_is_told_of_at_no_denoise(unets, caplog, id, architecture, steps):
    record = CATALOG[id]
    assert steps in record.steps
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        for denoise in (0.5, 0.6, 0.75, 1.0):
            sigmas = record.schedule.sigmas(steps, denoise, sigma_of(unets[architecture]))
            tell_other_levels(record, unets[architecture], sigmas)
            tell_other_levels(record, unets[architecture], sigmas[:-1] if sigmas[2:] else sigmas)
    assert ours(caplog) == []


def test_levels_between_those_of_a_consistency_model_are_told(unets, caplog):
    record = CATALOG["lcm-lora-sdxl"]
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        for sigmas in ([14.6, 9.0, 4.0, 1.5, 0.0], [3.0, 2.9, 2.8, 2.7, 0.0]):
            tell_other_levels(record, unets["sdxl"], sigmas)
    assert len([words for words in ours(caplog) if "on other noise levels" in words]) == 2


def test_the_packs_own_schedule_at_less_denoise_runs_without_a_word(
    unets, sdxl_text, latent, caplog
):
    from comfyui_fewstep.nodes.host.attach import with_accelerator

    lcm = with_accelerator(unets["sdxl"], CATALOG["lcm-lora-sdxl"])
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        sigmas, sampler, *_ = FewStepSchedule.execute(lcm, 4, 0.6).args
        guider = BasicGuider.execute(lcm, sdxl_text).args[0]
        SamplerCustomAdvanced.execute(comfy_noise(7), guider, sampler, sigmas, latent)
    assert ours(caplog) == []


def test_a_timeline_that_another_sampler_blends_is_told(model, sdxl_text, latent, caplog):
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        core_ksampler(model(), [with_start(sdxl_text[0], 0.0)], latent, 1.0)
        assert ours(caplog) == []
        both = [with_start(sdxl_text[0], 0.0), with_start(sdxl_text[0], 1.0)]
        core_ksampler(model(), both, latent, 1.0)
    assert "a Prompt Timeline of 2 prompts, and this sampler blends all of them" in caplog.text


@pytest.mark.parametrize(
    ("steps", "scheduler", "words"),
    [
        (6, "sgm_uniform", "was distilled for 4 steps and runs at 6 here"),
        (4, "karras", "on other noise levels here than it was distilled at: 4 steps from sigma"),
        (1, "simple", "was distilled for 4 steps and runs at 1 here"),
    ],
)
def test_other_steps_and_levels_are_the_users_choice_and_told(
    model, sdxl_text, latent, caplog, steps, scheduler, words
):
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        core_ksampler(model(), sdxl_text, latent, 1.0, steps, scheduler)
    assert words in caplog.text


def test_one_step_is_told_as_one(unets, sdxl_text, latent, caplog):
    one = with_lock(unets["sdxl"], CATALOG["hyper-sdxl-1step-unet"])
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        core_ksampler(one, sdxl_text, latent, 1.0, 1, "karras")
    assert "than it was distilled at: 1 step from sigma" in caplog.text


def test_the_packs_own_sampler_is_let_through_at_any_count(model, sdxl_text, latent, caplog):
    with caplog.at_level(logging.WARNING, "comfyui_fewstep"):
        FewStepSampler.execute(model(), sdxl_text, latent, 7, 6, 1.0)
    assert ours(caplog) == []


def test_a_second_record_brings_its_own_lock_in_place_of_the_first(model, sdxl_text, latent):
    guided = CATALOG["hyper-sdxl-8step-cfg-lora"]
    twice = with_lock(model(), guided)
    core_ksampler(twice, sdxl_text, latent, guided.cfg)
    with pytest.raises(ValueError, match=f"{guided.id} was distilled to run at CFG 5"):
        core_ksampler(twice, sdxl_text, latent, 1.0)


def test_cores_guider_of_two_scales_is_held_to_both(model, sdxl_text, latent):
    def run(*scales):
        guider = DualCFGGuider.execute(model(), sdxl_text, sdxl_text, sdxl_text, *scales, "regular")
        sigmas, sampler, *_ = FewStepSchedule.execute(model(), 0, 1.0).args
        SamplerCustomAdvanced.execute(comfy_noise(7), guider.args[0], sampler, sigmas, latent)

    run(1.0, 1.0)
    for scales in ((7.0, 1.0), (1.0, 7.0)):
        with pytest.raises(ValueError, match="this sampler runs it at 7"):
            run(*scales)


def comfy_noise(seed):
    from comfy_extras.nodes_custom_sampler import RandomNoise

    return RandomNoise.execute(seed).args[0]
