"""The demo model as a graph: the smallest whole run that needs no file beside the pack's own."""

from __future__ import annotations

from typing import Any


def demo_prompt(seed: int, steps: int, frames: int = 1) -> dict[str, Any]:
    """The demo model with its LCM accelerator (1, 2 or 4 steps); the latent goes into the history,
    from node "out".
    """
    return {
        "demo": {
            "class_type": "FewStepDemo",
            "inputs": {"prompt": "a red circle", "frames": frames, "variant": "base"},
        },
        "loader": {
            "class_type": "FewStepAccelerator",
            "inputs": {
                "model": ["demo", 0],
                "lora_name": "fewstep_demo_lcm.safetensors",
                "accelerator": "auto",
                "strength": 1.0,
            },
        },
        "sample": {
            "class_type": "FewStepSampler",
            "inputs": {
                "model": ["loader", 0],
                "positive": ["demo", 1],
                "latent_image": ["demo", 4],
                "seed": seed,
                "steps": steps,
                "denoise": 1.0,
            },
        },
        "out": {"class_type": "TestLatentReport", "inputs": {"samples": ["sample", 0]}},
    }
