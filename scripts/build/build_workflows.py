"""Build what the editor shows: workflows/, workflows/api/, subgraphs/ and locales/.

The workflows are described in scripts/build/workflows/, the translations in
scripts/build/translations/.

    python scripts/build/build_workflows.py [--host | --server URL] [--check]

Builds from the node schema in tests/object_info.json. After a node has changed, --host first takes
the schema and the English texts from the pinned ComfyUI, and --server from one that is running with
this pack. --check writes nothing and says which files are out of date.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

sys.path.append(str(Path(__file__).resolve().parents[1]))

import node_schema
from comfy_client import Client
from comfy_server import running_server
from console import print_everywhere
from host import DEFAULT_VERSION, ensure_host
from locale_texts import LOCALES, english, locale_files
from node_schema import SNAPSHOT, Schema
from pack import project_value
from workflow_graph import OUR_PREFIX, Converted, Graph, Model
from workflows import all_graphs
from workflows.blueprints import blueprints

ROOT = Path(__file__).resolve().parents[2]
EDITOR = ROOT / "workflows"
API = EDITOR / "api"
BLUEPRINTS = ROOT / "subgraphs"
HELP = ROOT / "web" / "docs"
OVERVIEW = ROOT / "docs" / "workflows.md"
ENGLISH = LOCALES / "en" / "nodeDefs.json"
LINE = 110
OVERVIEW_HEAD = """# The shipped workflows

Drag a file of the first column onto the canvas, or open *Templates* in ComfyUI and choose this
pack: models that are missing are offered for download. The files of the third column are the same
graphs for `POST /prompt`. Built by scripts/build/build_workflows.py.

| Workflow | Steps | API | Model files |
|---|---|---|---|
"""


def main() -> int:
    options = parse_arguments()
    info = live_info(options) if options.host or options.server else None
    schema = node_schema.from_object_info(info) if info else node_schema.load()
    graphs = all_graphs(schema)
    files = built_files(schema)
    if info:
        files[SNAPSHOT] = node_schema.dump(used(schema, graphs))
    files |= locale_files(
        english(info) if info else json.loads(ENGLISH.read_text(encoding="utf-8"))
    )
    stale = stale_files(files)
    if options.check:
        print(
            "\n".join(str(path.relative_to(ROOT)) for path in stale) or "every workflow is current"
        )
        return 1 if stale else 0
    for path in stale:
        write(path, files)
    print(f"{len(graphs)} workflows, {len(stale)} files changed")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--host", action="store_true", help="take the node schema from the pinned ComfyUI"
    )
    parser.add_argument(
        "--server", metavar="URL", help="take the node schema from a running ComfyUI"
    )
    parser.add_argument("--check", action="store_true", help="only say which files are out of date")
    return parser.parse_args()


def live_info(options: argparse.Namespace) -> dict[str, Any]:
    """The /object_info of a running server, or of one started for the purpose."""
    if options.server:
        return Client(options.server).get("/object_info")
    host = ensure_host()
    with (
        tempfile.TemporaryDirectory(prefix="few-step-schema-") as base,
        running_server(host, Path(base)) as server,
    ):
        return server.client.get("/object_info")


def used(schema: Schema, graphs: Mapping[str, Graph]) -> Schema:
    """Our own nodes, and those that a workflow uses."""
    ids = {node.schema.id for graph in graphs.values() for node in graph.nodes}
    return {id: node for id, node in schema.items() if id in ids or id.startswith(OUR_PREFIX)}


def built_files(schema: Schema) -> dict[Path, str]:
    """Path -> text of every file that the descriptions make."""
    pack = {"cnr_id": project_value("name"), "ver": project_value("version")}
    files = {}
    for graph in all_graphs(schema).values():
        files[EDITOR / f"{graph.title}.json"] = as_text(graph.editor(pack, DEFAULT_VERSION))
        files[API / f"{graph.slug}.json"] = as_text(graph.api())
    for page in HELP.glob("*.md"):
        # Where newer frontends look first.
        files[HELP / page.stem / "en.md"] = page.read_text(encoding="utf-8")
    files[OVERVIEW] = overview(all_graphs(schema).values())
    for blueprint in blueprints(schema):
        files[BLUEPRINTS / f"{blueprint.title}.json"] = as_text(
            blueprint.file(pack, DEFAULT_VERSION)
        )
    return files


def link_to(model: Model) -> str:
    made = ", converted as the note says" if isinstance(model, Converted) else ""
    return f"[{model.name}]({model.url}) in `{model.directory}`{made}"


def overview(graphs: Iterable[Graph]) -> str:
    """A page with every workflow, its API file and the model files it needs."""
    rows = []
    for graph in graphs:
        models = {
            value.name: value
            for node in graph.nodes
            for value in node.values.values()
            if isinstance(value, Model)
        }
        links = "<br>".join(link_to(model) for model in models.values())
        editor, api = (
            f"../workflows/{quote(graph.title)}.json",
            f"../workflows/api/{graph.slug}.json",
        )
        rows.append(
            f"| [{graph.title}]({editor}) | {graph.steps} | [{graph.slug}]({api}) |"
            f" {links or 'none: they come with the pack'} |"
        )
    return OVERVIEW_HEAD + "\n".join(rows) + "\n"


def stale_files(files: Mapping[Path, str]) -> list[Path]:
    """Files to write or, where no description makes them any more, to remove."""
    present = {path for folder in (EDITOR, API, BLUEPRINTS) for path in folder.glob("*.json")}
    changed = {
        path
        for path, text in files.items()
        if not path.exists() or path.read_text(encoding="utf-8") != text
    }
    return sorted(changed | (present - set(files)))


def write(path: Path, files: Mapping[Path, str]) -> None:
    if path not in files:
        path.unlink()
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(files[path], encoding="utf-8", newline="\n")


def as_text(data: dict[str, Any]) -> str:
    return pretty(data, "") + "\n"


def pretty(value: Any, indent: str) -> str:
    """JSON with everything short on one line, so that a node's inputs and links read as such."""
    line = json.dumps(value, ensure_ascii=False)
    if not value or not isinstance(value, (dict, list)) or len(line) <= LINE:
        return line
    if isinstance(value, dict):
        rows = [
            f"{json.dumps(key, ensure_ascii=False)}: {pretty(entry, indent + ' ')}"
            for key, entry in value.items()
        ]
    else:
        rows = [pretty(entry, indent + " ") for entry in value]
    brackets = "{}" if isinstance(value, dict) else "[]"
    return (
        brackets[0]
        + "".join(f"\n{indent} {row}," for row in rows)[:-1]
        + f"\n{indent}{brackets[1]}"
    )


if __name__ == "__main__":
    print_everywhere()
    sys.exit(main())
