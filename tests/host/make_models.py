"""Write a stand-in model to a file: `COMFYUI_PATH=... python make_models.py KIND FILE`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from enter_host import enter_host


def make(kind: str, path: Path) -> None:
    """Write the file. Raises KeyError for a kind that is not known."""
    import torch

    from small_loras import Target, write_lora
    from small_models import write_flux, write_sd15_checkpoint, write_wan, write_wan_vae

    makers = {
        "sd15-checkpoint": lambda: write_sd15_checkpoint(path),
        "sd15-lcm-lora": lambda: write_lora(
            path,
            Target.full_sd15(),
            "kohya-diffusers",
            rank=64,
            alpha=64.0,
            size=0.01,
            dtype=torch.float16,
        ),
        "wan21-t2v": lambda: write_wan(path),
        "wan22-i2v": lambda: write_wan(path, "wan22_i2v"),
        "wan-vae": lambda: write_wan_vae(path),
        "flux": lambda: write_flux(path),
    }
    makers[kind]()


if __name__ == "__main__":
    enter_host(Path(os.environ["COMFYUI_PATH"]))
    make(sys.argv[1], Path(sys.argv[2]))
