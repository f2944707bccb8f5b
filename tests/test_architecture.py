"""The layout's promises, checked on the syntax trees: who may import whom, and what shipped code
never does.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent

# Imports go one way: package -> what of ours it may import beside itself.
PACKAGES: dict[str, set[str]] = {
    "nodes": {"samplers", "motion", "loras", "quality"},
    "samplers": {"loras"},
    "motion": {"loras"},
    "quality": set(),
    "loras": set(),
}
SHIPPED = sorted(
    [
        *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
        ROOT / "__init__.py",
    ]
)

HOST_MODULES = {
    "comfy",
    "comfy_extras",
    "comfy_execution",
    "comfy_config",
    "comfyui_version",
    "folder_paths",
    "server",
    "execution",
    "node_helpers",
    "latent_preview",
    "app",
}
# What the host offers for schemas: node files know it too.
HOST_API = "comfy_api"
HOST_LAYER = "nodes/host"
# The host's table of node classes, which has the name of a folder of ours.
HOST_NODES = "nodes"
# The one file that names them all to the host.
NODE_TABLE = Path("nodes/__init__.py")
# The names of our packages and folders: imported absolutely, they are the host's, or somebody
# else's.
OWN_NAMES = {*PACKAGES, "scripts", "tests", "demo", "benchmarks", "utils"}
# No network, no other processes, nothing that turns data into code.
FORBIDDEN_MODULES = {
    "pickle",
    "marshal",
    "shelve",
    "subprocess",
    "socket",
    "urllib",
    "http",
    "requests",
    "ftplib",
    "ctypes",
    "multiprocessing",
    "webbrowser",
    "pip",
}
FORBIDDEN_CALLS = {"eval", "exec", "compile", "__import__"}
FORBIDDEN_ATTRIBUTES = {
    ("os", "system"),
    ("os", "popen"),
    ("os", "environ"),
    ("torch", "load"),
    ("importlib", "import_module"),
}
# The parts that run without ComfyUI, and what they may import beside the standard library.
PURE = set(PACKAGES) - {"nodes"}
ALLOWED_IN_PURE = {"torch", "safetensors", "tqdm"}
# Figures and drawings, imported inside the functions that use them: the pack loads without these.
ALLOWED_IN_QUALITY = {"torch", "torchvision", "torchmetrics", "matplotlib"}


def test_there_is_something_to_check() -> None:
    assert len(SHIPPED) > 5


def test_every_folder_with_code_is_either_checked_or_left_out_of_the_archive() -> None:
    ignored = {
        line.strip("/").split("/")[0]
        for line in (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    }
    with_code = {path.parent.name for path in ROOT.glob("[!.]*/*.py")}
    assert with_code - ignored == set(PACKAGES)


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_shipped_file_keeps_to_the_layout(path: Path) -> None:
    assert violations(path.read_text(encoding="utf-8"), path.relative_to(ROOT)) == []


BAD_SNIPPETS = [
    ("loras/x.py", "from ..samplers import plan", "loras may not import samplers"),
    ("loras/catalog/x.py", "from ...nodes import host", "loras may not import nodes"),
    ("samplers/x.py", "from ..motion import keys", "samplers may not import motion"),
    ("samplers/skip/x.py", "from ...nodes.host import RunCost", "samplers may not import nodes"),
    ("samplers/x.py", "import comfy.samplers", "imports the host's comfy"),
    (
        "samplers/x.py",
        "def f():\n    from folder_paths import x",
        "imports the host's folder_paths",
    ),
    ("nodes/x.py", "import comfy.samplers", "imports the host's comfy outside nodes/host"),
    ("nodes/x.py", "import folder_paths", "imports the host's folder_paths outside nodes/host"),
    (
        "nodes/x.py",
        "from comfy_execution.graph_utils import ExecutionBlocker",
        "imports the host's comfy_execution outside nodes/host",
    ),
    ("nodes/x.py", "import server", "imports the host's server outside nodes/host"),
    ("samplers/x.py", "from comfy_api.v0_0_2 import io", "imports comfy_api outside nodes/"),
    ("nodes/x.py", "from .sampler import describe", "imports the node file sampler"),
    ("nodes/x.py", "from . import sampler", "imports the node file sampler"),
    ("nodes/x.py", "from ..nodes.sampler import describe", "imports the node file sampler"),
    ("nodes/host/x.py", "from ..sampler import describe", "imports the node file sampler"),
    ("nodes/host/x.py", "from .. import sampler", "imports the node file sampler"),
    ("nodes/x.py", "from samplers import plan", "imports samplers absolutely"),
    ("nodes/x.py", "import nodes", "imports nodes absolutely"),
    ("nodes/host/x.py", "from nodes.host import model", "imports nodes absolutely"),
    ("loras/x.py", "import numpy", "imports numpy"),
    ("nodes/x.py", "import pickle", "imports pickle"),
    ("nodes/x.py", "import urllib.request", "imports urllib"),
    ("nodes/x.py", "import os\nos.system('x')", "uses os.system"),
    ("nodes/x.py", "import torch\ntorch.load('x')", "uses torch.load"),
    ("samplers/x.py", "x = eval('1')", "calls eval"),
    ("__init__.py", "from .nodes import FewStepExtension", "imports at module scope"),
    ("__init__.py", "import logging", "imports at module scope"),
    ("loras/x.py", "from .... import x", "leaves the pack"),
]


@pytest.mark.parametrize(
    ("path", "code", "expected"), BAD_SNIPPETS, ids=lambda value: str(value).replace("\n", "; ")
)
def test_a_bad_file_is_caught(path: str, code: str, expected: str) -> None:
    assert [found for found in violations(code, Path(path)) if expected in found], violations(
        code, Path(path)
    )


def test_a_good_file_is_let_through() -> None:
    host_layer = (
        "import comfy.samplers\nimport nodes\nfrom ...samplers.plan import x\nfrom .model import y"
    )
    assert violations(host_layer, Path("nodes/host/x.py")) == []
    node = (
        "from comfy_api.v0_0_2 import io\nfrom ..quality import x\nfrom .host.model import y\n"
        "from .host import report"
    )
    assert violations(node, Path("nodes/x.py")) == []
    assert violations("from . import accelerator, host", NODE_TABLE) == []
    assert (
        violations("import math\nimport torch\nfrom ..loras import catalog", Path("samplers/x.py"))
        == []
    )
    assert (
        violations("async def comfy_entrypoint():\n    from .nodes import x", Path("__init__.py"))
        == []
    )


def violations(code: str, path: Path) -> list[str]:
    """Every promise this file breaks, in words."""
    tree = ast.parse(code)
    found = [*import_violations(tree, path), *call_violations(tree)]
    if path == Path("__init__.py"):
        imports = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
        found += [
            f"line {node.lineno}: imports at module scope"
            for node in imports
            if not is_future(node)
        ]
    return found


def import_violations(tree: ast.AST, path: Path) -> Iterator[str]:
    package = path.parts[0] if len(path.parts) > 1 else ""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [(alias.name, 0) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not is_future(node):
            names = [(node.module or "", node.level)]
            if node.level and node.module is None:
                names = [(alias.name, node.level) for alias in node.names]
        else:
            continue
        for name, level in names:
            wrong = (
                relative_problem(name, level, path, package)
                if level
                else absolute_problem(name, path, package)
            )
            if wrong:
                yield f"line {node.lineno}: {wrong}"


def absolute_problem(name: str, path: Path, package: str) -> str | None:
    top = name.split(".")[0]
    if name == HOST_NODES and path.parent.as_posix() == HOST_LAYER:
        return None
    if top in OWN_NAMES:
        return f"imports {top} absolutely, which is the host's"
    if top in FORBIDDEN_MODULES:
        return f"imports {top}, which shipped code must not"
    if top in HOST_MODULES:
        is_host_layer = path.parent.as_posix() == HOST_LAYER
        return None if is_host_layer else f"imports the host's {top} outside {HOST_LAYER}/"
    if top == HOST_API:
        return None if package == "nodes" else f"imports {HOST_API} outside nodes/"
    allowed = ALLOWED_IN_QUALITY if package == "quality" else ALLOWED_IN_PURE
    if package in PURE and top not in allowed and not is_standard(top):
        return (
            f"imports {top}; {package}/ has only {', '.join(sorted(allowed))} and the standard"
            " library"
        )
    return None


def relative_problem(name: str, level: int, path: Path, package: str) -> str | None:
    # level 1 is the file's own folder, level 2 the one above it, ...
    depth = len(path.parts) - level
    if depth < 0:
        return f"leaves the pack with {'.' * level}{name}"
    reached = (*path.parts[:depth], *name.split("."))
    target = reached[0]
    if package == "" or target not in PACKAGES:
        return None
    if target != package and target not in PACKAGES[package]:
        return f"{package} may not import {target}"
    if target == "nodes" and len(reached) > 1 and reached[1] != "host" and path != NODE_TABLE:
        return f"imports the node file {reached[1]}: what two nodes use lies in a room below them"
    return None


def call_violations(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in FORBIDDEN_CALLS
        ):
            yield f"line {node.lineno}: calls {node.func.id}"
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            name = (node.value.id, node.attr)
            if name in FORBIDDEN_ATTRIBUTES:
                yield f"line {node.lineno}: uses {'.'.join(name)}"


def is_future(node: ast.AST) -> bool:
    return isinstance(node, ast.ImportFrom) and node.module == "__future__"


def is_standard(name: str) -> bool:
    return name in sys.stdlib_module_names
