"""A model with a known exact answer: a mixture of Gaussians with the spectrum of pictures.

Where no trained model is at hand, this one is: ComfyUI samples it like any other, guidance
included, and what its network returns is the posterior mean in closed form. A small fixed error
field stands for what training leaves unlearnt.
"""

from __future__ import annotations

import math

import comfy.conds
import comfy.latent_formats
import comfy.model_base
import comfy.model_patcher
import comfy.supported_models_base
import torch
from comfy.patcher_extension import WrapperExecutor, WrappersMP, get_all_wrappers
from torch import Tensor

CHANNELS, SIDE = 4, 16
COMPONENTS, CLASSES = 48, 4
SPECTRUM = 0.9  # amplitude falls with (1 + frequency) to this power; natural pictures are near 1
DETAIL = 0.5  # deviation within a component, relative to that between components
ERROR = 0.06  # of the unlearnt field, relative to the output
NO_CLASS = -1.0


class MixtureNetwork(torch.nn.Module):
    """Velocity or noise prediction for latents (B, 4, 16, 16), in the covariance's own basis."""

    def __init__(self, seed: int, is_flow: bool, sigma_of):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        axis = torch.arange(SIDE).float()
        amplitude = (1 + (axis[:, None] ** 2 + axis**2).sqrt()) ** -SPECTRUM
        amplitude = amplitude / amplitude.square().mean().sqrt()
        self.dtype, self.is_flow, self.sigma_of = torch.float32, is_flow, sigma_of
        self.means = torch.nn.Parameter(
            torch.randn(COMPONENTS, CHANNELS, SIDE, SIDE, generator=generator) * amplitude
        )
        self.variance = torch.nn.Parameter(
            (amplitude * DETAIL).square().expand(CHANNELS, SIDE, SIDE).clone()
        )
        hidden = 24
        self.error_in = torch.nn.Parameter(
            torch.randn(hidden, CHANNELS, 3, 3, generator=generator) / math.sqrt(CHANNELS * 9 / 1.4)
        )
        self.error_out = torch.nn.Parameter(
            torch.randn(CHANNELS, hidden, 3, 3, generator=generator) / math.sqrt(hidden * 9 / 2)
        )
        self.error_level = torch.nn.Parameter(1.5 * torch.randn(hidden, generator=generator))
        self.error_shift = torch.nn.Parameter(torch.randn(hidden, generator=generator))

    def forward(self, x, timestep, context=None, transformer_options=None, **kwargs) -> Tensor:
        wrappers = get_all_wrappers(WrappersMP.DIFFUSION_MODEL, transformer_options or {})
        return WrapperExecutor.new_class_executor(self._forward, self, wrappers).execute(
            x, timestep, context, transformer_options
        )

    def _forward(self, x: Tensor, timestep: Tensor, context: Tensor, transformer_options) -> Tensor:
        sigma = float(timestep[0]) / 1000 if self.is_flow else float(self.sigma_of(timestep[:1]))
        signal = 1 - sigma if self.is_flow else 1.0
        # The host scales the input of noise-prediction models.
        latent = x if self.is_flow else x * math.sqrt(1 + sigma**2)
        classes = context[:, 0, 0]
        denoised = torch.stack(
            [
                self._posterior_mean(row, sigma, signal, float(label))
                for row, label in zip(latent, classes)
            ]
        )
        derivative = (latent - denoised) / sigma
        return (
            derivative
            + self._error(latent / math.sqrt(signal**2 + sigma**2), signal, sigma)
            * derivative.std()
        )

    def _posterior_mean(self, x: Tensor, sigma: float, signal: float, label: float) -> Tensor:
        means = self.means if label < 0 else self.means[int(label) :: CLASSES]  # (K, C, H, W)
        total = signal**2 * self.variance + sigma**2
        offset = x - signal * means
        weight = (-0.5 * (offset.square() / total).flatten(1).sum(1)).softmax(0)  # (K,)
        return (weight.view(-1, 1, 1, 1) * (means + signal * self.variance / total * offset)).sum(0)

    def _error(self, x: Tensor, signal: float, sigma: float) -> Tensor:
        level = math.log((signal + 1e-3) / sigma)
        phase = (self.error_shift + self.error_level * level).view(1, -1, 1, 1)
        wave = torch.sin(torch.nn.functional.conv2d(x, self.error_in, padding=1) + phase)
        return ERROR * torch.nn.functional.conv2d(wave, self.error_out, padding=1)


class MixtureFormat(comfy.latent_formats.LatentFormat):
    latent_channels = CHANNELS


class MixtureConfig(comfy.supported_models_base.BASE):
    """What the host reads of a model's configuration."""

    memory_usage_factor = 0.01

    def __init__(self, is_flow: bool):
        self.unet_config = {"disable_unet_model_creation": True, "dtype": torch.float32}
        self.latent_format = MixtureFormat()
        self.sampling_settings = {"shift": 3.0} if is_flow else {}
        self.manual_cast_dtype, self.custom_operations, self.optimizations = None, None, {}


class MixtureModel(comfy.model_base.BaseModel):
    def __init__(self, seed: int, is_flow: bool):
        kind = comfy.model_base.ModelType.FLOW if is_flow else comfy.model_base.ModelType.EPS
        super().__init__(MixtureConfig(is_flow), kind)
        self.diffusion_model = MixtureNetwork(
            seed, is_flow, self.model_sampling.sigma
        ).requires_grad_(False)

    def extra_conds(self, **values):
        return {"c_crossattn": comfy.conds.CONDRegular(values["cross_attn"])}


def mixture(seed: int, is_flow: bool) -> comfy.model_patcher.ModelPatcher:
    """A MODEL of the mixture that this seed draws."""
    cpu = torch.device("cpu")
    return comfy.model_patcher.ModelPatcher(
        MixtureModel(seed, is_flow), load_device=cpu, offload_device=cpu
    )


def class_conditioning(label: float) -> list:
    """CONDITIONING for one of the classes, NO_CLASS for none."""
    return [[torch.full((1, 1, 1), label), {}]]
