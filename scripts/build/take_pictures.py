"""Take the pictures of the help pages in the real editor, and those of the README and of the demo's
cards from what the demo makes.

    python scripts/build/take_pictures.py [--only NAME ...]

Needs Chromium and playwright (tests/requirements.txt). Writes web/docs/images/<node id>.png,
docs/images/four_ways.png, and workflows/*.jpg of the demo's workflows.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import av
from PIL import Image

ROOT = Path(__file__).resolve().parents[2]
sys.path += [str(ROOT / "scripts"), str(ROOT / "tests" / "browser")]

from editor import Editor, open_editor  # noqa: E402
from stand_ins import prepare_base  # noqa: E402

import node_schema  # noqa: E402
from comfy_client import outputs  # noqa: E402
from comfy_server import PACK_NAME, Server, running_server  # noqa: E402
from console import print_everywhere  # noqa: E402
from draw_thumbnails import DEMOS, SIZE  # noqa: E402
from host import ensure_host  # noqa: E402
from workflows import all_graphs  # noqa: E402

# Node id -> the workflow it is shown in.
SHOWN_IN = {
    "FewStepAccelerator": "sdxl_lightning",
    "FewStepSampler": "wan22_t2v_lightning",
    "FewStepSchedule": "sdxl_core_sampler",
    "FewStepGuidedStart": "wan22_t2v_guided_start",
    "FewStepStream": "causal_forcing_i2v_stream",
    "FewStepTimeline": "self_forcing_timeline",
    "FewStepMotion": "animatediff_lightning",
    "FewStepNegative": "sdxl_negative",
    "FewStepSkip": "sdxl_step_skip",
    "FewStepReport": "sdxl_step_skip",
    "FewStepBudget": "sdxl_step_budget",
    "FewStepCompare": "sdxl_compare",
    "FewStepDistill": "distil_demo",
    "FewStepDemo": "demo",
    "FewStepDemoPrompts": "distil_demo",
}
DEMO = "demos"

# Show the node at full size in the middle, as Nodes 2.0 draws it; returns its box in the window.
CENTRE = """async type => {
    const node = app.graph.nodes.find(node => node.type === type);
    const [width, height] = node.size;
    node.flags.collapsed = false;
    app.canvas.deselectAll();
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [800 - node.pos[0] - width / 2, 450 - node.pos[1] - height / 2];
    app.canvas.setDirty(true, true);
    await new Promise(resolve => setTimeout(resolve, 800));
    const element = document.querySelector(`[data-node-id="${node.id}"]`);
    const boxes = [element, ...element.children].map(part => part.getBoundingClientRect());
    const left = Math.min(...boxes.map(box => box.left));
    const top = Math.min(...boxes.map(box => box.top));
    return {x: left, y: top, width: Math.max(...boxes.map(box => box.right)) - left,
        height: Math.max(...boxes.map(box => box.bottom)) - top};
}"""
MARGIN = 24


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", metavar="NAME", help="node ids, or demos")
    wanted = parser.parse_args().only or [*SHOWN_IN, DEMO]
    host = ensure_host()
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"
    with tempfile.TemporaryDirectory(prefix="few-step-pictures-") as base:
        prepare_base(Path(base), host.root)
        with (
            running_server(host, Path(base)) as server,
            open_editor(server.client.url, chromium, PACK_NAME) as editor,
        ):
            editor.set("Comfy.Minimap.Visible", False)
            editor.set("Comfy.VueNodes.Enabled", True)
            for name in wanted:
                show_demos(server) if name == DEMO else take(editor, name)


def take(editor: Editor, name: str) -> None:
    graph = all_graphs(node_schema.load())[SHOWN_IN[name]]
    editor.drop(ROOT / "workflows" / f"{graph.title}.json")
    box = editor.page.evaluate(CENTRE, name)
    clip = {
        "x": box["x"] - MARGIN,
        "y": box["y"] - MARGIN,
        "width": box["width"] + 2 * MARGIN,
        "height": box["height"] + 2 * MARGIN,
    }
    editor.picture(ROOT / "web" / "docs" / "images" / f"{name}.png", clip)


def show_demos(server: Server) -> None:
    """Run the demo's workflows, and make their cards and the README's picture of what they made."""
    graphs = all_graphs(node_schema.load())
    for slug in DEMOS:
        path = ROOT / "workflows" / "api" / f"{slug}.json"
        entry = server.client.run(json.loads(path.read_text(encoding="utf-8")))
        saved = [item for item in outputs(entry, "images") if item["type"] == "output"]
        (made,) = [item for item in saved if item["filename"].endswith((".png", ".mp4"))]
        file = server.base / "output" / made["subfolder"] / made["filename"]
        if file.suffix == ".png":
            shutil.copy(file, ROOT / "docs" / "images" / "four_ways.png")
            card = square(Image.open(file).convert("RGB"))
        else:
            card = moments_of(file)
        card.save(ROOT / "workflows" / f"{graphs[slug].title}.jpg", quality=80, optimize=True)


def square(picture: Image.Image) -> Image.Image:
    """The whole picture on a square card."""
    card = Image.new("RGB", (SIZE, SIZE), "white")
    picture.thumbnail((SIZE, SIZE))
    card.paste(picture, (0, (SIZE - picture.height) // 2))
    return card


def moments_of(clip: Path) -> Image.Image:
    """Four moments of a clip on a square card."""
    with av.open(str(clip)) as video:
        frames = [frame.to_image() for frame in video.decode(video=0)]
    card, side = Image.new("RGB", (SIZE, SIZE), "white"), SIZE // 2
    for index in range(4):
        frame = frames[round(index * (len(frames) - 1) / 3)].resize((side - 2, side - 2))
        card.paste(frame, (1 + index % 2 * side, 1 + index // 2 * side))
    return card


if __name__ == "__main__":
    print_everywhere()
    main()
