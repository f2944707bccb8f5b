"""A blueprint from a workflow: its nodes in one subgraph, with the inputs and outputs that a user
wants to see.

ComfyUI lists subgraphs/*.json of a pack in its node library; placed on a canvas it is one node that
can be opened.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from workflow_graph import NAMESPACE, Graph, Output, Placed, slots_of

INPUT_NODE, OUTPUT_NODE = -10, -20
# Nodes of a workflow that a blueprint leaves to the graph it is put in.
LEFT_OUT = ("SaveImage", "SaveVideo", "PreviewAny")
# What the numbers of a workflow's link are; a subgraph's links say it by these names.
LINK = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")


@dataclass(frozen=True)
class Exposed:
    """A widget of a node that the blueprint shows."""

    node: str  # its type or title
    widget: str
    name: str  # on the blueprint


@dataclass(frozen=True)
class Blueprint:
    """A workflow as one node of the library."""

    graph: Graph  # the workflow that it is made of
    title: str
    description: str
    aliases: Sequence[str]  # other words to find it by
    inputs: Sequence[Exposed]
    outputs: Mapping[str, tuple[str, str]]  # name on the blueprint -> (node, its output's name)

    def file(self, pack: dict[str, str], host_version: str) -> dict[str, Any]:
        """The blueprint's JSON."""
        definition = self.definition(pack, host_version)
        # Numbers are shared with the nodes inside.
        own_number = definition["state"]["lastNodeId"] + 1
        return {
            "id": self.uuid("file"),
            "revision": 0,
            "last_node_id": own_number,
            "last_link_id": 0,
            "nodes": [self.instance(own_number, definition, pack)],
            "links": [],
            "groups": [],
            "definitions": {"subgraphs": [definition]},
            "config": {},
            "extra": {
                "BlueprintDescription": self.description,
                "BlueprintSearchAliases": list(self.aliases),
            },
            "version": 0.4,
        }

    def instance(
        self, number: int, definition: dict[str, Any], pack: dict[str, str]
    ) -> dict[str, Any]:
        """The one node that stands for the subgraph."""
        return {
            "id": number,
            "type": definition["id"],
            "pos": [0, 0],
            "size": [420, 120 + 26 * len(self.inputs)],
            "flags": {},
            "order": 0,
            "mode": 0,
            "inputs": [
                {
                    "name": entry["name"],
                    "type": entry["type"],
                    "label": entry["label"],
                    "widget": {"name": entry["name"]},
                    "link": None,
                }
                for entry in definition["inputs"]
            ],
            "outputs": [
                {"name": entry["name"], "type": entry["type"], "links": []}
                for entry in definition["outputs"]
            ],
            "title": self.title,
            "properties": {
                **pack,
                "proxyWidgets": [
                    [str(self.found(shown.node).id), shown.widget] for shown in self.inputs
                ],
            },
            "widgets_values": [],
        }

    def definition(self, pack: dict[str, str], host_version: str) -> dict[str, Any]:
        """The subgraph: the workflow's nodes, an input node at the left and an output node at the
        right.
        """
        nodes, links = self.insides(pack, host_version)
        inputs = [
            self.exposed_input(slot, shown, nodes, links) for slot, shown in enumerate(self.inputs)
        ]
        outputs = [
            self.exposed_output(slot, name, nodes, links) for slot, name in enumerate(self.outputs)
        ]
        right = max(node["pos"][0] + node["size"][0] for node in nodes.values())
        return {
            "id": self.uuid("graph"),
            "version": 1,
            "state": {
                "lastGroupId": 0,
                "lastNodeId": max(nodes),
                "lastLinkId": max(link["id"] for link in links),
                "lastRerouteId": 0,
            },
            "revision": 0,
            "config": {},
            "name": self.title,
            "inputNode": outer_node(INPUT_NODE, -240, 160, len(inputs)),
            "outputNode": outer_node(OUTPUT_NODE, right + 80, 120, len(outputs)),
            "inputs": inputs,
            "outputs": outputs,
            "widgets": [],
            "nodes": list(nodes.values()),
            "groups": [],
            "links": links,
            "extra": {},
            "category": "few-step",
            "description": self.description,
        }

    def insides(
        self, pack: dict[str, str], host_version: str
    ) -> tuple[dict[int, dict[str, Any]], list[dict[str, Any]]]:
        """The workflow's nodes by their numbers, and the links between them."""
        whole = self.graph.editor(pack, host_version)
        kept = {node.id for node in self.graph.nodes if node.schema.id not in LEFT_OUT}
        nodes = {node["id"]: node for node in whole["nodes"] if node["id"] in kept}
        links = [
            dict(zip(LINK, link)) for link in whole["links"] if link[1] in kept and link[3] in kept
        ]
        alive = {link["id"] for link in links}
        for node in nodes.values():
            for output in node["outputs"]:
                output["links"] = [link for link in output["links"] or [] if link in alive]
        return nodes, links

    def exposed_input(
        self, slot: int, shown: Exposed, nodes: dict[int, Any], links: list[dict[str, Any]]
    ) -> dict[str, Any]:
        node = self.found(shown.node)
        names = [entry.name for entry in slots_of(node.schema)]
        target_slot = names.index(shown.widget)
        type = node.schema.input(shown.widget).type
        link = add_link(links, INPUT_NODE, slot, node.id, target_slot, type)
        nodes[node.id]["inputs"][target_slot]["link"] = link
        return {
            "id": self.uuid(f"input {shown.name}"),
            "name": shown.name,
            "label": shown.name,
            "type": type,
            "linkIds": [link],
            "pos": [-100, 20 + 20 * slot],
        }

    def exposed_output(
        self, slot: int, name: str, nodes: dict[int, Any], links: list[dict[str, Any]]
    ) -> dict[str, Any]:
        output: Output = self.found(self.outputs[name][0])[self.outputs[name][1]]
        link = add_link(links, output.node.id, output.slot, OUTPUT_NODE, slot, output.type)
        nodes[output.node.id]["outputs"][output.slot]["links"].append(link)
        return {
            "id": self.uuid(f"output {name}"),
            "name": name,
            "type": output.type,
            "linkIds": [link],
            "pos": [0, 20 + 20 * slot],
        }

    def found(self, name: str) -> Placed:
        """The node of this title or type."""
        return next(node for node in self.graph.nodes if name in (node.title, node.schema.id))

    def uuid(self, part: str) -> str:
        return str(uuid.uuid5(NAMESPACE, f"blueprint {self.title} {part}"))


def outer_node(id: int, left: float, width: int, slots: int) -> dict[str, Any]:
    """Where the subgraph's inputs or outputs are drawn."""
    return {"id": id, "bounding": [left, 0, width, 40 + 20 * slots]}


def add_link(links: list[dict[str, Any]], *ends: Any) -> int:
    """Add a link from (node, slot) to (node, slot) of a type; its number."""
    id = max(link["id"] for link in links) + 1
    links.append(dict(zip(LINK, (id, *ends))))
    return id
