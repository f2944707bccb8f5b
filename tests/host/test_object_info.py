"""What the running server says of our nodes is what saved graphs rely on: ids, input names, order,
types, defaults.

After a wanted change: python scripts/build/build_workflows.py --host, and read the difference in
tests/object_info.json.
"""

from __future__ import annotations

import dataclasses
import json

import pytest

import node_schema
from comfy_server import Server
from host import DEFAULT_VERSION, Host
from locale_texts import LOCALES, english

SNAPSHOT = node_schema.load()


@pytest.fixture(scope="module")
def live(server: Server) -> node_schema.Schema:
    return node_schema.from_object_info(server.client.get("/object_info"))


def without_options(node: node_schema.Node) -> node_schema.Node:
    return dataclasses.replace(
        node, inputs=tuple(dataclasses.replace(entry, options=()) for entry in node.inputs)
    )


@pytest.mark.parametrize("id", SNAPSHOT)
def test_node_is_as_saved_graphs_know_it(live: node_schema.Schema, host: Host, id: str) -> None:
    if not id.startswith("FewStep") and host.version != DEFAULT_VERSION:
        pytest.skip("the snapshot has the core nodes of the pinned ComfyUI")
    assert without_options(live[id]) == without_options(SNAPSHOT[id])
    for entry in SNAPSHOT[id].inputs:
        # Files come and go and the catalogue grows; what a saved graph may have chosen must stay.
        assert set(entry.options) <= set(live[id].input(entry.name).options)


def test_snapshot_knows_every_node_of_ours(live: node_schema.Schema) -> None:
    assert {id for id in live if id.startswith("FewStep")} == {
        id for id in SNAPSHOT if id.startswith("FewStep")
    }


def test_english_texts_are_what_the_nodes_say(server: Server) -> None:
    built = english(server.client.get("/object_info"))
    assert json.loads((LOCALES / "en" / "nodeDefs.json").read_text(encoding="utf-8")) == built, (
        "run python scripts/build/build_workflows.py --host, and translate what changed"
    )
