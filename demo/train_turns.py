"""Teach the demo's causal model prompts that change while a clip is made, from the shipped weights
on.

    COMFYUI_PATH=<ComfyUI> <its python> demo/train_turns.py

As LongLive does (Yang et al. 2025, arXiv 2509.22622): where a stream turns to another prompt, the
frames in view are read again under it, and training shows the model that past. Two losses, both
in every step:

* clips whose scene becomes another one in its place (demo/turns.py), teacher forcing with the
  target the true clip. The frames from the change on see a past of the old scene, read under the
  new prompt: one pass under the new prompt is just that, with the frames before it as past alone;
* clips of one prompt, first frames among them, where the shipped weights say what is right: all
  that they do is kept.
"""

import argparse
import logging
import random
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

import clips
import host
import teacher
import turns
from distill import add_deltas, read_lora, train_deltas, write_lora
from train_base import word_table
from train_causal import (
    ASSET,
    DESCRIPTION,
    FRAMES,
    RANK,
    Batch,
    LongClips,
    denoised_first,
    draw_state,
    encode_clips,
    load_causal_base,
    long_scene,
    opening_loss,
)

log = logging.getLogger("demo")

SEED = 5
TURNING_CLIPS = 500
LONG_CLIPS = 200
TURNS = (2, 3, 4, 5, 6)  # latent frames at which the prompt changes
BATCH, LONG_BATCH, PICTURE_BATCH = 12, 4, 4
AFTER = 4  # latent frames after the change that are made: the old scene has left most windows
# Of the error of the first frame after the change, that of the second, and so on: it is the first
# that has to part from what is in view, and the others believe it.
WEIGHTS = (4.0, 2.0, 1.0, 1.0)
PICTURE_SEED = 60_000  # of the first batch of sentences
KEEPING_WEIGHT = 3.0  # of what differs from the shipped weights' answers
RATE = 1.0  # of the learning rates


class TurningClips:
    """Random batches of clips whose prompt changes, at the same latent frame in all of a batch."""

    def __init__(self, count: int, folder: Path, device: str):
        rng = random.Random(SEED)
        self.turns = [
            turns.draw_turn(long_scene(rng), 4 * TURNS[index % len(TURNS)] - 3, rng)
            for index in range(count)
        ]
        self.latents = encode_clips(self.turns, turns.render, folder / "turning.pt", device)
        self.rng, self.table = random.Random(SEED), word_table()

    def draw(self, count: int) -> Batch:
        number = self.rng.randrange(len(TURNS))
        chosen = self.rng.sample(range(number, len(self.turns), len(TURNS)), count)
        pairs = [self.turns[index].sentences(self.rng) for index in chosen]
        earlier, context = (self._embedded(sentences) for sentences in zip(*pairs, strict=True))
        turn = TURNS[number]
        latents = self.latents[None, chosen, :, : turn + AFTER]  # in one size alone
        return Batch(latents, torch.empty(0), context, turn, earlier)

    def _embedded(self, sentences: Sequence[str]) -> Tensor:
        return self.table[torch.tensor([clips.word_ids(sentence) for sentence in sentences])]


def turning_loss(model: torch.nn.Module, batch: Batch, generator: torch.Generator) -> Tensor:
    """Error of velocity of every frame from the change on."""
    state = draw_state(model, batch, generator)
    velocity = state.velocity(model, batch.context)
    error = velocity - (state.noisy - batch.latents[0]) / state.sigma
    of_frames = error.square().mean((0, 1, 3, 4))[state.view.first :]
    weights = torch.tensor(WEIGHTS, device=error.device)[state.view.first - batch.turn :]
    return (weights[: len(of_frames)] * of_frames).mean()


def keeping_loss(
    model: torch.nn.Module, shipped: torch.nn.Module, batch: Batch, generator: torch.Generator
) -> Tensor:
    """What the velocities of clips of one prompt differ by from the shipped model's."""
    state = draw_state(model, batch, generator)
    with torch.no_grad():
        target = state.velocity(shipped, batch.context)
    error = state.velocity(model, batch.context) - target
    return error[:, :, state.view.first :].square().mean()


def load_shipped(device: str) -> torch.nn.Module:
    """The causal model as it ships, with deltas that can be trained on."""
    model = load_causal_base(device)
    add_deltas(model, RANK)
    read_lora(model, ASSET)
    return model.to(device)


def train(
    steps: int, long_clips: LongClips, turning_clips: TurningClips, device: str, checkpoint: Path
) -> torch.nn.Module:
    model, shipped = load_shipped(device), load_shipped(device).requires_grad_(False)
    generator = torch.Generator().manual_seed(SEED)

    def arrival(x: Tensor, step: int, context: Tensor) -> Tensor:
        return denoised_first(shipped, x, step, context)

    def loss_at(step: int) -> Tensor:
        turning = turning_loss(model, turning_clips.draw(BATCH).to(device), generator)
        kept = keeping_loss(model, shipped, long_clips.draw(LONG_BATCH).to(device), generator)
        sentences = teacher.draw_prompts(PICTURE_BATCH, PICTURE_SEED + step)
        context = teacher.embed(sentences).to(device)
        first = opening_loss(model, arrival, context, generator)
        return turning + KEEPING_WEIGHT * (kept + first)

    train_deltas(model, loss_at, steps, checkpoint, RATE)
    return model


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=300)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=host.CACHE, help="where checkpoints live")
    parser.add_argument("--file", type=Path, default=ASSET, help="where the weights are written")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    host.connect(options.device)
    model = train(
        options.steps,
        LongClips(LONG_CLIPS, options.cache, options.device),
        TurningClips(TURNING_CLIPS, options.cache, options.device),
        options.device,
        options.cache / "turns.pt",
    )
    write_lora(model, options.file, DESCRIPTION)
    log.info("written: %s, clips of %d frames", options.file.name, FRAMES)


if __name__ == "__main__":
    main()
