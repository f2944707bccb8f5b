"""Read colour, shape and motion back from the pixels of a clip, without any model and without
demo/clips.py's renderer.

    COMFYUI_PATH=<ComfyUI> <its python> demo/measure.py     checks the reading on true clips and on
    decoded ones

Colour: the palette entry nearest to most of the pixels that are not background. Shape: the three-
and fourfold symmetry of the blob around its centre of mass, which soft corners weaken but do not
remove. Motion: the path of the centre of mass on the torus, and the change of the area.
"""

import argparse
import random
from dataclasses import dataclass

import torch
from torch import Tensor

import clips
import host

STILL_PIXELS = 5.0  # a moving shape covers at least 16 px in 17 frames
GROWTH_RATIO = 1.5  # a growing shape's area changes 3.3-fold
LEAST_AREA = 30  # pixels; the smallest shape covers about 60
LEAST_OVERLAP = 0.6  # with the ideal outline of the shape; below this the blob is no shape at all
# Symmetry of the ideal outlines: triangle 0.66 threefold, square -0.43 fourfold, circle 0 in both.
TRIANGLE_SYMMETRY = 0.22
SQUARE_SYMMETRY = -0.12


@dataclass(frozen=True)
class Reading:
    """What a clip shows; an empty string where nothing could be read."""

    colour: str
    shape: str
    motion: str
    overlap: float  # with the ideal outline, 0 to 1: how clean the shape is

    def agrees_with(self, sentence: str) -> bool:
        """True when the sentence's colour, shape and motion are all what was read. A still image
        has no motion.
        """
        facts = [self.colour, self.shape, self.motion]
        return all(fact != "" and fact in sentence for fact in facts)


