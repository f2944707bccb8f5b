"""A saved editor graph, flat: its nodes, their widgets by name, and where each input comes from.

Subgraphs are opened, bypassed nodes passed through and reroutes followed. Only the widgets of the
node classes in WIDGETS have names: a saved graph keeps their values by position alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

# The modes of a node in the editor.
MUTED, BYPASSED = 2, 4
# What stands for a subgraph's own inputs and outputs in its links.
INPUTS, OUTPUTS = -10, -20

# Node class -> its widgets in the order of a saved graph; "" for one that nothing here reads.
WIDGETS: dict[str, tuple[str, ...]] = {
    "KSampler": ("seed", "", "steps", "cfg", "sampler_name", "scheduler", "denoise"),
    "KSamplerAdvanced": (
        "",
        "seed",
        "",
        "steps",
        "cfg",
        "sampler_name",
        "scheduler",
        "start",
        "end",
    ),
    "SamplerCustom": ("", "seed", "", "cfg"),
    "KSamplerSelect": ("sampler_name",),
    "CFGGuider": ("cfg",),
    "DualModelGuider": ("cfg",),
    "BasicScheduler": ("scheduler", "steps", "denoise"),
    "ManualSigmas": ("sigmas",),
    "Flux2Scheduler": ("steps",),
    "SDTurboScheduler": ("steps", "denoise"),
    "LTXVScheduler": ("steps",),
    "Ideogram4Scheduler": ("steps",),
    "ModelSamplingSD3": ("shift",),
    "ModelSamplingAuraFlow": ("shift",),
    "ModelSamplingFlux": ("max_shift", "base_shift"),
    "MiniMaxH3SigmaShift": ("shift", "audio_shift"),
    "UNETLoader": ("file",),
    "CheckpointLoaderSimple": ("file",),
    "ImageOnlyCheckpointLoader": ("file",),
    "LoraLoaderModelOnly": ("file", "strength"),
    "LoraLoader": ("file", "strength"),
    "ComfySwitchNode": ("switch",),
}
PRIMITIVES = (
    "PrimitiveNode",
    "PrimitiveInt",
    "PrimitiveFloat",
    "PrimitiveBoolean",
    "PrimitiveString",
    "PrimitiveStringMultiline",
)

# The types of inputs that are widgets where nothing is linked to them.
WIDGET_TYPES = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO")

Place = tuple[int, ...]  # ids from the outermost graph inwards
Source = tuple[Place, int]  # a node and the number of its output


@dataclass(frozen=True)
class PlacedNode:
    """One node of the flat graph."""

    type: str
    mode: int
    values: tuple[Any, ...]  # of its widgets, in order
    inputs: Mapping[str, tuple[str, Source | None]]  # name -> (type, what is linked to it)

    def widget(self, name: str) -> Any:
        """The value of a widget, None where the node has none of this name."""
        names = WIDGETS.get(self.type, ())
        place = names.index(name) if name in names else len(self.values)
        return self.values[place] if place < len(self.values) else None


@dataclass
class TemplateGraph:
    """All nodes of a saved graph, those of its subgraphs among them."""

    nodes: dict[Place, PlacedNode] = field(default_factory=dict)
    # The output of a subgraph's node -> what makes it inside.
    inside: dict[Source, Source | None] = field(default_factory=dict)

    def of_type(self, *types: str) -> Iterator[PlacedNode]:
        """The nodes of these classes that run."""
        return (
            node
            for node in self.nodes.values()
            if node.type in types and node.mode not in (MUTED, BYPASSED)
        )

    def maker(self, source: Source | None) -> tuple[Place, PlacedNode] | None:
        """The node that makes what is linked, through subgraphs, reroutes and bypassed nodes."""
        seen: set[Source] = set()
        while source is not None and source not in seen:
            seen.add(source)
            if source in self.inside:
                source = self.inside[source]
                continue
            node = self.nodes.get(source[0])
            if node is None or node.mode == MUTED:
                return None
            if node.mode != BYPASSED and node.type != "Reroute":
                return source[0], node
            source = next((linked for _, linked in node.inputs.values() if linked), None)
        return None


def read_graph(saved: Mapping[str, Any]) -> TemplateGraph:
    """The flat graph of a saved workflow or blueprint."""
    definitions = {
        subgraph["id"]: subgraph for subgraph in saved.get("definitions", {}).get("subgraphs", [])
    }
    graph = TemplateGraph()
    _add(graph, saved, definitions, (), {})
    return graph


def _add(
    graph: TemplateGraph,
    level: Mapping[str, Any],
    definitions: Mapping[str, Any],
    path: Place,
    given: Mapping[int, Source | None],
) -> dict[int, Source | None]:
    """Add one level's nodes. given: what the subgraph's inputs are linked to outside, by number.

    Returns what makes its outputs, by number.
    """
    links = {link[0]: link for link in map(_as_row, level.get("links") or ())}

    def source(link: int | None) -> Source | None:
        row = links.get(link) if link is not None else None
        if row is None:
            return None
        return given.get(row[2]) if row[1] == INPUTS else ((*path, row[1]), row[2])

    for node in level.get("nodes", ()):
        place = (*path, node["id"])
        entries = node.get("inputs") or ()
        inputs = {entry["name"]: (entry["type"], source(entry.get("link"))) for entry in entries}
        mode = node.get("mode", 0)
        definition = definitions.get(node["type"])
        if definition is None or mode in (MUTED, BYPASSED):
            graph.nodes[place] = PlacedNode(node["type"], mode, _values(node), inputs)
            continue
        outside = {name: linked for name, (_, linked) in inputs.items() if linked}
        outside = _promoted(graph, node, definition, place) | outside
        linked = {
            number: outside.get(entry["name"]) for number, entry in enumerate(definition["inputs"])
        }
        for number, made in _add(graph, definition, definitions, place, linked).items():
            graph.inside[(place, number)] = made
    return {row[4]: source(row[0]) for row in links.values() if row[3] == OUTPUTS}


def _values(node: Mapping[str, Any]) -> tuple[Any, ...]:
    values = node.get("widgets_values") or ()
    return tuple(values.values() if isinstance(values, dict) else values)


def _promoted(
    graph: TemplateGraph, node: Mapping[str, Any], definition: Mapping[str, Any], place: Place
) -> dict[str, Source | None]:
    """The values that the widgets on a subgraph's own node hold, by the name of its input: each a
    node of its own.
    """
    names = [entry["name"] for entry in definition["inputs"] if entry["type"] in WIDGET_TYPES]
    values = _values(node)
    if len(values) != len(names):  # where they lie with the nodes inside
        return {}
    made: dict[str, Source | None] = {}
    for number, (name, value) in enumerate(zip(names, values), start=1):
        graph.nodes[(*place, -number)] = PlacedNode("PrimitiveNode", 0, (value,), {})
        made[name] = ((*place, -number), 0)
    return made


def _as_row(link: Any) -> tuple[int, int, int, int, int]:
    """(id, from node, from output, to node, to input) of either form of link."""
    if isinstance(link, dict):
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot")
        return tuple(link[name] for name in names)  # type: ignore[return-value]
    return tuple(link[:5])  # type: ignore[return-value]
