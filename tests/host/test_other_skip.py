"""Is another skip node at work? Known by the names of packs and nodes, wherever ComfyUI lies."""

from __future__ import annotations

import asyncio
import functools
import textwrap
from pathlib import Path
from types import SimpleNamespace

import comfy.sample
import pytest
import torch
from comfy.patcher_extension import WrappersMP
from comfyui_fewstep.nodes.host.other_skip import (
    another_skip_node,
    behind_custom_nodes,
    known_name,
)
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.nodes.stream import refuse_patches
from comfyui_fewstep.samplers.plan import PlanError

import nodes as core
import small_models

# Where people's ComfyUI lies, as far as "cache" is in it.
INSTALLS = (".cache/ComfyUI", "workspace/cache/ComfyUI", "Library/Caches/ComfyUI", "teacache-test")


@pytest.fixture(scope="module")
def flux(models):
    return small_models.load_model(
        small_models.write_flux(models / "diffusion_models" / "other_skip_flux.safetensors")
    )


def skip(model):
    return FewStepSkip.execute(model, "forecast", 1.6, 3.0, 0.15, 0.95, 3, "auto").args[0]


def sample(model):
    text, latent = small_models.conditioning(width=4096), torch.zeros(1, 16, 2, 2)
    return comfy.sample.sample(
        model, latent, 12, 1.0, "euler", "simple", text, text, latent, disable_pbar=True, seed=0
    )


def load_pack(folder: Path, class_name: str, monkeypatch):
    """A node of a pack that the host loads from this folder. It puts the one model_function_wrapper
    on a model, which passes everything on, and a wrapper under the pack's own key.
    """
    folder.mkdir(parents=True)
    (folder / "__init__.py").write_text(
        textwrap.dedent(
            f'''
            from comfy.patcher_extension import WrappersMP

            class {class_name}:
                @classmethod
                def INPUT_TYPES(cls):
                    return {{"required": {{"model": ("MODEL",)}}}}

                RETURN_TYPES = ("MODEL",)
                FUNCTION = "patch"

                def patch(self, model):
                    def unet_wrapper_function(apply_model, args):
                        return apply_model(args["input"], args["timestep"], **args["c"])

                    def pass_on(executor, *args, **kwargs):
                        return executor(*args, **kwargs)

                    model = model.clone()
                    model.set_model_unet_function_wrapper(unet_wrapper_function)
                    model.add_wrapper_with_key(WrappersMP.APPLY_MODEL, "test.pack", pass_on)
                    return (model,)

            NODE_CLASS_MAPPINGS = {{"{class_name}": {class_name}}}
            '''
        )
    )
    monkeypatch.setattr(core, "NODE_CLASS_MAPPINGS", dict(core.NODE_CLASS_MAPPINGS))
    assert asyncio.run(core.load_custom_node(str(folder), module_parent="custom_nodes"))
    return core.NODE_CLASS_MAPPINGS[class_name]()


@pytest.mark.parametrize("install", INSTALLS)
def test_a_harmless_node_passes_wherever_comfyui_lies(flux, tmp_path, monkeypatch, install):
    folder = tmp_path / install / "custom_nodes" / "ComfyUI-Harmless"
    patched = load_pack(folder, "HarmlessPatch", monkeypatch).patch(flux)[0]
    # The host did name the function's module by the whole path.
    module = patched.model_options["model_function_wrapper"].__module__
    assert install.replace(".", "_x_") in module
    assert another_skip_node(patched) is None
    assert torch.isfinite(sample(skip(patched))).all()
    refuse_patches(patched)


@pytest.mark.parametrize("install", INSTALLS)
@pytest.mark.parametrize(
    ("pack", "class_name", "name"),
    [
        ("ComfyUI-TeaCache", "Patch", "TeaCache"),
        ("ComfyUI-TaylorSeer", "Patch", "TaylorSeer"),
        ("some-pack", "ApplyFBCacheOnModel", "First Block Cache"),
    ],
)
def test_a_skip_node_is_known_wherever_comfyui_lies(
    flux, tmp_path, monkeypatch, install, pack, class_name, name
):
    folder = tmp_path / install / "custom_nodes" / pack
    patched = load_pack(folder, class_name, monkeypatch).patch(flux)[0]
    expected = f"{name} \\(the node behind {pack}.{class_name}.patch"
    with pytest.raises(ValueError, match=f"(?s){expected}.*Step Skip"):
        skip(patched)
    with pytest.raises(PlanError, match=expected):
        refuse_patches(patched)
    # And where it comes after Step Skip, when the run begins.
    later = load_pack(folder.with_name(f"{pack}-2"), class_name, monkeypatch).patch(skip(flux))[0]
    with pytest.raises(ValueError, match=name):
        sample(later)


