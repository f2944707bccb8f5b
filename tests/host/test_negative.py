"""Few-Step Negative Prompt on the real host: equal to core's NAGuidance where both can be compared,
the same under every sampler, and nothing left behind.
"""

from __future__ import annotations

import functools
import inspect
from types import SimpleNamespace

import comfy.controlnet
import comfy.model_management
import comfy.model_patcher
import comfy.nested_tensor
import comfy.sample
import comfy.samplers
import comfy.sd
import comfy.supported_models
import pytest
import torch
from comfy.ldm.modules.attention import optimized_attention
from comfy.patcher_extension import WrappersMP
from comfy_extras.nodes_context_windows import ContextWindowsManualNode
from comfy_extras.nodes_custom_sampler import BasicGuider, CFGGuider, SamplerCustomAdvanced
from comfy_extras.nodes_nag import NAGuidance
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes.guided_start import FewStepGuidedStart
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.model import with_model_sampling
from comfyui_fewstep.nodes.host.negative import NegativeError
from comfyui_fewstep.nodes.host.skip import boundaries
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.nodes.stream import FewStepStream
from thinning import corners, thorough
from torch import Tensor

import more_models
import nodes as core
import small_models

SETTINGS = {"scale": 6.0, "alpha": 0.5, "tau": 2.5, "start_percent": 0.0, "end_percent": 1.0}
LENGTH = 8  # tokens of the small texts


def kept_out(model, negative, **changes):
    return FewStepNegative.execute(model, negative, **{**SETTINGS, **changes}).args[0]


