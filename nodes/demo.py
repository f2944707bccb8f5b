"""FewStepDemo: a small text-to-video model of our own, with everything it takes to sample it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from comfy_api.v0_0_2 import io
from torch import Tensor

from ..loras.accelerator import Accelerator
from ..loras.catalog import CATALOG
from .host.attach import attach_lora, with_record
from .host.files import add_to_folder, load_diffusion_model, load_tensors, load_vae
from .host.model import FACTS_KEY, ModelFacts, with_shift
from .host.stream import require_causal_wan
from .host.word_clip import load_word_clip

FOLDER = Path(__file__).resolve().parent.parent / "demo"
LORAS = FOLDER / "loras"
BASE = "fewstep_demo_wan.safetensors"
VAE = "fewstep_demo_vae.safetensors"


@dataclass(frozen=True)
class Variant:
    """What makes a model of the base: a LoRA merged into it, the file's settings, its record."""

    delta: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    record: Accelerator | None = None


VARIANTS = {
    "base": Variant(),
    # The host knows a causal Wan by its file saying so: the weights have the same names and shapes.
    "causal": Variant(
        "fewstep_demo_causal.safetensors",
        {"transformer": {"causal_ar": True}},
        CATALOG["fewstep-demo-causal"],
    ),
}

WORDS = "demo.word_embeddings"
# The shift it was trained to be sampled at; the host's own for Wan is 8.
SHIFT = 5.0
LATENT_SIDE = 8  # 64 pixels
FRAME_RATE = 8.0  # at which the workflows with it play its clips
# The parts of every sentence it was trained on, in their order; an empty one is left out.
SENTENCE = (
    ("a",),
    ("", "small", "big"),
    ("red", "green", "blue", "yellow", "purple", "white"),
    ("circle", "square", "triangle"),
    (
        *(f"moving {direction}" for direction in ("left", "right", "up", "down")),
        "growing",
        "shrinking",
        "standing still",
    ),
    ("", *(f"on a {kind} background" for kind in ("dark", "grey", "striped", "gradient"))),
)
SENTENCES = [" ".join(filter(None, parts)) for parts in itertools.product(*SENTENCE)]


