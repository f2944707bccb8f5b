"""See it work: run a shipped workflow on a real ComfyUI server, on the CPU, and show what came out.

    python scripts/demo.py [--workflow workflows/api/demo.json] [--version 0.30.0] [--cache DIR]

The workflow shown samples the pack's own trained demo model in 4 steps. The first run gets a ComfyUI (about three minutes and
6 GB), which is kept in the cache.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_client import Event, JobFailed, PromptRefused, outputs
from comfy_server import ServerError, running_server
from host import DEFAULT_VERSION, ROOT, Host, HostError, default_cache, digest, ensure_host
from stand_in_models import make_model, place


@dataclass(frozen=True)
class Demo:
    """Which workflow is shown, and which models stand in for the ones it names.

    models: input of a node -> (model folder, what make_models.py makes for it), for workflows of models that cannot be had here.
    inputs: settings of a node class that are changed for the CPU.
    note: what has to be said about such stand-ins.
    """

    workflow: Path
    models: Mapping[str, tuple[str, str]]
    inputs: Mapping[str, Mapping[str, Any]]
    note: str


DEMO = Demo(
    workflow=ROOT / "workflows" / "api" / "demo.json",
    models={"ckpt_name": ("checkpoints", "sd15-checkpoint"), "lora_name": ("loras", "sd15-lcm-lora")},
    inputs={"EmptyLatentImage": {"width": 256, "height": 256}},
    note="These models have the real architecture but random weights: expect a picture that looks like noise.",
)


def say(message: str) -> None:
    print(f"[demo] {message}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description="Run a shipped workflow on a real ComfyUI server, on the CPU.")
    parser.add_argument("--workflow", type=Path, default=DEMO.workflow, help="an API-format workflow")
    parser.add_argument("--version", default=DEFAULT_VERSION, help="ComfyUI version to run on")
    parser.add_argument("--cache", type=Path, help="folder for ComfyUI, models and results (default: the user's cache)")
    options = parser.parse_args()
    try:
        run_demo(options.workflow, options.version, options.cache or default_cache())
    except (HostError, ServerError, PromptRefused, JobFailed) as error:
        say(f"error: {error}")
        return 1
    return 0


def run_demo(workflow: Path, version: str, cache: Path) -> None:
    """Get the host, make the models, run the workflow, and say what came out."""
    host = ensure_host(version, cache)
    say(f"ComfyUI {host.version} at {host.root}")
    prompt = json.loads(workflow.read_text(encoding="utf-8"))
    # One folder per clone: each has its own version of the pack linked into it.
    base = cache / f"demo-{digest([str(ROOT)])[:8]}"
    if provide_models(host, prompt, base / "models", cache):
        say(DEMO.note)
    for node in prompt.values():
        node["inputs"].update(DEMO.inputs.get(node["class_type"], {}))
    say("starting the server")
    with running_server(host, base) as server:
        say(f"{server.client.url} is up (log: {server.log}); running {workflow.name}")
        started = time.monotonic()
        entry = server.client.run(prompt, Progress(prompt), timeout=3600)
    say(f"finished in {time.monotonic() - started:.0f} s")
    for kind in ("images", "gifs", "videos"):
        for item in outputs(entry, kind):
            say(f"result: {base / item['type'] / item['subfolder'] / item['filename']}")
    for report in outputs(entry, "fewstep_report"):
        print(f"\n{report['node']}: {report['summary']}")
        print(json.dumps({name: value for name, value in report.items() if name not in ("node", "summary")}, indent=2))


def provide_models(host: Host, prompt: Mapping[str, Any], models: Path, cache: Path) -> bool:
    """Put a model of ours wherever the workflow names one that is missing, under that name; whether there was one."""
    has_stand_ins = False
    for node in prompt.values():
        for name, value in node["inputs"].items():
            if name in DEMO.models and isinstance(value, str) and not (ROOT / "demo" / "loras" / value).exists():
                folder, kind = DEMO.models[name]
                place(make_model(host, kind, cache), models / folder / value)
                has_stand_ins = True
    return has_stand_ins


class Progress:
    """Says which node is at work, and how many steps are done."""

    def __init__(self, prompt: Mapping[str, Any]):
        self.titles = {key: node.get("_meta", {}).get("title") or node["class_type"] for key, node in prompt.items()}

    def __call__(self, event: Event) -> None:
        data = event.get("data", {})
        title = self.titles.get(str(data.get("node")), "")
        if event["type"] == "executing" and title:
            say(title)
        elif event["type"] == "progress":
            say(f"{title}: step {data['value']} of {data['max']}")


if __name__ == "__main__":
    sys.exit(main())
