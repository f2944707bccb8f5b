"""Whether another node already skips evaluations of a model.

Such nodes come from many packs and hang on a model by every means there is. They are known by their
names alone, never by a word such as "cache" in a path: the host names a custom node's module by its
whole path, and installs lie in ~/.cache, /workspace/cache and Library/Caches.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import folder_paths

# What is in the names of nodes that skip evaluations, and what they are called. Compared word by
# word: TeaCache, tea_cache and ComfyUI-TeaCache are the same, and kvcache is none of these.
KNOWN = {
    "teacache": "TeaCache",
    "fbcache": "First Block Cache",  # Comfy-WaveSpeed, ComfyUI_Patches_ll, H3-FBCache
    "blockcache": "First Block Cache",  # ComfyUI-MiniMaxH3-FirstBlockCache
    "magcache": "MagCache",
    "taylorseer": "TaylorSeer",
    "hicache": "HiCache",
    "dicache": "DiCache",
    "meancache": "MeanCache",
    "cachedit": "cache-dit",
    "easycache": "EasyCache",
    "lazycache": "LazyCache",
    "lemica": "LeMiCa",
    "sortblock": "Sortblock",
    # The word alone may be sound's: ComfyUI-Spectrum-... and SpectrumApply... are these packs'.
    "comfyuispectrum": "Spectrum",
    "spectrumapply": "Spectrum",
}
MOST_WORDS = 3  # that one of these names is written in
# TeaCache | FBCache | tea_cache | ComfyUI-TeaCache2
WORD = re.compile(r"[A-Z]+(?=[A-Z][a-z])|[A-Z]?[a-z]+|[A-Z]+|[0-9]+")
# Before it stands where ComfyUI lies.
CUSTOM_NODES = re.compile(r".*custom_nodes[/.]")


def another_skip_node(model, options: Mapping[str, Any] | None = None) -> str | None:
    """What to call another node that skips evaluations of this model; None if none is known.

    options: the model options of a run; the model's own if not given.
    """
    options = model.model_options if options is None else options
    transformer_options = options.get("transformer_options", {})
    if "easycache" in transformer_options:  # ComfyUI's EasyCache and LazyCache name themselves
        return getattr(transformer_options["easycache"], "name", "EasyCache")
    if has_nunchaku_cache(model.model.diffusion_model):
        return "First Block Cache (cache_threshold of the Nunchaku loader)"
    return next(filter(None, (part.skip_node for part in parts_of(model, options))), None)


@dataclass(frozen=True)
class Part:
    """Something that a node put on a model."""

    value: Any
    key: str = ""  # that it was registered under, if any

    @property
    def skip_node(self) -> str | None:
        """What to call the node that put it there, if it is known to skip evaluations."""
        name = known_name(self.key)
        if name is not None:
            return f"{name} (the node that registered {self.key!r})"
        name = known_name(self.origin)
        return None if name is None else f"{name} (the node behind {self.origin})"

    @property
    def origin(self) -> str:
        """The pack and the function or class it is of, without where ComfyUI lies."""
        value = self.value
        while isinstance(value, functools.partial):
            value = value.func
        if not hasattr(value, "__qualname__"):
            value = type(value)
        return f"{behind_custom_nodes(str(value.__module__))}.{value.__qualname__}".lstrip(".")


def parts_of(model, options: Mapping[str, Any]) -> Iterator[Part]:
    """What other nodes put on a model, as far as an evaluation goes through it."""
    transformer_options = options.get("transformer_options", {})
    for wrappers in (transformer_options.get("wrappers", {}), model.wrappers):
        for by_key in wrappers.values():
            for key, functions in by_key.items():
                yield from (Part(function, str(key)) for function in functions)
    if "model_function_wrapper" in options:
        yield Part(options["model_function_wrapper"])
    for replaced in transformer_options.get("patches_replace", {}).values():
        yield from map(Part, replaced.values())
    yield from map(Part, filter(callable, model.object_patches.values()))
    # Some packs replace the network's own method.
    if "forward" in vars(model.model.diffusion_model):
        yield Part(vars(model.model.diffusion_model)["forward"])


def has_nunchaku_cache(network) -> bool:
    """Whether Nunchaku's own First Block Cache is on, by a threshold on its network."""
    threshold = getattr(getattr(network, "model", None), "residual_diff_threshold_multi", 0)
    return isinstance(threshold, int | float) and threshold > 0


def known_name(text: str) -> str | None:
    """The skip node that a name is of, by the words in it."""
    words = [word.lower() for word in WORD.findall(text)]
    runs = (
        "".join(words[start : start + count])
        for start in range(len(words))
        for count in range(1, MOST_WORDS + 1)
    )
    return next((KNOWN[run] for run in runs if run in KNOWN), None)


def behind_custom_nodes(module: str) -> str:
    """Of a custom node's module, what stands behind the folder that packs lie in. Of other modules,
    the name by which they are imported; nothing of one that is named by its path.
    """
    path = module.replace("\\", "/")
    for folder in folder_paths.get_folder_paths("custom_nodes"):
        named = folder.replace("\\", "/").replace(".", "_x_") + "/"  # as the host names its modules
        if path.startswith(named):
            return path.removeprefix(named)
    if CUSTOM_NODES.match(path):
        return CUSTOM_NODES.sub("", path)
    return "" if "/" in path else path