class FewStepDemo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepDemo",
            display_name="Demo Model",
            category="few-step",
            description=(
                "A tiny Wan text-to-video model that comes with the pack: coloured shapes that"
                " move, 64 x 64 pixels. Runs on any machine in seconds. Its two accelerators are in"
                " the Accelerator Loader's list."
            ),
            search_aliases=["demo", "example", "test model", "tiny wan"],
            inputs=[
                io.String.Input(
                    "prompt",
                    default="a yellow triangle moving left on a striped background",
                    multiline=False,
                    tooltip=(
                        "A small or big, coloured circle, square or triangle, moving left, right,"
                        " up or down, growing, shrinking or standing still, on a dark, grey,"
                        " striped or gradient background. Other words are refused with the list of"
                        " those it knows."
                    ),
                ),
                io.Int.Input(
                    "frames",
                    default=17,
                    min=1,
                    max=1025,
                    step=4,
                    tooltip="Length of the clip. 17 is what it was trained on; 1 gives a picture.",
                ),
                io.Combo.Input(
                    "variant",
                    options=list(VARIANTS),
                    default="base",
                    tooltip=(
                        "base is the undistilled model: 50 steps at CFG 5, or 4 steps with one of"
                        " its accelerators. causal makes one frame after another, the first in 8"
                        " steps and every other in 4, for the Streaming Sampler."
                    ),
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model",
                    tooltip="For the Accelerator Loader, or KSampler with 50 steps at CFG 5.",
                ),
                io.Conditioning.Output(display_name="positive", tooltip="The prompt."),
                io.Conditioning.Output(
                    display_name="negative", tooltip="The empty prompt it was trained with."
                ),
                io.Vae.Output(display_name="vae", tooltip="Its own VAE, for VAE Decode."),
                io.Latent.Output(
                    display_name="latent", tooltip="An empty latent of the right size."
                ),
                io.Clip.Output(
                    display_name="clip",
                    tooltip=(
                        "Its words, for CLIP Text Encode, and for texts sent while the Streaming"
                        " Sampler runs."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, prompt: str, frames: int, variant: str) -> io.NodeOutput:
        tensors, metadata = load_tensors(str(FOLDER / BASE))
        table, text = tensors[WORDS], json.loads(metadata["fewstep_demo"])
        positive, negative = (embed(words, table, text) for words in (prompt, ""))
        latent = torch.zeros(1, 16, (frames - 1) // 4 + 1, LATENT_SIDE, LATENT_SIDE)
        return io.NodeOutput(
            load_model(variant),
            [[positive, {}]],
            [[negative, {}]],
            load_vae(str(FOLDER / VAE)),
            {"samples": latent},
            load_word_clip(table, lambda words: rows_of(words, text)),
        )


class FewStepDemoPrompts(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepDemoPrompts",
            display_name="Demo Prompts",
            category="few-step",
            description=(
                "Many prompts for the Demo Model at once, all different: what Distil Accelerator"
                " learns from."
            ),
            search_aliases=["demo", "example", "prompts", "training prompts"],
            inputs=[
                io.Int.Input(
                    "count",
                    default=512,
                    min=1,
                    max=len(SENTENCES),
                    tooltip=(
                        "How many of the sentences that the model knows. More make an accelerator"
                        " that follows prompts it has not seen better."
                    ),
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="prompts",
                    tooltip=(
                        "All of them, for Distil Accelerator's positive. Not for a sampler, which"
                        " would mix them."
                    ),
                ),
            ],
        )

    @classmethod
    def execute(cls, count: int) -> io.NodeOutput:
        tensors, metadata = load_tensors(str(FOLDER / BASE))
        text = json.loads(metadata["fewstep_demo"])
        order = torch.randperm(len(SENTENCES), generator=torch.Generator().manual_seed(0))
        chosen = [SENTENCES[place] for place in order[:count].tolist()]
        # In half precision: there are many.
        return io.NodeOutput(
            [[embed(sentence, tensors[WORDS], text).half(), {}] for sentence in chosen]
        )


def offer_loras() -> None:
    """Put the demo's accelerators into the list of every LoRA loader, in a folder that says so."""
    add_to_folder("loras", str(LORAS))


def embed(prompt: str, table: Tensor, text: dict) -> Tensor:
    """The conditioning (1, L, 4096) of a prompt: one table row per word, then the empty word.

    Raises ValueError for a word outside the vocabulary, with the vocabulary, and for too many
    words.
    """
    return table[rows_of(prompt, text)].float().unsqueeze(0)


def rows_of(prompt: str, text: dict) -> list[int]:
    """The table's rows for a prompt. Raises ValueError as embed does."""
    vocabulary, length = text["vocabulary"], text["sentence_length"]
    words = prompt.lower().replace(",", " ").replace(".", " ").split()
    unknown = [word for word in words if word not in vocabulary]
    if unknown:
        raise ValueError(
            f"The demo model does not know {', '.join(unknown)}. It knows:"
            f" {', '.join(filter(None, vocabulary))}."
        )
    if len(words) > length:
        raise ValueError(
            f"The demo model reads up to {length} words, and the prompt has {len(words)}. Leave"
            " some out."
        )
    empty = [vocabulary.index("")] * (length - len(words))
    return [vocabulary.index(word) for word in words] + empty


def load_model(variant: str, disable_dynamic: bool = False):
    """The host's MODEL of a variant, registered so that the host can load it again."""
    chosen = VARIANTS[variant]
    tensors, metadata = load_tensors(str(FOLDER / BASE))
    tensors.pop(WORDS)
    facts = ModelFacts(json.loads(metadata["fewstep_demo"])["sentence_length"], FRAME_RATE)
    if chosen.config:
        require_causal_wan()
        metadata = {**metadata, "config": json.dumps(chosen.config)}
    model = load_diffusion_model(tensors, metadata, disable_dynamic)
    model.cached_patcher_init = (load_model, (variant,))
    model.set_attachments(FACTS_KEY, facts)
    model = with_shift(model, SHIFT)
    if chosen.delta:
        delta, _ = load_tensors(str(FOLDER / chosen.delta))
        model, _ = attach_lora(model, delta, 1.0)
    return model if chosen.record is None else with_record(model, chosen.record)


NODES = [FewStepDemo, FewStepDemoPrompts]
