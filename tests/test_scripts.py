"""The set-up scripts, offline: what they refuse and what they say."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import shlex
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

import comfy_server
import demo
import host
import stand_in_models

STDLIB_ONLY = (
    "host.py",
    "console.py",
    "comfy_server.py",
    "comfy_client.py",
    "websocket_reader.py",
    "test.py",
    "demo.py",
    # What runs on the machines of a fleet, and its driver.
    "guard.py",
    "batch_jobs.py",
    "batch_run.py",
    "batch_store.py",
    "fleet_engines.py",
    "fleet_run.py",
    "fleet_table.py",
    "fleet_waiting.py",
    "fleet_worker.py",
)


def archive(path: Path, *names: str, link: str | None = None) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for name in names:
            member = tarfile.TarInfo(name)
            member.size = 1
            tar.addfile(member, io.BytesIO(b"x"))
        if link:
            member = tarfile.TarInfo(link)
            member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
            tar.addfile(member)
    return path


def fake_install(root: Path) -> Path:
    (root / "comfy").mkdir(parents=True)
    (root / "main.py").touch()
    (root / "comfyui_version.py").write_text('__version__ = "0.29.1"\n')
    return root


def test_every_known_version_has_a_source_and_the_default_is_known() -> None:
    assert host.DEFAULT_VERSION in host.SOURCE_RELEASES
    assert len(set(host.SOURCE_RELEASES.values())) == len(host.SOURCE_RELEASES)


def test_unknown_version_is_refused_with_the_known_ones(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    with pytest.raises(host.HostError, match=r"0\.1\.0.*0\.30\.0.*COMFYUI_PATH"):
        host.ensure_host("0.1.0", tmp_path)


def test_only_the_tree_is_unpacked(tmp_path: Path) -> None:
    inside = ("pkg-1/vendor/ComfyUI/main.py", "pkg-1/vendor/ComfyUI/a/b.py")
    packed = archive(tmp_path / "a.tar.gz", "pkg-1/setup.py", *inside)
    tree = tmp_path / "tree"
    host.extract_tree(packed, "vendor/ComfyUI", tree)
    assert sorted(path.relative_to(tree).as_posix() for path in tree.rglob("*.py")) == [
        "a/b.py",
        "main.py",
    ]


@pytest.mark.parametrize("name", ["../evil.py", "a/../../evil.py", "a\\..\\evil.py", "C:/evil.py"])
def test_path_that_leaves_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    packed = archive(tmp_path / "a.tar.gz", f"pkg-1/vendor/ComfyUI/{name}")
    with pytest.raises(host.HostError, match="unsafe path"):
        host.extract_tree(packed, "vendor/ComfyUI", tmp_path / "in" / "tree")
    assert not list(tmp_path.rglob("evil.py"))


def test_links_in_an_archive_are_not_made(tmp_path: Path) -> None:
    packed = archive(
        tmp_path / "a.tar.gz", "pkg-1/vendor/ComfyUI/main.py", link="pkg-1/vendor/ComfyUI/passwd"
    )
    host.extract_tree(packed, "vendor/ComfyUI", tmp_path / "tree")
    assert [p.name for p in (tmp_path / "tree").iterdir()] == ["main.py"]


def test_comfyui_path_without_a_comfyui_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(tmp_path))
    with pytest.raises(host.HostError, match="holds no ComfyUI.*main.py"):
        host.ensure_host()


def test_comfyui_path_whose_python_has_no_torch_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COMFYUI_PATH", str(fake_install(tmp_path / "ComfyUI")))
    monkeypatch.setattr(host, "runs_torch", lambda python: False)
    with pytest.raises(host.HostError, match="`import torch` fails"):
        host.ensure_host()


def test_comfyui_path_is_used_with_its_own_python_and_version(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    root = fake_install(tmp_path / "ComfyUI")
    python = host.venv_python(tmp_path / "venv")
    python.parent.mkdir(parents=True)
    python.touch()
    monkeypatch.setenv("COMFYUI_PATH", str(root))
    monkeypatch.setattr(host, "runs_torch", lambda python: True)
    assert host.ensure_host() == host.Host(root, python, "0.29.1", owned=False)


def test_install_without_a_python_of_its_own_gets_the_running_one(tmp_path: Path) -> None:
    assert host.find_python(fake_install(tmp_path / "a" / "ComfyUI")) == Path(sys.executable)


def test_users_own_install_is_never_installed_into(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(
        host,
        "pip_install",
        lambda *args, **kwargs: pytest.fail("installed into the user's ComfyUI"),
    )
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho pytest diffusers\n")
    python.chmod(0o755)
    if sys.platform == "win32":
        pytest.skip("needs a shell script as Python")
    with pytest.raises(host.HostError, match="(?s)pytest, diffusers.*pip install"):
        host.ensure_test_tools(host.Host(tmp_path, python, "0.30.0", owned=False))


def test_finished_build_is_reused_and_an_outdated_one_is_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(host, "runs_torch", lambda python: True)
    built: list[str] = []
    monkeypatch.setattr(host, "build_host", lambda folder, wanted: built.append(wanted.version))
    monkeypatch.setattr(host, "pip_install", lambda *args, **kwargs: None)
    first = host.ensure_host("0.30.0", tmp_path)
    assert host.ensure_host("0.30.0", tmp_path) == first
    assert built == ["0.30.0"]
    (tmp_path / "comfyui-0.30.0" / host.MARKER).write_text(json.dumps({"asked": "something else"}))
    host.ensure_host("0.30.0", tmp_path)
    assert built == ["0.30.0", "0.30.0"]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to a host in the cache, instead of doing it: "build", or a requirements file."""
    done: list[str] = []
    monkeypatch.delenv("COMFYUI_PATH", raising=False)
    monkeypatch.setattr(host, "runs_torch", lambda python: True)
    monkeypatch.setattr(host, "build_host", lambda folder, wanted: done.append("build"))
    monkeypatch.setattr(
        host,
        "pip_install",
        lambda python, arguments, log: done.append(
            Path(arguments[1]).relative_to(host.ROOT).as_posix()
        ),
    )
    return done


