"""Random-weight models in files, made once by the host's own code and kept in the cache folder."""

from __future__ import annotations

import filecmp
import os
import shutil
import subprocess
from pathlib import Path

from host import ROOT, Host, HostError, digest, locked, read_marker, say, write_marker

MODEL_MAKER = ROOT / "tests" / "host" / "make_models.py"
# What the models are made by: a change in one of these makes them anew.
MODEL_SOURCES = [
    MODEL_MAKER,
    *(MODEL_MAKER.with_name(name) for name in ("small_models.py", "small_loras.py")),
]


def make_model(host: Host, kind: str, cache: Path) -> Path:
    """A model file of this kind, made now unless the one from last time is still right."""
    folder = cache / "stand-in-models"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "make.lock"):
        return made_model(host, kind, folder)


def made_model(host: Host, kind: str, folder: Path) -> Path:
    """The same, by whoever holds the lock."""
    path, marker = folder / f"{kind}.safetensors", folder / f"{kind}.json"
    wanted = digest([source.read_text(encoding="utf-8") for source in MODEL_SOURCES])
    if not path.is_file() or read_marker(marker) != wanted:
        say(f"making {path.name} (random weights)")
        environment = {**os.environ, "COMFYUI_PATH": str(host.root)}
        made = subprocess.run(
            [host.python, MODEL_MAKER, kind, path],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
        )
        if made.returncode != 0:
            raise HostError(f"making {path.name} failed:\n{made.stderr[-3000:]}")
        write_marker(marker, wanted)
    return path


def place(source: Path, target: Path) -> bool:
    """Put `source` at `target` unless a file is there; whether `source` is there now.

    By a symbolic link, which also leads to the model that is made anew; where there are none, by a
    hard link or a copy.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    # A link that leads nowhere is somebody's too, as on a drive that is not mounted.
    if not os.path.lexists(target):
        put(source.resolve(), target)
    return target.is_file() and filecmp.cmp(source, target)


def put(source: Path, target: Path) -> None:
    for link in (os.symlink, os.link):
        try:
            link(source, target)
            return
        except OSError:
            continue
    # With its time, by which it is known again.
    shutil.copy2(source, target)
