"""Get a frontend newer than the one that came with the pinned ComfyUI.

The editor is a Python package beside ComfyUI and moves faster; a server shows any of them with
--front-end-root. Only the standard library is used, as in host.py.
"""

from __future__ import annotations

from pathlib import Path

from host import MARKER, default_cache, once, run_pip, say

PACKAGE = "comfyui-frontend-package"
# The newest on PyPI when it was last tried here.
FRONTEND_VERSION = "1.58.1"


def ensure_frontend(
    python: Path, version: str = FRONTEND_VERSION, cache: Path | None = None
) -> Path:
    """The folder for --front-end-root, downloaded once per version. Raises HostError.

    python: whose pip downloads it; nothing is installed beside that Python.
    """
    folder = (cache or default_cache()) / f"frontend-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    static = folder / "comfyui_frontend_package" / "static"

    def download() -> None:
        say(f"downloading the frontend {version} (30 MB, once)")
        target = ["install", "--no-deps", "--upgrade", "--target", str(folder)]
        run_pip(python, [*target, f"{PACKAGE}=={version}"], log=folder / "download.log")

    once(folder / MARKER, [version], download, lambda: (static / "index.html").is_file())
    return static
