"""A Python of its own that has everything this one has, but for some packages."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path


def python_without(folder: Path, packages: Sequence[str]) -> Path:
    """A virtual environment in `folder` with links to all that is installed here but what begins
    with one of these names, metadata and all; its python.

    Libraries ask for each other by their metadata too: a finder that refuses an import would leave
    torchmetrics thinking that matplotlib is there.
    """
    here = Path(sysconfig.get_path("purelib"))
    there = folder / here.relative_to(sys.prefix)
    there.mkdir(parents=True)
    for entry in here.iterdir():
        if not entry.name.lower().startswith(tuple(packages)):
            (there / entry.name).symlink_to(entry)
    base = Path(getattr(sys, "_base_executable", sys.executable)).resolve()
    (folder / "pyvenv.cfg").write_text(
        f"home = {base.parent}\ninclude-system-site-packages = false\n", encoding="utf-8"
    )
    python = folder / "bin" / "python"
    python.parent.mkdir()
    python.symlink_to(base)
    return python
