"""Make a ComfyUI tree importable in this process, the way its own main.py would."""

from __future__ import annotations

import sys
from pathlib import Path


def enter_host(root: Path) -> None:
    """Put the ComfyUI tree on the path and settle the device before anything of it is imported.

    comfy.model_management chooses its device while it is imported, so the CPU has to be asked for
    first.
    """
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    import torch
    from comfy.cli_args import args

    if not torch.cuda.is_available():
        args.cpu = True
