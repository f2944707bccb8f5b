"""Names that only the graph knows: the widgets of the loaders upstream of a node.

Loaders of other packs, such as those for GGUF, leave no file name on a MODEL. The prompt that the
host runs has it: the links are walked from a node's input back to its loaders. Such a name is
evidence like any name: the last, and never against contents. What lies on one of several ways is
no evidence at all: a switch takes one of them, and which is not always seen here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import nodes

from ...loras.names import MODEL_ENDINGS

# Widgets that name what a node puts on a model, and not the model itself. Several stand in one node
# where it takes a stack of LoRAs: lora_name_1, lora_01.
LORA_WIDGET = "lora"
# How inputs and widgets begin that have nothing to do with the MODEL that a node hands on.
OFF_THE_WAY = (
    "clip",
    "vae",
    "text",
    "control",
    "positive",
    "negative",
    "conditioning",
    "latent",
    "image",
    "model_guided",
    "model_patch",
    "model_negative",
)
# Outputs that hold no MODEL, as the host's node classes declare them. A pipe or a context may.
WITHOUT_MODEL = frozenset(
    {
        "AUDIO",
        "BOOLEAN",
        "CLIP",
        "CLIP_VISION",
        "CLIP_VISION_OUTPUT",
        "COMBO",
        "CONDITIONING",
        "CONTROL_NET",
        "FLOAT",
        "GUIDER",
        "IMAGE",
        "INT",
        "LATENT",
        "MASK",
        "MODEL_PATCH",
        "NOISE",
        "SAMPLER",
        "SIGMAS",
        "STRING",
        "STYLE_MODEL",
        "UPSCALE_MODEL",
        "VAE",
        "VIDEO",
    }
)
# Of samplers: what says that noise may be left, and nodes whose first output is a part of sigmas.
LEFTOVER = "return_with_leftover_noise"
TO_THE_END = 10000  # what core's end_at_step has to begin with: no run has so many steps
SPLITS = ("SplitSigmas", "SplitSigmasDenoise")
OWN_SCHEDULE = "FewStepSchedule"
LATENTS = ("samples", "latent", "on_true", "on_false", "input", "any")
DEEPEST = 12  # nodes between the two: every way is walked, and they may come together again
# Core's switches, whose widget says which way they take.
SWITCHES = ("ComfySwitchNode", "ComfySoftSwitchNode")
# In the class names of nodes that make one model of all that they are given.
MERGES = "merge"


@dataclass(frozen=True)
class NamedFile:
    """A file that a loader's widget names."""

    name: str  # as the widget has it, with folders
    is_lora: bool
    class_type: str  # of the loader
    strength: float | None = None  # of a LoRA, where the node has one for models
    is_certain: bool = True  # every way that the MODEL may have come leads through it


def upstream_files(hidden: Any, input_name: str) -> tuple[NamedFile, ...]:
    """The files that the loaders upstream of a node's input name, the nearest first.

    hidden: with unique_id and prompt; without a prompt, or for a node that other nodes made while
    the graph runs, there are none.
    """
    prompt = getattr(hidden, "prompt", None) or {}
    node = prompt.get(str(getattr(hidden, "unique_id", None) or ""), {})
    return _Walk(prompt).files(node.get("inputs", {}).get(input_name))


def model_file(files: tuple[NamedFile, ...]) -> str:
    """The name of the model's own file; empty where none or several are named, as by a merge, and
    where a switch may have taken another way.
    """
    models = [file for file in files if not file.is_lora]
    names = {file.name for file in models}
    return names.pop() if len(names) == 1 and models[0].is_certain else ""


def leftover_noise_of(hidden: Any, input_name: str) -> str:
    """The sampler upstream whose latent comes to a node's input with noise left in it, by its
    class; empty where none does for certain. hidden: as in upstream_files.
    """
    prompt = getattr(hidden, "prompt", None) or {}
    node = prompt.get(str(getattr(hidden, "unique_id", None) or ""), {})
    return _Walk(prompt).leftover_noise(node.get("inputs", {}).get(input_name))


