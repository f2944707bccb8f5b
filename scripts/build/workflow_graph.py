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
# Nodes 2.0 has the same title, but higher widgets, a margin, a badge on nodes that are not core's,
# and a bar below for advanced inputs and for missing models. Measured in frontends 1.47.12 and
# 1.58.1.
VUE_WIDGET, VUE_MARGIN, VUE_BADGE, VUE_BAR = 28, 14, 24, 24
GAP, GROUP_PADDING, GROUP_TITLE = 16, 12, 36
# web/report.js puts what a node did under its widgets. A Streaming Sampler that decodes shows its
# frames under that.
REPORT, FRAMES = 76, 270
WIDTH = 300
SIZES = {
    "CLIPTextEncode": (300, 130),
    "SaveImage": (420, 400),
    "SaveVideo": (420, 305),
    "LoadImage": (300, 320),
    "PreviewAny": (420, 215),
    "PreviewImage": (420, 270),
    "SaveAnimatedWEBP": (420, 330),
    "FewStepCompare": (300, 220),
}
NOTE_WIDTH = 270
# What is free of the editor's own panels in a window of 1920 x 1080, from its left and top edge;
# the small map lies over the lower right corner.
VIEW, VIEW_LEFT, VIEW_TOP = (1830, 950), 76, 96
MAP = (1590, 720)
# Below this zoom the smallest text of a node, 12 pixels, is smaller than 11.
READABLE = 0.92


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
    is_collapsed: bool = False  # shown as its title alone
    x: float = 0
    y: float = 0
    size: tuple[float, float] = (0, 0)

    def __getitem__(self, output: str) -> Output:
        return Output(self, self.schema.output_slot(output))

    @property
    def is_ours(self) -> bool:
        return self.schema.id.startswith(OUR_PREFIX)

    @property
    def is_told(self) -> bool:
        """Whether a run leaves words under it."""
        return self.is_ours and self.schema.id != "FewStepDemo"

    @property
    def shows_frames(self) -> bool:
        return self.schema.id == "FewStepStream" and "vae" in self.values


