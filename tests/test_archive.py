"""The archive that the registry hands to users: complete, without the workshop, and free of what
its scanner flags.
"""

from __future__ import annotations

import ast
import re
import subprocess
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
file_utils = pytest.importorskip("comfy_cli.file_utils")

NEEDED = (
    "__init__.py",
    "pyproject.toml",
    "requirements.txt",
    "README.md",
    "LICENSE",
    "nodes/accelerator.py",
    "loras/catalog/__init__.py",
    "samplers/plan.py",
    "workflows/SD 1.5 LCM.json",
    "workflows/SD 1.5 LCM.jpg",
    "workflows/api/sd15_lcm.json",
    "web/docs/FewStepSampler.md",
    "web/docs/images/FewStepSampler.png",
    "locales/en/nodeDefs.json",
)
UNWANTED = ("tests/", "scripts/", "benchmarks/", ".ci/", ".github/", "shared/")
# What the scanner's rules look for, by the names of its published refusals.
FLAGGED = {
    "network operations": r"\b(urllib|requests|httpx|aiohttp|socket)\b",
    "environment manipulation": r"os\.(environ|getenv|putenv)",
    "command injection": r"\b(subprocess|os\.system|os\.popen)\b",
    "bytecode manipulation": r"importlib\.import_module|\bmarshal\b|types\.CodeType",
    "evaluation": r"\.eval\(|(?<![\w.])(eval|exec)\(",
    "unpickling": r"import pickle|pickle\.load|torch\.load\(",
    "downloads at run time": (
        r"pip\.main|.-m., .pip.|hf_hub_download|snapshot_download|from_pretrained"
    ),
}
# What the syntax trees may name, however it is spelled: nothing of this opens a connection, starts
# a program, runs text as code or unpickles. ComfyUI's own modules are as safe as ComfyUI.
MODULES = {
    "__future__",
    "abc",
    "collections",
    "concurrent",
    "contextlib",
    "copy",
    "dataclasses",
    "difflib",
    "enum",
    "fractions",
    "functools",
    "hashlib",
    "inspect",
    "io",
    "itertools",
    "json",
    "logging",
    "math",
    "mmap",
    "os",
    "pathlib",
    "re",
    "statistics",
    "sys",
    "textwrap",
    "threading",
    "time",
    "types",
    "typing",
    "av",
    "matplotlib",
    "safetensors",
    "torch",
    "torchmetrics",
    "torchvision",
    "tqdm",
    "comfy",
    "comfy_api",
    "comfy_execution",
    "comfy_extras",
    "comfyui_version",
    "folder_paths",
    "latent_preview",
    "nodes",
}
OF_OS = {"path", "sep", "stat"}
OF_SYS = {"modules"}
BUILTINS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "open",
    "input",
    "breakpoint",
    "globals",
    "__builtins__",
}
OF_TORCH_HUB = {"get_dir"}
OF_TORCH = {"load", "save", "jit", "package", "distributed", "multiprocessing", "ops", "utils"}
# Files are read in two places and written in two, by the calls that this names. An mp4 is made in
# memory, and what it is goes into a new file.
WRITER = "nodes/host/stream_record.py"
OPENED_THERE = {"av.open": ["buffer", "'w'"], "self.path.open": ["'xb'"]}
WRITING = {
    "write_text",
    "write_bytes",
    "unlink",
    "rmdir",
    "mkdir",
    "makedirs",
    "touch",
    "symlink_to",
    "hardlink_to",
    "chmod",
    "save_file",
}
# What Distil Accelerator made: a LoRA, its declaration and a checkpoint, in models/loras alone.
DISTILLED = "nodes/host/distil_files.py"
DISTILLED_BY = [
    "from safetensors.torch import save_file",
    "path.parent.mkdir",
    "partial.write_text",
    "os.replace",
    "partial.unlink",
]
LARGEST = 40 << 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The archive as comfy-cli packs it, of the files as they are now."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listing.returncode:
        pytest.skip("the archive is made from a git checkout")
    files = [name for name in listing.stdout.split("\0") if (ROOT / name).is_file()]
    target = tmp_path_factory.mktemp("archive") / "node.zip"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(ROOT)
        patch.setattr(file_utils, "list_git_tracked_files", lambda *_: files)
        file_utils.zip_files(str(target))
    return zipfile.ZipFile(target)


def test_everything_a_user_needs_is_in_it(archive: zipfile.ZipFile) -> None:
    assert [name for name in NEEDED if name not in archive.namelist()] == []


def test_the_workshop_is_not_in_it(archive: zipfile.ZipFile) -> None:
    assert [name for name in archive.namelist() if name.startswith(UNWANTED)] == []
    # Of demo/ the weights go out, not the training.
    assert [
        name for name in archive.namelist() if name.startswith("demo/") and name.endswith(".py")
    ] == []


def test_it_is_small(archive: zipfile.ZipFile) -> None:
    assert sum(entry.file_size for entry in archive.infolist()) < LARGEST


@pytest.mark.parametrize("rule", FLAGGED)
def test_no_code_in_it_is_flagged(archive: zipfile.ZipFile, rule: str) -> None:
    found = [
        f"{name}:{number}: {line.strip()}"
        for name in archive.namelist()
        if name.endswith(".py")
        for number, line in enumerate(archive.read(name).decode("utf-8").splitlines(), 1)
        if re.search(FLAGGED[rule], line)
    ]
    assert found == []


