"""A second trained model, unlike the demo's: a small noise-predicting UNet on the demo's world.

Step Skip's settings were chosen with the demo's flow transformer and the mixtures at hand; this
model came after them, so it shows what they are worth elsewhere. It is trained where it is first
asked for and kept in the cache folder.
"""

from __future__ import annotations

import os
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from comfyui_fewstep.nodes.host.distil import training
from in_host import demo_scripts
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from small_models import unet_patcher

with demo_scripts():
    import clips

CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    / "comfyui-fewstep"
    / "trained-unet"
)
SEED = 31
STEPS, BATCH, RATE = 1200, 32, 1e-3
WARM_UP = 100  # steps
DROPOUT = 0.1  # share of pictures with the empty prompt
AVERAGE_DECAY = 0.998
BLOCK, CHANNELS = 4, 4  # a latent is 4 numbers for 4 x 4 pixels, as an SD latent is 4 for 8 x 8
PICTURES_FOR_CODE = 512
TEXT_WIDTH = 768
# Two resolutions, one block at each, and as in SDXL no attention at the higher one.
UNET = {
    "model_channels": 64,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [0, 1],
    "transformer_depth_output": [0, 0, 1, 1],
}


def scenes_of(rng: random.Random, count: int) -> tuple[Tensor, Tensor]:
    """Pictures (B, 3, 64, 64) in [-1, 1] and the words (B, L) of their sentences."""
    scenes = [clips.draw_scene(rng) for _ in range(count)]
    words = [clips.word_ids(clips.draw_sentence(scene, rng)) for scene in scenes]
    return clips.render(scenes, 1)[:, :, 0], torch.tensor(words)


def word_table() -> Tensor:
    """Fixed random embeddings (V, 768) of the demo's words."""
    return torch.randn(
        len(clips.VOCABULARY), TEXT_WIDTH, generator=torch.Generator().manual_seed(SEED)
    )


@dataclass(frozen=True)
class Code:
    """A linear code for 4 x 4 blocks of pixels: principal components of variance 1."""

    mean: Tensor  # (48,)
    basis: Tensor  # (4, 48), orthogonal rows
    deviation: Tensor  # (4,)

    @classmethod
    def fit(cls) -> Code:
        pictures, _ = scenes_of(random.Random(SEED), PICTURES_FOR_CODE)
        rows = (
            torch.nn.functional.pixel_unshuffle(pictures, BLOCK)
            .movedim(1, -1)
            .reshape(-1, 3 * BLOCK**2)
        )
        mean = rows.mean(0)
        basis = torch.linalg.svd(rows - mean, full_matrices=False).Vh[:CHANNELS]
        return cls(mean, basis, ((rows - mean) @ basis.T).std(0))

    def encode(self, pictures: Tensor) -> Tensor:
        """Pictures (B, 3, 64, 64) in [-1, 1] -> latents (B, 4, 16, 16)."""
        rows = torch.nn.functional.pixel_unshuffle(pictures, BLOCK).movedim(1, -1)
        return ((rows - self.mean) @ self.basis.T / self.deviation).movedim(-1, 1)

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, 4, 16, 16) -> pictures (B, 3, 64, 64) in [0, 1]."""
        rows = (latents.movedim(1, -1) * self.deviation) @ self.basis + self.mean
        return (torch.nn.functional.pixel_shuffle(rows.movedim(-1, 1), BLOCK) / 2 + 0.5).clamp(0, 1)


def trained_model() -> Any:
    """The MODEL, trained now unless it was before."""
    patcher, path = unet_patcher("sd15", SEED, **UNET), CACHE / f"unet-{SEED}-{STEPS}.safetensors"
    network = patcher.model.diffusion_model
    if not path.exists():
        print(f"training a small UNet once, {STEPS} steps, to {path}", file=sys.stderr)
        with training():  # the host's fused paths have no backward pass
            weights = train(network, patcher.model.model_sampling.sigmas)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_file(weights, path.with_suffix(".new"))
        path.with_suffix(".new").replace(path)
    network.load_state_dict(load_file(path))
    network.requires_grad_(False)
    return patcher


def train(network: torch.nn.Module, sigmas: Tensor) -> dict[str, Tensor]:
    """Weights averaged in training noise prediction (Ho et al. 2020). sigmas: (1000,)."""
    torch.nn.init.zeros_(network.out[-1].weight)
    network.requires_grad_(True)
    average = AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGE_DECAY))
    optimizer = torch.optim.AdamW(network.parameters(), RATE, betas=(0.9, 0.99), weight_decay=0.0)
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, STEPS, pct_start=WARM_UP / STEPS)
    code, table, rng = Code.fit(), word_table(), random.Random(SEED + 1)
    generator = torch.Generator().manual_seed(SEED)
    started, recent = time.monotonic(), []
    for step in range(STEPS):
        pictures, words = scenes_of(rng, BATCH)
        words[torch.rand(BATCH, generator=generator) < DROPOUT] = 0
        latents = code.encode(pictures)
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(len(sigmas), (BATCH,), generator=generator)
        sigma = sigmas[timesteps].view(-1, 1, 1, 1)
        noised = (latents + sigma * noise) / (1 + sigma**2).sqrt()
        loss = (network(noised, timesteps.float(), table[words]) - noise).square().mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
        average.update_parameters(network)
        recent.append(loss.item())
        if (step + 1) % 100 == 0:
            pace = (time.monotonic() - started) / (step + 1)
            print(
                f"step {step + 1}: loss {sum(recent) / len(recent):.4f}, {pace:.2f} s per step",
                file=sys.stderr,
                flush=True,
            )
            recent.clear()
    return {key: value.detach().contiguous() for key, value in average.module.state_dict().items()}