def test_a_host_has_the_packs_requirements_before_any_test_tools(
    installed: list[str], tmp_path: Path
) -> None:
    built = host.ensure_host("0.30.0", tmp_path)
    assert installed == ["build", "requirements.txt"]
    host.ensure_test_tools(built)
    assert installed == ["build", "requirements.txt", "tests/requirements.txt"]


def test_a_host_of_an_earlier_version_of_the_pack_is_completed_and_not_rebuilt(
    installed: list[str], tmp_path: Path
) -> None:
    host.ensure_host("0.30.0", tmp_path)
    marker = tmp_path / "comfyui-0.30.0" / host.PACK_MARKER
    marker.unlink()
    host.ensure_host("0.30.0", tmp_path)
    assert installed == ["build", "requirements.txt", "requirements.txt"]
    host.write_marker(marker, host.digest(["matplotlib>=3.0", *host.TORCH_PINS]))
    host.ensure_host("0.30.0", tmp_path)
    host.ensure_host("0.30.0", tmp_path)
    assert installed == ["build"] + 3 * ["requirements.txt"]


def test_a_new_virtual_environment_has_nothing_of_what_was_in_the_old_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name in (host.PACK_MARKER, host.TOOLS_MARKER):
        host.write_marker(tmp_path / name, "done")

    def fail(target: Path) -> None:
        raise host.HostError("no space")

    monkeypatch.setattr(host, "create_venv", fail)
    with pytest.raises(host.HostError):
        host.build_host(tmp_path, host.Host(tmp_path / "ComfyUI", tmp_path / "python", "0.30.0"))
    assert not list(tmp_path.glob("*.json"))


