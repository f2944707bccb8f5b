"""Train the demo's causal model: one latent frame at a time over a KV cache, four re-noised steps
per frame, eight for the first.

    COMFYUI_PATH=<ComfyUI> <its python> demo/train_causal.py

A low-rank delta on the base for the host's CausalWanModel. Two losses, each at the sigmas it will
be sampled at:

* the first frame has nothing to follow, so it is distilled: from wherever its own steps lead, its
  target is the picture at which a guided teacher arrives from there, the base trained on by
  `train_base.py --pictures`;
* every later frame follows from the clean ones before it almost without choice, so plain regression
  on true clips is enough there: teacher forcing, each noisy frame seeing the past and itself, all
  frames of a clip in one pass. That the size is that of many frames, and not of the one before, is
  learned from a past whose frames are too large and too small by turns.

demo/train_turns.py goes on from here on clips whose prompt changes.
"""

import argparse
import json
import logging
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import torch
from torch import Tensor

import clips
import host
import size_reader
import teacher
from distill import add_deltas, read_lora, train_deltas, velocity, write_lora
from teacher import GRID, SIGMAS, STEPS
from train_base import PICTURE_WORK, build_model, word_table

log = logging.getLogger("demo")

ASSET = host.ASSETS / "fewstep_demo_causal.safetensors"
SEED = 4
PICTURE_SEED = 30_000  # of the first batch of sentences
RANK = 64
FRAMES = 33  # nine latent frames: longer than the base's five, so that clips may go on
CLIPS = 1500
BATCH = 16
PICTURE_BATCH = 32
PAST_NOISE = 0.1  # highest sigma of the noise on the past
MOST_REMAKES = 3  # times that the model makes the past anew, each from its own last one
# Latent frames that a frame sees, itself among them: any of these will do when sampling.
WINDOWS = (3, 4, 6, FRAMES)
SINK_SHARE = 0.75  # of the batches with a window, where the first frame stays in sight
GO_ON_RATE = 0.8  # of the learning rates, from weights that are good already
RESIZED_SHARE = 0.6  # of the batches, whose past has shapes of several sizes about the true one
# Of the batches, where another size is the true one: own first frames have more sizes than the
# scenes.
OTHER_SHARE = 0.25
SHOWN_SHARE = 0.5  # of their frames, which have such a shape themselves before they are denoised
RESIZE = 1.25  # at most that factor, or one by it
# Of the squared error of the logarithm of the radius, beside that of the velocity.
SIZE_WEIGHT = 5.0
MOST_SIZE_ERROR = 0.25  # of a frame; beyond it there may be no shape to read
MOST_GAP = 30  # latent frames by which it is put further back than it is
FIRST_STEPS = 8  # of the first frame: there is none before it to show what it should be
# Guidance makes shapes larger, and what follows a first frame takes its size from it.
PICTURE_CFG = 2.0


# What its file says of itself.
DESCRIPTION = {
    "method": "causal",
    "sigmas": SIGMAS.tolist(),
    "steps": STEPS,
    "shift": teacher.SHIFT,
    "cfg": 1.0,
    "sampler": "ar_video",
    "frames_per_block": 1,
    "first_block_steps": FIRST_STEPS,
    "guidance_distilled": PICTURE_CFG,
    "transformer_config": {"causal_ar": True},
}


@dataclass(frozen=True)
class View:
    """What a latent frame sees of its past."""

    window: int  # frames at once, its own among them
    has_sink: bool = False  # the first one beside them, always
    # Frames by which a sink is put further back than it is, as that of a longer clip would be.
    gap: int = 0
    # The first frame of another prompt, under which those in view are read again; 0 for none. The
    # frames before it are not what they would be under their own.
    turn: int = 0

    @property
    def first(self) -> int:
        """The first frame whose past is a true one: with a gap, the first that sees no more of
        frame 0 than a sink.
        """
        return max(self.window if self.gap else 1, self.turn)