def text(model=None, seed=0, length=LENGTH, channels=None, **values):
    """values: what else the conditioning says."""
    return [
        [tensor, {**options, **values}]
        for tensor, options in small_models.conditioning(
            model, seed=seed, length=length, width=channels
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
            norms = [getattr(layer, name, same) for name in ("q_norm", "k_norm")]
            yield layer, (layer.to_q, layer.to_k, layer.to_v), norms, layer.to_out


def by_hand(model, negative, monkeypatch, combine):
    """The network made over in plain sight: every attention to text is asked twice, and core's
    patch makes one of the two outputs.
    """
    network = model.model.diffusion_model
    other = negative[0][0]
    for name in ("text_embedding", "caption_projection"):
        other = getattr(network, name, torch.nn.Identity())(other)

    def forward(
        layer, linears, norms, last, x, context, context_img_len=None, mask=None, **options
    ):
        (to_q, to_k, to_v), (norm_q, norm_k) = linears, norms
        heads = getattr(layer, "num_heads", None) or layer.heads
        picture = context[:, : context_img_len or 0]
        q = norm_q(to_q(x))

        def attended(words, mask=None):
            return optimized_attention(q, norm_k(to_k(words)), to_v(words), heads, mask=mask)

        out = combine(
            attended(context[:, context_img_len or 0 :], mask),
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


WAN_SMALL = {"image_model": "wan2.1", **small_models.WAN_SMALL, "in_dim": 16}
# The host's other classes of Wan -> what tells them apart.
OTHER_WANS = {
    "WAN22_T2V": {"model_type": "t2v", "in_dim": 48, "out_dim": 48},
    "WAN21_Vace": {"model_type": "vace", "vace_layers": 2, "vace_in_dim": 96},
    "WAN21_Camera": {"model_type": "camera", "in_dim": 32},
    "WAN22_Camera": {"model_type": "camera_2.2", "in_dim": 36},
    "WAN21_HuMo": {"model_type": "humo", "in_dim": 36},
    "WAN22_S2V": {"model_type": "s2v"},
    "WAN22_Animate": {"model_type": "animate", "in_dim": 36, "num_layers": 5},
    "WAN21_SCAIL2": {"model_type": "scail2", "in_dim": 20},
    "WAN22_WanDancer": {"model_type": "wandancer", "in_dim": 36},
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[] if name in ("WAN21_Vace", "WAN21_HuMo") else [thorough])
        for name in OTHER_WANS
    ],
)
def test_every_wan_keeps_it_out_and_has_the_prompt_as_before(name):
    """At an alpha of nearly nothing the prompt's own attention is left, so it is not mixed with the
    other text's.
    """
    if not hasattr(comfy.supported_models, name):
        pytest.skip(f"this ComfyUI has no {name}")
    model = built(name, {**WAN_SMALL, **OTHER_WANS[name]})
    shape = (1, model.model.latent_format.latent_channels, 2, 8, 8)
    positive, negative = text(seed=1), text(seed=2, length=5)
    plain = sample(model, positive, shape, steps=1)
    weak, strong = (
        sample(kept_out(model, negative, alpha=alpha), positive, shape, steps=1)
        for alpha in (1e-7, 0.5)
    )
    assert difference(weak, plain) < 1e-5 < 1e-3 < difference(strong, plain)


def built(name, settings):
    """A small MODEL of one of the host's classes."""
    config = getattr(comfy.supported_models, name)(settings)
    config.set_inference_dtype(torch.float32, None)
    model = config.get_model({}, "")
    network = model.diffusion_model
    network.load_state_dict(small_models.RandomWeights(0).fill(small_models.shapes_of(network)))
    return comfy.model_patcher.ModelPatcher(model, torch.device("cpu"), torch.device("cpu"))


def ltx():
    """LTX-Video, small."""
    settings = {
        "image_model": "ltxv",
        "in_channels": 128,
        "cross_attention_dim": 128,
        "attention_head_dim": 64,
        "num_attention_heads": 2,
        "caption_channels": 64,
        "num_layers": 2,
    }
    return built("LTXV", settings)


def test_in_ltx_a_masked_token_of_either_text_is_not_read(monkeypatch):
    model, shape = ltx(), (1, 128, 2, 4, 4)
    mask = torch.tensor([[1] * 6 + [0] * 2])
    positive, masked = (text(seed=seed, channels=64, attention_mask=mask) for seed in (1, 2))
    ours = sample(kept_out(model, masked), positive, shape)
    by_hand(model, [[masked[0][0][:, :6], {}]], monkeypatch, core_combines())
    by_core = sample(model, positive, shape)
    assert difference(ours, by_core) < 1e-5


def test_in_ltx_a_negative_without_a_mask_is_read_whole(monkeypatch):
    model, shape = ltx(), (1, 128, 2, 4, 4)
    mask = torch.tensor([[1] * 6 + [0] * 2])
    positive, negative = text(seed=1, channels=64, attention_mask=mask), text(seed=2, channels=64)
    ours = sample(kept_out(model, negative), positive, shape)
    by_hand(model, negative, monkeypatch, core_combines())
    assert difference(ours, sample(model, positive, shape)) < 1e-5


def test_sound_and_picture_of_ltx2_both_keep_it_out():
    model = more_models.small_patcher("LTXAV")
    positive, negative = (more_models.text_conditioning("LTXAV", seed) for seed in (1, 2))
    latent = more_models.audio_video_latent("LTXAV")

    def made(model):
        generator = torch.Generator().manual_seed(5)
        parts = [torch.randn(part.shape, generator=generator) for part in latent.unbind()]
        noise = comfy.nested_tensor.NestedTensor(parts)
        return comfy.sample.sample(
            model, noise, 2, 1.0, "euler", "simple", positive, positive, latent, disable_pbar=True
        ).unbind()

    plain = made(model)
    weakly, strongly = (made(kept_out(model, negative, alpha=alpha)) for alpha in (1e-7, 0.5))
    for none, weak, strong in zip(plain, weakly, strongly, strict=True):
        assert difference(weak, none) < 1e-5 < 1e-4 < difference(strong, none)


# ---------------------------------------------------------------- FLUX


def by_rows(model, combine):
    """A MODEL that is evaluated for both texts, in two rows that share their picture by core's
    arithmetic: the other way to the same, at twice the price.
    """

    def override(function, q, k, v, *args, **kwargs):
        first, second = function(q, k, v, *args, **kwargs).chunk(2)
        order = kwargs["transformer_options"]["cond_or_uncond"]
        rows = (first, second) if order == [0, 1] else (second, first)
        picture = combine(*(row[:, LENGTH:] for row in rows))
        both = [torch.cat([row[:, :LENGTH], picture], 1) for row in (first, second)]
        return torch.cat(both)

    patched = model.clone()
    patched.disable_model_cfg1_optimization()
    patched.model_options["transformer_options"]["optimized_attention_override"] = override
    return patched


def without_mask(name, seed):
    """A text of one of the small models."""
    ((tensor, options),) = more_models.text_conditioning(name, seed)
    return [[tensor, {key: value for key, value in options.items() if value is not None}]]


def test_equal_to_qwen_image_evaluated_for_both_texts():
    """Its text has places in the picture's order: each has those it would have alone."""
    model, shape = more_models.small_patcher("QwenImage"), (1, 16, 1, 8, 8)
    positive, negative = (without_mask("QwenImage", seed) for seed in (1, 2))
    ours = kept_out(model, negative)
    if not has_places(model):
        with pytest.raises(NegativeError, match="Update ComfyUI"):
            sample(ours, positive, shape)
        return
    by_core = sample(by_rows(model, core_combines()), positive, shape, negative=negative)
    assert difference(sample(ours, positive, shape), by_core) < 1e-5
    assert difference(sample(model, positive, shape), by_core) > 1e-3, "it does something"


def has_places(model) -> bool:
    """Whether this ComfyUI asks nodes where a text lies in Qwen-Image."""
    return "post_input" in inspect.getsource(type(model.model.diffusion_model))


@pytest.mark.parametrize("name", ["Flux", "FluxSchnell", "Flux2"])
def test_equal_to_cores_node_in_a_whole_flux(name):
    """Core's evaluates the network for both texts and puts the same picture into both rows. Its
    negative row has its own pooled text and guidance; here they are the positive's.
    """
    model = more_models.small_patcher(name)
    shape = (1, model.model.latent_format.latent_channels, 8, 8)
    ((_, options),) = more_models.text_conditioning(name)
    positive, negative = (
        [[tensor, {**options, "guidance": 3.5}]]
        for seed in (1, 2)
        for tensor, _ in more_models.text_conditioning(name, seed)
    )
    by_core = NAGuidance.execute(model, SETTINGS["scale"], SETTINGS["alpha"], SETTINGS["tau"]).args[
        0
    ]
    theirs = sample(by_core, positive, shape, negative=negative)
    ours = sample(kept_out(model, negative), positive, shape)
    assert difference(ours, theirs) < 1e-5
    if name == "Flux":  # what the test of Qwen-Image, where core's node does nothing, relies on
        rows = sample(by_rows(model, core_combines()), positive, shape, negative=negative)
        assert difference(rows, theirs) < 1e-5
    assert difference(sample(model, positive, shape), theirs) > 1e-3, "it does something"


def test_a_masked_prompt_in_flux_is_refused(flux):
    """As core's style models do."""
    masked = text(flux, 1, attention_mask=torch.ones(1, LENGTH + 4, LENGTH + 4))
    masked[0][1]["attention_mask_img_shape"] = (2, 2)
    with pytest.raises(NegativeError, match="masked in part"):
        sample(kept_out(flux, text(flux, 2)), masked, (1, 16, 8, 8))


def test_tokens_that_another_node_adds_in_flux_are_refused(flux):
    def add(inputs):
        more = torch.zeros_like(inputs["txt"][:, :2])
        places = torch.zeros_like(inputs["txt_ids"][:, :2])
        return {
            **inputs,
            "txt": torch.cat([inputs["txt"], more], 1),
            "txt_ids": torch.cat([inputs["txt_ids"], places], 1),
        }

    model = flux.clone()
    model.set_model_patch(add, "post_input")
    with pytest.raises(NegativeError, match="more tokens beside the prompt"):
        sample(kept_out(model, text(flux, 2)), text(flux, 1), (1, 16, 8, 8))


# ---------------------------------------------------------------- rows, regions, guidance


@pytest.fixture(params=["wan", "sdxl", "flux"])
def any_kind(request, wan, unets, flux):
    """(a MODEL, the shape of one sample, a text of it)"""
    model = {"wan": wan, "flux": flux}.get(request.param) or unets["sdxl"]
    shape = {"wan": (16, 2, 6, 6), "flux": (16, 8, 8), "sdxl": (4, 8, 8)}[request.param]
    return model, shape, functools.partial(text, model)


def rows_of(conds):
    """One CONDITIONING with a row of each."""
    pooled = torch.cat([options["pooled_output"] for ((_, options),) in conds])
    return [[torch.cat([tensor for ((tensor, _),) in conds]), {"pooled_output": pooled}]]


def test_every_row_of_a_batch_has_its_own(any_kind):
    model, shape, words = any_kind
    negatives = [words(seed, length=5) for seed in (2, 3, 4)]
    prompts = [words(seed) for seed in (5, 6, 7)]
    together = sample(kept_out(model, rows_of(negatives)), rows_of(prompts), (3, *shape))
    noise = torch.randn((3, *shape), generator=torch.Generator().manual_seed(5))
    for row, (prompt, negative) in enumerate(zip(prompts, negatives, strict=True)):
        alone = comfy.sample.sample(
            kept_out(model, negative),
            noise[row : row + 1],
            2,
            1.0,
            "euler",
            "simple",
            prompt,
            prompt,
            torch.zeros(1, *shape),
            disable_pbar=True,
        )
        assert difference(together[row : row + 1], alone) < 1e-5
    assert difference(together[:1], together[1:2]) > 1e-3


def denoised(model, x, conds, sigma, guide_away=None, cfg=1.0):
    """One evaluation of a guider of the host."""
    seen = []

    def keep(denoise, x, sigmas, extra_args=None, **options):
        seen.append(denoise(x, sigmas[:1].expand(len(x)), **(extra_args or {})))
        return seen[0]

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(conds, guide_away or conds)
    guider.set_cfg(cfg)
    sampler = comfy.samplers.KSAMPLER(keep)
    sigmas = torch.tensor([sigma, 0.0])
    guider.sample(x, torch.zeros_like(x), sampler, sigmas, disable_pbar=True, seed=0)
    return seen[0]


def test_under_guidance_the_samplers_own_negative_is_left_as_it_is(any_kind):
    model, shape, words = any_kind
    x, positive, away = torch.randn(2, *shape), words(1), words(2)
    ours = kept_out(model, words(3, length=5))
    guided = denoised(ours, x, positive, 0.5, away, cfg=3.0)
    conditional, unconditional = denoised(ours, x, positive, 0.5), denoised(model, x, away, 0.5)
    expected = unconditional + 3.0 * (conditional - unconditional)
    assert difference(guided, expected) < 1e-5


def test_regional_prompts_each_keep_it_out(any_kind):
    """Two prompts with an area of their own: each half is as if its prompt stood alone there."""
    model, shape, words = any_kind
    x, sides = torch.randn(1, *shape), shape[-2:]
    height, width = sides[0], sides[1] // 2
    frames = shape[1:-2]
    areas = [(*frames, height, width, *(0 for _ in frames), 0, left) for left in (0, width)]
    # SDXL is told the size of the whole, else of what is before it.
    prompts = [words(seed, width=64, height=64) for seed in (1, 4)]
    regions = [
        [tensor, {**options, "area": area, "strength": 1.0}]
        for ((tensor, options),), area in zip(prompts, areas, strict=True)
    ]
    ours = kept_out(model, words(3, length=5))
    both = denoised(ours, x, regions, 0.5)
    halves = [
        denoised(ours, x[..., left : left + width].contiguous(), prompt, 0.5)
        for left, prompt in ((0, prompts[0]), (width, prompts[1]))
    ]
    # The host blends regions at their inner edges; the outer columns are each prompt's own.
    assert difference(both[..., :1], halves[0][..., :1]) < 1e-5
    assert difference(both[..., -1:], halves[1][..., -1:]) < 1e-5
    assert difference(both, denoised(model, x, regions, 0.5)) > 1e-3
    # The host gives a negative prompt of the whole picture a copy of each area.
    assert difference(denoised(ours, x, regions, 0.5, words(9)), both) < 1e-6


def test_a_text_for_every_frame_is_that_of_the_frame_in_the_hosts_windows(unets):
    model, frames = unets["sd15"], 20
    texts = rows_of([text(model, seed, length=5) for seed in range(frames)])
    x, positive = torch.randn(frames, 4, 8, 8), text(model, 40)
    ours = kept_out(model, texts)
    windowed = ContextWindowsManualNode.execute(
        ours, 8, 2, "standard_static", 1, False, "pyramid", 0, False
    ).args[0]
    # Nothing here looks from one frame at another.
    assert difference(denoised(windowed, x, positive, 5.0), denoised(ours, x, positive, 5.0)) < 1e-5


def test_under_guidance_another_nodes_attention_is_asked_for_the_whole_batch(unets):
    model, asked = kept_out(unets["sd15"], text(unets["sd15"], 3, length=5)), []

    def attend(q, k, v, options):
        asked.append((q.shape[0], len(options["cond_or_uncond"])))
        return torch.zeros_like(q)

    patched = model.clone()
    patched.set_model_attn2_replace(attend, "input", 4)
    prompts = [text(model, seed) for seed in (1, 2)]
    denoised(patched, torch.randn(3, 4, 8, 8), prompts[0], 5.0, prompts[1], cfg=3.0)
    assert asked == [(6, 2), (6, 2)], "once for each of the texts"


def test_a_controlnet_sees_the_prompt_alone(unets):
    seen = []

    class Watching(comfy.controlnet.ControlBase):
        def get_control(self, x_noisy, t, cond, batched_number, transformer_options):
            seen.append(cond["c_crossattn"].shape)
            return

        def get_models(self):
            return []

        def copy(self):
            return self

    positive = text(unets["sd15"], 1, control=Watching())
    sample(kept_out(unets["sd15"], text(unets["sd15"], 2)), positive, (1, 4, 8, 8))
    assert seen and {shape[1] for shape in seen} == {LENGTH}


def test_the_pooled_text_stays_the_prompts(unets):
    model, seen = unets["sdxl"].clone(), []

    def look(executor, x, t, *args, **kwargs):
        seen.append(kwargs["y"].clone())
        return executor(x, t, *args, **kwargs)

    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test", look)
    for patched in (model, kept_out(model, text(model, 2))):
        sample(patched, text(model, 1), (1, 4, 8, 8), steps=1)
    assert torch.equal(*seen)


def test_a_control_on_the_negative_is_not_run(unets):
    """ControlNet nodes hand the same control on with both prompts."""
    calls = []

    class Counting(comfy.controlnet.ControlBase):
        def get_control(self, *args):
            calls.append(1)

        def get_models(self):
            return []

        def copy(self):
            return self

    negative = text(unets["sd15"], 2, control=Counting())
    ours = sample(kept_out(unets["sd15"], negative), text(unets["sd15"], 1), (1, 4, 8, 8))
    plain = kept_out(unets["sd15"], text(unets["sd15"], 2))
    assert not calls
    assert torch.equal(ours, sample(plain, text(unets["sd15"], 1), (1, 4, 8, 8)))


def test_two_texts_are_read_as_one(wan):
    first, second = text(wan, 2, length=5), text(wan, 3, length=4)
    joined = [[torch.cat([first[0][0], second[0][0]], 1), {}]]
    shape, positive = (1, 16, 2, 6, 6), text(wan, 1)
    apart, together = (
        sample(kept_out(wan, each), positive, shape) for each in (first + second, joined)
    )
    assert torch.equal(apart, together)


# ---------------------------------------------------------------- when


def passes_of(model, positive, shape, record):
    """(passes, of these with the negative prompt) as the Few-Step Sampler reports them."""
    patched = with_record(with_model_sampling(model, record), record)
    output = FewStepSampler.execute(patched, positive, {"samples": torch.zeros(shape)}, 3, 0, 1.0)
    (entry,) = output.ui["fewstep_report"][0]["entries"]
    return entry["passes"], entry["passes_guided"]


def test_between_start_and_end_alone(unets):
    # LCM's four timesteps are 999, 759, 499 and 259: of a thousand the first and the last quarter
    # hold one each.
    model, record = unets["sd15"], CATALOG["lcm-lora-sd15"]
    for bounds, guided in (((0.0, 1.0), 4), ((0.0, 0.5), 2), ((0.2, 0.6), 2), ((0.9, 1.0), 0)):
        patched = kept_out(model, text(model, 2), start_percent=bounds[0], end_percent=bounds[1])
        assert passes_of(patched, text(model, 1), (1, 4, 8, 8), record) == (4, guided), bounds


def test_a_text_with_bounds_of_its_own_is_kept_out_within_them(unets):
    model, shape = unets["sd15"], (1, 4, 8, 8)
    early = text(model, 2, start_percent=0.0, end_percent=0.5)
    by_text = sample(kept_out(model, early), text(model, 1), shape, steps=4)
    by_node = sample(
        kept_out(model, text(model, 2), end_percent=0.5), text(model, 1), shape, steps=4
    )
    assert torch.equal(by_text, by_node)
    assert not torch.equal(by_text, sample(model, text(model, 1), shape, steps=4))


def test_step_skip_sees_where_it_begins_and_ends(unets):
    """Past a boundary nothing is forecast from what was made on its other side: the noise levels at
    which something begins or ends are those of a prompt with the same bounds.
    """
    model, seen = unets["sd15"], []
    patched = kept_out(model, text(model, 2), start_percent=0.2, end_percent=0.6)

    def look(executor, *args, **kwargs):
        seen.append(boundaries(cond for each in executor.class_obj.conds.values() for cond in each))
        return executor(*args, **kwargs)

    patched.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "test", look)
    sample(patched, text(model, 1), (1, 4, 8, 8), steps=1)
    of_percent = model.get_model_object("model_sampling").percent_to_sigma
    starts, ends = seen[0]
    assert starts == pytest.approx([of_percent(0.2)]) and ends == pytest.approx([of_percent(0.6)])


