"""How far a candidate is from a reference; torchmetrics is imported when something is compared."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from .libraries import torchmetrics_missing, torchvision_missing

# SSIM's window is 11 pixels wide and is reflected at the edges; LPIPS' network halves a picture
# five times.
LEAST_PIXELS = 32
LPIPS_NETWORK = "alex"


@dataclass(frozen=True)
class Quality:
    """Figures of a candidate against its reference.

    psnr: decibels, infinite for equal pictures. ssim: 1 is equal. lpips: 0 is equal, None where
    its weights are not on disk.

    temporal: mean difference of the changes between successive frames, 0..2, None for a single
    picture.
    """

    psnr: float
    ssim: float
    lpips: float | None
    temporal: float | None

    @property
    def rows(self) -> tuple[tuple[str, str], ...]:
        """(what, value in words)."""
        return (
            ("PSNR", "equal" if math.isinf(self.psnr) else f"{self.psnr:.2f} dB"),
            ("SSIM", f"{self.ssim:.4f}"),
            (
                "LPIPS",
                f"not measured: {lpips_missing()}" if self.lpips is None else f"{self.lpips:.4f}",
            ),
            *(() if self.temporal is None else (("temporal difference", f"{self.temporal:.4f}"),)),
        )


def compare(reference: Tensor, candidate: Tensor, name: str = "candidate") -> Quality:
    """Quality of (N, H, W, 3) in 0..1, both alike; N above 1 counts as the frames of a clip.

    name: what messages call the candidate. Raises ValueError where they are not alike, or where
    one holds no numbers.
    """
    refuse_unlike(reference, candidate, name)
    refuse_no_numbers("reference", reference)
    refuse_no_numbers(name, candidate)
    if why := torchmetrics_missing():
        raise ValueError(f"Nothing can be measured: {why}")
    from torchmetrics.functional.image import structural_similarity_index_measure

    pairs = list(_frames(reference, candidate))
    # All frames are of one size. In float32: in half precision, as a host's pictures may be,
    # torchmetrics' own sums run over.
    error = float(torch.stack([(a - b).square().mean() for a, b in pairs]).mean())
    psnr = math.inf if error == 0.0 else -10 * math.log10(error)
    # Of equal pictures it is 1; measured, those that are flat come out lower, by rounding.
    ssim = [
        float(
            torch.equal(a, b) or structural_similarity_index_measure(b, a, data_range=1.0)  # type: ignore[arg-type]
        )
        for a, b in pairs
    ]
    temporal = temporal_difference(reference, candidate) if len(pairs) > 1 else None
    return Quality(
        psnr, sum(ssim) / len(ssim), None if lpips_missing() else _lpips(pairs), temporal
    )


def temporal_difference(reference: Tensor, candidate: Tensor) -> float:
    """Mean |Δreference - Δcandidate| over successive frames: motion only one has, and flicker."""
    return float((reference[..., :3].diff(dim=0) - candidate[..., :3].diff(dim=0)).abs().mean())


def refuse_unlike(reference: Tensor, candidate: Tensor, name: str) -> None:
    if reference.shape[0] != candidate.shape[0]:
        raise ValueError(
            f"reference and {name} have {reference.shape[0]} and {candidate.shape[0]} frames."
            " Sample both with the same length and batch, so that each frame has its counterpart."
        )
    if reference.shape[1:3] != candidate.shape[1:3]:
        raise ValueError(
            f"reference is {_size(reference)} and {name} {_size(candidate)}. Sample both at the"
            " same size: scaling one would be measured as a loss of quality."
        )
    if min(reference.shape[1:3]) < LEAST_PIXELS:
        raise ValueError(
            f"The pictures are {_size(reference)}; figures need at least {LEAST_PIXELS}"
            " pixels each way."
        )


def refuse_no_numbers(name: str, images: Tensor) -> None:
    broken = sum(not bool(image.isfinite().all()) for image in images[..., :3])
    if broken:
        which = "" if len(images) == 1 else f", in {broken} of {len(images)} pictures"
        raise ValueError(
            f"The {name} holds values that are not numbers (a black picture){which}: there is"
            f" nothing to measure. Make the {name} again before comparing it."
        )


def black_pictures(images: Tensor) -> int:
    """How many of (N, H, W, 3) are wholly black."""
    return sum(not bool(image.any()) for image in images[..., :3])


def _size(images: Tensor) -> str:
    return f"{images.shape[2]} x {images.shape[1]}"


def _frames(reference: Tensor, candidate: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Pairs of (1, 3, H, W), one at a time: a metric's intermediate results take much memory."""
    for a, b in zip(reference[..., :3].float(), candidate[..., :3].float()):
        yield a.permute(2, 0, 1)[None], b.permute(2, 0, 1)[None]


# ---------------------------------------------------------------- LPIPS


def lpips_missing() -> str:
    """Why LPIPS cannot be measured, empty if it can. Its network's weights are never downloaded."""
    if why := torchvision_missing():
        return why
    path = lpips_weights()
    return (
        ""
        if path.is_file()
        else f"{path.name} is not in torch.hub's checkpoints folder, and nothing is downloaded"
    )


def lpips_weights() -> Path:
    """Where torchvision keeps the weights of LPIPS' network."""
    from torchvision.models import AlexNet_Weights

    name = str(AlexNet_Weights.DEFAULT.url).rpartition("/")[2]
    return Path(torch.hub.get_dir()) / "checkpoints" / name


def _lpips(pairs: list[tuple[Tensor, Tensor]]) -> float:
    """LPIPS, mean over frames.

    Zhang et al. 2018, The Unreasonable Effectiveness of Deep Features as a Perceptual Metric.
    """
    from torchmetrics.image.lpip import LearnedPerceptualImagePatchSimilarity

    metric = LearnedPerceptualImagePatchSimilarity(net_type=LPIPS_NETWORK, normalize=True)  # type: ignore[arg-type]
    metric = metric.to(pairs[0][0].device)  # with --gpu-only the host's pictures are there
    with torch.inference_mode():
        for reference, candidate in pairs:
            metric.update(candidate.clamp(0, 1), reference.clamp(0, 1))
        return float(metric.compute())
