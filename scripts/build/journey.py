"""Follow one file on its way through the pack, and count how often the way leads back.

    python scripts/build/journey.py [ROOT] [--calls]

ROOT is the repository to walk through, this one if left out: an older checkout shows what a change
of the layout brought. Three journeys are really run, on the demo model: a LoRA from the loader's
widget onto the model, the accelerated model to its latent, and the same with the LoRA put on by
core's own loader, so that it has to be recognised first, by the title in its file.

A room is one file of the pack. Every call of a function is noted once for each place in the code
that makes it, in the order of the run, so a loop counts as one call. Calls one after another into
one room are a stay; a stay in a room that was left before is a return. What reads like a field or
an operator is no call: properties, and methods that Python calls by itself (__str__).
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

SCRIPTS = Path(__file__).resolve().parents[1]
sys.path.append(str(SCRIPTS))

from console import print_everywhere  # noqa: E402
from host import ensure_host  # noqa: E402
from pack_loader import load_pack  # noqa: E402

LORA = "fewstep-demo/fewstep_demo_lightx2v_4step.safetensors"
PROMPT, FRAMES = "a red circle moving right", 5


@dataclass
class Journey:
    """The calls of one run, as (room, function), each place that calls counted once."""

    root: Path
    calls: list[tuple[str, str]] = field(default_factory=list)
    seen: set[tuple[CodeType | None, int, CodeType]] = field(default_factory=set)

    def note(self, frame: FrameType, event: str, _: Any) -> None:
        """What sys.setprofile calls."""
        code, caller = frame.f_code, frame.f_back
        if event != "call" or not code.co_filename.startswith(str(self.root) + os.sep):
            return
        if code.co_name.startswith(("<", "__")) or is_property(frame):
            return
        place = (caller.f_code, caller.f_lineno, code) if caller else (None, 0, code)
        if place not in self.seen:
            self.seen.add(place)
            room = Path(code.co_filename).relative_to(self.root).as_posix()
            self.calls.append((room, code.co_qualname))

    @property
    def stays(self) -> list[str]:
        """The rooms in the order they were entered."""
        rooms = [room for room, _ in self.calls]
        return [room for room, before in zip(rooms, [None, *rooms], strict=False) if room != before]

    def summary(self) -> str:
        stays = self.stays
        rooms = set(stays)
        return (
            f"{len(rooms)} rooms, {len(stays)} stays, {len(stays) - len(rooms)} returns,"
            f" {len(self.calls)} calls"
        )

    def listing(self) -> str:
        lines, before = [], None
        for room, function in self.calls:
            lines.append(f"    {'' if room == before else room:36}{function}")
            before = room
        return "\n".join(lines)


def is_property(frame: FrameType) -> bool:
    """Whether this is the getter of a plain property, which computes nothing that is kept."""
    owner = type(frame.f_locals.get("self"))
    return isinstance(getattr(owner, frame.f_code.co_name, None), property)


def follow(root: Path, run: Callable[[], Any]) -> tuple[Any, Journey]:
    """(what the run returns, its journey)."""
    journey = Journey(root)
    sys.setprofile(journey.note)
    try:
        result = run()
    finally:
        sys.setprofile(None)
    return result, journey


def walk(root: Path) -> dict[str, Journey]:
    """The three journeys, by name. Needs ComfyUI's tree on the path."""
    import torch

    load_pack(root)
    from comfyui_fewstep.nodes import accelerator, demo, sampler

    demo.offer_loras()
    model, positive, _, _, latent, _ = demo.FewStepDemo.execute(PROMPT, FRAMES, "base").args
    loader, sample = accelerator.FewStepAccelerator.execute, sampler.FewStepSampler.execute
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        by_core = put_on_by_core(model, write_titled(demo.LORAS / LORA, Path(folder)))
        loaded, onto_the_model = follow(root, lambda: loader(model, LORA, "auto", 1.0))
        to_the_latent = follow(root, lambda: sample(loaded.args[0], positive, latent, 0, 0, 1.0))[1]
        recognised = follow(root, lambda: sample(by_core, positive, latent, 0, 0, 1.0))[1]
    return {
        "Accelerator Loader, from the widget onto the model": onto_the_model,
        "Few-Step Sampler, from the model to the latent": to_the_latent,
        "Few-Step Sampler, a LoRA of core's loader": recognised,
    }


def write_titled(path: Path, folder: Path) -> Path:
    """The LoRA with its name as its title, which is what core's loader keeps of a file's name."""
    from safetensors.torch import load_file, save_file

    titled = folder / f"titled_{path.name}"
    save_file(load_file(path), titled, metadata={"title": path.stem})
    return titled


def put_on_by_core(model, path: Path):
    """The model with a LoRA on it, as core's LoraLoaderModelOnly leaves it."""
    import folder_paths

    import nodes as core

    folder_paths.add_model_folder_path("loras", str(path.parent))
    return core.LoraLoaderModelOnly().load_lora_model_only(model, path.name, 1.0)[0]


def enter_host() -> None:
    sys.path.insert(0, os.environ["COMFYUI_PATH"])
    import torch
    from comfy.cli_args import args

    args.cpu = not torch.cuda.is_available()
    import comfy.utils

    comfy.utils.set_progress_bar_enabled(False)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("root", nargs="?", type=Path, default=SCRIPTS.parent)
    parser.add_argument("--calls", action="store_true", help="list every call")
    options = parser.parse_args()
    host = ensure_host()
    if Path(sys.prefix) != host.python.parent.parent:
        # ComfyUI can be imported by its own Python alone.
        command = [str(host.python), __file__, *sys.argv[1:]]
        return subprocess.call(command, env={**os.environ, "COMFYUI_PATH": str(host.root)})
    os.environ.setdefault("COMFYUI_PATH", str(host.root))
    enter_host()
    for name, journey in walk(options.root.resolve()).items():
        print(f"{name}: {journey.summary()}")
        if options.calls:
            print(journey.listing())
    return 0


if __name__ == "__main__":
    print_everywhere()
    sys.exit(main())