# ---------------------------------------------------------------- under other samplers and nodes


def custom_sampled(model, positive, shape, guider):
    """Core's SamplerCustomAdvanced, with two steps of Euler."""
    noise = SimpleNamespace(
        seed=5,
        generate_noise=lambda latent: torch.randn(
            latent["samples"].shape, generator=torch.Generator().manual_seed(5)
        ),
    )
    sampling = model.get_model_object("model_sampling")
    sigmas = comfy.samplers.calculate_sigmas(sampling, "simple", 2)
    output = SamplerCustomAdvanced.execute(
        noise, guider, comfy.samplers.ksampler("euler"), sigmas, {"samples": torch.zeros(shape)}
    )
    return output.args[0]["samples"]


def test_every_sampler_of_core_makes_the_same(any_kind):
    model, shape, words = any_kind
    shape, positive = (1, *shape), words(1)
    ours = kept_out(model, words(2))
    expected = sample(ours, positive, shape)
    latent = {"samples": torch.zeros(shape)}
    by_ksampler = core.common_ksampler(
        ours, 5, 2, 1.0, "euler", "simple", positive, words(3), latent
    )[0]["samples"]
    basic = BasicGuider.execute(ours, positive).args[0]
    guided = CFGGuider.execute(ours, positive, words(3), 1.0).args[0]
    assert torch.equal(by_ksampler, expected)
    assert torch.equal(custom_sampled(ours, positive, shape, basic), expected)
    assert torch.equal(custom_sampled(ours, positive, shape, guided), expected)