def shell_python(folder: Path, prints: str) -> Path:
    """A file that answers like a Python that prints this, whatever it is asked to run."""
    if sys.platform == "win32":
        pytest.skip("needs a shell script as Python")
    python = folder / "own python"
    python.write_text(f"#!/bin/sh\necho {prints}\n")
    python.chmod(0o755)
    return python


def test_what_an_own_install_lacks_of_the_pack_is_told_with_the_command_that_adds_it(
    tmp_path: Path,
) -> None:
    own = host.Host(tmp_path, shell_python(tmp_path, "torchmetrics"), "0.30.0", owned=False)
    told = host.pack_requirements_missing(own)
    assert told.startswith("torchmetrics, which ") and "nothing is installed" in told
    command = shlex.split(told.splitlines()[-1])
    assert command == [
        str(own.python),
        *("-m", "pip", "install", "-r", str(host.PACK_REQUIREMENTS)),
    ]


def test_nothing_is_told_of_an_own_install_that_lacks_nothing_nor_of_one_built_here(
    tmp_path: Path,
) -> None:
    python = shell_python(tmp_path, "")
    assert not host.pack_requirements_missing(host.Host(tmp_path, python, "0.30.0", owned=False))
    nowhere = host.Host(tmp_path, tmp_path / "nowhere", "0.30.0")
    assert not host.pack_requirements_missing(nowhere)


def test_modules_that_this_python_lacks_are_found() -> None:
    assert host.lacking(Path(sys.executable), ["json", "no_such_module"]) == ["no_such_module"]


def test_requirements_are_named_without_their_versions_and_comments() -> None:
    assert host.requirement_names(host.PACK_REQUIREMENTS) == ("matplotlib", "torchmetrics")


