"""Train the demo's base: a small Wan 2.1 text-to-video model of the host's own class, by flow
matching.

    COMFYUI_PATH=<ComfyUI> <its python> demo/train_base.py

Needs fewstep_demo_vae.safetensors (demo/train_vae.py). Encodes the training clips once, checkpoints
every 100 steps, resumes from the last checkpoint, and writes fewstep_demo_wan.safetensors from the
averaged weights.

With --pictures it goes on from that file on single pictures alone and writes no file: the
checkpoint is what teaches the causal model its first frames (demo/train_causal.py), where every
clip begins.
"""

import argparse
import json
import logging
import random
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import clips
import host
from optimizer import MuonAdamW, warm_up_then_decay
from pace import Pace

log = logging.getLogger("demo")

ASSET = host.ASSETS / "fewstep_demo_wan.safetensors"
SEED = 2
# dim is a multiple of 128 because the host derives the number of heads from it; text_dim is UMT5's,
# which it assumes.
ARCHITECTURE = dict(
    model_type="t2v",
    patch_size=(1, 2, 2),
    in_dim=16,
    out_dim=16,
    dim=256,
    ffn_dim=768,
    freq_dim=256,
    text_dim=4096,
    num_heads=2,
    num_layers=4,
    qk_norm=True,
    cross_attn_norm=True,
    eps=1e-6,
)
CHUNK = 250  # encoded clips per file
MUON_RATE = 5e-3
ADAM_RATE = 2e-3
CONDITION_DROPOUT = 0.1
IMAGE_SHARE = 0.06  # of the batches hold single frames, so that length 1 gives an image
TRAINING_SHIFT = 3.0  # of the noise level's distribution; sampling uses 5
AVERAGE_DECAY = 0.998


@dataclass(frozen=True)
class Work:
    """What is trained on: so many clips of so many frames, in batches; names within the cache
    folder.
    """

    name: str
    checkpoint: str
    count: int
    frames: int
    batch: int


CLIP_WORK = Work("clips", "base.pt", 6000, clips.FRAMES, 48)
PICTURE_WORK = Work("pictures", "pictures.pt", 16_000, 1, 256)


def build_model(causal: bool = False) -> torch.nn.Module:
    """The host's Wan class, or its causal twin with the same weights; uninitialised, float32."""
    import comfy.ops
    from comfy.ldm.wan.ar_model import CausalWanModel
    from comfy.ldm.wan.model import WanModel

    model_class = CausalWanModel if causal else WanModel
    return model_class(
        **ARCHITECTURE, operations=comfy.ops.disable_weight_init, dtype=torch.float32
    )


def initialise(model: torch.nn.Module) -> None:
    """Torch's defaults, modulations small, and the output layer zero so that training starts at the
    mean.
    """
    host.reset_weights(model, torch.Generator().manual_seed(SEED))
    for name, weight in model.named_parameters():
        if name.endswith("modulation"):
            torch.nn.init.normal_(weight, std=weight.shape[-1] ** -0.5)
    torch.nn.init.zeros_(model.head.head.weight)
    torch.nn.init.zeros_(model.head.head.bias)


def word_table() -> Tensor:
    """Embeddings (V, 4096) of the vocabulary: fixed random rows of unit variance, rounded to what
    the file can hold.

    They need no training: the model's own first text layer maps them to anything it likes.
    """
    generator = torch.Generator().manual_seed(SEED)
    return (
        torch.randn(len(clips.VOCABULARY), ARCHITECTURE["text_dim"], generator=generator)
        .half()
        .float()
    )