def test_in_either_order_with_step_skip(wan):
    """Where nothing is left out the same bits; where something is, close to them."""
    shape, positive, negative = (1, 16, 2, 6, 6), text(wan, 1), text(wan, 2)
    expected = sample(kept_out(wan, negative), positive, shape, steps=12)
    for speedup, most in ((1.0, 0.0), (1.6, 0.2)):
        skip = functools.partial(
            FewStepSkip.execute,
            method="forecast",
            target_speedup=speedup,
            threshold=3.0,
            start_percent=0.15,
            end_percent=0.95,
            max_consecutive=3,
            cache_device="auto",
        )
        for model in (skip(kept_out(wan, negative)).args[0], kept_out(skip(wan).args[0], negative)):
            assert difference(sample(model, positive, shape, steps=12), expected) <= most


def test_wan_22_keeps_another_text_out_of_each_expert(models):
    high, low = (wan_of(models, "wan22_i2v", seed=seed) for seed in (1, 2))
    experts = []
    for model, id in ((high, "wan22-i2v-lightning-high"), (low, "wan22-i2v-lightning-low")):
        record = CATALOG[id]
        experts.append(with_record(with_model_sampling(model, record), record))
    positive, latent = text(length=6), {"samples": torch.zeros(1, 16, 2, 4, 4)}

    def run(high, low):
        output = FewStepSampler.execute(high, positive, latent, 3, 0, 1.0, model_low_noise=low)
        return output.args[0]["samples"], output.ui["fewstep_report"][0]["entries"]

    (first, _), (second, entries) = (
        run(kept_out(experts[0], text(seed=3)), each)
        for each in (experts[1], kept_out(experts[1], text(seed=4), scale=3.0))
    )
    assert difference(first, second) > 1e-4
    assert [entry["scale"] for entry in entries] == [6.0, 3.0]
    assert all(entry["passes"] == entry["passes_guided"] == 2 for entry in entries)


