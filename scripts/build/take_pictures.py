"""Take the pictures of the help pages and of the README in the real editor.

    python scripts/build/take_pictures.py [--only NAME ...]

Needs Chromium and playwright (tests/requirements.txt). Writes web/docs/images/<node id>.png and
docs/images/graph.png.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests" / "browser")]

from editor import Editor, open_editor  # noqa: E402
from stand_ins import prepare_base  # noqa: E402

import node_schema  # noqa: E402
from comfy_server import PACK_NAME, running_server  # noqa: E402
from console import print_everywhere  # noqa: E402
from host import ensure_host  # noqa: E402
from workflows import all_graphs  # noqa: E402

# Node id -> the workflow it is shown in.
SHOWN_IN = {
    "FewStepAccelerator": "sdxl_lightning",
    "FewStepSampler": "wan22_t2v_lightning",
    "FewStepSchedule": "sdxl_core_sampler",
    "FewStepGuidedStart": "wan22_t2v_guided_start",
    "FewStepStream": "causal_forcing_i2v_stream",
    "FewStepMotion": "animatediff_lightning",
    "FewStepNegative": "sdxl_negative",
    "FewStepSkip": "sdxl_step_skip",
    "FewStepReport": "sdxl_step_skip",
    "FewStepBudget": "sdxl_step_budget",
    "FewStepCompare": "sdxl_compare",
    "FewStepDemo": "demo",
}
GRAPH = "sdxl_hyper_sd"

# Show the node at full size in the middle; returns its box in the window.
CENTRE = """type => {
    const node = app.graph.nodes.find(node => node.type === type);
    const [width, height] = node.size;
    app.canvas.deselectAll();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [800 - node.pos[0] - width / 2, 480 - node.pos[1] - height / 2];
    app.canvas.setDirty(true, true);
    return {x: 800 - width / 2, y: 480 - height / 2 - 30, width: width, height: height + 30};
}"""
# Show the whole graph; returns its box in the window.
FIT = """() => {
    const boxes = [...app.graph.nodes, ...app.graph.groups].map(
        item => item.boundingRect ?? item.getBounding());
    const left = Math.min(...boxes.map(box => box[0]));
    const top = Math.min(...boxes.map(box => box[1]));
    const right = Math.max(...boxes.map(box => box[0] + box[2]));
    const bottom = Math.max(...boxes.map(box => box[1] + box[3]));
    const scale = 1800 / (right - left);
    app.canvas.deselectAll();
    app.canvas.ds.scale = scale;
    app.canvas.ds.offset = [90 / scale - left, 130 / scale - top];
    app.canvas.setDirty(true, true);
    return {x: 90, y: 130, width: (right - left) * scale, height: (bottom - top) * scale};
}"""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="node ids, or graph")
    wanted = parser.parse_args().only or [*SHOWN_IN, "graph"]
    host = ensure_host()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"
    with tempfile.TemporaryDirectory(prefix="few-step-pictures-") as base:
        prepare_base(Path(base), host.root)
        with (
            running_server(host, Path(base)) as server,
            open_editor(server.client.url, chromium, PACK_NAME) as editor,
        ):
            for name in wanted:
                take(editor, name)


def take(editor: Editor, name: str) -> None:
    graphs = all_graphs(node_schema.load())
    graph = graphs[SHOWN_IN.get(name, GRAPH)]
    editor.set("Comfy.Minimap.Visible", False)
    if name == "graph":
        editor.page.set_viewport_size({"width": 1980, "height": 1200})
    editor.drop(ROOT / "workflows" / f"{graph.title}.json")
    box = editor.page.evaluate(FIT) if name == "graph" else editor.page.evaluate(CENTRE, name)
    margin = 12 if name == "graph" else 70
    path = (
        ROOT / "docs" / "images" / "graph.png"
        if name == "graph"
        else ROOT / "web" / "docs" / "images" / f"{name}.png"
    )
    clip = {
        "x": box["x"] - margin,
        "y": box["y"] - margin,
        "width": box["width"] + 2 * margin,
        "height": box["height"] + 2 * margin,
    }
    editor.page.wait_for_timeout(800)
    editor.picture(path, clip)


if __name__ == "__main__":
    print_everywhere()
    main()
