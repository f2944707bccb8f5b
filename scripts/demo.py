"""See it work: a shipped workflow on a real ComfyUI server, on the CPU, and what came out of it.

    python scripts/demo.py [--json] [--version 0.30.0] [--cache DIR]
        the pack's own trained model in 50 guided steps, in 4 accelerated, and in 4 as it should not
        be done
    python scripts/demo.py --workflow workflows/api/demo.json
        any workflow of models that are at hand

The first run gets a ComfyUI (about three minutes and 6 GB), which is kept in the cache; after that
it takes about a minute.
"""

from __future__ import annotations

import argparse
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from batch_jobs import read_workflow
from comfy_client import Event, JobFailed, Prompt, PromptRefused, outputs
from comfy_server import Server, ServerError, running_server, server_command
from console import print_everywhere
from host import (
    DEFAULT_VERSION,
    ROOT,
    Host,
    HostError,
    default_cache,
    digest,
    ensure_host,
    in_shell_words,
    pack_requirements_missing,
)
from stand_in_models import make_model, place
from workflow_inputs import BatchError


class ModelsMissing(RuntimeError):
    """A workflow of models that are not here; the message names them and says what to do."""


@dataclass(frozen=True)
class Demo:
    """Which workflow is shown, and which models stand in for the ones it names.

    models: file name -> (model folder, what make_models.py makes for it), for the workflows of
    models that can be stood in for.
    inputs: settings of a node class that are changed for the CPU, where models are stood in for.
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
        " like noise, of 256 x 256."
    ),
)


MODEL_ENDINGS = (".safetensors", ".sft", ".ckpt", ".pt", ".pth", ".gguf")
# Titles of the nodes of DEMO.workflow that sample, in the order of its side-by-side clip. The first
# is the long run, which the others are compared with.
WAYS = ("50 steps, CFG 5", "4 steps accelerated", "4 steps plain", "4 steps accelerated, CFG 5")
SAMPLERS = ("KSampler", "FewStepSampler")
COMPARE = "FewStepCompare"
# DEMO.workflow as the editor has it, in workflows/ and among its templates.
IN_THE_EDITOR = "Demo, 100 evaluations and 4"
EDITOR_PORT = 8188
SHEET = "demo_sheet"
BAR = 24  # characters


@dataclass(frozen=True)
class Way:
    """One way to make the clip, and what it took."""

    name: str
    evaluations: float
    seconds: float
    times_faster: float  # than the long run
    psnr: float | None  # dB, to the long run's clip; None for the long run
    ssim: float | None  # 1 is equal; None for the long run


@dataclass(frozen=True)
class Outcome:
    """What came out of a run."""

    words: str  # for people
    data: dict[str, Any]  # for programs


def say(message: str) -> None:
    """Progress goes to stderr: stdout is for what came out."""
    print(f"[demo] {message}", file=sys.stderr, flush=True)


def main() -> int:
    options = parse_arguments()
    # Told to end, it ends its server first, as it does when it is stopped by hand.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        prompt = read_workflow(options.workflow).prompt
        cache = options.cache or default_cache()
        outcome = run_demo(options.workflow.resolve(), prompt, options.version, cache)
    except (
        BatchError,
        HostError,
        ServerError,
        PromptRefused,
        JobFailed,
        ModelsMissing,
    ) as error:
        say(f"error: {error}")
        return 1
    except KeyboardInterrupt:
        say("stopped")
        return 130
    print(json.dumps(outcome.data, indent=2) if options.json else f"\n{outcome.words}")
    return 0


def parse_arguments() -> argparse.Namespace:
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
    parser.add_argument(
        "--json", action="store_true", help="end with everything that was reported, as JSON"
    )
    options = parser.parse_args()
    if not options.workflow.is_file():
        parser.error(f"there is no {options.workflow}; workflows/api/ has those of this pack")
    return options


def run_demo(workflow: Path, prompt: Prompt, version: str, cache: Path) -> Outcome:
    """Get the host, make the models, run the workflow. prompt: what is in it."""
    host = ensure_host(version, cache)
    say(f"ComfyUI {host.version} at {host.root}")
    refuse_missing_requirements(host, workflow, prompt)
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
            return run_ways(server, host, prompt, base)
        return run_once(server, prompt, base)


def refuse_missing_requirements(host: Host, workflow: Path, prompt: Mapping[str, Any]) -> None:
    """Raise HostError where the workflow compares pictures and the user's install cannot.

    Other nodes do without, or say so themselves.
    """
    compares = any(node["class_type"] == COMPARE for node in prompt.values())
    if compares and (missing := pack_requirements_missing(host)):
        raise HostError(f"{workflow.name} compares pictures, which needs {missing}")


def run_once(server: Server, prompt: dict[str, Any], base: Path) -> Outcome:
    """Run any workflow to its end."""
    started = time.monotonic()
    entry = follow(server, prompt, Progress(prompt))
    seconds = time.monotonic() - started
    files, reports = results(entry, base), outputs(entry, "fewstep_report")
    words = [
        *(f"{report['node']}: {report['summary']}" for report in reports),
        *(f"result: {path}" for path in files),
        f"It took {seconds:.0f} s.",
    ]
    return Outcome(
        "\n".join(words),
        {"seconds": seconds, "results": [str(path) for path in files], "reports": reports},
    )


def run_ways(server: Server, host: Host, prompt: dict[str, Any], base: Path) -> Outcome:
    """Run DEMO.workflow twice, loading and measuring, and draw the picture and the clip."""
    say("loading the models")
    follow(server, prompt, Progress(prompt))
    say("again with another seed, this time measured")
    for node in prompt.values():
        if "seed" in node["inputs"]:
            node["inputs"]["seed"] += 1
    clock = Clock(prompt)
    entry = follow(server, prompt, clock)
    ways = ways_of(prompt, entry, clock.seconds)
    (animated,) = [path for path in results(entry, base) if path.suffix == ".webp"]
    subprocess.run(
        [str(host.python), str(ROOT / "scripts" / f"{SHEET}.py"), str(animated), *WAYS], check=True
    )
    picture, clip = (animated.parent / f"{SHEET}.{suffix}" for suffix in ("png", "webp"))
    return Outcome(
        in_words(ways, picture, clip, [*server_command(host, base, EDITOR_PORT), "--cpu"]),
        {
            "comfyui": host.version,
            "ways": [asdict(way) for way in ways],
            "picture": str(picture),
            "clip": str(clip),
            "reports": outputs(entry, "fewstep_report"),
        },
    )


def in_words(ways: Sequence[Way], picture: Path, clip: Path, command: Sequence[str]) -> str:
    """The end of the demo for people. command: what starts the same ComfyUI."""
    return "\n".join(
        [
            "The same prompt and seed in four ways, on the CPU of this machine:",
            "",
            *table(ways),
            "",
            "The higher the PSNR, the nearer a clip is to the long run's. The second way is what"
            " this pack does.",
            "",
            f"picture: {picture}",
            f"clip:    {clip}",
            "",
            "To open the same in the editor, start this ComfyUI (Ctrl+C ends it):",
            "",
            f"    {in_shell_words(command)}",
            "",
            f"Open http://127.0.0.1:{EDITOR_PORT} in a browser and drag this file onto the canvas:",
            f"    {ROOT / 'workflows' / IN_THE_EDITOR}.json",
            "It is among the templates too: Workflow, Browse Templates, ComfyUI-FewStep.",
        ]
    )


def table(ways: Sequence[Way]) -> list[str]:
    """A line for each way, below a line of headings."""
    rows = [("", "evaluations", "seconds", "times faster", "PSNR to the long run")]
    rows += [
        (
            way.name,
            f"{way.evaluations:g}",
            f"{way.seconds:.2f}",
            f"{way.times_faster:.1f}",
            "" if way.psnr is None else f"{way.psnr:.1f} dB",
        )
        for way in ways
    ]
    widths = [max(map(len, column)) for column in zip(*rows)]
    return [
        "  ".join(
            [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(cells, widths[1:]))]
        ).rstrip()
        for name, *cells in rows
    ]


def results(entry: dict[str, Any], base: Path) -> list[Path]:
    """The files a finished job wrote."""
    kinds = ("images", "gifs", "videos")
    return [
        base / item["type"] / item["subfolder"] / item["filename"]
        for kind in kinds
        for item in outputs(entry, kind)
    ]


def ways_of(
    prompt: Mapping[str, Any], entry: dict[str, Any], seconds: Mapping[str, float]
) -> list[Way]:
    """What each of WAYS took. seconds: by node id."""
    nodes = {(node["_meta"]["title"], node["class_type"]): key for key, node in prompt.items()}
    samplers = {
        way: next(nodes[way, sampler] for sampler in SAMPLERS if (way, sampler) in nodes)
        for way in WAYS
    }
    long_run = seconds[samplers[WAYS[0]]]
    compared = report_of(entry, next(key for (_, kind), key in nodes.items() if kind == COMPARE))
    others = {other["name"]: other for other in compared.get("others", ())}
    qualities = {WAYS[1]: compared, **others}
    ways = []
    for way, key in samplers.items():
        # Guidance costs a second evaluation per step. The accelerated sampler runs without it, in
        # the steps of its record, and counts its evaluations.
        inputs = prompt[key]["inputs"]
        evaluations = (
            inputs["steps"] * (1 if inputs["cfg"] == 1 else 2)
            if "cfg" in inputs
            else report_of(entry, key)["evaluations"]
        )
        quality = qualities.get(way, {})
        ways.append(
            Way(
                way,
                evaluations,
                seconds[key],
                long_run / seconds[key],
                quality.get("psnr"),
                quality.get("ssim"),
            )
        )
    return ways


def report_of(entry: dict[str, Any], node: str) -> dict[str, Any]:
    """What a node of this pack reported, empty if it did not."""
    return (entry["outputs"].get(node, {}).get("fewstep_report") or [{}])[0]


def provide_models(host: Host, prompt: Mapping[str, Any], models: Path, cache: Path) -> bool:
    """Put our model wherever the workflow names one it can stand in for; whether one is used.

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
    """Whether a model file comes with the pack, or is in one of the demo's model folders."""
    return (ROOT / "demo" / "loras" / name).is_file() or any(
        (folder / name).is_file() for folder in models.glob("*")
    )


