"""Nodes for the tests' own server: small models and random conditioning, which no shipped node can provide."""

from __future__ import annotations

import hashlib
import sys
import zlib
from pathlib import Path

from comfy_api.v0_0_2 import ComfyExtension, io

# The folder is linked into a server's custom_nodes; small_models.py lies beside its real place.
sys.path.append(str(Path(__file__).resolve().parent.parent))


# Keys of small_models.UNETS and more_models.SMALL, which cannot be imported before the server has set its device.
UNETS = ("sd15", "sdxl", "ssd1b")
TRANSFORMERS = ("Flux", "FluxSchnell", "Flux2", "QwenImage", "ZImage", "HunyuanVideo15", "LTXAV", "MiniMaxH3")


class TestModel(io.ComfyNode):
    """A MODEL with random weights at small width: the host detects these architectures at full width only."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestModel",
            category="few-step/test",
            inputs=[io.Combo.Input("architecture", options=[*UNETS, *TRANSFORMERS]), io.Int.Input("seed", default=0)],
            outputs=[io.Model.Output()],
        )

    @classmethod
    def execute(cls, architecture: str, seed: int) -> io.NodeOutput:
        from more_models import small_patcher
        from small_models import unet_patcher

        return io.NodeOutput((unet_patcher if architecture in UNETS else small_patcher)(architecture, seed))


class TestConditioning(io.ComfyNode):
    """Random CONDITIONING of a given width: 768 for SD 1.5, 2048 for SDXL, 4096 for Wan and Flux."""

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
        return io.Schema(node_id="TestAudioLatent", category="few-step/test", inputs=[], outputs=[io.Latent.Output()])

    @classmethod
    def execute(cls) -> io.NodeOutput:
        import torch

        return io.NodeOutput({"samples": torch.zeros(1, 8, 5, 16), "type": "audio"})


class TestPrompt(io.ComfyNode):
    """CONDITIONING that follows from a text, as a text encoder's does. The text "fail" fails."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="TestPrompt",
            category="few-step/test",
            inputs=[io.String.Input("text", multiline=True), io.Int.Input("width", default=4096, min=1, max=8192)],
            outputs=[io.Conditioning.Output()],
        )

    @classmethod
    def execute(cls, text: str, width: int) -> io.NodeOutput:
        from small_models import conditioning

        if text == "fail":
            raise ValueError("this prompt fails")
        return io.NodeOutput(conditioning(seed=zlib.crc32(text.encode()), width=width, length=8))


class TestLatentReport(io.ComfyNode):
    """Puts what a LATENT holds into the history: shape, mean, deviation and a hash that only equal bits share."""

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


class TestSupport(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return [TestModel, TestConditioning, TestPrompt, TestAudioLatent, TestLatentReport]


async def comfy_entrypoint() -> TestSupport:
    return TestSupport()
