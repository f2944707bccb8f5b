"""The one place where the demo's scripts meet ComfyUI: its path, its device, its modules."""

import logging
import os
import sys
from pathlib import Path

import torch
from torch import Tensor

ASSETS = Path(__file__).resolve().parent
LORAS = ASSETS / "loras" / "fewstep-demo"
CACHE = (
    Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    / "comfyui-fewstep"
    / "demo-train"
)


def connect(device: str = "cpu", training: bool = True) -> None:
    """Make `import comfy` find the ComfyUI tree that COMFYUI_PATH names, on `device`.

    Call it before any comfy import. Without a GPU the host must be told --cpu: it asks CUDA for a
    device at import.
    """
    if "COMFYUI_PATH" not in os.environ:
        raise SystemExit(
            "Set COMFYUI_PATH to a ComfyUI folder (the one that holds main.py) and run this with"
            " its Python."
        )
    sys.path.insert(1, os.environ["COMFYUI_PATH"])
    # The host's own chatter stays at warnings.
    logging.basicConfig(format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    logging.getLogger("demo").setLevel(logging.INFO)

    from comfy.cli_args import args

    args.cpu = not device.startswith("cuda")
    import comfy.model_management

    # The host's fused rope and attention paths have no backward pass; this flag picks the ones that
    # have.
    comfy.model_management.in_training = training


def load_vae(path: Path, device: str = "cpu") -> torch.nn.Module:
    """The VAE's network as the host detects and loads it from a file, in float32 on `device`."""
    import comfy.sd
    import comfy.utils

    weights, metadata = comfy.utils.load_torch_file(str(path), return_metadata=True)
    vae = comfy.sd.VAE(sd=weights, metadata=metadata)
    vae.throw_exception_if_invalid()
    return vae.first_stage_model.float().to(device)


@torch.no_grad()
def encode(vae: torch.nn.Module, videos: Tensor) -> Tensor:
    """Clips (B, 3, T, H, W) in [0, 1] -> latents (B, 16, (T-1)//4+1, H/8, W/8) as the diffusion
    model sees them.
    """
    from comfy.latent_formats import Wan21

    device = next(vae.parameters()).device
    return Wan21().process_in(vae.encode((videos * 2 - 1).to(device)).cpu())


@torch.no_grad()
def decode(vae: torch.nn.Module, latents: Tensor) -> Tensor:
    """Latents as the diffusion model sees them -> clips (B, 3, T, H, W) in [0, 1]."""
    from comfy.latent_formats import Wan21

    device = next(vae.parameters()).device
    parts = [vae.decode(part.to(device)).cpu() for part in Wan21().process_out(latents).split(16)]
    return (torch.cat(parts) / 2 + 0.5).clamp(0, 1)


def save_checkpoint(path: Path, **state) -> None:
    """Write atomically, so that a killed run leaves the previous checkpoint whole. Checkpoints
    never ship.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(state, path.with_suffix(".new"))
    path.with_suffix(".new").replace(path)


def load_checkpoint(path: Path) -> dict | None:
    """The saved state on the CPU, or None where training starts from nothing."""
    return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None


def reset_weights(model: torch.nn.Module, generator: torch.Generator) -> None:
    """Give every layer torch's own default initialisation, which the host's layers skip because
    they expect a file.
    """
    torch.manual_seed(torch.randint(2**31, (), generator=generator).item())
    for module in model.modules():
        for base in (
            torch.nn.Linear,
            torch.nn.Conv2d,
            torch.nn.Conv3d,
            torch.nn.LayerNorm,
            torch.nn.RMSNorm,
        ):
            if isinstance(module, base) and module.weight is not None:
                base.reset_parameters(module)
