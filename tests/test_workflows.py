"""The shipped workflow files: current, whole, and within what the nodes allow."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import build_workflows
import draw_thumbnails
import node_schema
from workflow_graph import Converted, Graph, Model, Output
from workflows import all_graphs

SCHEMA = node_schema.load()
GRAPHS = all_graphs(SCHEMA)
FOLDER = Path(__file__).resolve().parent.parent / "workflows"
MODEL_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pth", ".pt")
MODEL_FOLDERS = {
    "animatediff_models",
    "checkpoints",
    "clip_vision",
    "diffusion_models",
    "loras",
    "latent_upscale_models",
    "text_encoders",
    "vae",
}
SHIPPED_FILE = "fewstep-demo/"
# The Streaming Sampler saves where its `record` says.
OUTPUT_NODES = {
    "SaveImage": "filename_prefix",
    "SaveVideo": "filename_prefix",
    "FewStepStream": "record",
}

# Files that nobody publishes as ComfyUI takes them, and the graph that loads them.
CONVERTED = {
    value.name: graph
    for graph in GRAPHS.values()
    for node in graph.nodes
    for value in node.values.values()
    if isinstance(value, Converted)
}

each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def editor_file(graph: Graph) -> dict[str, Any]:
    return json.loads((FOLDER / f"{graph.title}.json").read_text(encoding="utf-8"))


def api_file(graph: Graph) -> dict[str, Any]:
    return json.loads((FOLDER / "api" / f"{graph.slug}.json").read_text(encoding="utf-8"))


def test_every_file_is_what_its_description_makes() -> None:
    stale = build_workflows.stale_files(build_workflows.built_files(SCHEMA))
    assert stale == [], "run python scripts/build/build_workflows.py"


@each_graph
def test_every_widget_value_is_one_the_node_takes(graph: Graph) -> None:
    assert [
        problem for node in graph.nodes for problem in problems_of(node.schema, node.values)
    ] == []


def problems_of(schema: node_schema.Node, values: dict[str, Any]) -> list[str]:
    problems = []
    for entry in schema.widgets:
        value, facts = values[entry.name], entry.facts
        if isinstance(value, (Model, Output)):
            continue
        where = f"{schema.id}.{entry.name} = {value!r}"
        type = facts.get("widgetType", entry.type)
        if not isinstance(
            value, {"INT": int, "FLOAT": (int, float), "BOOLEAN": bool}.get(type, str)
        ):
            problems.append(f"{where} is not {type}")
        elif type in ("INT", "FLOAT") and not facts.get("min", value) <= value <= facts.get(
            "max", value
        ):
            problems.append(f"{where} is outside {facts.get('min')} .. {facts.get('max')}")
        elif (
            entry.options and value not in entry.options and not str(value).startswith(SHIPPED_FILE)
        ):
            problems.append(f"{where} is not one of {entry.options}")
        elif type == "COMBO" and not entry.options and not facts.get("image_upload"):
            problems.append(f"{where} chooses a file without saying where it comes from")
    return problems


def test_the_check_of_values_finds_wrong_ones() -> None:
    schema = SCHEMA["FewStepSampler"]
    right = {"seed": 1, "steps": 0, "denoise": 1.0}
    assert problems_of(schema, right) == []
    assert len(problems_of(schema, right | {"steps": 101})) == 1
    assert len(problems_of(schema, right | {"denoise": "1"})) == 1
    assert (
        len(
            problems_of(
                SCHEMA["FewStepAccelerator"],
                {"lora_name": "x", "accelerator": "auto", "strength": 1.0, "lock_cfg": True},
            )
        )
        == 1
    )


@each_graph
def test_links_join_what_they_say(graph: Graph) -> None:
    saved = editor_file(graph)
    nodes = {node["id"]: node for node in saved["nodes"]}
    for link_id, source, source_slot, target, target_slot, type in saved["links"]:
        output, entry = nodes[source]["outputs"][source_slot], nodes[target]["inputs"][target_slot]
        assert output["type"] == type and link_id in output["links"]
        assert entry["link"] == link_id and entry["type"] in (type, "*")
    held = [
        entry["link"]
        for node in nodes.values()
        for entry in node["inputs"]
        if entry["link"] is not None
    ]
    assert sorted(held) == [link[0] for link in saved["links"]]


@each_graph
def test_missing_models_can_be_offered(graph: Graph) -> None:
    """The editor offers a download only where name, address and folder are exact."""
    for node in editor_file(graph)["nodes"]:
        models = node["properties"].get("models", [])
        files = [value for value in node.get("widgets_values", []) if is_download(str(value))]
        assert [model["name"] for model in models] == files
        for model in models:
            assert (
                model["url"].startswith("https://huggingface.co/")
                and "/resolve/main/" in model["url"]
            )
            assert model["url"].endswith(MODEL_ENDINGS)
            assert model["directory"] in MODEL_FOLDERS


def is_download(value: str) -> bool:
    return (
        value.endswith(MODEL_ENDINGS)
        and not value.startswith(SHIPPED_FILE)
        and value not in CONVERTED
    )


def test_a_file_that_must_be_converted_is_said_to_be() -> None:
    assert set(CONVERTED) == {"self_forcing_dmd.safetensors"}
    for name, graph in CONVERTED.items():
        assert name in graph.note and "mark_causal.py" in graph.note


@each_graph
def test_our_nodes_say_which_pack_and_version_they_are_from(graph: Graph) -> None:
    ours = [node for node in editor_file(graph)["nodes"] if node["type"].startswith("FewStep")]
    assert ours
    for node in ours:
        assert node["properties"]["cnr_id"] == build_workflows.project_value("name")
        assert node["properties"]["ver"] == build_workflows.project_value("version")


@each_graph
def test_nodes_do_not_lie_on_each_other(graph: Graph) -> None:
    boxes = [
        (
            node["pos"],
            (node["size"][0], 0) if node["flags"].get("collapsed") else node["size"],
            node["type"],
        )
        for node in editor_file(graph)["nodes"]
    ]
    for number, ((x, y), (width, height), type) in enumerate(boxes):
        for (other_x, other_y), (other_width, other_height), other in boxes[number + 1 :]:
            beside = x + width <= other_x or other_x + other_width <= x
            # 30: the title stands above the position.
            above = y + height <= other_y - 30 or other_y + other_height <= y - 30
            assert beside or above, f"{type} and {other}"


@each_graph
def test_a_streaming_sampler_has_room_for_the_frames_it_shows(graph: Graph) -> None:
    """With a VAE it grows by 270 in the canvas and by 328 with the Vue nodes, which tests/browser
    measures.
    """
    nodes = editor_file(graph)["nodes"]
    for stream in (node for node in nodes if node["type"] == "FewStepStream"):
        assert any(entry["name"] == "vae" and entry["link"] for entry in stream["inputs"])
        x, bottom = stream["pos"][0], stream["pos"][1] + stream["size"][1]
        below = [
            node["pos"][1] - 30 for node in nodes if node["pos"][0] == x and node["pos"][1] > bottom
        ]
        assert all(top > bottom + 328 for top in below)
        (frame,) = (
            group["bounding"]
            for group in editor_file(graph)["groups"]
            if 0 < x - group["bounding"][0] < 30
            and group["bounding"][1]
            < stream["pos"][1]
            < group["bounding"][1] + group["bounding"][3]
        )
        assert bottom + 328 < frame[1] + frame[3]


@each_graph
def test_api_file_saves_something_and_is_titled(graph: Graph) -> None:
    prompt = api_file(graph)
    assert any(
        node["inputs"].get(OUTPUT_NODES.get(node["class_type"], "")) for node in prompt.values()
    )
    assert all(node["_meta"]["title"] for node in prompt.values())


@each_graph
def test_guidance_is_left_to_the_accelerator(graph: Graph) -> None:
    """Guided Start's cfg is that of the model without the accelerator, Distil Accelerator's the one
    that goes into it.
    """
    ours = [node for node in api_file(graph).values() if node["class_type"].startswith("FewStep")]
    with_cfg = {node["class_type"] for node in ours if "cfg" in node["inputs"]}
    assert with_cfg <= {"FewStepGuidedStart", "FewStepDistill"}


@each_graph
def test_note_is_short(graph: Graph) -> None:
    assert 100 < len(graph.note) < 900
    assert graph.note.startswith("## ")


@each_graph
def test_template_browser_has_a_picture(graph: Graph) -> None:
    picture = FOLDER / f"{graph.title}.jpg"
    assert picture.read_bytes().startswith(b"\xff\xd8"), (
        "run python scripts/build/draw_thumbnails.py"
    )
    assert picture.stat().st_size < 80_000


def test_the_demos_cards_show_what_the_demo_makes() -> None:
    assert set(draw_thumbnails.DEMOS) == {slug for slug in GRAPHS if slug.startswith("demo")}


def test_no_picture_is_left_over() -> None:
    assert {path.stem for path in FOLDER.glob("*.jpg")} == {
        graph.title for graph in GRAPHS.values()
    }


SMALLEST_TEXT = 12  # pixels, of widgets and slots on the canvas at full size


@each_graph
def test_a_graph_opens_in_view_with_text_that_can_be_read(graph: Graph) -> None:
    """In a window of 1920 x 1080, which no panel of the editor's covers but the small map."""
    file = editor_file(graph)
    view = file["extra"]["ds"]
    assert view["scale"] * SMALLEST_TEXT >= 11
    for node in file["nodes"]:
        left, top = (
            (place + offset) * view["scale"] for place, offset in zip(node["pos"], view["offset"])
        )
        height = 0 if node["flags"].get("collapsed") else node["size"][1]
        assert left > 60 and left + node["size"][0] * view["scale"] < 1915
        assert top > 80 and top + height * view["scale"] < 1075


@each_graph
def test_no_wire_runs_back_further_than_to_the_node_below(graph: Graph) -> None:
    nodes = {node["id"]: node for node in editor_file(graph)["nodes"]}
    for _, origin, _, target, _, _ in editor_file(graph)["links"]:
        start, end = nodes[origin], nodes[target]
        back = start["pos"][0] + start["size"][0] - end["pos"][0]
        if back > 0:
            down = abs(end["pos"][1] - start["pos"][1])
            assert back <= max(start["size"][0], end["size"][0])
            # A title, a bar and the words of a run belong to a node.
            assert down <= start["size"][1] + end["size"][1] + 200, (start["title"], end["title"])
