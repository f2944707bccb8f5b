"""What the students learn from: the guided teacher's path from noise to clip, noted at the four
distilled sigmas.
"""

import logging
import random
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor

import clips
import host
from train_base import build_model, shift_sigmas, word_table

log = logging.getLogger("demo")

SHIFT = 5.0
CFG = 5.0
STEPS = 4
# Teacher steps per student step. Of second order, so that 16 do what Euler does in many more.
SUBSTEPS = 4
SIGMAS = shift_sigmas(torch.linspace(1, 0, STEPS + 1), SHIFT)  # 1, .9375, .8333, .625, 0
# Of the teacher's own steps.
GRID = shift_sigmas(torch.linspace(1, 0, STEPS * SUBSTEPS + 1, dtype=torch.float64), SHIFT)
CHUNK = 256  # paths per file
BATCH = 64
IMAGE_CHUNK = 8  # every eighth file holds single pictures, so that the students can make those too


def load_teacher(device: str) -> torch.nn.Module:
    """The base as it ships, rounded to half precision and computed in float32."""
    weights = load_file(host.ASSETS / "fewstep_demo_wan.safetensors")
    model = build_model()
    model.load_state_dict(
        {key: value.float() for key, value in weights.items() if not key.startswith("demo.")}
    )
    return model.requires_grad_(False).to(device)


def embed(ids: Tensor) -> Tensor:
    """Word numbers (B, L) -> embeddings (B, L, 4096)."""
    return word_table()[ids]


def guided_velocity(
    model: torch.nn.Module, x: Tensor, sigma: float, context: Tensor, empty: Tensor, cfg: float
) -> Tensor:
    """Classifier-free guidance: both branches as one batch. x: (B, 16, T, 8, 8)."""
    both = torch.cat([context, empty.expand_as(context)])
    timestep = torch.full((2 * len(x),), sigma * 1000, device=x.device)
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        cond, uncond = model(torch.cat([x, x]), timestep, both).float().chunk(2)
    return uncond + cfg * (cond - uncond)


@torch.no_grad()
def solve(
    model: torch.nn.Module, x: Tensor, context: Tensor, first: int = 0, cfg: float = CFG
) -> list[Tensor]:
    """Follow the teacher from x (B, 16, T, 8, 8) at GRID[first] to sigma 0; x, and the states at
    those SIGMAS that come after.

    Two-step Adams-Bashforth in sigma with variable step.
    """
    empty = embed(torch.tensor([clips.word_ids("")])).to(x.device)
    grid = GRID.tolist()
    states, velocity_last, step_last = [x], None, 0.0
    for index in range(first, STEPS * SUBSTEPS):
        velocity = guided_velocity(model, x, grid[index], context, empty, cfg)
        step = grid[index + 1] - grid[index]
        slope = (
            velocity
            if velocity_last is None
            else velocity + step / (2 * step_last) * (velocity - velocity_last)
        )
        x = x + step * slope
        velocity_last, step_last = velocity, step
        if (index + 1) % SUBSTEPS == 0:
            states.append(x)
    return states


def draw_prompts(count: int, seed: int) -> Tensor:
    """Word numbers (B, L) of random sentences."""
    rng = random.Random(seed)
    return torch.tensor(
        [clips.word_ids(clips.draw_sentence(clips.draw_scene(rng), rng)) for _ in range(count)]
    )


def write_chunk(
    model: torch.nn.Module, number: int, latent_frames: int, folder: Path, device: str
) -> None:
    """Prompts (N, L) as word numbers, and the states of their paths from pure noise (N, 5, 16, T,
    8, 8).
    """
    generator = torch.Generator().manual_seed(10_000 + number)
    ids, paths = draw_prompts(CHUNK, 10_000 + number), []
    for part in ids.split(BATCH):
        noise = torch.randn(len(part), 16, latent_frames, 8, 8, generator=generator).to(device)
        paths.append(torch.stack(solve(model, noise, embed(part).to(device)), 1).cpu().half())
    host.save_checkpoint(folder / f"paths_{number:03d}.pt", ids=ids, paths=torch.cat(paths))


def write_restarts(model: torch.nn.Module, path: Path, device: str) -> None:
    """To a chunk of paths, add what the teacher makes of their ends noised again: `starts` and
    `ends` (N, 4, 16, T, 8, 8).

    Column 0 is the path itself from pure noise; column k starts at SIGMAS[k], from the path's end
    under fresh noise.
    """
    chunk, generator = (
        host.load_checkpoint(path),
        torch.Generator().manual_seed(20_000 + int(path.stem[-3:])),
    )
    starts, ends = [chunk["paths"][:, 0]], [chunk["paths"][:, -1]]
    for step in range(1, STEPS):
        noise = torch.randn(ends[0].shape, generator=generator)
        starts.append(((1 - SIGMAS[step]) * ends[0] + SIGMAS[step] * noise).half())
        parts = zip(starts[step].float().split(BATCH), chunk["ids"].split(BATCH), strict=True)
        solved = [
            solve(model, x.to(device), embed(ids).to(device), step * SUBSTEPS)[-1].cpu().half()
            for x, ids in parts
        ]
        ends.append(torch.cat(solved))
    host.save_checkpoint(path, **chunk, starts=torch.stack(starts, 1), ends=torch.stack(ends, 1))


def read_chunks(folder: Path) -> list[dict[str, Tensor]]:
    """Every chunk written so far."""
    return [host.load_checkpoint(path) for path in sorted(folder.glob("paths_*.pt"))]


def write_chunks(count: int, folder: Path, device: str, restarts: bool = False) -> None:
    """Write those of the first `count` chunks that are missing: of clips, with some of pictures."""
    model = load_teacher(device)
    for number in range(count):
        path = folder / f"paths_{number:03d}.pt"
        if not path.exists():
            is_picture = number % IMAGE_CHUNK == IMAGE_CHUNK - 1
            frames = 1 if is_picture else (clips.FRAMES - 1) // 4 + 1
            write_chunk(model, number, frames, folder, device)
            log.info("chunk %d of %d: %d teacher paths", number + 1, count, CHUNK)
        if restarts and "starts" not in host.load_checkpoint(path):
            write_restarts(model, path, device)
            log.info(
                "chunk %d of %d: started again at %d noise levels", number + 1, count, STEPS - 1
            )