def test_a_guided_start_runs_its_own_steps_without_it(unets):
    """The guided model has its own negative prompt; the accelerated one keeps the text out, on
    whichever side of Guided Start the node stands.
    """
    record = CATALOG["sdxl-lightning-4step-lora"]
    model = with_record(with_model_sampling(unets["sdxl"], record), record)
    positive, latent = text(model, 1), {"samples": torch.zeros(1, 4, 8, 8)}

    def started(model):
        return FewStepGuidedStart.execute(model, unets["sdxl"], text(model, 3), 1, 2, 3.5).args[0]

    made = []
    for patched in (
        started(model),
        started(kept_out(model, text(model, 2))),
        kept_out(started(model), text(model, 2)),
    ):
        output = FewStepSampler.execute(patched, positive, latent, 3, 0, 1.0)
        made.append((output.args[0]["samples"], output.ui["fewstep_report"][0]["entries"]))
    (plain, none), (first, entries), (second, same) = made
    assert torch.equal(first, second) and difference(first, plain) > 1e-4
    assert not none and entries == same
    # One of the four distilled steps is stood in for.
    assert [(entry["passes"], entry["passes_guided"]) for entry in entries] == [(3, 3)]


def test_weights_in_8_bits(models):
    path = models / "diffusion_models" / "negative_wan21_t2v.safetensors"
    small_models.write_wan(path, "wan21_t2v")
    model = comfy.sd.load_diffusion_model(str(path), model_options={"dtype": torch.float8_e4m3fn})
    assert model.model.get_dtype() is torch.float8_e4m3fn
    shape, positive = (1, 16, 2, 6, 6), text(seed=1)
    weak, strong = (
        sample(kept_out(model, text(seed=2), alpha=alpha), positive, shape) for alpha in (1e-7, 0.5)
    )
    plain = sample(model, positive, shape)
    assert difference(weak, plain) < 1e-2 < difference(strong, plain)


