"""Train the demo's video VAE: the host's own Wan VAE class, dim 8, on procedural clips.

    COMFYUI_PATH=<ComfyUI> <its python> demo/train_vae.py

Checkpoints every 25 steps and resumes from the last. The file it writes has the published Wan 2.1
key layout.
"""

import argparse
import logging
import random
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

import clips
import host
from optimizer import MuonAdamW, warm_up_then_decay
from pace import Pace, psnr_in_words, resume

log = logging.getLogger("demo")

ASSET = host.ASSETS / "fewstep_demo_vae.safetensors"
DIM = 8
SEED = 1
MUON_RATE = 2e-2
ADAM_RATE = 5e-3
# The posterior has a fixed width instead of a learned one, so the KL term is the mean square of the
# latent.
POSTERIOR_STD = 0.2
KL_WEIGHT = 1e-4
# L1 alone lingers for hundreds of steps on the background, the median of every pixel; L2 pulls the
# shapes out of it.
SQUARE_WEIGHT = 4.0
EDGE_WEIGHT = 0.5  # L1 on spatial differences, in the video phase: sharpens outlines
REFINE_EDGE_WEIGHT = 1.0  # outlines are what tells the shapes apart
REFINE_LENGTHS = ((4, 17), (6, 9), (8, 5), (16, 1))  # (batch, frames) of the second training
REFINE_NOISE = 0.08  # of the latent's SD: sampled latents are never quite clean
TIE_WEIGHT = 0.01  # on the squared change of the latent, in SDs
# Pictures first, since they are cheap and teach all but the temporal layers. Short clips then: a
# causal VAE that is right on nine frames is right on more. (frames, share of the steps, batch)
PICTURE_SHARE = 0.3
LENGTHS = ((1, 0.1, 16), (5, 0.75, 8), (9, 0.15, 8))


def build_vae() -> torch.nn.Module:
    """The class and settings that the host picks when it finds a Wan 2.1 VAE of this width in a
    file.
    """
    from comfy.ldm.wan.vae import WanVAE

    return WanVAE(dim=DIM, z_dim=16, temperal_downsample=[False, True, True])


def initialise(vae: torch.nn.Module) -> None:
    """Torch's defaults, with the temporal kernels looking at the present frame only, as pictures
    will train them.
    """
    host.reset_weights(vae, torch.Generator().manual_seed(SEED))
    for module in vae.modules():
        if isinstance(module, torch.nn.Conv3d) and module.kernel_size == (3, 3, 3):
            module.weight.data[:, :, :-1] = 0


def reconstruction_loss(output: Tensor, target: Tensor, edge_weight: float) -> Tensor:
    """L1 and L2 of pixels and L1 of their differences along both axes. Both (B, 3, T, H, W)."""
    error = output - target
    loss = error.abs().mean() + SQUARE_WEIGHT * error.square().mean()
    return loss + edge_weight * (error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean())


def draw_batch(rng: random.Random, pictures_only: bool) -> Tensor:
    """Random windows (B, 3, T, H, W) of random clips in [-1, 1]."""
    shares = [share for _, share, _ in LENGTHS]
    frames, _, batch = LENGTHS[0] if pictures_only else rng.choices(LENGTHS, shares)[0]
    target = clips.render([clips.draw_scene(rng) for _ in range(batch)])
    begin = rng.randint(0, clips.FRAMES - frames)
    return target[:, :, begin : begin + frames]


def train(steps: int, device: str, checkpoint: Path) -> torch.nn.Module:
    vae = build_vae()
    initialise(vae)
    vae.to(device)
    optimizer = MuonAdamW(vae, lambda _, weight: weight.ndim >= 4, MUON_RATE, ADAM_RATE)
    first = resume(checkpoint, vae=vae, optimizer=optimizer)
    rng = random.Random(SEED + first)
    noise = torch.Generator().manual_seed(SEED + first)
    pace = Pace("step", first, steps, 25, psnr_in_words)
    for step in range(first, steps):
        pictures_only = step < PICTURE_SHARE * steps
        target = draw_batch(rng, pictures_only).to(device)
        latent = vae.encode(target)
        output = vae.decode(
            latent + POSTERIOR_STD * torch.randn(latent.shape, generator=noise).to(device)
        )
        loss = reconstruction_loss(output, target, 0.0 if pictures_only else EDGE_WEIGHT)
        (loss + KL_WEIGHT * latent.square().mean()).backward()
        optimizer.step(warm_up_then_decay(step, steps))

        error = (output - target).detach().div(2).square().mean().item()
        pace.measured(step, error, f"latent SD {latent.std().item():.2f}")
        if (step + 1) % 25 == 0 or step + 1 == steps:
            host.save_checkpoint(
                checkpoint, vae=vae.state_dict(), optimizer=optimizer.state_dict(), step=step + 1
            )
    return vae.cpu()


