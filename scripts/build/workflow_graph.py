"""A workflow from a short description: the editor's file and the API's, from one source.

A description adds nodes in groups; each group is a framed column on the canvas. Positions, sizes,
links, widget order and the embedded model links follow from the description and the node schema.
"""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from node_schema import Input, Node, Schema

NAMESPACE = uuid.UUID("5d1f0c5e-7d0e-4c55-9f65-0f6a5a3c2b10")
OUR_PREFIX = "FewStep"
OUR_COLOURS = {"color": "#233", "bgcolor": "#355"}
NOTE_COLOURS = {"color": "#222", "bgcolor": "#000"}

# The canvas's own measures: a title above the node, a row for each socket or output, a row for each
# widget.
TITLE, ROW, WIDGET = 30, 20, 24
GAP, GROUP_PADDING, GROUP_TITLE = 30, 20, 44
# Our nodes show a line of text under their widgets after a run. A Streaming Sampler that decodes
# shows its frames under that.
REPORT_LINE, FRAMES = 120, 220
WIDTH = 300
SIZES = {
    "CLIPTextEncode": (360, 170),
    "SaveImage": (400, 460),
    "SaveVideo": (400, 420),
    "LoadImage": (300, 330),
    "PreviewAny": (400, 310),
    "PreviewImage": (400, 380),
    "SaveAnimatedWEBP": (400, 340),
}
NOTE_WIDTH = 340
# The part of a usual browser window that no panel of the editor covers, and the zoom below which it
# draws no text.
VIEW, VIEW_LEFT, VIEW_TOP = (1480, 740), 90, 110
READABLE = 0.61


@dataclass(frozen=True)
class Model:
    """A model file as the missing-models dialog wants it; the name is the loader's widget value."""

    name: str
    url: str
    directory: str


@dataclass(frozen=True)
class Converted(Model):
    """A file that people make from the one at `url`, as the graph's note says; the dialog must not
    offer that one in its place.
    """


@dataclass(frozen=True)
class Output:
    """A node's output, to connect to an input."""

    node: Placed
    slot: int

    @property
    def type(self) -> str:
        return self.node.schema.outputs[self.slot][1]


@dataclass(eq=False)
class Placed:
    """A node on the canvas. `node["IMAGE"]` is its output of that name."""

    id: int
    schema: Node
    title: str | None
    values: dict[str, Any]
    column: int
    x: float = 0
    y: float = 0
    size: tuple[float, float] = (0, 0)

    def __getitem__(self, output: str) -> Output:
        return Output(self, self.schema.output_slot(output))

    @property
    def is_ours(self) -> bool:
        return self.schema.id.startswith(OUR_PREFIX)


@dataclass(eq=False)
class Group:
    title: str
    column: int
    nodes: list[Placed] = field(default_factory=list)
    bounding: list[float] = field(default_factory=list)


