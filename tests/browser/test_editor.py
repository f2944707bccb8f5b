"""What a person meets who opens the editor: templates with pictures, workflows that just open, help
on every node.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from editor import Editor
from stand_ins import INCOMPLETE, MISSING
from thinning import corners, some_of, thorough

import node_schema
from comfy_server import PACK_NAME
from workflow_graph import Graph
from workflows import all_graphs

ROOT = Path(__file__).resolve().parent.parent.parent
WORKFLOWS = ROOT / "workflows"
SCHEMA = node_schema.load()
GRAPHS = all_graphs(SCHEMA)
OUR_NODES = [id for id in SCHEMA if id.startswith("FewStep")]
BLUEPRINTS = sorted((ROOT / "subgraphs").glob("*.json"))
THUMBNAIL_SIZE = 360
# What people type, and the node that has to be offered.
SEARCHES = {
    "lightning": "Accelerator Loader",
    "4 step": "Few-Step Sampler",
    "turbo": "Few-Step Sampler",
    "wan fast": "Accelerator Loader",
    "teacache": "Step Skip",
    "negative prompt": "Few-Step Negative Prompt",
}

each_graph = pytest.mark.parametrize("graph", GRAPHS.values(), ids=GRAPHS)


def our_nodes(graph: Graph) -> frozenset[str]:
    return frozenset(node.schema.id for node in graph.nodes if node.is_ours)


@pytest.fixture(autouse=True)
def no_errors(editor: Editor, request: pytest.FixtureRequest) -> Iterator[None]:
    """Every test is also one of the console. After a failed one the page is loaded anew, so that it
    fails alone.
    """
    failed = request.session.testsfailed
    if failed > editor.failed_before:
        editor.failed_before = failed
        editor.open()
    editor.errors.clear()
    yield
    editor.close_dialogs()
    assert editor.errors == []


def path_of(graph: Graph) -> Path:
    return WORKFLOWS / f"{graph.title}.json"


def twin_of(graph: Graph) -> dict:
    return json.loads((WORKFLOWS / "api" / f"{graph.slug}.json").read_text(encoding="utf-8"))


@corners("graph", of=our_nodes)
@each_graph
def test_dropped_workflow_opens_and_is_its_api_twin(
    editor: Editor, artefacts: Path, graph: Graph
) -> None:
    editor.drop(path_of(graph))
    assert editor.unknown_node_types() == []
    assert editor.api() == twin_of(graph)
    assert editor.overlaps() == []
    editor.picture(artefacts / "workflows" / f"{graph.slug}.png")


def test_these_checks_notice_a_broken_file(editor: Editor, tmp_path: Path) -> None:
    graph = GRAPHS["sd15_lcm"]
    workflow = json.loads(path_of(graph).read_text(encoding="utf-8"))
    sampler = next(node for node in workflow["nodes"] if node["type"] == "FewStepSampler")
    sampler["widgets_values"].reverse()
    workflow["nodes"][0]["type"] = "NoSuchNode"
    broken = tmp_path / "broken.json"
    broken.write_text(json.dumps(workflow), encoding="utf-8")
    editor.drop(broken)
    assert editor.unknown_node_types() == ["NoSuchNode"]
    assert editor.api() != twin_of(graph)
    editor.errors.clear()


def test_missing_model_is_named_with_its_address(editor: Editor, artefacts: Path) -> None:
    editor.drop(path_of(GRAPHS[INCOMPLETE]))
    details = editor.page.get_by_test_id("error-overlay-see-errors")
    details.click()
    panel = editor.page.get_by_test_id("properties-panel")
    panel.get_by_text(MISSING).first.wait_for()
    editor.picture(artefacts / "missing-model.png")


def test_template_browser_lists_every_workflow_with_a_picture(
    editor: Editor, artefacts: Path
) -> None:
    listed = editor.templates(PACK_NAME, len(GRAPHS))
    editor.picture(artefacts / "templates.png")
    assert set(listed) == {graph.title for graph in GRAPHS.values()}
    # The editor's own picture for templates without one has another size.
    assert {template["width"] for template in listed.values()} == {THUMBNAIL_SIZE}


@pytest.mark.parametrize("path", BLUEPRINTS, ids=lambda path: path.stem)
def test_blueprint_is_one_node_that_holds_a_whole_graph(
    editor: Editor, artefacts: Path, path: Path
) -> None:
    workflow = editor.drop(path)
    editor.picture(artefacts / "blueprints" / f"{path.stem}.png")
    assert editor.unknown_node_types() == []
    inside = [node["type"] for node in workflow["definitions"]["subgraphs"][0]["nodes"]]
    assert sorted(node["class_type"] for node in editor.api().values()) == sorted(inside)


def test_search_finds_our_nodes_by_what_people_call_them(editor: Editor, artefacts: Path) -> None:
    editor.show_only("VAEDecode")  # whose view is always the same, and the rest of it empty
    for words, wanted in SEARCHES.items():
        editor.search(words, wanted)
        editor.picture(artefacts / "search" / f"{words}.png")
        editor.close_dialogs()


@pytest.mark.parametrize("id", OUR_NODES)
def test_help_opens_with_our_text_and_picture(editor: Editor, artefacts: Path, id: str) -> None:
    editor.show_only(id)
    title = (
        (ROOT / "web" / "docs" / f"{id}.md")
        .read_text(encoding="utf-8")
        .splitlines()[0]
        .removeprefix("# ")
    )
    text = editor.help_text(id, title)
    editor.picture(artefacts / "help" / f"{id}.png")
    assert "Common mistakes" in text
    for entry in SCHEMA[id].inputs:
        assert entry.name in text
    broken = (
        editor.page.get_by_test_id("properties-panel")
        .locator("img")
        .evaluate_all(
            "images => images.filter(image => image.complete && !image.naturalWidth).map(image =>"
            " image.src)"
        )
    )
    assert broken == []


@pytest.mark.parametrize("slug", some_of(GRAPHS, "demo", "sdxl_step_budget"))
def test_vue_renderer_shows_the_same_graph_and_nothing_lies_over_another(
    editor: Editor, artefacts: Path, tmp_path: Path, slug: str
) -> None:
    """With its models and without: then Nodes 2.0 puts a bar under each node that lacks one."""
    graph = GRAPHS[slug]
    editor.set("Comfy.VueNodes.Enabled", True)
    try:
        editor.drop(path_of(graph))
        wait_for_nodes(editor, len(graph.nodes) + 1)
        editor.picture(artefacts / "vue" / f"{graph.slug}.png")
        assert editor.api() == twin_of(graph)
        assert editor.overlaps() == []

        without = tmp_path / "without.json"
        text = path_of(graph).read_text(encoding="utf-8")
        workflow = json.loads(text.replace(".safetensors", "_not_there.safetensors"))
        workflow["id"] = str(uuid.uuid4())
        without.write_text(json.dumps(workflow), encoding="utf-8")
        editor.drop(without)
        wait_for_nodes(editor, len(graph.nodes) + 1)
        editor.page.wait_for_timeout(1000)
        editor.picture(artefacts / "vue" / f"{graph.slug}-without-models.png")
        assert editor.overlaps() == []
    finally:
        editor.set("Comfy.VueNodes.Enabled", False)


def wait_for_nodes(editor: Editor, count: int) -> None:
    editor.page.wait_for_function(
        "count => document.querySelectorAll('[data-node-id]').length === count", arg=count
    )


def test_editor_speaks_chinese(editor: Editor, artefacts: Path) -> None:
    expected = json.loads((ROOT / "locales" / "zh" / "nodeDefs.json").read_text(encoding="utf-8"))[
        "FewStepSampler"
    ]
    editor.set("Comfy.Locale", "zh")
    try:
        # The editor takes the node definitions again and loads the open graph anew, which takes
        # some seconds or many.
        names, labels = {entry["name"] for entry in expected["inputs"].values()}, set()
        for _ in range(80):
            editor.page.wait_for_timeout(1500)
            editor.show_only("FewStepSampler")
            labels = set(
                editor.page.evaluate(
                    "app.graph.nodes[0].inputs.map(input => input.label ?? input.localized_name)"
                )
            )
            if labels == names:
                break
        editor.picture(artefacts / "locale-zh.png")
        assert labels == names
    finally:
        editor.set("Comfy.Locale", "en")
        editor.page.wait_for_timeout(2000)


@pytest.mark.parametrize("is_vue", [False, True], ids=["canvas", "vue"])
def test_what_a_run_did_stays_on_the_screen(
    editor: Editor, artefacts: Path, is_vue: bool, request: pytest.FixtureRequest
) -> None:
    editor.drop(path_of(GRAPHS["demo"]))
    editor.set("Comfy.VueNodes.Enabled", is_vue)
    try:
        editor.set_widget("FewStepSampler", "seed", 1 + is_vue)
        editor.run()
        editor.picture(artefacts / "demo" / f"{request.node.callspec.id}.png")
        (sampler,) = editor.text_on("FewStepSampler")
        assert "4 steps, 4 evaluations" in sampler and "CFG 1 locked" in sampler
        (loader,) = editor.text_on("FewStepAccelerator")
        assert "62 layers at strength 1" in loader
        shown = editor.text_in_view()
        assert sampler in shown and loader in shown
        # The sampler's report, with the loader's news in it, in plain words.
        (report,) = [text for text in shown if text.startswith("Few-Step Sampler: ")]
        assert "\n- evaluations: 4\n" in report and "62 layers at strength 1" in report
        assert "*" not in report and "|" not in report
        assert editor.overlaps() == []
        assert "what was done" not in json.dumps(editor.api()), "it goes into no prompt"
    finally:
        editor.set("Comfy.VueNodes.Enabled", False)
    job = list(editor.history().values())[-1]
    assert job["status"]["status_str"] == "success"
    assert any(output.get("images") for output in job["outputs"].values())


def test_what_the_loader_did_is_told_again_after_a_reload(editor: Editor) -> None:
    """The editor forgets on a reload, and neither loader nor sampler runs again."""
    graph = GRAPHS["demo"]
    editor.drop(path_of(graph))
    editor.set_widget("FewStepSampler", "seed", 7)
    editor.run()
    editor.open()
    editor.drop(path_of(graph))
    editor.set_widget("FewStepSampler", "seed", 7)
    assert editor.text_on("FewStepAccelerator") == [""]
    editor.run()
    assert "62 layers" in editor.text_on("FewStepAccelerator")[0]
    assert "4 evaluations" in editor.text_on("FewStepSampler")[0]


@pytest.mark.parametrize(
    ("slug", "is_vue"),
    [
        ("demo_compare", False),
        pytest.param("demo_stream", False, marks=thorough),
        pytest.param("demo_stream", True, marks=thorough),  # the recorded clip's test runs it too
        pytest.param("demo_compare", True, marks=thorough),
    ],
)
def test_nodes_that_grew_in_a_run_do_not_cover_each_other(
    editor: Editor, artefacts: Path, slug: str, is_vue: bool
) -> None:
    editor.drop(path_of(GRAPHS[slug]))
    assert editor.overlaps() == []
    before = heights(editor)
    if slug == "demo_compare":
        editor.set_widget("KSampler", "steps", 10)  # of 50, which take long
    editor.set("Comfy.VueNodes.Enabled", is_vue)
    try:
        editor.run()
        editor.picture(artefacts / "after-a-run" / f"{slug}{'-vue' * is_vue}.png")
        assert [id for id, height in heights(editor).items() if height > before[id]]
        assert editor.overlaps() == []
    finally:
        editor.set("Comfy.VueNodes.Enabled", False)


# The duration, and the time of a picture near the end, once the browser has them.
PLAYED = """async url => {
    const video = document.createElement("video");
    const done = event => new Promise((ready, fail) => {
        video.addEventListener(event, ready, {once: true});
        video.addEventListener("error", () => fail(new Error(video.error.message)), {once: true});
    });
    video.src = url;
    await done("loadeddata");
    video.currentTime = 3;
    await done("seeked");
    return [video.duration, video.videoWidth, video.currentTime];
}"""


def test_a_recorded_clip_plays_in_the_browser_and_the_node_shows_its_pictures(
    editor: Editor, artefacts: Path
) -> None:
    """In Nodes 2.0, which takes a node's last live picture for the video that its output names."""
    editor.drop(path_of(GRAPHS["demo_stream"]))
    editor.set_widget("FewStepDemo", "frames", 33)
    editor.set_widget("FewStepTimeline", "start_seconds", 2)
    editor.set_widget("FewStepStream", "record", f"browser/{uuid.uuid4().hex}")
    before = heights(editor)
    editor.set("Comfy.VueNodes.Enabled", True)
    try:
        editor.run()
        editor.settle(1000)  # for the video
        editor.picture(artefacts / "recorded.png")
        assert [id for id, height in heights(editor).items() if height > before[id]]
        assert editor.overlaps() == []
        assert not any(
            "failed to load" in text for text in editor.page.locator("body").all_inner_texts()
        )
    finally:
        editor.set("Comfy.VueNodes.Enabled", False)
    outputs = list(editor.history().values())[-1]["outputs"].values()
    (saved,) = [item for output in outputs for item in output.get("video", [])]
    duration, width, time = editor.page.evaluate(
        PLAYED, f"/api/view?filename={saved['filename']}&subfolder={saved['subfolder']}&type=output"
    )
    # 33 pictures, the demo model's eight a second.
    assert (round(duration, 2), width, time) == (4.12, 64, 3)


def heights(editor: Editor) -> dict[str, float]:
    return dict(editor.page.evaluate("app.graph.nodes.map(node => [node.id, node.size[1]])"))