@thorough
def test_torch_compile_sees_no_more_graphs_and_breaks(flux, wan, monkeypatch, request):
    """Nor does a second run add any: what is new in every evaluation is no part of a graph."""

    from comfy_api.torch_helpers import set_torch_compile_wrapper
    from torch._dynamo.utils import counters

    request.addfinalizer(torch._dynamo.reset)
    # The host's attention reads the free memory, and a graph is made anew for every other value.
    monkeypatch.setattr(
        comfy.model_management,
        "get_free_memory",
        lambda device=None, torch_free_too=False: (8 << 30, 0) if torch_free_too else 8 << 30,
    )

    def counts() -> tuple[int, int]:
        return sum(counters["graph_break"].values()), counters["stats"]["unique_graphs"]

    def made(model, shape) -> tuple[Tensor, tuple[int, int]]:
        torch._dynamo.reset()
        counters.clear()
        patched = model.clone()
        set_torch_compile_wrapper(patched, backend="eager")
        samples, first = sample(patched, text(model, 1), shape, steps=4), counts()
        sample(patched, text(model, 1), shape, steps=4)
        assert counts() == first
        return samples, first

    for model, shape in ((wan, (1, 16, 2, 6, 6)), (flux, (1, 16, 8, 8))):
        made(model, shape)  # the first time, the host's own caches are traced too
        _, without = made(model, shape)
        ours = kept_out(model, text(model, 2))
        compiled, with_it = made(ours, shape)
        assert with_it == without
        assert difference(compiled, sample(ours, text(model, 1), shape, steps=4)) < 1e-5


