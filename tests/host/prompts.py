"""Nodes and small graphs in API format, for tests and benchmarks that queue them on a server.

A graph's nodes are named "text" and "size"; a model is given as the name of the node it comes from.
"""

from __future__ import annotations

from typing import Any

Node = dict[str, Any]
FROM_GRAPH = {"positive": ["text", 0], "latent_image": ["size", 0]}


def node(kind: str, /, **inputs: Any) -> Node:
    return {"class_type": kind, "inputs": inputs, "_meta": {"title": kind}}


def accelerator(model: str, lora: str = "none", id: str = "auto") -> Node:
    """The Accelerator Loader."""
    return node(
        "FewStepAccelerator", model=[model, 0], lora_name=lora, accelerator=id, strength=1.0
    )


def few_steps(model: str, /, **more: Any) -> Node:
    """The Few-Step Sampler at the accelerator's own steps. more: other inputs, or these with other
    values.
    """
    inputs = {"model": [model, 0], **FROM_GRAPH, "seed": 5, "steps": 0, "denoise": 1.0}
    return node("FewStepSampler", **(inputs | more))


def core_sampler(model: str, /, steps: int, **more: Any) -> Node:
    """Core's KSampler without guidance. more: as of few_steps."""
    inputs = {
        "model": [model, 0],
        **FROM_GRAPH,
        "negative": ["text", 0],
        "seed": 1,
        "steps": steps,
        "cfg": 1.0,
        "sampler_name": "euler",
        "scheduler": "simple",
        "denoise": 1.0,
    }
    return node("KSampler", **(inputs | more))


def sd15(width: int = 64, height: int = 64, batch: int = 1, text_seed: int = 0) -> dict[str, Node]:
    """A small model of SD 1.5's architecture, its text and its size."""
    return {
        "model": node("TestModel", architecture="sd15", seed=0),
        "text": node("TestConditioning", width=768, length=77, seed=text_seed),
        "size": node("EmptyLatentImage", width=width, height=height, batch_size=batch),
    }


def wan_model(file: str) -> Node:
    return node("UNETLoader", unet_name=file, weight_dtype="default")


def wan_inputs(
    length: int, width: int = 64, height: int = 64, text_seed: int = 0
) -> dict[str, Node]:
    """Text for a small Wan, and the size of so many video frames."""
    return {
        "text": node("TestConditioning", width=4096, length=6, seed=text_seed),
        "size": node(
            "EmptyHunyuanLatentVideo", width=width, height=height, length=length, batch_size=1
        ),
    }


def demo_prompt(seed: int, steps: int, frames: int = 1) -> dict[str, Node]:
    """The demo model with its LCM accelerator (1, 2 or 4 steps), the smallest whole run that needs
    no file beside the pack's own; the latent goes into the history, from node "out".
    """
    return {
        "demo": node("FewStepDemo", prompt="a red circle", frames=frames, variant="base"),
        "loader": accelerator("demo", "fewstep-demo/fewstep_demo_lcm.safetensors"),
        "sample": few_steps(
            "loader", positive=["demo", 1], latent_image=["demo", 4], seed=seed, steps=steps
        ),
        "out": node("TestLatentReport", samples=["sample", 0]),
    }