@dataclass(frozen=True)
class _Walk:
    """One walk upstream through a prompt."""

    prompt: Mapping[str, Any]
    # By node, what lies on it and behind it: a graph may come together again.
    known: dict[str, tuple[NamedFile, ...]] = field(default_factory=dict)

    def files(self, link: Any) -> tuple[NamedFile, ...]:
        """What lies on the way that a link leads, the nearest first."""
        if not _is_link(link) or (id := str(link[0])) not in self.prompt:
            return ()
        if id not in self.known:
            self.known[id] = ()  # where the graph runs in a circle, it has been here
            self.known[id] = self._files_of(self.prompt[id])
        return self.known[id]

    def _files_of(self, node: Mapping[str, Any]) -> tuple[NamedFile, ...]:
        inputs, class_type = node.get("inputs", {}), node.get("class_type", "")
        ways = self._ways_on(inputs, class_type)
        behind = [self.files(inputs[name]) for name in ways]
        own = _files_on(inputs, class_type, is_between=bool(ways))
        return (*own, *_together(behind, takes_all=MERGES in class_type.lower()))

    def _ways_on(self, inputs: Mapping[str, Any], class_type: str) -> list[str]:
        """The linked inputs that may lead to a MODEL: those called so, else any that may be one."""
        if class_type in SWITCHES and isinstance(inputs.get("switch"), bool):
            taken = "on_true" if inputs["switch"] else "on_false"
            if _is_link(inputs.get(taken)):
                return [taken]
        linked = [
            name
            for name, value in inputs.items()
            if _is_link(value) and self._type_of(value) not in WITHOUT_MODEL
        ]
        on_the_way = [name for name in linked if not name.lower().startswith(OFF_THE_WAY)]
        models = [name for name in on_the_way if "model" in name.lower() or "unet" in name.lower()]
        return models or on_the_way

    def leftover_noise(self, link: Any, depth: int = 0) -> str:
        """The class of the sampler that left noise in the latent of a link, on every way; else
        empty.
        """
        if not _is_link(link) or str(link[0]) not in self.prompt or depth > DEEPEST:
            return ""
        node = self.prompt[str(link[0])]
        inputs, class_type = node.get("inputs", {}), node.get("class_type", "")
        if LEFTOVER in inputs:
            return class_type if _stops_early(inputs) else ""
        if "sigmas" in inputs:
            is_first = link[1] == 0 and self._are_first_part(inputs["sigmas"])
            return class_type if is_first else ""
        ways = [
            value
            for name, value in inputs.items()
            if _is_link(value) and name.lower().startswith(LATENTS)
        ]
        # What takes a model makes a latent of its own: a sampler that runs to the end.
        if not ways or any(name in inputs for name in ("model", "guider")):
            return ""
        found = [self.leftover_noise(way, depth + 1) for way in ways]
        return found[0] if all(found) else ""

    def _are_first_part(self, link: Any) -> bool:
        """Whether sigmas are the first part of a schedule that another sampler goes on with."""
        if not _is_link(link) or link[1] != 0:
            return False
        node = self.prompt.get(str(link[0]), {})
        class_type = node.get("class_type", "")
        return class_type in SPLITS or (
            class_type == OWN_SCHEDULE and _is_link(node["inputs"].get("model_low_noise"))
        )

    def _type_of(self, link: Any) -> str:
        """What the output that a link comes from holds; empty where its node's class is unknown."""
        class_type = self.prompt.get(str(link[0]), {}).get("class_type", "")
        types = getattr(nodes.NODE_CLASS_MAPPINGS.get(class_type), "RETURN_TYPES", ())
        return str(types[link[1]]) if 0 <= link[1] < len(types) else ""


def _stops_early(inputs: Mapping[str, Any]) -> bool:
    """Whether core's KSampler (Advanced) leaves noise in its latent."""
    steps, end = inputs.get("steps"), inputs.get("end_at_step")
    last = steps if isinstance(steps, int) else TO_THE_END  # a link does not say
    return inputs[LEFTOVER] == "enable" and isinstance(end, int) and end < last


def _files_on(inputs: Mapping[str, Any], class_type: str, is_between: bool) -> Iterator[NamedFile]:
    """The files that a node's own widgets name. is_between: a MODEL comes into it."""
    for name, widget in inputs.items():
        # Some stacks write each row as one value: {"on": true, "lora": "a.safetensors", ...}.
        row = widget if isinstance(widget, Mapping) and widget.get("on", True) else {}
        value = row.get(LORA_WIDGET, widget)
        if not isinstance(value, str) or not value.lower().endswith(MODEL_ENDINGS):
            continue
        if LORA_WIDGET in name.lower():
            # At strength 0 core's loader hands the MODEL on as it is.
            if (strength := _strength(row or inputs)) != 0:
                yield NamedFile(value, True, class_type, strength)
        # What a node in between loads goes on the model and is not the model: a motion module.
        elif not is_between and not name.lower().startswith(OFF_THE_WAY):
            yield NamedFile(value, False, class_type)


def _together(ways: Sequence[tuple[NamedFile, ...]], takes_all: bool) -> Iterator[NamedFile]:
    """What lies behind a node, each file once: certain is what lies on every way, or on any where
    the node takes them all.
    """
    if not ways:
        return
    on_each = [{(file.name, file.is_lora) for file in way if file.is_certain} for way in ways]
    certain = set.union(*on_each) if takes_all else set.intersection(*on_each)
    seen = set()
    for file in chain(*ways):
        if (key := (file.name, file.is_lora)) not in seen:
            seen.add(key)
            yield replace(file, is_certain=key in certain)


def _strength(inputs: Mapping[str, Any]) -> float | None:
    value = inputs.get("strength_model", inputs.get("strength"))
    return float(value) if isinstance(value, int | float) else None


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
