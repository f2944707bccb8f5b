"""Import the pack as ComfyUI does, under a fixed name, for scripts, benchmarks and tests."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
PACK = "comfyui_fewstep"


def load_pack(root: Path = ROOT) -> ModuleType:
    """Import the repository root as `comfyui_fewstep`, without putting it on the path.

    On the path, its folders would hide ComfyUI's modules of the same names.
    """
    spec = importlib.util.spec_from_file_location(
        PACK, root / "__init__.py", submodule_search_locations=[str(root)]
    )
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = module
    spec.loader.exec_module(module)
    return module
