"""What a workflow that ships consists of, and how its note is written down."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from node_schema import Schema
from workflow_graph import Graph

# An entry of a list begins like this, at the list's beginning or after another entry.
LIST_ENTRY = re.compile(r"(\d+\.|-) ")


@dataclass(frozen=True)
class Workflow:
    """A workflow by its names, its note and the function that puts its nodes on the canvas."""

    title: str  # the file name and so the name in the template browser
    slug: str  # the name of the API twin
    note: str  # Markdown, shown at the left of the graph
    fill: Callable[[Graph], None]
    steps: int  # what a run takes, for the thumbnail
    seeds: str  # what the editor does with seeds after a run

    def graph(self, schema: Schema) -> Graph:
        """The whole graph. Raises KeyError or ValueError where the schema lacks a node or value."""
        graph = Graph(schema, self.title, self.slug, self.note, self.steps, self.seeds)
        self.fill(graph)
        return graph


def workflow(
    title: str, slug: str, note: str, steps: int = 4, seeds: str = "randomize"
) -> Callable[[Callable[[Graph], None]], Workflow]:
    """Make a Workflow of the function that fills its graph."""
    return lambda fill: Workflow(title, slug, unwrapped(note), fill, steps, seeds)


def unwrapped(text: str) -> str:
    """An indented, wrapped text as Markdown with one line per paragraph and per list entry."""
    lines = [""]
    for line in textwrap.dedent(text).strip().split("\n"):
        is_next_entry = LIST_ENTRY.match(lines[-1]) and LIST_ENTRY.match(line)
        if not line or not lines[-1] or is_next_entry:
            lines.append(line)
        else:
            lines[-1] += f" {line.strip()}"
    return "\n".join(lines[1:])