def read_clip(clip: Tensor) -> Reading:
    """clip: (3, T, H, W) in [0, 1]."""
    label = _nearest_colour(clip)  # (T, H, W), -1 for background
    counts = torch.stack([(label == index).sum() for index in range(len(clips.COLOURS))])
    colour = int(counts.argmax())
    masks = [mask for mask in label == colour if mask.sum() >= LEAST_AREA]
    if len(masks) < max(1, clip.shape[1] // 2):
        return Reading("", "", "", 0.0)

    # Where a shape leaves on one side and comes back on the other, the VAE loses some of it even in
    # true clips.
    whole = [mask for mask in masks if not _is_cut(mask)]
    whole = whole if len(whole) > 1 else masks
    threefold, fourfold = torch.stack([_symmetry(mask) for mask in whole]).mean(0).tolist()
    shape = "circle"
    if threefold > TRIANGLE_SYMMETRY:
        shape = "triangle"
    elif fourfold < SQUARE_SYMMETRY:
        shape = "square"
    overlap = torch.stack([_overlap(mask, shape) for mask in whole]).mean().item()
    motion = _motion(masks, whole) if len(masks) > 1 else ""
    return Reading(
        list(clips.COLOURS)[colour], shape if overlap >= LEAST_OVERLAP else "", motion, overlap
    )


def _nearest_colour(clip: Tensor) -> Tensor:
    """Index of the nearest palette colour per pixel (T, H, W), -1 where some grey below 0.5 is
    nearer.
    """
    palette = torch.tensor(list(clips.COLOURS.values())).T  # (3, P)
    grey = clip.mean(0).clamp(0, 0.5)
    # Squared, and summed over the first dimension: norms over a last one of three are slow.
    to_palette = (clip.unsqueeze(-1) - palette.view(3, 1, 1, 1, -1)).square().sum(0)  # (T, H, W, P)
    to_grey = (clip - grey).square().sum(0)
    nearest = to_palette.min(-1)
    return torch.where(nearest.values < to_grey, nearest.indices, -1)


def _centre(mask: Tensor) -> tuple[float, float]:
    """Centre of mass (x, y) of a mask (H, W) on the torus: the mean angle, where the border is no
    special place.
    """
    centre = []
    for axis, side in ((0, mask.shape[1]), (1, mask.shape[0])):
        profile = mask.float().sum(axis)
        angle = (torch.arange(side) + 0.5) * 2 * torch.pi / side
        mean = torch.atan2((profile * angle.sin()).sum(), (profile * angle.cos()).sum())
        centre.append(mean.item() * side / (2 * torch.pi) % side)
    return centre[0], centre[1]


def _offsets(mask: Tensor) -> tuple[Tensor, Tensor]:
    """Distance of every pixel from the centre by the shorter way round the torus: dx (1, W), dy (H,
    1).
    """
    height, width = mask.shape
    x, y = _centre(mask)
    dx = (torch.arange(width) + 0.5 - x + width / 2) % width - width / 2
    dy = (torch.arange(height) + 0.5 - y + height / 2) % height - height / 2
    return dx.unsqueeze(0), dy.unsqueeze(1)


def _symmetry(mask: Tensor) -> Tensor:
    """Three- and fourfold symmetry (2,) of a mask (H, W), each -1 to 1: the mean of r^n sin 3θ and
    r^n cos 4θ.
    """
    dx, dy = _offsets(mask)
    radius, angle = (
        (dx**2 + dy**2).sqrt(),
        torch.atan2(dy.expand(mask.shape), dx.expand(mask.shape)),
    )
    cubed, fourth = mask * radius**3, mask * radius**4
    return torch.stack(
        [
            (cubed * (3 * angle).sin()).sum() / cubed.sum(),
            (fourth * (4 * angle).cos()).sum() / fourth.sum(),
        ]
    )


def _overlap(mask: Tensor, shape: str) -> Tensor:
    """Intersection over union of a mask (H, W) with the ideal shape of its area and centre."""
    dx, dy = _offsets(mask)
    area = mask.sum().item()
    edge = (
        4 * area / 3**0.5
    ) ** 0.5  # of an equilateral triangle; its centre lies a third of the height above the base
    rise = edge * 3**0.5 / 2
    ideal = {
        "circle": dx**2 + dy**2 <= area / torch.pi,
        "square": torch.maximum(dx.abs(), dy.abs()) <= area**0.5 / 2,
        "triangle": (dy <= rise / 3) & (dx.abs() <= (dy + rise * 2 / 3) * edge / (2 * rise)),
    }[shape]
    return (mask & ideal).sum() / (mask | ideal).sum()


def _motion(masks: list[Tensor], whole: list[Tensor]) -> str:
    """Growth if the area of the whole ones changed much, else the direction of the unwrapped path
    of the centre, else standing still.
    """
    areas = [mask.sum().item() for mask in whole]
    # Frames at either end; a long clip grows in its first 17 frames only.
    ends = min(4, len(areas) // 2)
    growth = sum(areas[-ends:]) / sum(areas[:ends])
    if growth > GROWTH_RATIO:
        return "growing"
    if growth < 1 / GROWTH_RATIO:
        return "shrinking"

    centres = torch.tensor([_centre(mask) for mask in masks])  # (T, 2)
    side = torch.tensor([masks[0].shape[1], masks[0].shape[0]])
    path = ((centres.diff(dim=0) + side / 2) % side - side / 2).sum(0)
    if path.abs().max() < STILL_PIXELS:
        return "standing still"
    axis = int(path.abs().argmax())
    names = (("left", "right"), ("up", "down"))[axis]
    return f"moving {names[int(path[axis] > 0)]}"


def _is_cut(mask: Tensor) -> bool:
    """Whether a mask (H, W) reaches the border."""
    return bool(mask[0].any() or mask[-1].any() or mask[:, 0].any() or mask[:, -1].any())


def accuracy(videos: Tensor, sentences: list[str]) -> float:
    """Share of clips (B, 3, T, H, W) in [0, 1] whose colour, shape and motion are all as told."""
    right = [
        read_clip(clip).agrees_with(sentence)
        for clip, sentence in zip(videos, sentences, strict=True)
    ]
    return sum(right) / len(right)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clips", type=int, default=200)
    parser.add_argument("--vae", default=str(host.ASSETS / "fewstep_demo_vae.safetensors"))
    options = parser.parse_args()
    rng = random.Random(7)
    scenes = [clips.draw_scene(rng) for _ in range(options.clips)]
    sentences = [scene.sentence() for scene in scenes]
    true = clips.render(scenes) / 2 + 0.5
    print(f"true clips read right: {accuracy(true, sentences):.1%} of {len(scenes)}")

    host.connect()
    vae = host.load_vae(options.vae)
    decoded = torch.cat([host.decode(vae, host.encode(vae, part)) for part in true.split(8)])
    psnr = -10 * (decoded - true).square().mean((1, 2, 3, 4)).log10()
    print(
        f"decoded clips read right: {accuracy(decoded, sentences):.1%}; PSNR {psnr.mean():.1f} dB"
        f" (lowest {psnr.min():.1f})"
    )


if __name__ == "__main__":
    main()
