"""Measure the demo's teacher and students through the real host's loaders and samplers.

    COMFYUI_PATH=<ComfyUI> <its python> demo/evaluate.py --prompts 200

Prints, per way of sampling: evaluations per clip, the share of prompts whose colour, shape and
motion are read back right (demo/measure.py), PSNR to the teacher's clip from the same noise, and
seconds per clip.
"""

import argparse
import random
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

import clips
import host
import measure
from train_base import word_table

SHIFT = 5.0
BATCH = 20
BASE = host.ASSETS / "fewstep_demo_wan.safetensors"


@dataclass(frozen=True)
class Way:
    """One way of sampling. lora: a file in demo/, or empty for the plain base."""

    name: str
    steps: int
    cfg: float
    lora: str = ""
    sampler: str = "euler"

    @property
    def nfe(self) -> int:
        """Evaluations per clip: guidance costs a second one per step."""
        return self.steps * (1 if self.cfg == 1.0 else 2)


ODE, LCM = "fewstep_demo_lightx2v_4step.safetensors", "fewstep_demo_lcm.safetensors"
WAYS = (
    Way("teacher", 50, 5.0),
    Way("teacher, 25 steps", 25, 5.0),
    Way("plain 4 steps, guided", 4, 5.0),
    Way("plain 4 steps", 4, 1.0),
    Way("ODE student", 4, 1.0, ODE),
    Way("ODE student, guidance left at 5", 4, 5.0, ODE),
    Way("re-noise student, 1 step", 1, 1.0, LCM, "lcm"),
    Way("re-noise student, 2 steps", 2, 1.0, LCM, "lcm"),
    Way("re-noise student, 4 steps", 4, 1.0, LCM, "lcm"),
)


def load_base(path: Path = BASE):
    """The host's MODEL, detected and loaded from the file, with the shift the students were trained
    at.
    """
    import comfy.sd
    import comfy.utils
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3

    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    weights.pop("demo.word_embeddings")  # the host would load the rest, and warn about this one
    model = comfy.sd.load_diffusion_model_state_dict(weights, metadata=metadata)
    return ModelSamplingSD3().patch(model, SHIFT)[0]


def with_lora(model, path: Path):
    """MODEL with a LoRA file at strength 1 by the host's own loader."""
    import comfy.sd
    import comfy.utils

    return comfy.sd.load_lora_for_models(
        model, None, comfy.utils.load_torch_file(str(path)), 1.0, 0.0
    )[0]


def prompts(count: int, seed: int = 1000) -> list[str]:
    """Sentences of scenes that training never drew."""
    rng = random.Random(seed)
    return [clips.draw_sentence(clips.draw_scene(rng), rng) for _ in range(count)]


def sample(model, way: Way, sentences: list[str], seed: int, latent_frames: int = 5) -> Tensor:
    """Latents (B, 16, T, 8, 8) as the diffusion model sees them, by the host's common sampling
    function.
    """
    import comfy.sample

    noise = torch.randn(
        len(sentences), 16, latent_frames, 8, 8, generator=torch.Generator().manual_seed(seed)
    )
    table = word_table()
    positive = table[torch.tensor([clips.word_ids(sentence) for sentence in sentences])]
    negative = table[torch.tensor([clips.word_ids("")])]
    latent = comfy.sample.sample(
        model,
        noise,
        way.steps,
        way.cfg,
        way.sampler,
        "simple",
        [[positive, {}]],
        [[negative, {}]],
        torch.zeros_like(noise),
        disable_pbar=True,
        seed=seed,
    )
    return model.model.process_latent_in(latent)


def psnr(videos: Tensor, reference: Tensor) -> float:
    """Mean over clips of the PSNR in dB; clips (B, 3, T, H, W) in [0, 1]."""
    return (-10 * (videos - reference).square().mean((1, 2, 3, 4)).log10()).mean().item()


def run(model, vae: torch.nn.Module, way: Way, sentences: list[str]) -> tuple[Tensor, float]:
    """Decoded clips and the seconds that sampling alone took."""
    latents, seconds = [], 0.0
    for begin in range(0, len(sentences), BATCH):
        started = time.perf_counter()
        latents.append(sample(model, way, sentences[begin : begin + BATCH], seed=begin))
        seconds += time.perf_counter() - started
    return host.decode(vae, torch.cat(latents)), seconds


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--prompts", type=int, default=200)
    parser.add_argument(
        "--ways", nargs="*", type=int, help="numbers of the rows to run; the teacher is row 0"
    )
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    host.connect(options.device, training=False)

    vae = host.load_vae(host.ASSETS / "fewstep_demo_vae.safetensors")
    sentences, reference = prompts(options.prompts), None
    print("| way | NFE | right | PSNR to teacher | seconds per clip |\n|---|---|---|---|---|")
    for way in WAYS if options.ways is None else [WAYS[index] for index in options.ways]:
        if way.lora and not (host.LORAS / way.lora).exists():
            continue
        model = load_base()
        if way.lora:
            model = with_lora(model, host.LORAS / way.lora)
        videos, seconds = run(model, vae, way, sentences)
        reference = videos if reference is None else reference
        right = measure.accuracy(videos, sentences)
        closeness = "" if reference is videos else f"{psnr(videos, reference):.1f} dB"
        print(
            f"| {way.name} | {way.nfe} | {right:.1%} | {closeness} |"
            f" {seconds / len(sentences):.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