def test_another_nodes_attention_is_asked_for_each_of_the_texts(wan):
    """A node such as those that choose SageAttention or FlashAttention."""
    lengths = []

    def override(function, q, k, v, *args, **kwargs):
        lengths.append(k.shape[1])
        return function(q, k, v, *args, **kwargs)

    model = wan.clone()
    model.model_options["transformer_options"]["optimized_attention_override"] = override
    positive, shape = text(wan, 1), (1, 16, 2, 6, 6)
    ours = sample(kept_out(model, text(wan, 2, length=5)), positive, shape, steps=1)
    assert lengths == [18, LENGTH, 5] * 4  # 2 x 3 x 3 tokens, four layers
    assert torch.equal(
        ours, sample(kept_out(wan, text(wan, 2, length=5)), positive, shape, steps=1)
    )


def test_what_stands_in_for_attention_to_text_is_asked_for_each_of_the_texts(unets, monkeypatch):
    """As IPAdapter does: a picture's tokens attended to beside the text's."""
    model = unets["sd15"].clone()
    asked = []

    def beside(q, k, v, extra_options):
        asked.append(k.shape[1])
        words = optimized_attention(q, k, v, extra_options["n_heads"])
        return words + 0.1 * q

    for number in range(12):
        for place in ("input", "middle", "output"):
            model.set_model_attn2_replace(beside, place, number)
    positive, negative = text(model, 1), text(model, 2, length=5)
    ours = denoised(kept_out(model, negative), torch.ones(1, 4, 8, 8), positive, 0.5)
    assert set(asked) == {LENGTH, 5}
    assert difference(ours, denoised(model, torch.ones(1, 4, 8, 8), positive, 0.5)) > 1e-4
    weak = kept_out(model, negative, alpha=1e-7)
    weakly = denoised(weak, torch.ones(1, 4, 8, 8), positive, 0.5)
    assert difference(weakly, denoised(model, torch.ones(1, 4, 8, 8), positive, 0.5)) < 1e-5


def test_a_node_that_puts_tokens_beside_the_prompt_is_told_of(unets):
    model = unets["sd15"].clone()

    def add(n, context, value, extra_options):
        longer = torch.cat([context, context[:, :2]], 1)
        return n, longer, longer

    model.set_model_attn2_patch(add)
    with pytest.raises(NegativeError, match="puts more tokens beside the prompt"):
        sample(kept_out(model, text(model, 2)), text(model, 1), (1, 4, 8, 8))


def test_context_windows_keep_it_out_of_every_window(wan):
    from comfy_extras.nodes_context_windows import ContextWindowsManualNode

    windowed = ContextWindowsManualNode.execute(
        wan, 5, 2, "standard_static", 1, False, "pyramid", 2, False
    ).args[0]
    shape, positive = (1, 16, 4, 4, 4), text(wan, 1)
    weak, strong = (
        sample(kept_out(windowed, text(wan, 2), alpha=alpha), positive, shape)
        for alpha in (1e-7, 0.5)
    )
    plain = sample(windowed, positive, shape)
    assert difference(weak, plain) < 1e-5 < 1e-4 < difference(strong, plain)


# ---------------------------------------------------------------- streams


@pytest.fixture(scope="module")
def causal(models):
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    return wan_of(models, "wan21_causal", seed=2)


def streamed(model, record, positive, frames=9, **window):
    patched = with_record(with_model_sampling(model, record), record)
    latent = {"samples": torch.zeros(2, 16, frames, 4, 4)}
    with torch.inference_mode():
        output = FewStepStream.execute(patched, positive, latent, 3, **{**STREAM, **window})
    return output.args[0]["samples"], output.ui["fewstep_report"][0]


STREAM = {"frames_per_block": 0, "window_frames": 0, "sink_frames": 0}


class NeverReady(dict):
    """A cache of the text's keys and values that stays empty: the layer is asked every time."""

    def __setitem__(self, key, value):
        pass


@corners()
@pytest.mark.parametrize("id", ["self-forcing-dmd", "causal-forcing-framewise"])
@pytest.mark.parametrize("window", [{}, {"window_frames": 6, "sink_frames": 1}], ids=str)
def test_a_stream_equals_one_made_over_by_hand(causal, id, window, monkeypatch):
    positive = rows_of([text(seed=1), text(seed=3)])
    negative = text(seed=2, length=5)
    plain, _ = streamed(causal, CATALOG[id], positive, **window)
    ours, _ = streamed(kept_out(causal, negative), CATALOG[id], positive, **window)
    network = causal.model.diffusion_model
    caches = [NeverReady(is_init=False) for _ in range(network.num_layers)]
    monkeypatch.setattr(network, "init_crossattn_caches", lambda *args: caches)
    by_hand(causal, negative, monkeypatch, core_combines())
    by_core, _ = streamed(causal, CATALOG[id], positive, **window)
    assert difference(ours, by_core) < 1e-5
    assert difference(plain, by_core) > 1e-3, "it does something"