@dataclass(frozen=True)
class Batch:
    """Clips, and what they are to show."""

    latents: Tensor  # (3, B, 16, T, 8, 8): the clips, and twice the same with shapes of other sizes
    sizes: Tensor  # (B, T) of the clips, as size_reader.sizes gives them
    context: Tensor  # (B, L, 4096)
    turn: int = 0  # the latent frame from which on they show it; 0 for all of them
    earlier: Tensor | None = None  # what the frames before that show, (B, L, 4096)

    def to(self, device: str) -> "Batch":
        moved = {
            field.name: value.to(device)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved)


def block_causal_mask(latent_frames: int, tokens_per_frame: int, view: View) -> Tensor:
    """(L, L) of [clean frames, noisy frames], True where a query may look: clean at clean up to
    itself, noisy at clean before itself and at itself; and of those at what `view` says.
    """
    frame = torch.arange(latent_frames).repeat(2)
    noisy = torch.arange(2 * latent_frames) >= latent_frames
    age = frame.unsqueeze(1) - frame  # of the key as the query sees it
    itself = (age == 0) & noisy
    allowed = torch.where(noisy.unsqueeze(1), ((age > 0) & ~noisy) | itself, (age >= 0) & ~noisy)
    allowed &= (age < view.window) | (view.has_sink & (frame == 0))
    if view.turn:
        # Those that were read again saw nothing that was not in view any more.
        in_view = (frame > view.turn - view.window) | (view.has_sink & (frame == 0))
        allowed &= in_view | (age == 0)
    return allowed.repeat_interleave(tokens_per_frame, 0).repeat_interleave(tokens_per_frame, 1)


def masked_attention(mask: Tensor):
    """An attention override for the host: self-attention over the whole sequence gets `mask`,
    everything else none.
    """

    def override(attention, q: Tensor, k: Tensor, v: Tensor, heads: int, **options) -> Tensor:
        if k.shape[1] != len(mask):
            return attention(q, k, v, heads=heads, **options)
        q, k, v = (
            part.unflatten(-1, (heads, -1)).transpose(1, 2) for part in (q, k, v)
        )  # (B, heads, L, d)
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=mask)
        return out.transpose(1, 2).flatten(2)

    return override