def test_broken_off_build_leaves_no_marker(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("COMFYUI_PATH", raising=False)

    def fail(folder: Path, wanted: host.Host) -> None:
        raise host.HostError("no network")

    monkeypatch.setattr(host, "build_host", fail)
    with pytest.raises(host.HostError):
        host.ensure_host("0.30.0", tmp_path)
    assert not (tmp_path / "comfyui-0.30.0" / host.MARKER).exists()


def test_pip_failure_shows_its_last_lines(tmp_path: Path) -> None:
    if not host.runs(Path(sys.executable), "import pip"):
        pytest.skip("this Python has no pip")
    with pytest.raises(host.HostError, match="(?s)pip install failed.*no-such-folder"):
        host.run_pip(
            Path(sys.executable),
            ["install", str(tmp_path / "no-such-folder")],
            log=tmp_path / "log",
        )
    assert "no-such-folder" in (tmp_path / "log").read_text()


def api_workflow(name: str) -> dict:
    return json.loads(
        (host.ROOT / "workflows" / "api" / f"{name}.json").read_text(encoding="utf-8")
    )


def test_demo_refuses_a_workflow_of_models_it_cannot_stand_in_for(tmp_path: Path) -> None:
    nowhere, wan = (
        host.Host(tmp_path, tmp_path / "python", "0.30.0"),
        api_workflow("wan21_t2v_lightx2v"),
    )
    with pytest.raises(demo.ModelsMissing, match="needs .*wan.*Put the files"):
        demo.provide_models(nowhere, wan, tmp_path / "models", tmp_path)
    assert not list(tmp_path.iterdir()), "nothing was made"
    names = demo.model_names(wan)
    assert len(names) == 4, "model, LoRA, text encoder and VAE"
    (tmp_path / "models" / "any").mkdir(parents=True)
    for name in names:
        (tmp_path / "models" / "any" / name).touch()
    assert not demo.provide_models(nowhere, wan, tmp_path / "models", tmp_path), (
        "somebody's own files need no stand-in"
    )


def test_demo_stands_in_for_the_models_of_a_shipped_workflow() -> None:
    assert set(demo.model_names(api_workflow("sd15_lcm"))) == set(demo.DEMO.models)
    assert all(
        demo.is_at_hand(name, Path("none"))
        for name in demo.model_names(api_workflow("demo_compare"))
    )


def test_demo_refuses_a_workflow_that_is_not_there_before_anything_is_built(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ensure_host", lambda *args: pytest.fail("a host was asked for"))
    monkeypatch.setattr(sys, "argv", ["demo.py", "--workflow", "no_such_workflow.json"])
    with pytest.raises(SystemExit):
        demo.main()
    assert "there is no no_such_workflow.json" in capsys.readouterr().err


def test_demo_refuses_what_is_no_api_workflow_before_anything_is_built(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "ensure_host", lambda *args: pytest.fail("a host was asked for"))
    broken = tmp_path / "broken.json"
    broken.write_text("{", encoding="utf-8")
    of_the_editor = host.ROOT / "workflows" / f"{demo.IN_THE_EDITOR}.json"
    for path, words in ((of_the_editor, "Export (API)"), (broken, "cannot be read as JSON")):
        monkeypatch.setattr(sys, "argv", ["demo.py", "--workflow", str(path)])
        assert demo.main() == 1
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(("name", "is_refused"), [("demo_compare", True), ("demo", False)])
def test_demo_tells_before_the_server_is_started_what_an_own_install_lacks(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    name: str,
    is_refused: bool,
) -> None:
    own = host.Host(tmp_path, shell_python(tmp_path, "torchmetrics"), "0.30.0", owned=False)
    monkeypatch.setattr(demo, "ensure_host", lambda version, cache: own)

    def refuse(*arguments: object) -> None:
        raise comfy_server.ServerError("started")

    monkeypatch.setattr(comfy_server, "start", refuse)
    workflow = host.ROOT / "workflows" / "api" / f"{name}.json"
    monkeypatch.setattr(
        sys, "argv", ["demo.py", "--workflow", str(workflow), "--cache", str(tmp_path)]
    )
    assert demo.main() == 1
    said = capsys.readouterr().err
    assert ("error: started" in said) is not is_refused
    assert said.count("torchmetrics, which ") == 1
    assert f"-m pip install -r {host.PACK_REQUIREMENTS}" in said


PROGRESS_PROMPT = {
    "1": {"class_type": "KSampler", "inputs": {}, "_meta": {"title": "the same"}},
    "2": {"class_type": "FewStepCompare", "inputs": {}, "_meta": {"title": "the same"}},
    "3": {"class_type": "VAEDecode", "inputs": {}, "_meta": {"title": "VAE Decode"}},
    "4": {"class_type": "VAEDecode", "inputs": {}},
}
EVENTS = [
    {"type": "executing", "data": {"node": "3"}},
    {"type": "executing", "data": {"node": "1"}},
    *({"type": "progress", "data": {"node": "1", "value": step, "max": 4}} for step in (1, 2, 4)),
    {"type": "executing", "data": {"node": None}},
    {"type": "status", "data": {}},
]


class Console(io.StringIO):
    """What is printed, as a terminal or as a file takes it."""

    def __init__(self, is_terminal: bool):
        super().__init__()
        self.is_terminal = is_terminal

    def isatty(self) -> bool:
        return self.is_terminal


def shown(monkeypatch: pytest.MonkeyPatch, is_terminal: bool) -> str:
    console = Console(is_terminal)
    monkeypatch.setattr(sys, "stderr", console)
    monkeypatch.setenv("COLUMNS", "50")
    progress = demo.Progress(PROGRESS_PROMPT)
    for event in EVENTS:
        progress(event)
    progress.end()
    return console.getvalue()


def test_progress_is_a_line_for_each_node_where_there_is_no_terminal(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert shown(monkeypatch, False) == "[demo] VAE Decode\n[demo] the same (KSampler)\n"


def test_progress_on_a_terminal_is_one_line_that_is_written_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    printed = shown(monkeypatch, True)
    assert "\n" not in printed and printed.endswith(f"\r{' ' * 49}\r")
    written = [line.rstrip() for line in printed.split("\r")]
    assert written[:3] == ["", "[demo] VAE Decode", "[demo] the same (KSampler)"]
    # 49 columns have room for 13 of the bar's 24 characters, and no line is broken in two.
    assert written[3:6] == [
        "[demo] the same (KSampler), " + rest
        for rest in ("1 of 4 [######-------", "2 of 4 [############-", "4 of 4 [#############")
    ]
    assert all(len(line) == 49 for line in printed.split("\r")[1:-1])


def test_the_demos_table_stands_in_columns() -> None:
    lines = demo.table(
        [
            demo.Way("50 steps", 100, 12.345, 1.0, None, None),
            demo.Way("4 steps accelerated", 4.0, 0.5, 24.69, 31.25, 0.9),
        ]
    )
    assert lines == [
        "                     evaluations  seconds  times faster  PSNR to the long run",
        "50 steps                     100    12.35           1.0",
        "4 steps accelerated            4     0.50          24.7               31.2 dB",
    ]


def test_the_demo_says_how_to_open_what_is_there() -> None:
    words = demo.in_words([], Path("a.png"), Path("a.webp"), ["the python", "main.py"])
    assert "    'the python' main.py" in words.splitlines() or sys.platform == "win32"
    (graph,) = [Path(line.strip()) for line in words.splitlines() if line.endswith(".json")]
    assert graph.is_file() and graph.parent == host.ROOT / "workflows"


@pytest.fixture
def stand_ins(tmp_path: Path) -> Path:
    """A cache in which the models of the demo are made already: a few bytes each, under the marker
    of finished ones.
    """
    made = tmp_path / "cache" / "stand-in-models"
    made.mkdir(parents=True)
    wanted = host.digest(
        [source.read_text(encoding="utf-8") for source in stand_in_models.MODEL_SOURCES]
    )
    for _, kind in demo.DEMO.models.values():
        (made / f"{kind}.safetensors").write_bytes(b"random weights")
        host.write_marker(made / f"{kind}.json", wanted)
    return made


def test_demo_keeps_a_persons_own_model_and_stands_in_for_the_others(
    stand_ins: Path, tmp_path: Path
) -> None:
    nowhere, workflow, models = (
        host.Host(tmp_path, tmp_path / "python", "0.30.0"),
        api_workflow("sd15_lcm"),
        tmp_path / "models",
    )
    places = [models / folder / name for name, (folder, _) in demo.DEMO.models.items()]
    own, other = places
    own.parent.mkdir(parents=True)
    own.write_bytes(b"a checkpoint that took an hour to download")
    for _ in range(2):
        assert demo.provide_models(nowhere, workflow, models, stand_ins.parent), (
            "the LoRA is stood in for"
        )
        assert own.read_bytes() == b"a checkpoint that took an hour to download"
        assert other.read_bytes() == b"random weights"
    other.unlink()
    other.write_bytes(b"their LoRA")
    assert not demo.provide_models(nowhere, workflow, models, stand_ins.parent), (
        "nothing has random weights now"
    )
    assert other.read_bytes() == b"their LoRA"


def test_a_stand_in_that_was_made_anew_is_the_one_that_is_used(
    stand_ins: Path, tmp_path: Path
) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows makes symbolic links for administrators alone")
    source, target = (
        stand_ins / "sd15-lcm-lora.safetensors",
        tmp_path / "models" / "loras" / "any.safetensors",
    )
    assert stand_in_models.place(source, target)
    (tmp_path / "new").write_bytes(b"better weights")
    (tmp_path / "new").replace(source)
    assert stand_in_models.place(source, target) and target.read_bytes() == b"better weights"


def test_a_link_that_leads_nowhere_is_kept(stand_ins: Path, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("Windows makes symbolic links for administrators alone")
    link, away = tmp_path / "link.safetensors", tmp_path / "unmounted.safetensors"
    link.symlink_to(away)
    assert not stand_in_models.place(stand_ins / "sd15-lcm-lora.safetensors", link)
    assert link.is_symlink() and not away.exists()


def test_where_no_links_can_be_made_the_stand_in_is_copied_once(
    stand_ins: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(source: Path, target: Path) -> None:
        raise OSError("not on this file system")

    monkeypatch.setattr(os, "symlink", refuse)
    monkeypatch.setattr(os, "link", refuse)
    source, target = stand_ins / "sd15-lcm-lora.safetensors", tmp_path / "any.safetensors"
    assert stand_in_models.place(source, target) and stand_in_models.place(source, target)
    assert target.read_bytes() == b"random weights" and not target.samefile(source)


@pytest.fixture
def runner(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """scripts/test.py, whose name is also that of Python's own tests."""
    spec = importlib.util.spec_from_file_location(
        "fewstep_test_script", Path(host.__file__).with_name("test.py")
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(("is_ours", "passed"), [(True, False), (False, None)])
def test_static_tier_may_be_left_out_for_want_of_its_tools_in_a_persons_own_install_alone(
    runner: ModuleType, tmp_path: Path, is_ours: bool, passed: bool | None
) -> None:
    nowhere = host.Host(tmp_path, tmp_path / "python", "0.30.0", owned=is_ours)
    outcome = runner.static_tier(nowhere, runner.parse_arguments([]))
    assert (outcome.passed, outcome.words) == (
        passed,
        f"ruff and mypy not installed in {nowhere.python}",
    )


# What a stand-in for pytest prints: how it was called, and two lines of a run.
PYTEST = (
    "$@ all=$FEWSTEP_ALL_TESTS threads=$OMP_NUM_THREADS .;"
    " echo left out: 3 cases, run with --all; echo = 5 passed in 1.00s ="
)


@pytest.mark.parametrize(
    ("tier", "arguments", "asked"),
    [
        ("pure", [], ["-n 2 --dist worksteal", "all= threads=1 "]),
        ("host", ["-k", "some"], ["-k some -n 2 --dist loadgroup", "all= threads=1 "]),
        ("host", ["--all"], ["--dist loadgroup", "all=1 threads=1 "]),
        ("browser", ["--all"], ["all=1 threads= "]),
    ],
)
def test_a_tier_is_split_over_the_processors_and_says_what_it_left_out(
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    tier: str,
    arguments: list[str],
    asked: list[str],
) -> None:
    monkeypatch.delenv(runner.ALL_TESTS, raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(runner, "processes", lambda: 2)
    own = host.Host(tmp_path, shell_python(tmp_path, PYTEST), "0.30.0")
    outcome = runner.run_pytest(tier, own, ["tests"], runner.parse_arguments(arguments))
    assert outcome == runner.Outcome(
        tier, True, "= 5 passed in 1.00s =; left out: 3 cases, run with --all"
    )
    said = capsys.readouterr().out
    assert [words for words in asked if words not in said] == []
    assert (" -n " in said) == (tier != "browser")


def test_what_a_run_leaves_out_is_listed_with_what_runs_it(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    frontend, oldest = runner.not_asked_for(runner.parse_arguments([]))
    assert (oldest.tier, oldest.passed, oldest.words) == ("oldest", None, "--oldest not given")
    assert frontend == runner.Outcome("frontend", None, "--all not given")
    assert not runner.not_asked_for(runner.parse_arguments(["--all", "--oldest"]))


@pytest.mark.parametrize("name", STDLIB_ONLY)
def test_set_up_script_needs_nothing_installed(name: str) -> None:
    import ast

    path = Path(host.__file__).parent / name
    own = {script.stem for script in path.parent.glob("*.py")}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
        for imported in names:
            assert imported.split(".")[0] in sys.stdlib_module_names | own, imported
