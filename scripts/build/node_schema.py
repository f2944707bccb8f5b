"""ComfyUI's /object_info of the workflows' nodes, reduced to what a saved graph depends on.

tests/object_info.json holds it for the pinned ComfyUI: the workflows are built from it, and a host
test compares it with the running server. File lists are left out: they are the machine's, not the
node's.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
SNAPSHOT = ROOT / "tests" / "object_info.json"

WIDGET_TYPES = frozenset({"INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COMFY_DYNAMICCOMBO_V3"})
FILE_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".bin", ".gguf")
# Facts of an input that decide what a saved graph means, beside name, type and order.
KEPT_FACTS = (
    "default",
    "min",
    "max",
    "step",
    "multiline",
    "control_after_generate",
    "image_upload",
    "forceInput",
    "widgetType",
    "advanced",
)


@dataclass(frozen=True)
class Input:
    """One input. options: what a COMBO offers; of a file list, what it offers without any file."""

    name: str
    type: str
    is_optional: bool = False
    options: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def is_widget(self) -> bool:
        return (self.type in WIDGET_TYPES or "widgetType" in self.facts) and not self.facts.get(
            "forceInput"
        )


@dataclass(frozen=True)
class Node:
    """One node type: inputs and (name, type) outputs in the schema's order."""

    id: str
    display_name: str
    inputs: tuple[Input, ...]
    outputs: tuple[tuple[str, str], ...]
    is_output: bool

    @property
    def sockets(self) -> list[Input]:
        return [entry for entry in self.inputs if not entry.is_widget]

    @property
    def widgets(self) -> list[Input]:
        return [entry for entry in self.inputs if entry.is_widget]

    def input(self, name: str) -> Input:
        for entry in self.inputs:
            if entry.name == name:
                return entry
        raise KeyError(
            f"{self.id} has no input {name!r}; it has {[entry.name for entry in self.inputs]}"
        )

    def output_slot(self, name: str) -> int:
        names = [output for output, _ in self.outputs]
        if name not in names:
            raise KeyError(f"{self.id} has no output {name!r}; it has {names}")
        return names.index(name)


Schema = dict[str, Node]


def from_object_info(info: dict[str, Any]) -> Schema:
    """Every node of a server's /object_info."""
    return {id: node_of(id, entry) for id, entry in info.items()}


def node_of(id: str, entry: dict[str, Any]) -> Node:
    inputs = [
        input_of(name, spec, section == "optional")
        for section in ("required", "optional")
        for name, spec in (entry["input"].get(section) or {}).items()
    ]
    outputs = tuple(
        (name, type if isinstance(type, str) else "COMBO")
        for name, type in zip(entry["output_name"], entry["output"])
    )
    return Node(
        id, entry.get("display_name") or id, tuple(inputs), outputs, bool(entry.get("output_node"))
    )


def input_of(name: str, spec: list[Any], is_optional: bool) -> Input:
    type, facts = spec[0], spec[1] if len(spec) > 1 else {}
    options = (
        ()
        if facts.get("image_upload")
        else type
        if isinstance(type, list)
        else facts.get("options", ())
    )
    # A dynamic combo's options are {"key", "inputs"}.
    keys = tuple(option["key"] if isinstance(option, dict) else str(option) for option in options)
    keys = tuple(key for key in keys if not key.endswith(FILE_ENDINGS))
    kept = {fact: facts[fact] for fact in KEPT_FACTS if facts.get(fact) not in (None, False)}
    if "default" in facts:
        kept["default"] = facts["default"]
    return Input(name, "COMBO" if isinstance(type, list) else type, is_optional, keys, kept)


def dump(schema: Schema) -> str:
    """The snapshot's text: one input on each line, so that a change reads well in a diff."""
    lines = []
    for id in sorted(schema):
        node = schema[id]
        rows = ",\n".join(f"   {json.dumps(row(entry))}" for entry in node.inputs)
        lines.append(
            f' {json.dumps(id)}: {{\n  "display_name": {json.dumps(node.display_name)},\n '
            f' "inputs": [{chr(10) + rows + chr(10) + "  " if rows else ""}],\n  "outputs":'
            f' {json.dumps([list(output) for output in node.outputs])},\n  "is_output":'
            f" {json.dumps(node.is_output)}\n }}"
        )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def row(entry: Input) -> dict[str, Any]:
    return {
        "name": entry.name,
        "type": entry.type,
        **({"is_optional": True} if entry.is_optional else {}),
        **({"options": list(entry.options)} if entry.options else {}),
        **entry.facts,
    }


def load(path: Path = SNAPSHOT) -> Schema:
    """The snapshot."""
    nodes = json.loads(path.read_text(encoding="utf-8"))
    return {
        id: Node(
            id,
            entry["display_name"],
            tuple(
                Input(
                    facts.pop("name"),
                    facts.pop("type"),
                    facts.pop("is_optional", False),
                    tuple(facts.pop("options", ())),
                    facts,
                )
                for facts in entry["inputs"]
            ),
            tuple((name, type) for name, type in entry["outputs"]),
            entry["is_output"],
        )
        for id, entry in nodes.items()
    }
