"""Continuous integration: what .ci/run looks at after the demo, and what it lets be found."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TABLE = """\
                            evaluations  seconds  times faster  PSNR to the long run
50 steps, CFG 5                     100    10.98           1.0
4 steps accelerated                   4     0.56          19.6               33.3 dB
4 steps plain                         4     0.67          16.3               17.5 dB
4 steps accelerated, CFG 5            8     1.32           8.3               17.8 dB
"""


@pytest.fixture(scope="module")
def check() -> ModuleType:
    spec = importlib.util.spec_from_file_location("check_demo", ROOT / ".ci" / "check_demo.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def noise(width: int, height: int, seed: int) -> Image.Image:
    values = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with a picture and a clip of the sizes that the demo makes."""
    home = tmp_path_factory.mktemp("home")
    noise(996, 862, 0).save(home / "picture.png")
    frames = [noise(768, 214, seed) for seed in range(17)]
    frames[0].save(home / "clip.webp", save_all=True, append_images=frames[1:], quality=1)
    return home


def printed(home: Path, picture: str = "picture.png", clip: str = "clip.webp") -> str:
    return f"{TABLE}\npicture: {home / picture}\nclip:    {home / clip}\n"


def test_a_whole_demo_has_no_problems(check: ModuleType, made: Path) -> None:
    assert list(check.problems_of(printed(made), made)) == []


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (lambda text: text.replace("  100 ", "   50 "), "50 steps, CFG 5 took 50 evaluations"),
        (lambda text: text.replace(" 4     0.56", " 8     0.56"), "accelerated took 8 evaluations"),
        (lambda text: text.replace("19.6", " 0.9"), "0.9 times as fast as the long run"),
        (lambda text: text.replace("33.3", "11.0"), "not nearest to the long run"),
        (lambda text: text.replace("4 steps plain", "4 steps"), "the table has rows for 50 steps"),
        (lambda text: text.replace("picture:", "result:"), "no picture is named"),
        (lambda text: text.replace("clip.webp", "gone.webp"), "gone.webp is not there"),
        (lambda text: text.replace("picture.png", "clip.webp"), "the picture is no PNG"),
        (lambda text: text.replace("clip.webp", "picture.png"), "the clip is no animated WEBP"),
    ],
)
def test_a_demo_that_is_not_whole_is_told(
    check: ModuleType, made: Path, change: Callable[[str], str], problem: str
) -> None:
    found = list(check.problems_of(change(printed(made)), made))
    assert len(found) == 1 and problem in found[0]


def test_a_blank_picture_of_another_size_and_a_short_clip_are_told(
    check: ModuleType, tmp_path: Path
) -> None:
    Image.new("RGB", (996, 860)).save(tmp_path / "picture.png")
    frames = [noise(766, 214, seed) for seed in range(3)]
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:], quality=1)
    found = "\n".join(check.problems_of(printed(tmp_path), tmp_path))
    assert "the picture is (996, 860)" in found and "it is blank" in found
    assert "the clip is (766, 214)" in found and "the clip has 3 frames" in found


def test_what_an_earlier_run_left_elsewhere_does_not_count(
    check: ModuleType, made: Path, tmp_path: Path
) -> None:
    found = list(check.problems_of(printed(made), tmp_path))
    assert len(found) == 2 and all("lies outside" in problem for problem in found)


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A folder with a python3 of its own: it writes down its environment and what it is asked to
    run, and fails where it is asked to run the script that FAILING in its folder names.
    """
    if sys.platform == "win32":
        pytest.skip("runs a shell script")
    folder = tmp_path / "bin"
    folder.mkdir()
    python = folder / "python3"
    python.write_text(
        "#!/bin/sh\n"
        f'echo "$@" >>"{folder}/ran"\n'
        f'case "$1" in -c) echo "{folder}/ordinary cache";; scripts/demo.py|scripts/test.py)'
        f' env >"{folder}/$(basename "$1").env"; ls -A "$HOME" >"{folder}/home";; esac\n'
        f'[ "$1" != "$(cat "{folder}/failing" 2>/dev/null)" ]\n'
    )
    python.chmod(0o755)
    return folder


def ci(stand_in: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """.ci/run on a machine full of what it must not find."""
    environment = {
        "PATH": f"{stand_in}:/usr/bin:/bin",
        "HOME": str(tmp_path / "somebody"),
        "FEWSTEP_CI_FOLDER": str(tmp_path / "work"),
        "COMFYUI_PATH": "/somewhere",
        "COMFYUI_FEWSTEP_CACHE": "/somewhere",
        "PYTHONPATH": "/somewhere",
        "XDG_CACHE_HOME": "/somewhere",
        "PIP_CACHE_DIR": "/downloads",
        "HTTPS_PROXY": "http://proxy",
    }
    (tmp_path / "work").mkdir()
    return subprocess.run(
        [ROOT / ".ci" / "run", "--tier", "pure"],
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_ci_runs_the_demo_from_nothing_and_then_the_tests(stand_in: Path, tmp_path: Path) -> None:
    ended = ci(stand_in, tmp_path)
    assert ended.returncode == 0, ended.stderr
    ran = (stand_in / "ran").read_text().splitlines()
    demo, checked, tests = ran[-3:]
    assert demo == "scripts/demo.py", "as the README has it"
    assert checked.startswith(".ci/check_demo.py ")
    assert tests == (
        f"scripts/test.py --all --oldest --oldest-cache {stand_in}/ordinary cache --tier pure"
    )
    for script in ("demo.py", "test.py"):
        lines = (stand_in / f"{script}.env").read_text().splitlines()
        found = dict(line.split("=", 1) for line in lines)
        assert found.pop("HOME").startswith(str(tmp_path / "work"))
        assert found.pop("TMPDIR").startswith(str(tmp_path / "work"))
        assert found.pop("PATH").startswith(str(stand_in))
        assert set(found) - {"PWD", "OLDPWD", "SHLVL", "_"} == {
            "PIP_CACHE_DIR",
            "PYTHONNOUSERSITE",
            "HTTPS_PROXY",
        }
    assert (stand_in / "home").read_text() == "", "its home folder is empty"
    assert not os.listdir(tmp_path / "work"), "and removed at the end"


@pytest.mark.parametrize("failing", ["scripts/demo.py", ".ci/check_demo.py", "scripts/test.py"])
def test_ci_fails_where_one_of_them_fails_and_removes_its_folder(
    stand_in: Path, tmp_path: Path, failing: str
) -> None:
    (stand_in / "failing").write_text(failing)
    assert ci(stand_in, tmp_path).returncode == 1
    last = (stand_in / "ran").read_text().splitlines()[-1]
    assert last.startswith(failing), "nothing runs after it"
    assert not os.listdir(tmp_path / "work")