@torch.no_grad()
def normalise_latents(vae: torch.nn.Module, count: int = 128) -> None:
    """Rescale the 1x1 convolutions around the latent so that the host's published constants
    normalise our latents.

    The host hands the diffusion model (latent - mean) / std with Wan 2.1's mean and std per
    channel. Afterwards that has mean 0 and variance 1 per channel on our clips, while
    decode(encode(x)) stays what it was.
    """
    from comfy.latent_formats import Wan21

    rng = random.Random(SEED + 1)
    latent = torch.cat(
        [
            vae.encode(clips.render([clips.draw_scene(rng) for _ in range(16)]))
            for _ in range(count // 16)
        ]
    )
    mean, std = latent.mean((0, 2, 3, 4)), latent.std((0, 2, 3, 4))
    published_mean, published_std = Wan21().latents_mean.flatten(), Wan21().latents_std.flatten()
    scale = published_std / std  # (16,)

    # The rest of conv1 is the posterior's log variance, which nothing reads.
    channels = slice(0, len(scale))
    vae.conv1.weight[channels] *= scale.view(-1, 1, 1, 1, 1)
    vae.conv1.bias[channels] = (vae.conv1.bias[channels] - mean) * scale + published_mean
    vae.conv1.weight[len(scale) :], vae.conv1.bias[len(scale) :] = 0, 0
    decode = vae.conv2.weight.clone()[:, :, 0, 0, 0]  # (out, in)
    vae.conv2.bias += decode @ (mean - published_mean / scale)
    vae.conv2.weight /= scale.view(1, -1, 1, 1, 1)


def refine(steps: int, device: str, checkpoint: Path) -> torch.nn.Module:
    """Go on with the shipped VAE on clips up to full length, its latents tied to what they were.

    The first training sees at most nine frames; what the decoder carries from chunk to chunk drifts
    after that. The tie keeps a diffusion model that was trained on the old latents nearly right on
    the new ones.
    """
    vae, before = host.load_vae(ASSET, device).requires_grad_(True), host.load_vae(ASSET, device)
    optimizer = MuonAdamW(vae, lambda _, weight: weight.ndim >= 4, MUON_RATE / 2, ADAM_RATE / 2)
    first = resume(checkpoint, vae=vae, before=before, optimizer=optimizer)
    rng = random.Random(SEED + 100 + first)
    pace = Pace("refining step", first, steps, 20, psnr_in_words)
    for step in range(first, steps):
        batch, frames = rng.choice(REFINE_LENGTHS)
        target = clips.render([clips.draw_scene(rng) for _ in range(batch)], frames).to(device)
        latent = vae.encode(target)
        with torch.no_grad():
            tied = before.encode(target)
        output = vae.decode(latent + REFINE_NOISE * tied.std() * torch.randn_like(latent))
        tie = TIE_WEIGHT * ((latent - tied) / tied.std()).square().mean()
        (reconstruction_loss(output, target, REFINE_EDGE_WEIGHT) + tie).backward()
        optimizer.step(warm_up_then_decay(step, steps, warm_up=20, flat_share=0.3))
        error = (output - target).detach().div(2).square().mean().item()
        pace.measured(step, error, f"tie {tie.item():.4f}")
        if (step + 1) % 20 == 0 or step + 1 == steps:
            host.save_checkpoint(
                checkpoint,
                vae=vae.state_dict(),
                before=before.state_dict(),
                optimizer=optimizer.state_dict(),
                step=step + 1,
            )
    return vae.cpu()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1800)
    parser.add_argument("--refine-steps", type=int, default=400)
    parser.add_argument("--refine-only", action="store_true", help="go on with the shipped file")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=host.CACHE, help="where checkpoints live")
    options = parser.parse_args()
    host.connect(options.device)

    if not options.refine_only:
        vae = train(options.steps, options.device, options.cache / "vae.pt")
        normalise_latents(vae)
        write_vae(vae)
    write_vae(refine(options.refine_steps, options.device, options.cache / "vae-refined.pt"))


def write_vae(vae: torch.nn.Module) -> None:
    weights = {key: value.half().contiguous() for key, value in vae.state_dict().items()}
    save_file(weights, ASSET, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
