"""Distil the demo's base into two four-step students, each a LoRA file in the key layout of
LightX2V's Wan releases.

    COMFYUI_PATH=<ComfyUI> <its python> demo/distill.py ode     Euler, four steps, guidance baked in
    COMFYUI_PATH=<ComfyUI> <its python> demo/distill.py lcm     re-noising, one to four steps

Needs fewstep_demo_wan.safetensors. The teacher's paths are computed once, in chunks, and kept;
training checkpoints every 50 steps and resumes.

The ODE student first learns single steps between the states of a teacher path, then whole paths
from noise with a loss on the end alone, through all four steps. The re-noise student learns, at
each of the four sigmas, where the teacher ends up from there: from pure noise, and from clips of
the teacher's under fresh noise, as its sampler visits them.
"""

import argparse
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

import host
import teacher
from optimizer import MuonAdamW, warm_up_then_decay
from pace import Pace
from teacher import SIGMAS, STEPS

log = logging.getLogger("demo")

SEED = 3
RANK = 32
BATCH = 64
MUON_RATE = 2e-3
ADAM_RATE = 1e-3
ROLLOUT_SHARE = 0.5  # of the ODE student's training: whole paths through its own steps
FILES = {"ode": "fewstep_demo_lightx2v_4step.safetensors", "lcm": "fewstep_demo_lcm.safetensors"}
SAMPLERS = {"ode": "euler", "lcm": "lcm"}


class LowRankDelta(torch.nn.Module):
    """weight + up @ down, as a parametrisation of a Linear's weight."""

    def __init__(self, weight: Tensor, rank: int, generator: torch.Generator):
        super().__init__()
        out_features, in_features = weight.shape
        self.down = torch.nn.Parameter(
            torch.randn(rank, in_features, generator=generator) * in_features**-0.5
        )
        self.up = torch.nn.Parameter(torch.zeros(out_features, rank))

    def forward(self, weight: Tensor) -> Tensor:
        return weight + self.up @ self.down


def add_deltas(model: torch.nn.Module, rank: int = RANK) -> None:
    """Low-rank deltas on the blocks' linear layers, the head's and the time projection; biases and
    norms train whole.
    """
    generator = torch.Generator().manual_seed(SEED)
    for name, module in list(model.named_modules()):
        if not name.startswith(("blocks.", "head.head", "time_projection")):
            continue
        if isinstance(module, torch.nn.Linear):
            delta = LowRankDelta(module.weight, rank, generator)
            torch.nn.utils.parametrize.register_parametrization(module, "weight", delta)
            module.bias.requires_grad_(True)
        elif getattr(module, "weight", None) is not None:
            for weight in module.parameters(recurse=False):
                weight.requires_grad_(True)


def trained_state(model: torch.nn.Module) -> dict[str, Tensor]:
    return {
        name: weight.detach() for name, weight in model.named_parameters() if weight.requires_grad
    }


def write_lora(model: torch.nn.Module, path: Path, description: dict) -> None:
    """`diffusion_model.` keys: lora_down / lora_up / alpha on matrices, diff on norms, diff_b on
    biases.
    """
    base = teacher.load_teacher("cpu").state_dict()
    tensors = {}
    for name, value in trained_state(model).items():
        layer, kind = name.rsplit(".", 1)
        if ".parametrizations." in name:
            layer = "diffusion_model." + layer.split(".parametrizations.")[0]
            tensors[f"{layer}.lora_{kind}.weight"] = value
            if kind == "down":
                tensors[f"{layer}.alpha"] = torch.tensor(float(len(value)))
        else:
            suffix = {"weight": "diff", "bias": "diff_b"}[kind]
            tensors[f"diffusion_model.{layer}.{suffix}"] = value.cpu() - base[name]
    tensors = {key: value.cpu().half().contiguous() for key, value in tensors.items()}
    save_file(tensors, path, metadata={"format": "pt", "fewstep_demo": json.dumps(description)})


def read_lora(model: torch.nn.Module, path: Path) -> None:
    """Put what write_lora wrote back into a model that has gone through add_deltas."""
    tensors, weights = load_file(path), trained_state(model)
    with torch.no_grad():
        for name, weight in weights.items():
            layer, kind = name.rsplit(".", 1)
            if ".parametrizations." in name:
                layer = layer.split(".parametrizations.")[0]
                weight.copy_(tensors[f"diffusion_model.{layer}.lora_{kind}.weight"])
            else:
                weight.add_(
                    tensors[f"diffusion_model.{layer}.{'diff_b' if kind == 'bias' else 'diff'}"]
                )


class Paths:
    """Random batches out of the teacher's chunks, all of one chunk so that lengths agree."""

    def __init__(self, chunks: list[dict[str, Tensor]], seed: int):
        self.chunks, self.rng = chunks, random.Random(seed)

    def draw(self, size: int, *names: str) -> list[Tensor]:
        """The named tensors of `size` paths (B, ...) and their embeddings (B, L, 4096)."""
        chunk = self.rng.choice(self.chunks)
        rows = self.rng.sample(range(len(chunk["ids"])), size)
        return [*(chunk[name][rows].float() for name in names), teacher.embed(chunk["ids"][rows])]