def test_in_cores_causal_sampler_too(causal):
    record, positive = CATALOG["self-forcing-dmd"], text(seed=1)
    shape, options = (1, 16, 6, 4, 4), {"num_frame_per_block": 3}

    def made(model):
        return comfy.sample.sample_custom(
            with_model_sampling(model, record),
            torch.randn(shape, generator=torch.Generator().manual_seed(5)),
            1.0,
            comfy.samplers.ksampler("ar_video", options),
            torch.tensor([1.0, 0.8, 0.5, 0.0]),
            positive,
            positive,
            torch.zeros(shape),
            disable_pbar=True,
            seed=5,
        )

    weak, strong = (made(kept_out(causal, text(seed=2), alpha=alpha)) for alpha in (1e-7, 0.5))
    plain = made(causal)
    assert difference(weak, plain) < 1e-5 < 1e-4 < difference(strong, plain)


# ---------------------------------------------------------------- what is told and refused


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ZImage", "say in the prompt"),
        ("HunyuanVideo15", "NAGuidance"),
        ("Krea2", "NAGuidance"),
    ],
)
def test_other_models_are_refused_and_cores_node_is_named_where_it_works(name, words):
    model = more_models.small_patcher(name)
    with pytest.raises(NegativeError, match=words):
        kept_out(model, more_models.text_conditioning(name))
    patched = NAGuidance.execute(model, 5.0, 0.5, 1.5).args[0]
    width = {"Krea2": 128}.get(name, 64)
    ((_, options),) = more_models.text_conditioning(name)
    positive, negative = (
        [[torch.randn(1, 8, width, generator=torch.Generator().manual_seed(seed)), options]]
        for seed in (1, 2)
    )
    channels, sides = model.model.latent_format.latent_channels, (4, 4)
    is_video = model.model.latent_format.latent_dimensions == 3
    shape = (1, channels, *((1,) if is_video else ()), *sides)
    made, plain = (sample(each, positive, shape, negative=negative) for each in (patched, model))
    assert (difference(made, plain) > 1e-5) == (words == "NAGuidance")


def test_a_text_of_another_encoder_is_refused_in_words(unets):
    model = unets["sdxl"]
    with pytest.raises(NegativeError, match="has 2048 numbers a token and the negative prompt 768"):
        sample(kept_out(model, text(unets["sd15"])), text(model, 1), (1, 4, 8, 8))


@pytest.mark.parametrize("region", [{"area": (4, 4, 0, 0)}, {"mask": torch.ones(1, 8, 8)}], ids=str)
def test_a_negative_for_a_part_of_the_picture_is_refused(unets, region):
    with pytest.raises(NegativeError, match="a part of the picture"):
        kept_out(unets["sd15"], text(unets["sd15"], 1, **region))


def test_a_second_one_is_refused(unets):
    model, negative = unets["sd15"], text(unets["sd15"])
    with pytest.raises(NegativeError, match="already carries"):
        kept_out(kept_out(model, negative), negative)
    kept_out(model, negative)  # on the model itself there is still none


def test_a_start_behind_its_end_is_refused(unets):
    with pytest.raises(ValueError, match="must be below end_percent"):
        kept_out(unets["sd15"], text(unets["sd15"]), start_percent=0.5, end_percent=0.5)


def test_the_weights_are_not_loaded_again_and_the_model_given_is_not_changed(unets):
    model, positive = unets["sd15"], text(unets["sd15"], 1)
    before = sample(model, positive, (1, 4, 8, 8))
    patched = kept_out(model, text(model, 2))
    assert patched.clone_has_same_weights(model)
    sample(patched, positive, (1, 4, 8, 8))
    assert torch.equal(sample(model, positive, (1, 4, 8, 8)), before)


def test_the_few_step_sampler_tells_of_it_and_names_the_node(unets):
    record = CATALOG["lcm-lora-sd15"]
    plain = with_record(with_model_sampling(unets["sd15"], record), record)
    positive, latent = text(plain, 1), {"samples": torch.zeros(1, 4, 8, 8)}

    def report_of(model):
        return FewStepSampler.execute(model, positive, latent, 3, 0, 1.0, negative=text(plain, 2))

    without, with_it = report_of(plain), report_of(kept_out(plain, text(plain, 2), scale=4.0))
    (note,) = without.ui["fewstep_report"][0]["notes"]
    assert "was not read" in note and "Few-Step Negative Prompt" in note
    (note,) = with_it.ui["fewstep_report"][0]["notes"]
    assert "the one on Few-Step Negative Prompt is" in note
    row = "- Few-Step Negative Prompt: scale 4, alpha 0.5, tau 2.5; in 4 of 4 forward passes"
    assert row in with_it.args[1].splitlines()
    assert with_it.ui["fewstep_report"][0]["evaluations"] == 4