class Graph:
    """A workflow under construction.

    title: the file name and so the name in the template browser. slug: the name of the API twin.
    steps: what a run takes, for the thumbnail. seeds: what the editor does with seeds after a run.
    """

    def __init__(
        self,
        schema: Schema,
        title: str,
        slug: str,
        note: str,
        steps: int = 4,
        seeds: str = "randomize",
    ):
        self.schema, self.title, self.slug, self.note, self.steps = (
            schema,
            title,
            slug,
            note.strip(),
            steps,
        )
        self.seeds = seeds
        self.groups: list[Group] = []
        self.nodes: list[Placed] = []

    @property
    def is_video(self) -> bool:
        return any(node.schema.id in ("SaveVideo", "SaveAnimatedWEBP") for node in self.nodes)

    @contextlib.contextmanager
    def group(self, title: str, below: bool = False) -> Iterator[None]:
        """A framed column for the nodes added inside; `below` puts it under the group before."""
        column = self.groups[-1].column + (0 if below else 1) if self.groups else 0
        self.groups.append(Group(title, column))
        yield

    def node(self, type: str, title: str | None = None, /, **values: Any) -> Placed:
        """Add a node. Values are widget values, a Model for a file widget, or another node's
        Output.
        """
        schema = self.schema[type]
        for name, value in values.items():
            check(schema, name, value)
        missing = [
            entry.name
            for entry in schema.inputs
            if entry.name not in values and not entry.is_optional and not entry.is_widget
        ]
        if missing:
            raise ValueError(f"{self.title}: {type} has nothing connected to {missing}")
        filled = {entry.name: values.get(entry.name, default_of(entry)) for entry in schema.widgets}
        placed = Placed(
            len(self.nodes) + 1, schema, title, {**filled, **values}, self.groups[-1].column
        )
        placed.size = size_of(schema)
        self.nodes.append(placed)
        self.groups[-1].nodes.append(placed)
        return placed

    def api(self) -> dict[str, Any]:
        """The workflow for POST /prompt."""
        return {
            str(node.id): {
                "inputs": {
                    **{entry.name: plain(node.values[entry.name]) for entry in node.schema.widgets},
                    **{
                        entry.name: plain(node.values[entry.name])
                        for entry in node.schema.sockets
                        if entry.name in node.values
                    },
                },
                "class_type": node.schema.id,
                "_meta": {"title": node.title or node.schema.display_name},
            }
            for node in self.nodes
        }

    def editor(self, pack: dict[str, str], host_version: str) -> dict[str, Any]:
        """The workflow for the editor, schema 0.4. pack: cnr_id and ver of our nodes."""
        right, bottom = self.lay_out()
        links = self.links()
        nodes = [
            self.editor_node(node, order, links, pack, host_version)
            for order, node in enumerate(self.nodes)
        ]
        nodes.append(self.note_node(len(nodes) + 1, bottom))
        left = -NOTE_WIDTH - GAP
        scale = max(READABLE, min(1.0, VIEW[0] / (right - left), VIEW[1] / bottom))
        return {
            "id": str(uuid.uuid5(NAMESPACE, self.slug)),
            "revision": 0,
            "last_node_id": len(nodes),
            "last_link_id": len(links),
            "nodes": nodes,
            "links": links,
            "groups": [
                {
                    "id": number,
                    "title": group.title,
                    "bounding": group.bounding,
                    "color": "#3f789e",
                    "font_size": 22,
                    "flags": {},
                }
                for number, group in enumerate(self.groups, 1)
            ],
            "config": {},
            "extra": {
                "ds": {
                    "scale": round(scale, 3),
                    "offset": [round(VIEW_LEFT / scale) - left, round(VIEW_TOP / scale)],
                }
            },
            "version": 0.4,
        }

    def lay_out(self) -> tuple[float, float]:
        """Give every node and group its place; returns the right and bottom edge."""
        x = bottom = 0.0
        for column in sorted({group.column for group in self.groups}):
            groups = [group for group in self.groups if group.column == column]
            width = max(node.size[0] for group in groups for node in group.nodes)
            y = 0.0
            for group in groups:
                top, y = y, y + GROUP_TITLE
                for node in group.nodes:
                    node.x, node.y = x + GROUP_PADDING, y + TITLE
                    node.size = (width, node.size[1])
                    y = node.y + node.size[1] + room_under(node)
                y += GROUP_PADDING - (0 if group.nodes[-1].is_ours else GAP - GROUP_PADDING)
                group.bounding = [x, top, width + 2 * GROUP_PADDING, y - top]
                y += GAP
            x += width + 2 * GROUP_PADDING + GAP
            bottom = max(bottom, y - GAP)
        return x - GAP, bottom

    def links(self) -> list[list[Any]]:
        """[id, from node, from slot, to node, to slot, type], ordered by the receiving nodes."""
        links: list[list[Any]] = []
        for node in self.nodes:
            for slot, entry in enumerate(slots_of(node.schema)):
                value = node.values.get(entry.name)
                if isinstance(value, Output):
                    links.append(
                        [len(links) + 1, value.node.id, value.slot, node.id, slot, value.type]
                    )
        return links

    def editor_node(
        self,
        node: Placed,
        order: int,
        links: list[list[Any]],
        pack: dict[str, str],
        host_version: str,
    ) -> dict[str, Any]:
        origin = pack if node.is_ours else {"cnr_id": "comfy-core", "ver": host_version}
        return {
            "id": node.id,
            "type": node.schema.id,
            "pos": [node.x, node.y],
            "size": list(node.size),
            "flags": {},
            "order": order,
            "mode": 0,
            "inputs": editor_inputs(node, links),
            "outputs": editor_outputs(node, links),
            **({"title": node.title} if node.title else {}),
            "properties": {**origin, "Node name for S&R": node.schema.id, **models_of(node)},
            "widgets_values": widget_values(node, self.seeds),
            **(OUR_COLOURS if node.is_ours else {}),
        }

    def note_node(self, id: int, bottom: float) -> dict[str, Any]:
        height = min(
            max(bottom, 200),
            60 + sum(12 + 15 * (1 + len(line) // 60) for line in self.note.splitlines() if line),
        )
        return {
            "id": id,
            "type": "MarkdownNote",
            "pos": [-NOTE_WIDTH - GAP, TITLE],
            "size": [NOTE_WIDTH, height],
            "flags": {},
            "order": id - 1,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            "title": self.title,
            "properties": {},
            "widgets_values": [self.note],
            **NOTE_COLOURS,
        }


def editor_inputs(node: Placed, links: list[list[Any]]) -> list[dict[str, Any]]:
    arriving = {link[4]: link[0] for link in links if link[3] == node.id}
    return [
        {
            "name": entry.name,
            "type": entry.type,
            **({"shape": 7} if entry.is_optional else {}),
            **({"widget": {"name": entry.name}} if entry.is_widget else {}),
            "link": arriving.get(slot),
        }
        for slot, entry in enumerate(slots_of(node.schema))
    ]


def editor_outputs(node: Placed, links: list[list[Any]]) -> list[dict[str, Any]]:
    leaving = [link for link in links if link[1] == node.id]
    return [
        {
            "name": name,
            "type": type,
            "links": [link[0] for link in leaving if link[2] == slot] or None,
        }
        for slot, (name, type) in enumerate(node.schema.outputs)
    ]


def models_of(node: Placed) -> dict[str, list[dict[str, str]]]:
    """The files that the editor may offer to download, as a property of the node."""
    models = [
        vars(value)
        for value in node.values.values()
        if isinstance(value, Model) and not isinstance(value, Converted)
    ]
    return {"models": models} if models else {}


def slots_of(schema: Node) -> list[Input]:
    """A node's input slots in the editor's order: sockets first, then the widgets, which can be
    linked too.
    """
    return [*schema.sockets, *schema.widgets]


def check(schema: Node, name: str, value: Any) -> None:
    """Refuse a value that the schema would refuse."""
    entry = schema.input(name)
    if isinstance(value, Output):
        if value.type not in entry.type.split(",") and "*" not in (entry.type, value.type):
            raise ValueError(f"{schema.id}.{name} takes {entry.type}, not {value.type}")
    elif not entry.is_widget:
        raise ValueError(f"{schema.id}.{name} needs a connection, not {value!r}")


def default_of(entry: Input) -> Any:
    if "default" in entry.facts:
        return entry.facts["default"]
    if entry.options:
        return entry.options[0]
    return {"INT": 0, "FLOAT": 0.0, "BOOLEAN": False}.get(entry.type, "")


def plain(value: Any) -> Any:
    """A value as both formats write it."""
    if isinstance(value, Model):
        return value.name
    return [str(value.node.id), value.slot] if isinstance(value, Output) else value


def widget_values(node: Placed, seeds: str) -> list[Any]:
    """The widgets in order, with the extra ones that the editor adds to some."""
    values: list[Any] = []
    for entry in node.schema.widgets:
        value = node.values[entry.name]
        values.append(default_of(entry) if isinstance(value, Output) else plain(value))
        if entry.facts.get("control_after_generate"):
            values.append(seeds)
        if entry.facts.get("image_upload"):
            values.append("image")
    return values


def room_under(node: Placed) -> float:
    """What lies free under a node: the gap to the next one, and what a run adds to its height."""
    if not node.is_ours:
        return GAP
    return REPORT_LINE + (
        FRAMES if node.schema.id == "FewStepStream" and "vae" in node.values else 0
    )


def size_of(schema: Node) -> tuple[float, float]:
    """Width and height that hold the node's rows and widgets."""
    if schema.id in SIZES:
        return SIZES[schema.id]
    widgets = sum(2 if entry.facts.get("control_after_generate") else 1 for entry in schema.widgets)
    tall = sum(100 for entry in schema.widgets if entry.facts.get("multiline"))
    rows = max(len(schema.sockets), len(schema.outputs))
    return WIDTH, rows * ROW + widgets * WIDGET + tall + (14 if widgets else 6)