def teacher_forced(
    model: torch.nn.Module, clean: Tensor, noisy: Tensor, steps: Tensor, context: Tensor, view: View
) -> Tensor:
    """Velocities (B, 16, T, 8, 8) of every noisy frame at SIGMAS[steps], steps (B, T), each given
    the clean ones before.
    """
    batch, _, frames, height, width = clean.shape
    sigma = torch.cat(
        [torch.zeros(batch, frames, device=clean.device), SIGMAS.to(clean.device)[steps]], 1
    )  # (B, 2T)
    positions = torch.cat(
        [
            model.rope_encode(
                count, height, width, t_start=start, device=clean.device, dtype=clean.dtype
            )
            for count, start in ((1, -view.gap), (frames - 1, 1))
        ],
        1,
    )
    mask = block_causal_mask(frames, (height // 2) * (width // 2), view).to(clean.device)
    with torch.autocast(clean.device.type, dtype=torch.bfloat16):
        out = model.forward_orig(
            torch.cat([clean, noisy], 2),
            sigma * 1000,
            context,
            freqs=torch.cat([positions, positions], 1),
            transformer_options={"optimized_attention_override": masked_attention(mask)},
        )
    return out[:, :, frames:].float()


class Draws:
    """The random numbers of one batch."""

    def __init__(self, batch: Batch, generator: torch.Generator):
        self.batch, self.generator = batch, generator
        self.latent = batch.latents[0]
        self.count, _, self.frames = self.latent.shape[:3]

    def uniform(self, *shape: int) -> Tensor:
        return torch.rand(shape, generator=self.generator).to(self.latent.device)

    def below(self, number: int) -> int:
        return int(self.uniform(1) * number)

    def noise(self) -> Tensor:
        noise = torch.randn(self.latent.shape, generator=self.generator)
        return noise.to(self.latent.device)

    def levels(self) -> tuple[Tensor, Tensor, Tensor]:
        """Steps (B, T), their sigmas (B, 1, T, 1, 1), and noise."""
        steps = (self.uniform(self.count, self.frames) * STEPS).long()
        sigma = SIGMAS.to(self.latent.device)[steps].view(self.count, 1, self.frames, 1, 1)
        return steps, sigma, self.noise()

    def of_any_size(self) -> Tensor:
        """The clips, each frame in one of the three sizes."""
        latents = self.batch.latents
        chosen = (self.uniform(self.count, 1, self.frames, 1, 1) * len(latents)).long()
        return latents.gather(0, chosen.expand_as(self.latent).unsqueeze(0))[0]

    def with_sink_at_times(self, view: View) -> View:
        """A window with a sink in most batches, anywhere in a longer clip."""
        if view.window < self.frames and self.uniform(1) < SINK_SHARE:
            return replace(view, has_sink=True, gap=self.below(MOST_GAP + 1))
        return view


def remade(model: torch.nn.Module, past: Tensor, draws: Draws, view: View) -> Tensor:
    """The past as the model itself makes it from that past."""
    with torch.no_grad():
        steps, sigma, noise = draws.levels()
        noisy = past.lerp(noise, sigma)

        def made(frames: int, context: Tensor, view: View) -> Tensor:
            """The first so many of the clip."""
            clean, rest = past[:, :, :frames], noisy[:, :, :frames]
            velocity = teacher_forced(model, clean, rest, steps[:, :frames], context, view)
            return rest - sigma[:, :, :frames] * velocity

        own = made(draws.frames, draws.batch.context, view)
        if view.turn:
            earlier = replace(view, turn=0)
            before = made(view.turn, draws.batch.earlier, earlier)
            own = torch.cat([before, own[:, :, view.turn :]], 2)
            view = earlier
    return torch.cat([past[:, :, : view.first], own[:, :, view.first :]], 2)


@dataclass(frozen=True)
class State:
    """Noisy frames of a batch and the past that each of them sees."""

    past: Tensor  # (B, 16, T, 8, 8)
    noisy: Tensor  # (B, 16, T, 8, 8), each frame at its own one of the four sigmas
    steps: Tensor  # (B, T), which
    sigma: Tensor  # (B, 1, T, 1, 1)
    view: View

    def velocity(self, model: torch.nn.Module, context: Tensor) -> Tensor:
        """What the model makes of it, (B, 16, T, 8, 8)."""
        return teacher_forced(model, self.past, self.noisy, self.steps, context, self.view)


def draw_state(model: torch.nn.Module, batch: Batch, generator: torch.Generator) -> State:
    """The past is the true one slightly noised, made again by the model itself from none to
    MOST_REMAKES times: its errors add up there as they will when it goes on from its own frames.
    Or each frame of the past but the first has a size of its own, about the true one: taken from
    the frame before alone, sizes would wander, a few hundredths with every frame. Frames before a
    change of prompt are past alone.
    """
    draws = Draws(batch, generator)
    latent = past = shown = draws.latent
    view = View(WINDOWS[draws.below(len(WINDOWS))])
    remakes = draws.below(MOST_REMAKES + 1)
    view = replace(draws.with_sink_at_times(view), turn=batch.turn)
    if draws.uniform(1) < RESIZED_SHARE:
        past, remakes = torch.cat([latent[:, :, :1], draws.of_any_size()[:, :, 1:]], 2), 0
        is_resized = draws.uniform(draws.count, 1, draws.frames, 1, 1) < SHOWN_SHARE
        shown = torch.where(is_resized, draws.of_any_size(), latent)
    past = past.lerp(draws.noise(), PAST_NOISE * draws.uniform(draws.count, 1, 1, 1, 1))
    for _ in range(remakes):
        past = remade(model, past, draws, view)
    steps, sigma, noise = draws.levels()
    return State(past, shown.lerp(noise, sigma), steps, sigma, view)


def clip_loss(
    model: torch.nn.Module, batch: Batch, reader: torch.nn.Module, generator: torch.Generator
) -> Tensor:
    """Error of velocity and size of every frame but the first. Whatever the past, the target is the
    true clip.
    """
    state = draw_state(model, batch, generator)
    velocity = state.velocity(model, batch.context)
    sizes = reader.read_clips(state.noisy - state.sigma * velocity)
    size_error = (sizes - batch.sizes)[:, state.view.first :].square()
    # From a shape of another size the way to the true one is another than that of the noise.
    error = velocity - (state.noisy - batch.latents[0]) / state.sigma
    error = error[:, :, state.view.first :].square().mean()
    return error + SIZE_WEIGHT * size_error.clamp(max=MOST_SIZE_ERROR).mean()


# Where first frames (B, 16, 1, 8, 8) at the sigma of that one of their steps ought to arrive, given
# their context (B, L, 4096).
Arrival = Callable[[Tensor, int, Tensor], Tensor]
FIRST_SUBSTEPS = STEPS * teacher.SUBSTEPS // FIRST_STEPS  # of the teacher's grid to one of them
FIRST_SIGMAS = GRID[::FIRST_SUBSTEPS].tolist()


def denoised_first(model: torch.nn.Module, x: Tensor, step: int, context: Tensor) -> Tensor:
    """What the model makes of first frames (B, 16, 1, 8, 8) at one of their steps."""
    sigma = FIRST_SIGMAS[step]
    return x - sigma * velocity(model, x, torch.full((len(x),), sigma), context)


def opening_loss(
    model: torch.nn.Module, arrival: Arrival, context: Tensor, generator: torch.Generator
) -> Tensor:
    """Error of a first frame predicted at one of its own eight sigmas, which the model itself has
    come to. context: (B, L, 4096).

    A single frame attends to nothing but itself, so the ordinary forward pass is the causal one.
    """

    def draw_noise() -> Tensor:
        return torch.randn(len(context), 16, 1, 8, 8, generator=generator).to(context.device)

    last = int(torch.randint(FIRST_STEPS, (), generator=generator))
    x = draw_noise()
    with torch.no_grad():
        for step in range(last):
            sigma = FIRST_SIGMAS[step + 1]
            x = (1 - sigma) * denoised_first(model, x, step, context) + sigma * draw_noise()
        target = arrival(x, last, context)
    return (denoised_first(model, x, last, context) - target).square().mean()


def load_causal_base(device: str) -> torch.nn.Module:
    """The host's causal class with the base's weights, frozen."""
    model = build_model(causal=True)
    model.load_state_dict(teacher.load_teacher("cpu").state_dict())
    return model.requires_grad_(False).to(device)


def encode_clips(
    drawn: Sequence,
    render: Callable[[Sequence, int], Tensor],
    path: Path,
    device: str,
) -> Tensor:
    """Latents (N, 16, 9, 8, 8) of clips that go on after the base's training length. render: of
    what was drawn, so many frames.
    """
    saved = host.load_checkpoint(path)
    if saved is not None and len(saved["latents"]) == len(drawn):
        return saved["latents"].float()
    vae, latents = host.load_vae(host.ASSETS / "fewstep_demo_vae.safetensors", device), []
    for begin in range(0, len(drawn), 10):
        latents.append(host.encode(vae, render(drawn[begin : begin + 10], FRAMES) / 2 + 0.5).half())
    host.save_checkpoint(path, latents=torch.cat(latents))
    return torch.cat(latents).float()


def long_scene(rng: random.Random) -> clips.Scene:
    """A random scene for a long clip: a moving shape starts anywhere that shows it whole, so that
    many cross the border.
    """
    scene = clips.draw_scene(rng)
    if not scene.motion.startswith("moving"):
        return scene
    margin = scene.radius * RESIZE * 1.25 + 1
    return replace(
        scene,
        position=(
            rng.uniform(margin, clips.SIDE - margin),
            rng.uniform(margin, clips.SIDE - margin),
        ),
    )


def resized(scene: clips.Scene, rng: random.Random) -> tuple[clips.Scene, clips.Scene]:
    """The same scene with a shape that is larger or smaller, and with one as much the other way."""
    factor = RESIZE ** rng.uniform(-1, 1)
    return replace(scene, radius=scene.radius * factor), replace(
        scene, radius=scene.radius / factor
    )


class LongClips:
    """Random batches of long clips with their sentences, and the same clips with shapes of other
    sizes.
    """

    def __init__(self, count: int, folder: Path, device: str):
        rng = random.Random(SEED)
        self.scenes = [long_scene(rng) for _ in range(count)]
        versions = [self.scenes, *zip(*(resized(scene, rng) for scene in self.scenes), strict=True)]
        files = ("long-latents.pt", "long-latents-resized.pt", "long-latents-mirrored.pt")
        latents = [
            encode_clips(scenes, clips.render, folder / file, device)
            for file, scenes in zip(files, versions, strict=True)
        ]
        self.latents = torch.stack(latents)  # (3, N, 16, T, 8, 8)
        self.sizes = torch.stack(
            [size_reader.sizes(scenes, self.latents.shape[3]) for scenes in versions]
        )  # (3, N, T)
        self.rng, self.table = random.Random(SEED), word_table()

    def draw(self, count: int) -> Batch:
        chosen = self.rng.sample(range(len(self.scenes)), count)
        sentences = [clips.draw_sentence(self.scenes[index], self.rng) for index in chosen]
        # Which of the three versions is the true one, and which are those beside it.
        order = [1, 0, 0] if self.rng.random() < OTHER_SHARE else [0, 1, 2]
        return Batch(
            self.latents[order][:, chosen],
            self.sizes[order[0], chosen],
            self.table[torch.tensor([clips.word_ids(sentence) for sentence in sentences])],
        )


def guided_arrival(checkpoint: Path, device: str) -> Arrival:
    """That of the base trained on by `train_base.py --pictures`, guided."""
    state = host.load_checkpoint(checkpoint)
    if state is None:
        raise SystemExit(f"{checkpoint} is missing: run demo/train_base.py --pictures first.")
    log.info("first frames are taught by %s, after %d steps", checkpoint.name, state["step"])
    model = build_model()
    model.load_state_dict(state["average"])
    model.requires_grad_(False).to(device)
    return lambda x, step, context: teacher.solve(
        model, x, context, step * FIRST_SUBSTEPS, PICTURE_CFG
    )[-1]


def train(
    steps: int,
    long_clips: LongClips,
    reader: torch.nn.Module,
    arrival: Arrival,
    device: str,
    checkpoint: Path,
    goes_on: bool,
) -> torch.nn.Module:
    model = load_causal_base(device)
    add_deltas(model, RANK)
    if goes_on:
        read_lora(model, ASSET)
    model.to(device)
    generator = torch.Generator().manual_seed(SEED)

    def loss_at(step: int) -> Tensor:
        following = clip_loss(model, long_clips.draw(BATCH).to(device), reader, generator)
        sentences = teacher.draw_prompts(PICTURE_BATCH, PICTURE_SEED + step)
        return following + opening_loss(
            model, arrival, teacher.embed(sentences).to(device), generator
        )

    train_deltas(model, loss_at, steps, checkpoint, GO_ON_RATE if goes_on else 1.0)
    return model


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=800)
    parser.add_argument("--clips", type=int, default=CLIPS)
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="start from the shipped weights rather than from the base's",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=host.CACHE, help="where checkpoints live")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    host.connect(options.device)
    long_clips = LongClips(options.clips, options.cache, options.device)
    reader = size_reader.load_reader(
        options.cache / "size-reader.pt",
        long_clips.latents.flatten(0, 1),
        long_clips.sizes.flatten(0, 1),
        options.device,
    )
    model = train(
        options.steps,
        long_clips,
        reader,
        guided_arrival(options.cache / PICTURE_WORK.checkpoint, options.device),
        options.device,
        options.cache / "causal.pt",
        options.go_on,
    )
    write_lora(model, ASSET, DESCRIPTION)
    log.info("metadata: %s", json.dumps(DESCRIPTION))


if __name__ == "__main__":
    main()
