"""Nodes for the tests' own server: small models and random conditioning, which no shipped node can
provide.
"""

from __future__ import annotations

import hashlib
import itertools
import socket
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

from comfy_api.v0_0_2 import ComfyExtension, io

# The folder is linked into a server's custom_nodes; small_models.py lies beside its real place.
sys.path.append(str(Path(__file__).resolve().parent.parent))

# A run that waits longer than this for its test goes on, and the test fails.
PATIENCE_SECONDS = 300

# Keys of small_models.UNETS and more_models.SMALL, which cannot be imported before the server has
# set its device.
UNETS = ("sd15", "sdxl", "ssd1b")
TRANSFORMERS = (
    "Flux",
    "FluxSchnell",
    "Flux2",
    "QwenImage",
    "ZImage",
    "HunyuanVideo15",
    "LTXAV",
    "MiniMaxH3",
)


class TestModel(io.ComfyNode):
    """A MODEL with random weights at small width: the host detects these architectures at full
    width only.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestModel",
            category="few-step/test",
            inputs=[
                io.Combo.Input("architecture", options=[*UNETS, *TRANSFORMERS]),
                io.Int.Input("seed", default=0),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, architecture: str, seed: int) -> io.NodeOutput:
        from more_models import small_patcher
        from small_models import unet_patcher

        return io.NodeOutput(
            (unet_patcher if architecture in UNETS else small_patcher)(architecture, seed)
        )


class TestConditioning(io.ComfyNode):
    """Random CONDITIONING of a width: 768 for SD 1.5, 2048 for SDXL, 4096 for Wan and Flux."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestConditioning",
            category="few-step/test",
            inputs=[
                io.Int.Input("width", default=4096, min=1, max=8192),
                io.Int.Input("length", default=77, min=1, max=4096),
                io.Int.Input("seed", default=0),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, width: int, length: int, seed: int) -> io.NodeOutput:
        from small_models import conditioning

        return io.NodeOutput(conditioning(seed=seed, width=width, length=length))


class TestAudioLatent(io.ComfyNode):
    """An empty sound LATENT of the small LTX-2, whose sound VAE cannot be made small."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestAudioLatent",
            category="few-step/test",
            inputs=[],
            outputs=[io.Latent.Output()],
        )

    @classmethod
    def execute(cls) -> io.NodeOutput:
        import torch

        return io.NodeOutput({"samples": torch.zeros(1, 8, 5, 16), "type": "audio"})


def wait_while(is_so: Callable[[], bool]) -> None:
    """Return once it is not so any more, or patience is at its end."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while is_so() and time.monotonic() < deadline:
        time.sleep(0.02)


class TestPrompt(io.ComfyNode):
    """CONDITIONING that follows from a text, as a text encoder's does. The text "fail" fails.

    The text in input/hold.txt, if there is one, waits until that file is gone.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPrompt",
            category="few-step/test",
            inputs=[
                io.String.Input("text", multiline=True),
                io.Int.Input("width", default=4096, min=1, max=8192),
            ],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, text: str, width: int) -> io.NodeOutput:
        import folder_paths

        from small_models import conditioning

        if text == "fail":
            raise ValueError("this prompt fails")
        hold = Path(folder_paths.get_input_directory()) / "hold.txt"
        wait_while(lambda: hold.exists() and hold.read_text(encoding="utf-8") == text)
        return io.NodeOutput(conditioning(seed=zlib.crc32(text.encode()), width=width, length=8))


class TestLatentReport(io.ComfyNode):
    """Puts what a LATENT holds into the history: shape, mean, deviation and a hash that only equal
    bits share.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestLatentReport",
            category="few-step/test",
            inputs=[io.Latent.Input("samples")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, samples: dict) -> io.NodeOutput:
        latent = samples["samples"].float().cpu().contiguous()
        summary = {
            "shape": list(latent.shape),
            "mean": latent.mean().item(),
            "deviation": latent.std().item(),
            "sha256": hashlib.sha256(latent.numpy().tobytes()).hexdigest(),
        }
        return io.NodeOutput(ui={"test_latent": [summary]})


class TestNetwork(io.ComfyNode):
    """Tries to reach another machine, as no node of the pack ever should. The address is one that
    is set aside for examples.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestNetwork",
            category="few-step/test",
            inputs=[io.String.Input("address", default="192.0.2.1")],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, address: str) -> io.NodeOutput:
        socket.create_connection((address, 80), timeout=1).close()
        return io.NodeOutput()


class TestFault(io.ComfyNode):
    """A model whose evaluation of this number, from 1, goes wrong. Another `run` is another model,
    whatever the server remembers.

    "wait" lets it wait until the run is interrupted: however fast the machine and slow the client,
    the interrupt comes in the middle. Where input/go.txt is, it waits for nothing.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestFault",
            category="few-step/test",
            inputs=[
                io.Model.Input("model"),
                io.Combo.Input("kind", options=["exception", "out of memory", "wait"]),
                io.Int.Input("evaluation", default=1, min=1),
                io.Int.Input("run", default=0),
            ],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, model, kind: str, evaluation: int, run: int) -> io.NodeOutput:
        import folder_paths
        import torch
        from comfy.model_management import processing_interrupted

        evaluations, go = itertools.count(1), Path(folder_paths.get_input_directory()) / "go.txt"

        def wrapper(apply_model, args):
            is_the_one = next(evaluations) == evaluation
            if is_the_one and kind == "wait":
                wait_while(lambda: not processing_interrupted() and not go.exists())
            elif is_the_one:
                raise (
                    torch.OutOfMemoryError("tried to allocate 20 GiB")
                    if kind == "out of memory"
                    else RuntimeError("the network broke")
                )
            return apply_model(args["input"], args["timestep"], **args["c"])

        patched = model.clone()
        patched.set_model_unet_function_wrapper(wrapper)
        return io.NodeOutput(patched)


class TestMemory(io.ComfyNode):
    """What is alive in the server once every model is unloaded: bytes of tensors, and MODELs.
    Another `run` looks again.
    """

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestMemory",
            category="few-step/test",
            inputs=[io.Int.Input("run", default=0)],
            outputs=[],
            is_output_node=True,
        )

    @classmethod
    def execute(cls, run: int) -> io.NodeOutput:
        import gc

        import comfy.model_management
        from comfy.model_patcher import ModelPatcher

        from left_behind import live_bytes

        comfy.model_management.unload_all_models()
        alive = live_bytes()
        models = sum(isinstance(thing, ModelPatcher) for thing in gc.get_objects())
        return io.NodeOutput(ui={"test_memory": [{"bytes": alive, "models": models}]})


class TestSupport(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [
            TestModel,
            TestConditioning,
            TestPrompt,
            TestAudioLatent,
            TestLatentReport,
            TestNetwork,
            TestFault,
            TestMemory,
        ]


async def comfy_entrypoint() -> TestSupport:
    return TestSupport()
