"""See it work: a shipped workflow on a real ComfyUI server, on the CPU, and what came out of it.

    python scripts/demo.py                 the pack's own trained model in 50 guided steps, in 4
    accelerated, and in 4 as one should not python scripts/demo.py --workflow
    workflows/api/demo.json [--version 0.30.0] [--cache DIR]

The first run gets a ComfyUI (about three minutes and 6 GB), which is kept in the cache; after that
it takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from comfy_client import Event, JobFailed, PromptRefused, outputs
from comfy_server import Server, ServerError, running_server
from host import DEFAULT_VERSION, ROOT, Host, HostError, default_cache, digest, ensure_host
from stand_in_models import make_model, place


class ModelsMissing(RuntimeError):
    """A workflow of models that are not here; the message names them and says what to do."""


@dataclass(frozen=True)
class Demo:
    """Which workflow is shown, and which models stand in for the ones it names.

    models: file name -> (model folder, what make_models.py makes for it), for the workflows of
    models that can be stood in for.
    inputs: settings of a node class that are changed for the CPU.
    note: what has to be said about such stand-ins.
    """

    workflow: Path
    models: Mapping[str, tuple[str, str]]
    inputs: Mapping[str, Mapping[str, Any]]
    note: str


DEMO = Demo(
    workflow=ROOT / "workflows" / "api" / "demo_compare.json",
    models={
        "DreamShaper_8_pruned.safetensors": ("checkpoints", "sd15-checkpoint"),
        "lcm-lora-sdv1-5.safetensors": ("loras", "sd15-lcm-lora"),
    },
    inputs={"EmptyLatentImage": {"width": 256, "height": 256}},
    note=(
        "These models have the real architecture but random weights: expect a picture that looks"
        " like noise."
    ),
)


MODEL_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".gguf")
# Titles of the nodes of DEMO.workflow that sample, in the order of its side-by-side clip.
WAYS = ("50 steps, CFG 5", "4 steps accelerated", "4 steps plain", "4 steps accelerated, CFG 5")
SAMPLERS = ("KSampler", "FewStepSampler")
SHEET = "demo_sheet"


def say(message: str) -> None:
    print(f"[demo] {message}", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(
        description="Run a shipped workflow on a real ComfyUI server, on the CPU."
    )
    parser.add_argument(
        "--workflow", type=Path, default=DEMO.workflow, help="an API-format workflow"
    )
    parser.add_argument("--version", default=DEFAULT_VERSION, help="ComfyUI version to run on")
    parser.add_argument(
        "--cache",
        type=Path,
        help="folder for ComfyUI, models and results (default: the user's cache)",
    )
    options = parser.parse_args()
    try:
        run_demo(options.workflow, options.version, options.cache or default_cache())
    except (HostError, ServerError, PromptRefused, JobFailed, ModelsMissing) as error:
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
        if workflow == DEMO.workflow:
            run_ways(server, host, prompt, base)
        else:
            run_once(server, prompt, base)


def run_once(server: Server, prompt: dict[str, Any], base: Path) -> dict[str, Any]:
    """Run any workflow to its end, and say what it made and reported."""
    started = time.monotonic()
    entry = server.client.run(prompt, Progress(prompt), timeout=3600)
    say(f"finished in {time.monotonic() - started:.0f} s")
    for path in results(entry, base):
        say(f"result: {path}")
    print_reports(outputs(entry, "fewstep_report"))
    return entry


def run_ways(server: Server, host: Host, prompt: dict[str, Any], base: Path) -> None:
    """Run DEMO.workflow twice, loading and measuring, print the table and draw the sheet and the
    animation.
    """
    say("loading the models")
    server.client.run(prompt, Progress(prompt), timeout=3600)
    say("again with another seed, this time measured")
    for node in prompt.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] += 1
    clock = Clock(prompt)
    entry = server.client.run(prompt, clock, timeout=3600)
    print("\n" + "\n".join(table(prompt, entry, clock.seconds)) + "\n")
    (animated,) = [path for path in results(entry, base) if path.suffix == ".webp"]
    subprocess.run(
        [str(host.python), str(ROOT / "scripts" / f"{SHEET}.py"), str(animated), *WAYS], check=True
    )
    for suffix in ("png", "webp"):
        say(f"result: {animated.parent / f'{SHEET}.{suffix}'}")
    print_reports(
        report
        for report in outputs(entry, "fewstep_report")
        if report["node"] == "Few-Step Sampler"
    )


def print_reports(reports: Iterable[dict[str, Any]]) -> None:
    """What nodes of this pack reported: the summary, and the figures as data."""
    for report in reports:
        print(f"\n{report['node']}: {report['summary']}")
        print(
            json.dumps(
                {name: value for name, value in report.items() if name not in ("node", "summary")},
                indent=2,
            )
        )


def results(entry: dict[str, Any], base: Path) -> list[Path]:
    """The files a finished job wrote."""
    kinds = ("images", "gifs", "videos")
    return [
        base / item["type"] / item["subfolder"] / item["filename"]
        for kind in kinds
        for item in outputs(entry, kind)
    ]


def table(
    prompt: Mapping[str, Any], entry: dict[str, Any], seconds: Mapping[str, float]
) -> list[str]:
    """One row per way: evaluations, seconds, how much faster than the first, and how far from its
    clip.
    """
    rows = [
        "| way | evaluations | seconds | factor | PSNR to the first | SSIM |",
        "|---|---|---|---|---|---|",
    ]
    nodes = {(node["_meta"]["title"], node["class_type"]): key for key, node in prompt.items()}
    full = 0.0
    for way in WAYS:
        key = next(nodes[way, sampler] for sampler in SAMPLERS if (way, sampler) in nodes)
        # Guidance costs a second evaluation per step. The accelerated sampler runs without it, in
        # the steps of its record.
        inputs = prompt[key]["inputs"]
        evaluations = (
            inputs["steps"] * (1 if inputs["cfg"] == 1 else 2)
            if "cfg" in inputs
            else report_of(entry, key)["evaluations"]
        )
        full = full or seconds[key]
        quality = report_of(entry, nodes.get((way, "FewStepCompare"), ""))
        figures = f"{quality['psnr']:.1f} dB | {quality['ssim']:.3f}" if quality else " | "
        rows.append(
            f"| {way} | {evaluations:g} | {seconds[key]:.2f} | {full / seconds[key]:.1f}x |"
            f" {figures} |"
        )
    return rows


def report_of(entry: dict[str, Any], node: str) -> dict[str, Any]:
    """What a node of this pack reported, empty if it did not."""
    return (entry["outputs"].get(node, {}).get("fewstep_report") or [{}])[0]


def provide_models(host: Host, prompt: Mapping[str, Any], models: Path, cache: Path) -> bool:
    """Put a model of ours wherever the workflow names one that it can stand in for, under that
    name; whether one is used.

    A person's own file of that name stays, and is what the workflow runs with.

    Raises ModelsMissing for a workflow of other models: a stand-in of another architecture would
    only fail later.
    """
    named = model_names(prompt)
    missing = [name for name in named if name not in DEMO.models and not is_at_hand(name, models)]
    if missing:
        raise ModelsMissing(
            f"this workflow needs {', '.join(missing)}, and only {' and '.join(DEMO.models)} can be"
            f" stood in for. Put the files into the folders of {models}, or run a workflow of the"
            " pack's own models: workflows/api/demo*.json."
        )
    is_used = False
    for name in named:
        if name in DEMO.models:
            folder, kind = DEMO.models[name]
            is_used |= place(make_model(host, kind, cache), models / folder / name)
    return is_used


def model_names(prompt: Mapping[str, Any]) -> list[str]:
    """Every model file that a workflow names, once."""
    values = [
        value
        for node in prompt.values()
        for value in node["inputs"].values()
        if isinstance(value, str)
    ]
    return list(dict.fromkeys(value for value in values if value.endswith(MODEL_ENDINGS)))


def is_at_hand(name: str, models: Path) -> bool:
    """Whether a model file comes with the pack, or somebody put it into one of the demo's model
    folders.
    """
    return (ROOT / "demo" / "loras" / name).is_file() or any(
        (folder / name).is_file() for folder in models.glob("*")
    )


class Progress:
    """Says which node is at work, and how many steps are done."""

    def __init__(self, prompt: Mapping[str, Any]):
        self.titles = {
            key: node.get("_meta", {}).get("title") or node["class_type"]
            for key, node in prompt.items()
        }

    def __call__(self, event: Event) -> None:
        data = event.get("data", {})
        title = self.titles.get(str(data.get("node")), "")
        if event["type"] == "executing" and title:
            say(title)
        elif event["type"] == "progress":
            say(f"{title}: step {data['value']} of {data['max']}")


class Clock(Progress):
    """Also takes the time of each node, from when it is said to be at work until the next one is."""

    def __init__(self, prompt: Mapping[str, Any]):
        super().__init__(prompt)
        self.seconds: dict[str, float] = {}
        self.current, self.since = "", 0.0

    def __call__(self, event: Event) -> None:
        if event["type"] == "executing":
            now = time.monotonic()
            if self.current:
                self.seconds[self.current] = now - self.since
            self.current, self.since = str(event["data"].get("node") or ""), now
        super().__call__(event)


if __name__ == "__main__":
    sys.exit(main())
