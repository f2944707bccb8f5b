"""The archive that the registry hands to users: complete, without the workshop, and free of what its scanner flags."""

from __future__ import annotations

import re
import subprocess
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
file_utils = pytest.importorskip("comfy_cli.file_utils")

NEEDED = (
    "__init__.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE", "nodes/accelerator.py", "loras/catalog/__init__.py",
    "samplers/plan.py", "workflows/SD 1.5 LCM.json", "workflows/SD 1.5 LCM.jpg", "workflows/api/sd15_lcm.json",
    "web/docs/FewStepSampler.md", "web/docs/images/FewStepSampler.png", "locales/en/nodeDefs.json",
)  # fmt: skip
UNWANTED = ("tests/", "scripts/", "benchmarks/", ".ci/", ".github/", "shared/")
# What the scanner's rules look for, by the names of its published refusals.
FLAGGED = {
    "network operations": r"\b(urllib|requests|httpx|aiohttp|socket)\b",
    "environment manipulation": r"os\.(environ|getenv|putenv)",
    "command injection": r"\b(subprocess|os\.system|os\.popen)\b",
    "bytecode manipulation": r"importlib\.import_module|\bmarshal\b|types\.CodeType",
    "evaluation": r"\.eval\(|(?<![\w.])(eval|exec)\(",
    "unpickling": r"import pickle|pickle\.load|torch\.load\(",
    "downloads at run time": r"pip\.main|.-m., .pip.|hf_hub_download|snapshot_download|from_pretrained",
}
LARGEST = 40 << 20


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The archive as comfy-cli packs it, of the files as they are now."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
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
    assert [name for name in archive.namelist() if name.startswith("demo/") and name.endswith(".py")] == []


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


def test_registry_reads_our_project_file() -> None:
    parser = pytest.importorskip("comfy_cli.registry.config_parser")
    config = parser.extract_node_configuration(str(ROOT / "pyproject.toml"))
    assert re.fullmatch(r"[a-z][a-z0-9-]*", config.project.name)
    assert re.fullmatch(r"\d+\.\d+\.\d+", config.project.version)
    assert config.tool_comfy.publisher_id and config.tool_comfy.display_name and config.tool_comfy.icon.startswith("https://")
    assert config.project.urls.repository.startswith("https://")
    # One comparator: the Manager's own check understands no comma and no space.
    assert re.fullmatch(r">=\d+\.\d+\.\d+", config.project.supported_comfyui_version)