@dataclass(eq=False)
class Group:
    title: str
    column: int
    width: float | None = None  # of its nodes; None: as wide as the widest of the column needs
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
    def group(self, title: str, below: bool = False, width: float | None = None) -> Iterator[None]:
        """A framed column for the nodes added inside; `below` puts it under the group before.

        width: of the column, where the widest of its nodes would be too narrow for what it shows.
        """
        column = self.groups[-1].column + (0 if below else 1) if self.groups else 0
        self.groups.append(Group(title, column, width))
        yield

    def node(
        self, type: str, title: str | None = None, /, *, collapsed: bool = False, **values: Any
    ) -> Placed:
        """Add a node. Values are widget values, a Model for a file widget, or another node's
        Output. collapsed: shown as its title alone.
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
            len(self.nodes) + 1,
            schema,
            title,
            {**filled, **values},
            self.groups[-1].column,
            collapsed,
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
        left, right, bottom, note = self.lay_out()
        links = self.links()
        nodes = [
            self.editor_node(node, order, links, pack, host_version)
            for order, node in enumerate(self.nodes)
        ]
        nodes.append(self.note_node(len(nodes) + 1, note))
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

    def lay_out(self) -> tuple[float, float, float, tuple[float, float, float, float]]:
        """Give every node and group its place.

        Returns the left, right and bottom edge, and the note's left, top, width and height: a
        column of its own at the left, or where the graph is too wide for one, a place under the
        shortest column.
        """
        x, columns = 0.0, []
        for column in sorted({group.column for group in self.groups}):
            groups = [group for group in self.groups if group.column == column]
            width = max(
                *(group.width or 0 for group in groups),
                *(node.size[0] for group in groups for node in group.nodes if not group.width),
                0,
            )
            columns.append((place_column(groups, x, width), x, width + 2 * GROUP_PADDING))
            x += width + 2 * GROUP_PADDING + GAP
        right, bottom = x - GAP, max(columns)[0]
        height = note_height(self.note, NOTE_WIDTH)
        if fits(right + NOTE_WIDTH + GAP, max(bottom, height)):
            note = (-NOTE_WIDTH - GAP, TITLE, NOTE_WIDTH, height)
            return note[0], right, max(bottom, TITLE + height), note
        # In the first column, or below the one that has most room.
        first = columns[0]
        height = TITLE + note_height(self.note, first[2]) + GAP
        if first[0] + height <= max(bottom, VIEW[1]):
            self.move_down(self.groups[0].column, height)
            note = (0.0, TITLE, first[2], height - TITLE - GAP)
            return 0.0, right, max(bottom, first[0] + height), note
        end, left, width = min(
            columns, key=lambda column: column[0] + note_height(self.note, column[2])
        )
        note = (left, end + GAP + TITLE, width, note_height(self.note, width))
        return 0.0, right, max(bottom, note[1] + note[3]), note

    def move_down(self, column: int, height: float) -> None:
        """Make room above a column."""
        for group in self.groups:
            if group.column == column:
                group.bounding[1] += height
                for node in group.nodes:
                    node.y += height

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
            "flags": {"collapsed": True} if node.is_collapsed else {},
            "order": order,
            "mode": 0,
            "inputs": editor_inputs(node, links),
            "outputs": editor_outputs(node, links),
            **({"title": node.title} if node.title else {}),
            "properties": {**origin, "Node name for S&R": node.schema.id, **models_of(node)},
            "widgets_values": widget_values(node, self.seeds),
            **(OUR_COLOURS if node.is_ours else {}),
        }

    def note_node(self, id: int, place: tuple[float, float, float, float]) -> dict[str, Any]:
        """place: left, top, width, height."""
        return {
            "id": id,
            "type": "MarkdownNote",
            "pos": list(place[:2]),
            "size": list(place[2:]),
            "flags": {},
            "order": id - 1,
            "mode": 0,
            "inputs": [],
            "outputs": [],
            # Short: the editor makes a node at least as wide as its title.
            "title": "About this graph",
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


def place_column(groups: list[Group], x: float, width: float) -> float:
    """Put the groups of one column below each other; the bottom edge."""
    y = 0.0
    for group in groups:
        top, y = y, y + GROUP_TITLE
        for node in group.nodes:
            node.x, node.y = x + GROUP_PADDING, y + TITLE
            node.size = (width, node.size[1])
            y += height_of(node) + GAP
        y += GROUP_PADDING - GAP
        group.bounding = [x, top, width + 2 * GROUP_PADDING, y - top]
        y += GAP
    return y - GAP


def height_of(node: Placed) -> float:
    """What a node needs in either renderer, its title included, with all that a run and the editor
    add to it.
    """
    if node.is_collapsed:
        return TITLE
    schema = node.schema
    widgets = sum(not entry.facts.get("advanced") for entry in schema.widgets)
    rows = max(len(schema.sockets), len(schema.outputs))
    vue = TITLE + rows * ROW + widgets * VUE_WIDGET + VUE_MARGIN + VUE_BADGE * node.is_ours
    bars = any(entry.facts.get("advanced") for entry in schema.widgets)
    bars |= any(isinstance(value, Model) for value in node.values.values())
    added = (REPORT if node.is_told else 0) + (FRAMES if node.shows_frames else 0)
    return max(TITLE + node.size[1], vue) + VUE_BAR * bars + added


def fits(width: float, height: float) -> bool:
    """Whether a graph of this size is in view at once, beside the small map."""
    if width > VIEW[0] or height > VIEW[1]:
        return False
    return width <= MAP[0] or height <= MAP[1]


def note_height(text: str, width: float) -> float:
    """What Markdown of this text takes at this width, its title not included."""
    letters = (width - 40) / 5.6
    lines = [line for line in text.splitlines() if line]
    return 40 + sum(8 + 15 * -(-len(line) // letters) for line in lines)


def size_of(schema: Node) -> tuple[float, float]:
    """Width and height that hold the node's rows and widgets."""
    if schema.id in SIZES:
        return SIZES[schema.id]
    widgets = sum(2 if entry.facts.get("control_after_generate") else 1 for entry in schema.widgets)
    tall = sum(100 for entry in schema.widgets if entry.facts.get("multiline"))
    rows = max(len(schema.sockets), len(schema.outputs))
    return WIDTH, rows * ROW + widgets * WIDGET + tall + (14 if widgets else 6)
