"""The browser tier: the real server, the real frontend, one headless Chromium for all tests.

scripts/test.py says which ComfyUI in COMFYUI_PATH, which browser in CHROMIUM, and in
FEWSTEP_FRONTEND the folder of another frontend than the host's own. Pictures of what was seen are
kept in FEWSTEP_ARTEFACTS, or in a new temporary folder.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from comfy_server import PACK_NAME, Server, running_server
from host import Host, tree_version

HERE = Path(__file__).resolve().parent
sys.path.append(str(HERE))
from editor import Editor, open_editor  # noqa: E402
from stand_ins import MISSING, prepare_base  # noqa: E402

ROOT = HERE.parent.parent


@pytest.fixture(scope="session")
def artefacts() -> Path:
    """Where pictures of the editor are kept."""
    folder = Path(
        os.environ.get("FEWSTEP_ARTEFACTS") or tempfile.mkdtemp(prefix="few-step-pictures-")
    )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that lists every model file of the shipped workflows; the files are empty."""
    root = Path(os.environ["COMFYUI_PATH"])
    base = tmp_path_factory.mktemp("editor")
    prepare_base(base, root, leave_out=MISSING)
    host = Host(root, Path(sys.executable), tree_version(root) or "unknown")
    frontend = os.environ.get("FEWSTEP_FRONTEND")
    extra_args = ["--front-end-root", frontend] if frontend else []
    with running_server(host, base, extra_args=extra_args) as running:
        yield running


@pytest.fixture(scope="session")
def editor(server: Server) -> Iterator[Editor]:
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium") or "chromium"
    with open_editor(server.client.url, chromium, PACK_NAME) as opened:
        yield opened