# As the packs' own code names them: module behind custom_nodes/, function, key of the wrapper.
PUBLIC = [
    ("ComfyUI-TeaCache.nodes", "TeaCache.apply_teacache.<locals>.unet_wrapper_function", ""),
    ("comfyui-kjnodes.nodes.x", "WanVideoTeaCacheKJ.patch_teacache.<locals>.outer_wrapper", ""),
    ("ComfyUI_Patches_ll.nodes.TeaCacheNode", "tea_cache_prepare_wrapper", "tea_cache_wrapper"),
    ("ComfyUI_Patches_ll.nodes.ParaAttentionNode", "fb_cache_prepare_wrapper", "fb_cache_wrapper"),
    ("Comfy-WaveSpeed.fbcache_nodes", "ApplyFBCacheOnModel.patch.<locals>.wrapper", ""),
    ("ComfyUI-MagCache.nodes", "MagCache.apply_magcache.<locals>.unet_wrapper_function", ""),
    ("ComfyUI-TaylorSeer.nodes", "TaylorSeer.apply_taylorseer.<locals>.unet_wrapper_function", ""),
    ("ComfyUI-CacheDiT.nodes", "_cache_dit_outer_sample_wrapper", "cache_dit_turbo"),
    ("comfyui-meancache-z.patch.model_patch", "wrap", "anything"),
    ("ComfyUI-Spectrum-MiniMax-H3.comfyui_spectrum_h3.sampling", "outer_sample_wrapper", "h3"),
    ("another-pack.nodes", "SpectrumApplyFlux.apply.<locals>.wrap", ""),
    ("another-pack.nodes", "wrap", "minimax_h3_block_cache_t8"),
    ("cache_dit.caching.hooks", "forward", "anything"),
]


@pytest.mark.parametrize(("module", "qualname", "key"), PUBLIC)
@pytest.mark.parametrize(
    "folder", ["/root/_x_cache/ComfyUI/custom_nodes/", "C:\\AI\\custom_nodes\\"]
)
def test_public_skip_nodes_are_known_by_their_names(flux, module, qualname, key, folder):
    def wrapper(executor, *args, **kwargs):
        return executor(*args, **kwargs)

    wrapper.__module__ = module if module.startswith("cache_dit") else folder + module
    wrapper.__qualname__ = qualname
    patched = flux.clone()
    if key:
        patched.add_wrapper_with_key(WrappersMP.OUTER_SAMPLE, key, wrapper)
    else:
        patched.set_model_unet_function_wrapper(functools.partial(wrapper))
    other = another_skip_node(patched)
    assert other is not None and "_x_cache" not in other and "AI" not in other
    with pytest.raises(ValueError, match="already skips evaluations"):
        skip(patched)


@pytest.mark.parametrize(
    "key", ["kvcache", "kv_cache", "lora.cache_weights", "prompt-cache", "cache"]
)
def test_a_key_with_the_word_cache_is_nobody_s_name(flux, key):
    patched = flux.clone()
    patched.add_wrapper_with_key(
        WrappersMP.DIFFUSION_MODEL, key, lambda executor, *args, **kwargs: executor(*args, **kwargs)
    )
    assert another_skip_node(patched) is None
    assert torch.isfinite(sample(skip(patched))).all()


def test_blocks_and_forwards_that_a_pack_replaced_are_looked_at(flux, monkeypatch):
    class H3FirstBlockCache:
        def __call__(self, args, extra):
            return extra["original_block"](args)

    patched = flux.clone()
    patched.set_model_patch_replace(H3FirstBlockCache(), "dit", "double_block", 0)
    assert "First Block Cache" in another_skip_node(patched)

    def cached_forward(*args, **kwargs):
        raise AssertionError("never run")

    cached_forward.__qualname__ = "EnhancedCache.patch_model.<locals>.cached_forward"
    cached_forward.__module__ = "/x/custom_nodes/comfyui-cache-dit.cache_engine"
    assert another_skip_node(flux) is None
    monkeypatch.setattr(flux.model.diffusion_model, "forward", cached_forward)
    assert "cache-dit" in another_skip_node(flux)


@pytest.mark.parametrize(("threshold", "found"), [(0.12, True), (0, False), (-1.0, False)])
def test_nunchaku_s_own_cache_is_known_by_the_threshold_of_its_loader(
    flux, monkeypatch, threshold, found
):
    # Its loader puts a network of its own into the host's, as `model`.
    network = flux.model.diffusion_model
    inner = SimpleNamespace(residual_diff_threshold_multi=threshold)
    monkeypatch.setattr(network, "model", inner, raising=False)
    assert (another_skip_node(flux) is not None) == found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("TeaCache", "TeaCache"),
        ("tea_cache_wrapper", "TeaCache"),
        ("teacache_flux_forward", "TeaCache"),
        ("ComfyUI-Z-Image-TeaCache2", "TeaCache"),
        ("MagCacheForWAN", "MagCache"),
        ("H3-FBCache", "First Block Cache"),
        ("DiCache", "DiCache"),
        ("medicache", None),
        ("AudioSpectrum", None),
        ("ClearCacheNode", None),
        ("CacheBackendInfo", None),
        ("", None),
    ],
)
def test_names_are_compared_word_by_word(text, name):
    assert known_name(text) == name


def test_what_stands_behind_custom_nodes_is_cut_off(monkeypatch):
    import folder_paths

    assert behind_custom_nodes("/a/_x_cache/custom_nodes/Pack.nodes") == "Pack.nodes"
    assert behind_custom_nodes("custom_nodes.Pack.nodes") == "Pack.nodes"
    assert behind_custom_nodes("comfy_extras.nodes_easycache") == "comfy_extras.nodes_easycache"
    # A folder of another name is known to the host; a path that is none of these says nothing.
    monkeypatch.setattr(folder_paths, "get_folder_paths", lambda name: ["/data/.cache/my nodes"])
    assert behind_custom_nodes("/data/_x_cache/my nodes/Pack.nodes") == "Pack.nodes"
    assert behind_custom_nodes("/opt/teacache/comfy_extras/nodes_x") == ""
