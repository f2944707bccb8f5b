"""The pack's own data, for the scripts: its catalogue and its version."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACK = "comfyui_fewstep"


def load_pack() -> None:
    """Import the repository root as a package without putting it on the path, where its folders
    would hide the host's.
    """
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)


def project_value(name: str) -> str:
    """A value of pyproject.toml's [project]."""
    # Here and not above: people who only compare workflows need no tomli on Python 3.10.
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"][name]


if PACK not in sys.modules:
    load_pack()

from comfyui_fewstep.loras.catalog import CATALOG  # noqa: E402

__all__ = ["CATALOG", "project_value"]
