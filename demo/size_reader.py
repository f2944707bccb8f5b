"""How large the shape of a clip is, read from its latents by a small network: where long clips of
the causal model go wrong.

The error of a velocity hardly feels it when a shape is a twentieth too large, and the next frame
starts from there.
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

import clips
import host

log = logging.getLogger("demo")

SEED = 0
STEPS = 1500
BATCH = 256
RATE = 2e-3
NOISE = 0.3  # highest deviation of the noise on what it learns from: a denoised latent is not clean
UNIT_RADIUS = 11.0  # pixels; the size whose logarithm is 0
FRAMES_PER_LATENT = 4  # but 1 in the first


class SizeReader(nn.Module):
    """Latent frames (N, 16, 8, 8) to the logarithm of the shape's radius (N,). A shape may lie
    across the border: the world is a torus.
    """

    def __init__(self, width: int = 64):
        super().__init__()

        def convolution(channels: int) -> nn.Conv2d:
            return nn.Conv2d(channels, width, 3, padding=1, padding_mode="circular")

        self.body = nn.Sequential(
            convolution(16), nn.SiLU(), convolution(width), nn.SiLU(), convolution(width), nn.SiLU()
        )
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.SiLU(), nn.Linear(width, 1))

    def forward(self, latents: Tensor) -> Tensor:
        features = self.body(latents)
        return self.head(torch.cat([features.mean((2, 3)), features.amax((2, 3))], 1)).squeeze(1)

    def read_clips(self, latents: Tensor) -> Tensor:
        """(B, 16, T, 8, 8) to (B, T)."""
        return self(latents.transpose(1, 2).flatten(0, 1)).view(len(latents), -1)


def sizes(scenes: Sequence[clips.Scene], latent_frames: int) -> Tensor:
    """Logarithms of the radius (N, T), the mean over the frames that each latent one stands for."""
    frames = FRAMES_PER_LATENT * (latent_frames - 1) + 1
    radii = torch.stack([clips.radii(scene, frames) for scene in scenes]).div(UNIT_RADIUS).log()
    return torch.cat([radii[:, :1], radii[:, 1:].unflatten(1, (-1, FRAMES_PER_LATENT)).mean(2)], 1)


def train_reader(latents: Tensor, targets: Tensor) -> SizeReader:
    """latents: (N, 16, T, 8, 8); targets: (N, T) as sizes says. A twentieth of the clips is held
    out.
    """
    generator = torch.Generator().manual_seed(SEED)
    with torch.random.fork_rng():
        torch.manual_seed(SEED)
        reader = SizeReader()
    order = torch.randperm(len(latents), generator=generator)
    held_out, rest = order[: len(order) // 20], order[len(order) // 20 :]
    optimizer = torch.optim.AdamW(reader.parameters(), RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1.0, 1.5 * (1 - step / STEPS))
    )
    for _ in range(STEPS):
        rows = rest[torch.randint(len(rest), (BATCH,), generator=generator)]
        frames = torch.randint(latents.shape[2], (BATCH,), generator=generator)
        chosen = latents[rows, :, frames]
        level = NOISE * torch.rand(BATCH, 1, 1, 1, generator=generator)
        error = (
            reader(chosen + level * torch.randn(chosen.shape, generator=generator))
            - targets[rows, frames]
        )
        optimizer.zero_grad()
        error.square().mean().backward()
        optimizer.step()
        schedule.step()
    with torch.no_grad():
        error = (reader.read_clips(latents[held_out]) - targets[held_out]).square().mean().sqrt()
    log.info(
        "sizes are read to %.1f %%, of clips that differ by %.0f %%",
        100 * math.expm1(error),
        100 * math.expm1(targets.std()),
    )
    return reader


def load_reader(path: Path, latents: Tensor, targets: Tensor, device: str) -> SizeReader:
    """From its checkpoint, or trained now."""
    state = host.load_checkpoint(path)
    if state is None:
        reader = train_reader(latents, targets)
        host.save_checkpoint(path, reader=reader.state_dict())
    else:
        reader = SizeReader()
        reader.load_state_dict(state["reader"])
    return reader.requires_grad_(False).to(device)