def encode_clips(count: int, frames: int, folder: Path, device: str) -> None:
    """Write the latents (CHUNK, 16, T, 8, 8) of the scenes of scenes(count) as the diffusion model
    sees them, in chunks.
    """
    vae, all_scenes = (
        host.load_vae(host.ASSETS / "fewstep_demo_vae.safetensors", device),
        scenes(count),
    )
    for number in range(count // CHUNK):
        path = folder / f"latents_{number:03d}.pt"
        if path.exists():
            continue
        part = all_scenes[number * CHUNK : (number + 1) * CHUNK]
        latents = [
            host.encode(vae, clips.render(part[begin : begin + 10], frames) / 2 + 0.5)
            for begin in range(0, CHUNK, 10)
        ]
        host.save_checkpoint(path, latents=torch.cat(latents).half())
        log.info("encoded %d of %d clips", (number + 1) * CHUNK, count)


def scenes(count: int) -> list[clips.Scene]:
    """The training set: always the same scenes, a larger set being a longer one."""
    rng = random.Random(SEED)
    return [clips.draw_scene(rng) for _ in range(count)]


def shift_sigmas(sigmas: Tensor, shift: float) -> Tensor:
    """Spend more of a flow schedule at high noise: s·σ / (1 + (s - 1)·σ). sigmas in [0, 1]."""
    return shift * sigmas / (1 + (shift - 1) * sigmas)


def noised(latent: Tensor, noise: Tensor, sigma: Tensor) -> Tensor:
    """The flow path: (1 - σ)·x0 + σ·n, with sigma (B,) against latents (B, C, T, H, W)."""
    sigma = sigma.view(-1, 1, 1, 1, 1)
    return (1 - sigma) * latent + sigma * noise


class Batches:
    """Random batches of the training set: latents (B, 16, T, 8, 8) with T 5 or 1, and word
    embeddings (B, L, 4096).
    """

    def __init__(self, folder: Path, seed: int):
        self.folder, self.table, self.rng = folder, word_table(), random.Random(seed)
        self.latents = torch.empty(0)
        self.refresh()

    def refresh(self) -> None:
        """Take in what was encoded since: encoding may go on in another process while training has
        begun.
        """
        numbers = range(len(list(self.folder.glob("latents_*.pt"))))
        if len(numbers) * CHUNK > len(self.latents):
            chunks = [
                host.load_checkpoint(self.folder / f"latents_{number:03d}.pt")["latents"]
                for number in numbers
            ]
            self.latents = torch.cat(chunks).float()
            self.scenes = scenes(len(self.latents))
            log.info(
                "%d clips, latents with mean %.3f and SD %.3f",
                len(self.latents),
                self.latents.mean(),
                self.latents.std(),
            )

    def draw(self, size: int) -> tuple[Tensor, Tensor]:
        chosen = self.rng.choices(range(len(self.latents)), k=size)
        sentences = [clips.draw_sentence(self.scenes[index], self.rng) for index in chosen]
        sentences = [
            "" if self.rng.random() < CONDITION_DROPOUT else sentence for sentence in sentences
        ]
        latent = self.latents[chosen]
        if self.rng.random() < IMAGE_SHARE:
            # The VAE is causal: the first latent frame is the first picture alone.
            latent = latent[:, :, :1]
        words = torch.tensor([clips.word_ids(sentence) for sentence in sentences])
        return latent, self.table[words]


def is_block_matrix(name: str, weight: Tensor) -> bool:
    return name.startswith("blocks.") and weight.ndim == 2


def flow_loss(
    model: torch.nn.Module, latent: Tensor, context: Tensor, generator: torch.Generator
) -> Tensor:
    """Mean square error of the predicted velocity n - x0 at a random noise level."""
    # One level per slice of [0, 1): the same distribution as independent draws, and a calmer loss.
    levels = (torch.arange(len(latent)) + torch.rand(len(latent), generator=generator)) / len(
        latent
    )
    sigma = shift_sigmas(levels, TRAINING_SHIFT).to(latent.device)
    noise = torch.randn(latent.shape, generator=generator).to(latent.device)
    velocity = model(noised(latent, noise, sigma), sigma * 1000, context)
    return (velocity.float() - (noise - latent)).square().mean()


def first_model(goes_on: bool) -> torch.nn.Module:
    """With the shipped weights, or with random ones."""
    model = build_model()
    initialise(model)
    if goes_on:
        shipped = load_file(ASSET)
        model.load_state_dict(
            {key: value.float() for key, value in shipped.items() if not key.startswith("demo.")}
        )
    return model


@torch.no_grad()
def take_in(average: dict[str, Tensor], model: torch.nn.Module, step: int) -> None:
    """Move the averaged weights towards the model's, at first faster."""
    decay = min(AVERAGE_DECAY, (1 + step) / (10 + step))
    for key, value in model.state_dict().items():
        average[key].lerp_(value, 1 - decay)


def train(
    steps: int,
    batch: int,
    folder: Path,
    device: str,
    checkpoint: Path,
    goes_on: bool,
    compiles: bool,
) -> dict[str, Tensor]:
    """Averaged weights after `steps` steps, from the checkpoint if there is one."""
    model = first_model(goes_on)
    average = {key: value.clone() for key, value in model.state_dict().items()}
    model.to(device)
    forward = torch.compile(model) if compiles else model
    optimizer = MuonAdamW(model, is_block_matrix, MUON_RATE, ADAM_RATE)
    state = host.load_checkpoint(checkpoint)
    first = 0
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        average, first = state["average"], state["step"]
    average = {key: value.to(device) for key, value in average.items()}

    batches = Batches(folder, SEED + first)
    generator = torch.Generator().manual_seed(SEED + first)
    pace = Pace("step", first, steps, 50)
    for step in range(first, steps):
        latent, context = batches.draw(batch)
        with torch.autocast(device.split(":")[0], dtype=torch.bfloat16):
            loss = flow_loss(forward, latent.to(device), context.to(device), generator)
        loss.backward()
        optimizer.step(warm_up_then_decay(step, steps, warm_up=100))
        take_in(average, model, step)
        pace.measured(step, loss.item())
        if (step + 1) % 100 == 0 or step + 1 == steps:
            batches.refresh()
            host.save_checkpoint(
                checkpoint,
                model=model.state_dict(),
                average=average,
                optimizer=optimizer.state_dict(),
                step=step + 1,
            )
    return {key: value.cpu() for key, value in average.items()}


def write_model(weights: dict[str, Tensor], path: Path) -> None:
    """The published Wan key layout, plus the word table under a key of its own and the vocabulary
    in the metadata.
    """
    tensors = {key: value.half().contiguous() for key, value in weights.items()}
    tensors["demo.word_embeddings"] = word_table().half()
    metadata = {
        "format": "pt",
        "fewstep_demo": json.dumps(
            {"vocabulary": clips.VOCABULARY, "sentence_length": clips.SENTENCE_LENGTH}
        ),
    }
    save_file(tensors, path, metadata=metadata)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument(
        "--clips", type=int, help=f"default {CLIP_WORK.count}, or {PICTURE_WORK.count} pictures"
    )
    parser.add_argument(
        "--pictures",
        action="store_true",
        help="the causal model's teacher of first frames; see above",
    )
    parser.add_argument("--encode-only", action="store_true", help="stop after encoding the clips")
    parser.add_argument(
        "--no-encode", action="store_true", help="train on what another process encodes meanwhile"
    )
    parser.add_argument(
        "--go-on",
        action="store_true",
        help="start from the shipped weights rather than from nothing",
    )
    parser.add_argument(
        "--compile",
        action="store_true",
        help="a quarter less time per step, after a minute; needs a compiler",
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=host.CACHE, help="where checkpoints live")
    return parser.parse_args()


def main() -> None:
    options = parsed()
    host.connect(options.device)
    work = PICTURE_WORK if options.pictures else CLIP_WORK
    folder, checkpoint = options.cache / work.name, options.cache / work.checkpoint
    if not options.no_encode:
        encode_clips(options.clips or work.count, work.frames, folder, options.device)
    if options.encode_only:
        return
    goes_on = options.go_on or options.pictures
    weights = train(
        options.steps, work.batch, folder, options.device, checkpoint, goes_on, options.compile
    )
    if not options.pictures:
        write_model(weights, ASSET)


if __name__ == "__main__":
    main()