def flagged(tree: ast.AST) -> Iterator[str]:
    """Names in a syntax tree that a file of the archive may not have."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (
                f"import {alias.name}"
                for alias in node.names
                if alias.name.split(".")[0] not in MODULES
            )
        elif isinstance(node, ast.ImportFrom) and not node.level:
            names = [
                alias.name
                for alias in node.names
                if is_flagged_attribute(node.module or "", alias.name)
            ]
            if (node.module or "").split(".")[0] not in MODULES or names:
                yield f"from {node.module} import {', '.join(names) or '...'}"
        elif isinstance(node, ast.Name) and node.id in BUILTINS:
            yield node.id
        elif isinstance(node, ast.Attribute):
            base = ast.unparse(node.value)
            if is_flagged_attribute(base, node.attr):
                yield f"{base}.{node.attr}"
            if node.attr == "open" and not is_reading(tree, node):
                yield "a file opened for anything but reading"


def is_flagged_attribute(base: str, name: str) -> bool:
    """base: a module's name."""
    allowed = {"os": OF_OS, "sys": OF_SYS, "torch.hub": OF_TORCH_HUB}.get(base)
    return (
        (allowed is not None and name not in allowed)
        or (base == "torch" and name in OF_TORCH)
        or name in WRITING
    )


def is_reading(tree: ast.AST, opener: ast.Attribute) -> bool:
    calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and node.func is opener]
    return bool(calls) and all(
        len(call.args) == 1 and ast.unparse(call.args[0]) == "'rb'" and not call.keywords
        for call in calls
    )


def test_no_syntax_tree_in_it_names_what_can_reach_out_or_write(archive: zipfile.ZipFile) -> None:
    sources = [name for name in archive.namelist() if name.endswith(".py")]
    assert len(sources) > 50
    found = {name: list(flagged(ast.parse(archive.read(name)))) for name in sources}
    writing = ["a file opened for anything but reading"] * len(OPENED_THERE)
    assert {name: what for name, what in found.items() if what} == {
        WRITER: writing,
        DISTILLED: DISTILLED_BY,
    }


def test_the_one_file_that_writes_opens_what_it_says_and_nothing_else(
    archive: zipfile.ZipFile,
) -> None:
    tree = ast.parse(archive.read(WRITER))
    opened = {
        ast.unparse(node.func): [ast.unparse(argument) for argument in node.args]
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "open"
    }
    assert opened == OPENED_THERE
    # The one place that says where: the host's own, which refuses names that lead out.
    sources = [node for node in ast.walk(tree) if isinstance(node, ast.Assign)]
    (place,) = {
        ast.unparse(node.value)
        for node in sources
        if ast.unparse(node.targets[0]) == "self.path" and ast.unparse(node.value) != "None"
    }
    assert place == "self._place()"


# What a script in a page can do beyond showing text: reach out, run text, put in markup, remember.
OF_SCRIPTS = re.compile(
    r"\b(fetch\w*|XMLHttpRequest|WebSocket|sendBeacon|eval|Function|import\s*\(|innerHTML|outerHTML"
    r"|insertAdjacentHTML|document|localStorage|sessionStorage|prototype)\b"
)


def test_the_script_of_the_editor_shows_text_and_nothing_else(archive: zipfile.ZipFile) -> None:
    scripts = [name for name in archive.namelist() if name.endswith((".js", ".mjs", ".html"))]
    assert scripts == ["web/report.js"]
    text = archive.read("web/report.js").decode()
    assert OF_SCRIPTS.findall(text) == []
    sources = re.findall(r'^import .* from "(.*)";$', text, re.MULTILINE)
    assert sources and all(source.startswith("../../scripts/") for source in sources)
    assert text.count("import ") == len(sources)


@pytest.mark.parametrize(
    "source",
    [
        "import socket",
        "import urllib.request as u",
        "from subprocess import run",
        "from os import system",
        "os.environ['a']",
        "x = eval",
        "__import__('os')",
        "torch.load(path)",
        "from torch import load",
        "import pickle",
        "open('a', 'w')",
        "path.open('wb')",
        "Path('a').write_text('b')",
        "torch.hub.load('a')",
        "import importlib",
        "import ctypes",
        "path.open(mode='rb')",
    ],
)
def test_the_search_finds_each_of_them(source: str) -> None:
    assert list(flagged(ast.parse(source)))


def test_registry_reads_our_project_file() -> None:
    parser = pytest.importorskip("comfy_cli.registry.config_parser")
    config = parser.extract_node_configuration(str(ROOT / "pyproject.toml"))
    assert re.fullmatch(r"[a-z][a-z0-9-]*", config.project.name)
    assert re.fullmatch(r"\d+\.\d+\.\d+", config.project.version)
    assert (
        config.tool_comfy.publisher_id
        and config.tool_comfy.display_name
        and config.tool_comfy.icon.startswith("https://")
    )
    assert config.project.urls.repository.startswith("https://")
    # One comparator: the Manager's own check understands no comma and no space.
    assert re.fullmatch(r">=\d+\.\d+\.\d+", config.project.supported_comfyui_version)
