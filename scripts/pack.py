"""The pack's own data, for the scripts: its catalogue and its version."""

from __future__ import annotations

import sys

from pack_loader import PACK, ROOT, load_pack


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