def follow(server: Server, prompt: dict[str, Any], progress: Progress) -> dict[str, Any]:
    """Run a workflow to its end and show how far it is."""
    try:
        return server.client.run(prompt, progress, timeout=3600)
    finally:
        progress.end()


def titles_of(prompt: Mapping[str, Any]) -> dict[str, str]:
    """Node id -> its title, with what it is where nodes of another kind have the same."""
    titles = {
        key: node.get("_meta", {}).get("title") or node["class_type"]
        for key, node in prompt.items()
    }
    kinds: dict[str, set[str]] = {}
    for key, node in prompt.items():
        kinds.setdefault(titles[key], set()).add(node["class_type"])
    return {
        key: title if len(kinds[title]) == 1 else f"{title} ({prompt[key]['class_type']})"
        for key, title in titles.items()
    }


class Progress:
    """Says which node is at work.

    On a terminal in one line that is written over, with a bar of the steps that are done; elsewhere
    in a line for each node.
    """

    def __init__(self, prompt: Mapping[str, Any]):
        self.titles = titles_of(prompt)
        self.is_terminal = sys.stderr.isatty()

    def __call__(self, event: Event) -> None:
        data = event.get("data", {})
        title = self.titles.get(str(data.get("node")), "")
        if event["type"] == "executing" and title:
            if self.is_terminal:
                self.write_over(title)
            else:
                say(title)
        elif event["type"] == "progress" and self.is_terminal:
            done, total = data["value"], data["max"]
            bar = ("#" * round(BAR * done / max(total, 1))).ljust(BAR, "-")
            self.write_over(f"{title}, {done} of {total} [{bar}]")

    def end(self) -> None:
        """Leave the line to what is said next."""
        if self.is_terminal:
            self.write_over("")
            print("\r", end="", file=sys.stderr, flush=True)

    def write_over(self, text: str) -> None:
        # A full line would be broken by the terminal, and the next one then stand below it.
        room = shutil.get_terminal_size().columns - 1
        line = f"[demo] {text}" if text else ""
        print(f"\r{line[:room].ljust(room)}", end="", file=sys.stderr, flush=True)


class Clock(Progress):
    """Also takes the time of each node, from when it is at work until the next one is."""

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
    print_everywhere()
    sys.exit(main())
