"""Every script prints on every console: a character that it cannot show ends nothing."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from thinning import thorough

import host

SCRIPTS = host.ROOT / "scripts"
# Neither ASCII nor cp1252 has these, and a folder may be called so.
ELSEWHERE = "мои картины →"
ENCODINGS = ("ascii", "cp1252")


def run(encoding: str, *command: object, **environment: str) -> subprocess.CompletedProcess[str]:
    """A script on a console of this encoding, in the Python that runs these tests."""
    return subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, **environment, "PYTHONIOENCODING": encoding},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding=encoding,
        timeout=600,
    )


def escaped(text: str, encoding: str) -> str:
    """As it is to be printed: what the encoding lacks by its code."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


@pytest.fixture
def own_install(tmp_path: Path) -> str:
    """A folder that looks like a ComfyUI, with a Python that finds everything and does nothing."""
    if sys.platform == "win32":
        pytest.skip("needs a shell script as Python")
    root = tmp_path / ELSEWHERE / "ComfyUI"
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").touch()
    python = host.venv_python(root / "venv")
    python.parent.mkdir(parents=True)
    python.write_text("#!/bin/sh\nexit 0\n")
    python.chmod(0o755)
    return str(root)


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("script", ["demo", "test", "host", "compare", "live"])
def test_the_help_is_printed(script: str, encoding: str) -> None:
    helped = run(encoding, SCRIPTS / f"{script}.py", "--help")
    assert helped.returncode == 0 and helped.stdout.startswith("usage:") and not helped.stderr


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    ("command", "expected"),
    [(["host.py"], "ComfyUI unknown: "), (["test.py", "--tier", "oldest"], "ComfyUI unknown at ")],
    ids=["host", "test"],
)
def test_where_comfyui_is_is_printed(
    own_install: str, encoding: str, command: list[str], expected: str
) -> None:
    script, *arguments = command
    said = run(encoding, SCRIPTS / script, *arguments, COMFYUI_PATH=own_install)
    assert said.returncode == 0, said.stderr
    assert f"{expected}{escaped(own_install, encoding)}" in said.stdout and "\\u2192" in said.stdout


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_demo_tells_of_a_server_that_does_not_start(
    own_install: str, encoding: str, tmp_path: Path
) -> None:
    said = run(
        encoding, SCRIPTS / "demo.py", "--cache", tmp_path / ELSEWHERE, COMFYUI_PATH=own_install
    )
    assert said.returncode == 1 and "Traceback" not in said.stderr
    assert f"ComfyUI unknown at {escaped(own_install, encoding)}" in said.stderr
    assert "error: the server ended (exit 0) while starting" in said.stderr


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_last_words_of_the_demo_are_printed(encoding: str) -> None:
    program = (
        "import pathlib, sys; sys.path.append(sys.argv[1]); import console, demo;"
        " console.print_everywhere(); path = pathlib.Path(sys.argv[2]);"
        " print(demo.in_words([], path, path, [sys.argv[2]]))"
    )
    said = run(encoding, "-c", program, SCRIPTS, ELSEWHERE)
    assert said.returncode == 0, said.stderr
    assert f"picture: {escaped(ELSEWHERE, encoding)}\n" in said.stdout


@pytest.mark.parametrize(
    "encoding", [ENCODINGS[0], *(pytest.param(one, marks=thorough) for one in ENCODINGS[1:])]
)
def test_a_comparison_tells_what_was_not_run_and_where_its_report_is(
    encoding: str, tmp_path: Path
) -> None:
    for name in ("torchmetrics", "matplotlib"):
        pytest.importorskip(name, reason="requirements.txt is not installed")
    out, prompts, workflow = (tmp_path / name for name in (ELSEWHERE, "prompts.txt", "a.json"))
    prompts.write_text(ELSEWHERE, encoding="utf-8")
    nodes = {
        "1": {"class_type": "CLIPTextEncode", "inputs": {"text": "a"}},
        "2": {"class_type": "KSampler", "inputs": {"seed": 1, "positive": ["1", 0]}},
    }
    workflow.write_text(json.dumps(nodes), encoding="utf-8")
    files = ["--workflow", workflow, "--prompts", prompts, "--out", out]
    # Nothing listens on port 9.
    said = run(
        encoding, SCRIPTS / "compare.py", "--server", "http://127.0.0.1:9", "--wait", "0", *files
    )
    assert said.returncode == 1 and "Traceback" not in said.stderr, said.stderr
    assert f"{escaped(str(out), encoding)}/report.html" in said.stdout


def calls(tree: ast.AST) -> set[str]:
    return {
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    }


def test_every_script_asks_for_it_first() -> None:
    """The benchmarks do so in in_host.enter(), which each of them calls."""
    entered = [host.ROOT / "benchmarks" / "in_host.py"]
    for path in SCRIPTS.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        entries = [node for node in tree.body if isinstance(node, ast.If) and is_entry(node)]
        entered += [path] * len(entries)
        for entry in entries:
            assert calls(entry.body[0]) == {"print_everywhere"}, path.name
    assert len(entered) > 8
    assert "print_everywhere" in calls(ast.parse(entered[0].read_text(encoding="utf-8")))


def is_entry(node: ast.If) -> bool:
    return ast.unparse(node.test) == "__name__ == '__main__'"