def velocity(model: torch.nn.Module, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
    """The student's velocity for states x (B, 16, T, 8, 8) at noise levels sigma (B,)."""
    with torch.autocast(x.device.type, dtype=torch.bfloat16):
        return model(x, sigma.to(x.device) * 1000, context).float()


def ode_step_loss(model: torch.nn.Module, paths: Tensor, context: Tensor) -> Tensor:
    """One Euler step from a state of the teacher's path to the next, as a velocity error. paths:
    (B, 5, 16, T, 8, 8).
    """
    rows = torch.arange(len(paths))
    steps = rows % STEPS
    sigmas = SIGMAS.to(paths.device)
    length = (sigmas[steps] - sigmas[steps + 1]).view(-1, 1, 1, 1, 1)
    target = (paths[rows, steps] - paths[rows, steps + 1]) / length
    return (velocity(model, paths[rows, steps], sigmas[steps], context) - target).square().mean()


def ode_rollout_loss(model: torch.nn.Module, paths: Tensor, context: Tensor) -> Tensor:
    """Error of the end of the student's own four steps from noise, with gradients through all of
    them.
    """
    x = paths[:, 0]
    for step in range(STEPS):
        sigma = SIGMAS[step].expand(len(x))
        x = x - (SIGMAS[step] - SIGMAS[step + 1]).item() * velocity(model, x, sigma, context)
    return (x - paths[:, -1]).square().mean()


def lcm_loss(model: torch.nn.Module, starts: Tensor, ends: Tensor, context: Tensor) -> Tensor:
    """Error of the clip predicted at one of the four sigmas per row. starts, ends: (B, 4, 16, T, 8,
    8).

    The target is where the teacher goes from that very state. It is one clip, not the mean of the
    many that the state leaves open, so it is sharp at every sigma; and the less noise, the easier
    it is to hit: later steps refine.
    """
    rows = torch.arange(len(starts))
    steps = rows % STEPS
    x = starts[rows, steps]
    sigma = SIGMAS.to(x.device)[steps]
    denoised = x - sigma.view(-1, 1, 1, 1, 1) * velocity(model, x, sigma, context)
    return (denoised - ends[rows, steps]).square().mean()


def student_loss(
    kind: str, model: torch.nn.Module, batches: Paths, rolls_out: bool, device: str
) -> Tensor:
    """The loss of one batch, which is smaller where a clip takes several evaluations."""
    if kind == "lcm":
        return lcm_loss(model, *(part.to(device) for part in batches.draw(BATCH, "starts", "ends")))
    paths, context = batches.draw(BATCH // 2 if rolls_out else BATCH, "paths")
    return (ode_rollout_loss if rolls_out else ode_step_loss)(
        model, paths.to(device), context.to(device)
    )


def train_deltas(
    model: torch.nn.Module,
    loss_at: Callable[[int], Tensor],
    steps: int,
    checkpoint: Path,
    rate: float = 1.0,
) -> None:
    """Train what add_deltas added until `steps`, from the checkpoint if there is one. loss_at(step)
    draws its own batch.

    rate: multiple of the peak learning rates.
    """
    optimizer = MuonAdamW(model, lambda name, _: ".parametrizations." in name, MUON_RATE, ADAM_RATE)
    state = host.load_checkpoint(checkpoint)
    first = 0
    if state is not None:
        model.load_state_dict(state["deltas"], strict=False)
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]

    pace = Pace(f"{checkpoint.stem} step", first, steps, 25)
    for step in range(first, steps):
        loss = loss_at(step)
        loss.backward()
        optimizer.step(rate * warm_up_then_decay(step, steps))
        pace.measured(step, loss.item())
        if (step + 1) % 50 == 0 or step + 1 == steps:
            host.save_checkpoint(
                checkpoint,
                deltas=trained_state(model),
                optimizer=optimizer.state_dict(),
                step=step + 1,
            )


def train(
    kind: str, steps: int, chunks: list[dict[str, Tensor]], device: str, checkpoint: Path
) -> torch.nn.Module:
    model = teacher.load_teacher(device)
    add_deltas(model)
    model.to(device)
    batches = Paths(chunks, SEED)
    rollouts_begin = (1 - ROLLOUT_SHARE) * steps
    train_deltas(
        model,
        lambda step: student_loss(kind, model, batches, step >= rollouts_begin, device),
        steps,
        checkpoint,
    )
    return model


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("kind", choices=("paths", *FILES))
    parser.add_argument("--chunks", type=int, default=10, help=f"of {teacher.CHUNK} teacher paths")
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--cache", type=Path, default=host.CACHE, help="where checkpoints live")
    options = parser.parse_args()
    host.connect(options.device)

    teacher.write_chunks(
        options.chunks, options.cache / "paths", options.device, restarts=options.kind == "lcm"
    )
    if options.kind == "paths":
        return
    chunks = teacher.read_chunks(options.cache / "paths")
    student = train(
        options.kind, options.steps, chunks, options.device, options.cache / f"{options.kind}.pt"
    )
    description = {
        "method": options.kind,
        "sigmas": SIGMAS.tolist(),
        "steps": STEPS,
        "shift": teacher.SHIFT,
        "cfg": 1.0,
        "sampler": SAMPLERS[options.kind],
        "guidance_distilled": teacher.CFG,
    }
    write_lora(student, host.LORAS / FILES[options.kind], description)


if __name__ == "__main__":
    main()
