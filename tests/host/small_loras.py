"""Synthetic LoRA files in the published key layouts, together with the change each of them stands
for.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import comfy.model_patcher
import comfy.utils
import torch
from torch import Tensor

from small_models import FULL_WIDTH, RandomWeights, Shapes, save, sd15_unet_shapes, unet_config

PREFIX = "diffusion_model."


@dataclass(frozen=True)
class Target:
    """What a LoRA is written for. shapes: native names (no diffusion_model. before them)."""

    shapes: Shapes
    unet_config: Mapping[str, Any]

    @classmethod
    def of(cls, patcher: comfy.model_patcher.ModelPatcher) -> Target:
        """The target of a loaded MODEL."""
        tensors = patcher.model.state_dict()
        shapes = {
            name[len(PREFIX) :]: tuple(t.shape)
            for name, t in tensors.items()
            if name.startswith(PREFIX)
        }
        return cls(shapes, patcher.model.model_config.unet_config)

    @classmethod
    def full_sd15(cls) -> Target:
        """The published width of SD 1.5, without building it."""
        return cls(sd15_unet_shapes(), unet_config("sd15", FULL_WIDTH))

    def diffusers_names(self) -> dict[str, str]:
        """Native name -> diffusers' name, from the host's own table; only for tensors that are
        there.
        """
        table = comfy.utils.unet_to_diffusers(self.unet_config)
        return {native: diffusers for diffusers, native in table.items() if native in self.shapes}


@dataclass(frozen=True)
class Layout:
    """How one kind of publisher names things: a prefix, diffusers' names or the model's own, the
    names of the pair.
    """

    prefix: str
    down: str
    up: str
    is_diffusers: bool = False
    is_flat: bool = False

    def name(self, layer: str) -> str:
        """The name in the file of this layer; kohya's trainer writes underscores for dots."""
        return self.prefix + (layer.replace(".", "_") if self.is_flat else layer)

    def layers(self, target: Target) -> dict[str, str]:
        """Native layer name -> its name in the file, for every layer that this layout has a name
        for.
        """
        names = (
            target.diffusers_names()
            if self.is_diffusers
            else {name: name for name in target.shapes}
        )
        ending = ".weight"
        return {
            native.removesuffix(ending): self.name(name.removesuffix(ending))
            for native, name in names.items()
            if native.endswith(ending)
        }


LAYOUTS = {
    "kohya-diffusers": Layout(
        "lora_unet_", "lora_down", "lora_up", is_diffusers=True, is_flat=True
    ),
    "kohya-native": Layout("lora_unet_", "lora_down", "lora_up", is_flat=True),
    "peft": Layout("unet.", "lora_A", "lora_B", is_diffusers=True),
    "native": Layout(PREFIX, "lora_down", "lora_up"),
    "native-peft": Layout(PREFIX, "lora_A", "lora_B"),
    "bare": Layout("", "lora_down", "lora_up"),
    "bare-peft": Layout("", "lora_A", "lora_B"),
}


@dataclass(frozen=True)
class WrittenLora:
    """A LoRA file and what it means.

    pairs: native weight name -> (up, down), whose product is the change at alpha = rank.
    differences: native name -> the change itself, for tensors that came as .diff, .diff_b or
    .diff_m.
    alpha: the network alpha, or None where the file names none, which means alpha = rank.
    """

    path: Path
    tensors: dict[str, Tensor]
    metadata: dict[str, str]
    rank: int
    alpha: float | None
    pairs: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    differences: dict[str, Tensor] = field(default_factory=dict)

    def change(self, name: str, strength: float = 1.0) -> Tensor:
        """What this file adds to the weight of this native name: strength x (alpha / rank) x up @
        down.
        """
        if name in self.differences:
            return strength * self.differences[name]
        up, down = self.pairs[name]
        scale = 1.0 if self.alpha is None else self.alpha / self.rank
        product = up.flatten(1) @ down.flatten(1)
        return strength * scale * product.reshape(up.shape[0], *down.shape[1:])

    @property
    def changed(self) -> list[str]:
        """Native names of everything this file changes."""
        return [*self.pairs, *self.differences]


def write_lora(
    path: Path,
    model: comfy.model_patcher.ModelPatcher | Target,
    layout: str,
    *,
    rank: int = 4,
    alpha: float | None = None,
    alpha_in: Literal["tensors", "metadata"] = "tensors",
    metadata: Mapping[str, str] | None = None,
    seed: int = 0,
    only: str = "",
    differences: bool = False,
    size: float = 0.1,
    dtype: torch.dtype = torch.float32,
) -> WrittenLora:
    """Write a LoRA for every linear and 2D convolution layer of a model.

    layout: a key of LAYOUTS. only: a regular expression that native layer names must contain.
    differences: also change norms (.diff), biases (.diff_b) and modulations (.diff_m), as the Wan
    distillations do. size: how large the change is, as a fraction of the weight's own size, at
    alpha = rank = 1.
    """
    target = model if isinstance(model, Target) else Target.of(model)
    naming = LAYOUTS[layout]
    weights = RandomWeights(seed + 1, dtype)
    tensors: dict[str, Tensor] = {}
    pairs = {}
    for layer, name in naming.layers(target).items():
        shape = target.shapes[f"{layer}.weight"]
        if len(shape) not in (2, 4) or not re.search(only, layer):
            continue
        down_shape = (rank, *shape[1:])
        up_shape = (shape[0], rank, 1, 1) if len(shape) == 4 else (shape[0], rank)
        # weight() draws at 1/sqrt(inputs), the size of the weight that is changed.
        down = weights.weight(f"{layer}.down.weight", down_shape)
        up = weights.normal(f"{layer}.up", up_shape, size)
        tensors |= {f"{name}.{naming.down}.weight": down, f"{name}.{naming.up}.weight": up}
        if alpha is not None and alpha_in == "tensors":
            tensors[f"{name}.alpha"] = torch.tensor(alpha, dtype=dtype)
        pairs[f"{layer}.weight"] = (up.float(), down.float())

    changes = dict(whole_differences(target, naming, weights, only)) if differences else {}
    tensors |= dict(changes.values())
    notes = dict(metadata or {}) | (
        {"lora_alpha": str(alpha)} if alpha is not None and alpha_in == "metadata" else {}
    )
    save(path, tensors, notes)
    plain = {name: change.float() for name, (_, change) in changes.items()}
    return WrittenLora(path, tensors, notes, rank, alpha, pairs, plain)


def whole_differences(
    target: Target, naming: Layout, weights: RandomWeights, only: str
) -> Iterator[tuple[str, tuple[str, Tensor]]]:
    """(native name, (key in the file, change)) of the tensors that are changed whole rather than by
    a low rank.
    """
    names = naming.layers(target)
    for native, shape in target.shapes.items():
        layer, _, kind = native.rpartition(".")
        if not re.search(only, layer):
            continue
        change = weights.normal(f"{native}.diff", shape, 0.02)
        if kind == "modulation":
            # A modulation belongs to no layer of its own: publishers name what holds it, a block or
            # the head.
            yield native, (f"{naming.name(layer)}.diff_m", change)
        elif kind == "bias" and layer in names:
            yield native, (f"{names[layer]}.diff_b", change)
        elif kind == "weight" and len(shape) not in (2, 4) and layer in names:
            yield native, (f"{names[layer]}.diff", change)
