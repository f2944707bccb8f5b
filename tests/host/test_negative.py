"""Few-Step Negative Prompt on the real host: equal to core's NAGuidance where both can be compared,
the same under every sampler, and nothing left behind.
"""

from __future__ import annotations

import functools
from types import SimpleNamespace

import comfy.model_management
import comfy.model_patcher
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_nag import NAGuidance
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.host.negative import KEY, NegativeError
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.nodes.stream import FewStepStream
from torch import Tensor

import more_models
import nodes as core
import small_models

SETTINGS = {"scale": 6.0, "alpha": 0.5, "tau": 2.5, "start_percent": 0.0, "end_percent": 1.0}
LENGTH = 8  # tokens of the small texts


def kept_out(model, negative, **changes):
    return FewStepNegative.execute(model, negative, **{**SETTINGS, **changes}).args[0]


def text(model=None, seed=0, length=LENGTH, width=None, **values):
    return [
        [tensor, {**options, **values}]
        for tensor, options in small_models.conditioning(
            model, seed=seed, length=length, width=width
        )
    ]


def sample(model, positive, shape, *, negative=None, cfg=1.0, steps=2, sampler="euler", **more):
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(5))
    return comfy.sample.sample(
        model,
        noise,
        steps,
        cfg,
        sampler,
        "simple",
        positive,
        negative or positive,
        torch.zeros(shape),
        disable_pbar=True,
        seed=5,
        **more,
    )


def difference(a: Tensor, b: Tensor) -> float:
    return ((a - b).norm() / b.norm()).item()


def core_combines(**changes):
    """Core's own patch, of its node: (positive output, negative output) to the output."""
    settings = {**SETTINGS, **changes}
    stand_in = comfy.model_patcher.ModelPatcher(torch.nn.Linear(1, 1), "cpu", "cpu")
    patched = NAGuidance.execute(
        stand_in, settings["scale"], settings["alpha"], settings["tau"]
    ).args[0]
    (patch,) = patched.model_options["transformer_options"]["patches"]["attn1_output_patch"]

    def combine(positive: Tensor, negative: Tensor) -> Tensor:
        both = torch.cat([positive, negative])
        return patch(both, {"cond_or_uncond": [0, 1]})[: len(positive)]

    return combine


# ---------------------------------------------------------------- models that attend to text apart


def wan_of(models, variant, **settings):
    path = models / "diffusion_models" / f"negative_{variant}.safetensors"
    return small_models.load_model(small_models.write_wan(path, variant, **settings))


@pytest.fixture(scope="module")
def wan(models):
    return wan_of(models, "wan21_t2v")


@pytest.fixture(scope="module")
def image_to_video(models):
    """Wan 2.1's, with the image branch."""
    return wan_of(models, "wan21_i2v")


@pytest.fixture(scope="module")
def flux(models):
    return small_models.load_model(
        small_models.write_flux(models / "diffusion_models" / "negative_flux.safetensors")
    )


@pytest.fixture
def apart(request, wan, image_to_video, unets):
    """(a MODEL, its sample shape, positive, negative)"""
    name = request.param
    model = {"wan": wan, "wan i2v": image_to_video}.get(name) or unets[name]
    shape = (2, 4, 8, 8) if name in unets else (2, 16, 2, 6, 6)
    values = {}
    if name == "wan i2v":
        picture = torch.randn(1, 257, 1280, generator=torch.Generator().manual_seed(3))
        values = {"clip_vision_output": SimpleNamespace(penultimate_hidden_states=picture)}
    return model, shape, text(model, 1, **values), text(model, 2, length=5)


APART = ("wan", "wan i2v", "sd15", "sdxl")


def attentions_to_text(network):
    """(the layer, its queries' norm, its keys' norm, its last layer) of each."""
    for module in network.modules():
        if hasattr(module, "cross_attn"):
            layer = module.cross_attn
            yield layer, (layer.q, layer.k, layer.v), (layer.norm_q, layer.norm_k), layer.o
        elif getattr(module, "attn2", None) is not None:
            layer, same = module.attn2, torch.nn.Identity()
            yield layer, (layer.to_q, layer.to_k, layer.to_v), (same, same), layer.to_out


def by_hand(model, negative, monkeypatch, combine):
    """The network made over in plain sight: every attention to text is asked twice, and core's
    patch makes one of the two outputs.
    """
    network = model.model.diffusion_model
    other = negative[0][0]
    if hasattr(network, "text_embedding"):
        other = network.text_embedding(other)

    def forward(layer, linears, norms, last, x, context, context_img_len=None, **options):
        (to_q, to_k, to_v), (norm_q, norm_k) = linears, norms
        heads = getattr(layer, "num_heads", None) or layer.heads
        picture = context[:, : context_img_len or 0]
        q = norm_q(to_q(x))

        def attended(words):
            return optimized_attention(q, norm_k(to_k(words)), to_v(words), heads)

        out = combine(
            attended(context[:, context_img_len or 0 :]),
            attended(other.to(x).expand(len(x), -1, -1)),
        )
        if hasattr(layer, "k_img") and context_img_len:
            keys, values = layer.norm_k_img(layer.k_img(picture)), layer.v_img(picture)
            out = out + optimized_attention(q, keys, values, heads)
        return last(out)

    for layer, *parts in attentions_to_text(network):
        monkeypatch.setattr(layer, "forward", functools.partial(forward, layer, *parts))


@pytest.mark.parametrize("apart", APART, indirect=True)
def test_equal_to_every_attention_made_over_by_hand_with_cores_arithmetic(apart, monkeypatch):
    model, shape, positive, negative = apart
    plain = sample(model, positive, shape)
    ours = sample(kept_out(model, negative), positive, shape)
    by_hand(model, negative, monkeypatch, core_combines())
    by_core = sample(model, positive, shape)
    assert difference(ours, by_core) < 1e-5
    assert difference(plain, by_core) > 1e-3, "it does something"


@pytest.mark.parametrize("apart", APART, indirect=True)
@pytest.mark.parametrize("idle", [{"scale": 1.0}, {"alpha": 0.0}], ids=str)
def test_scale_1_or_alpha_0_has_the_bits_of_no_node_at_all(apart, idle):
    model, shape, positive, negative = apart
    plain = sample(model, positive, shape)
    assert torch.equal(sample(kept_out(model, negative, **idle), positive, shape), plain)


# ---------------------------------------------------------------- FLUX


@pytest.mark.parametrize("name", ["Flux", "FluxSchnell", "Flux2"])
def test_equal_to_cores_node_in_a_whole_flux(name):
    """Core's evaluates the network for both texts and puts the same picture into both rows. Its
    negative row has its own pooled text and guidance; here they are the positive's.
    """
    model = more_models.small_patcher(name)
    shape = (1, model.model.latent_format.latent_channels, 8, 8)
    positive, negative = (
        [[tensor, {"guidance": 3.5}]]
        for seed in (1, 2)
        for tensor, _ in more_models.text_conditioning(name, seed)
    )
    by_core = NAGuidance.execute(model, SETTINGS["scale"], SETTINGS["alpha"], SETTINGS["tau"]).args[0]
    theirs = sample(by_core, positive, shape, negative=negative)
    ours = sample(kept_out(model, negative), positive, shape)
    assert difference(ours, theirs) < 1e-5
    assert difference(sample(model, positive, shape), theirs) > 1e-3, "it does something"
