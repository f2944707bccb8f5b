"""Names that only the graph knows: the widgets of the loaders upstream of a node.

Loaders of other packs, such as those for GGUF, leave no file name on a MODEL. The prompt that the
host runs has it: the links are walked from a node's input back to its loaders. Such a name is
evidence like any name: the last, and never against contents.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from ...loras.names import MODEL_ENDINGS

# Widgets that name what a node puts on a model, and not the model itself. Several stand in one node
# where it takes a stack of LoRAs: lora_name_1, lora_01.
LORA_WIDGET = "lora"
# How inputs and widgets begin that have nothing to do with a MODEL.
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
)


@dataclass(frozen=True)
class NamedFile:
    """A file that a loader's widget names."""

    name: str  # as the widget has it, with folders
    is_lora: bool
    class_type: str  # of the loader
    strength: float | None = None  # of a LoRA, where the node has one for models


def upstream_files(hidden: Any, input_name: str) -> tuple[NamedFile, ...]:
    """The files that the loaders upstream of a node's input name, the nearest first.

    hidden: with unique_id and prompt; without a prompt, or for a node that other nodes made while
    the graph runs, there are none.
    """
    prompt = getattr(hidden, "prompt", None) or {}
    node = prompt.get(str(getattr(hidden, "unique_id", None) or ""), {})
    return tuple(_files(prompt, node.get("inputs", {}).get(input_name), set()))


def model_file(files: tuple[NamedFile, ...]) -> str:
    """The name of the model's own file; empty where none or several are named, as by a switch."""
    names = {file.name for file in files if not file.is_lora}
    return names.pop() if len(names) == 1 else ""


def _files(prompt: Mapping[str, Any], link: Any, seen: set[str]) -> Iterator[NamedFile]:
    """Depth first, each node once: a graph may come together again."""
    if not _is_link(link) or str(link[0]) in seen or str(link[0]) not in prompt:
        return
    seen.add(str(link[0]))
    node = prompt[str(link[0])]
    inputs, class_type = node.get("inputs", {}), node.get("class_type", "")
    ways = _ways_on(inputs)
    for name, value in inputs.items():
        if not isinstance(value, str) or not value.lower().endswith(MODEL_ENDINGS):
            continue
        if LORA_WIDGET in name.lower():
            yield NamedFile(value, True, class_type, _strength(inputs))
        # What a node in between loads goes on the model and is not the model: a motion module.
        elif not ways and not name.lower().startswith(OFF_THE_WAY):
            yield NamedFile(value, False, class_type)
    for name in ways:
        yield from _files(prompt, inputs[name], seen)


def _strength(inputs: Mapping[str, Any]) -> float | None:
    value = inputs.get("strength_model", inputs.get("strength"))
    return float(value) if isinstance(value, int | float) else None


def _ways_on(inputs: Mapping[str, Any]) -> list[str]:
    """The linked inputs that may lead to a MODEL: those called so, else any that may be one."""
    linked = [name for name, value in inputs.items() if _is_link(value)]
    models = [name for name in linked if "model" in name.lower() or "unet" in name.lower()]
    others = [name for name in linked if not name.lower().startswith(OFF_THE_WAY)]
    return models or others


def _is_link(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and isinstance(value[1], int)
