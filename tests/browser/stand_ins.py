"""What the editor needs to open every shipped workflow: empty files under the names they ask for,
and a picture to start from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import node_schema
from workflow_graph import Graph, Model
from workflows import all_graphs

# The one file that is left out, so that the editor has something to miss, and the workflow that
# asks for it.
MISSING = "sdxl_lightning_4step_lora.safetensors"
INCOMPLETE = "sdxl_lightning"


def prepare_base(base: Path, host_root: Path, leave_out: str = "") -> None:
    """Fill a server's base directory; `leave_out` is a model file that shall be missing."""
    write_stand_ins(base / "models", leave_out)
    (base / "input").mkdir()
    shutil.copy(host_root / "input" / "example.png", base / "input")
    # As one who has been here before, so that no tutorial hides the canvas, and who wants files
    # checked against the schema.
    settings = base / "user" / "default" / "comfy.settings.json"
    settings.parent.mkdir(parents=True)
    settings.write_text(
        json.dumps({"Comfy.TutorialCompleted": True, "Comfy.Validation.Workflows": True}),
        encoding="utf-8",
    )


def write_stand_ins(models: Path, leave_out: str) -> None:
    for graph in all_graphs(node_schema.load()).values():
        for model in models_of(graph):
            if model.name != leave_out:
                path = models / model.directory / model.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch()


def models_of(graph: Graph) -> Iterator[Model]:
    return (
        value for node in graph.nodes for value in node.values.values() if isinstance(value, Model)
    )
