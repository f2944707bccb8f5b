"""The demo model: loads as Wan 2.1 on the real host, follows its prompt, and takes its accelerators
like any other file.
"""

from __future__ import annotations

import json

import pytest
import torch
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.nodes import accelerator, demo
from comfyui_fewstep.nodes.demo import FewStepDemo
from comfyui_fewstep.nodes.host.attach import attach_lora
from comfyui_fewstep.nodes.host.files import load_tensors
from comfyui_fewstep.nodes.host.model import ModelFacts, accelerator_of, base_of, look_at

import nodes as core
from small_models import HAS_CAUSAL_WAN


@pytest.fixture(scope="module")
def red_circle():
    """(model, positive, negative, vae, latent, clip) of the node's own defaults."""
    return FewStepDemo.execute("a red circle moving right", 17, "base").args


def test_the_host_detects_it_as_wan_21_text_to_video(red_circle):
    model = red_circle[0]
    assert type(model.model.model_config).__name__ == "WAN21_T2V"
    assert look_at(model).width == 256
    assert model.get_model_object("model_sampling").shift == demo.SHIFT


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")
def test_the_host_detects_the_causal_variant_as_its_causal_wan():
    model = FewStepDemo.execute("a red circle moving right", 17, "causal").args[0]
    assert type(model.model.model_config).__name__ == "WAN21_CausalAR_T2V"
    assert hasattr(model.model.diffusion_model, "init_kv_caches")
    assert base_of(model) is Base.WAN_CAUSAL
    assert accelerator_of(model).id == "fewstep-demo-causal"


@pytest.mark.skipif(not HAS_CAUSAL_WAN, reason="this host has no causal Wan")
@pytest.mark.parametrize(
    "lora_name", [accelerator.NO_LORA, "fewstep-demo/fewstep_demo_lcm.safetensors"]
)
def test_the_causal_variant_needs_no_accelerator_loader_and_is_told_so(lora_name):
    demo.offer_loras()
    model = FewStepDemo.execute("a red circle moving right", 17, "causal").args[0]
    with pytest.raises(ValueError) as error:
        accelerator.FewStepAccelerator.execute(model, lora_name, accelerator.AUTO, 1.0)
    message = str(error.value)
    assert "already carries fewstep-demo-causal: it is distilled as a whole" in message
    assert "Leave this node out and connect the model to the Streaming Sampler." in message
    assert ("lcm.safetensors is for a model that is not distilled" in message) == (
        lora_name != accelerator.NO_LORA
    )


def test_every_layer_of_the_causal_delta_finds_its_place():
    delta, _ = load_tensors(str(demo.FOLDER / demo.VARIANTS["causal"].delta))
    _, coverage = attach_lora(demo.load_model("base"), delta, 1.0)
    assert coverage.applied > 0 and not coverage.lost and not coverage.misfit


@pytest.mark.parametrize(("frames", "latent_frames"), [(1, 1), (17, 5), (33, 9)])
def test_the_latent_has_the_length_asked_for(frames, latent_frames):
    latent = FewStepDemo.execute("a blue square growing", frames, "base").args[4]
    assert latent["samples"].shape == (1, 16, latent_frames, 8, 8)


def test_the_same_prompt_is_the_same_conditioning_and_another_is_another():
    def embedded(prompt):
        return FewStepDemo.execute(prompt, 1, "base").args[1][0][0]

    assert torch.equal(embedded("a red circle"), embedded("A RED circle."))
    assert not torch.equal(embedded("a red circle"), embedded("a blue circle"))
    assert torch.equal(embedded(""), FewStepDemo.execute("a red circle", 1, "base").args[2][0][0])


def test_its_clips_play_as_fast_in_every_workflow_with_it():
    shipped = [
        json.loads(path.read_text(encoding="utf-8"))
        for path in (demo.FOLDER.parent / "workflows" / "api").glob("demo*.json")
    ]
    rates = [
        node["inputs"]["fps"]
        for workflow in shipped
        for node in workflow.values()
        if "fps" in node["inputs"]
    ]
    assert len(rates) >= len(shipped) > 0 and set(rates) == {demo.FRAME_RATE}


def test_what_the_host_cannot_tell_travels_with_the_model(red_circle):
    facts = look_at(red_circle[0].clone()).facts
    assert facts == ModelFacts(text_tokens=red_circle[1][0][0].shape[1], frame_rate=demo.FRAME_RATE)


def test_an_unknown_word_is_refused_with_the_vocabulary():
    with pytest.raises(ValueError, match="does not know elephant.*It knows: .*circle.*moving"):
        FewStepDemo.execute("a red elephant", 17, "base")


def test_too_many_words_are_refused():
    with pytest.raises(ValueError, match="reads up to 10 words, and the prompt has 11"):
        FewStepDemo.execute(" ".join(["red"] * 11), 17, "base")


def test_the_teacher_paints_what_it_is_told(red_circle):
    """Ten guided steps are enough to see it: red pixels whose centre moves to the right."""
    model, positive, negative, vae, latent, _ = red_circle
    sampled = core.KSampler().sample(
        model, 1, 10, 5.0, "euler", "simple", positive, negative, latent
    )[0]
    frames = vae.decode(sampled["samples"]).reshape(-1, 64, 64, 3)
    redness = (frames[..., 0] - frames[..., 1:].amax(-1)).clamp(min=0)  # (T, H, W)
    assert redness.sum((1, 2)).min() > 30, "a shape of full red is there in every frame"
    columns = torch.arange(64.0)
    centre = (redness.sum(1) * columns).sum(1) / redness.sum((1, 2))
    assert centre[-1] - centre[0] > 8, (
        "it moves right by more than half of the least that was trained"
    )
