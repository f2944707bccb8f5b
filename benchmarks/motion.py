"""A motion module on SD 1.5's UNet: what it adds to an evaluation of a batch, and its memory.

python benchmarks/motion.py [--rounds 7]
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median

import in_host

in_host.enter()

import folder_paths  # noqa: E402
import memory  # noqa: E402
import torch  # noqa: E402
from comfy.ldm.modules.attention import attention_pytorch  # noqa: E402
from comfy.model_patcher import ModelPatcher  # noqa: E402
from comfyui_fewstep.motion.keys import Architecture  # noqa: E402
from comfyui_fewstep.motion.module import MotionModule  # noqa: E402
from comfyui_fewstep.nodes import motion  # noqa: E402
from comfyui_fewstep.nodes.host import motion as motion_patch  # noqa: E402
from motion_files import FULL_WIDTHS, animatediff_keys, motion_adapter, save  # noqa: E402
from sampling import ksampler  # noqa: E402
from tables import Table, main_of  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from small_models import FULL_WIDTH, UNETS, conditioning, unet_config, unet_patcher  # noqa: E402

FILE = "mm_sd_v15_v2.safetensors"
FRAMES, SIDE, STEPS = 16, 32, 4


def tables(rounds: int, folder: Path) -> list[Table]:
    save(folder / motion.FOLDER / FILE, animatediff_keys(motion_adapter().state_dict()))
    still, moving = models(folder)
    table = Table(
        "Motion module",
        note=(
            f"{FRAMES} frames of {8 * SIDE} x {8 * SIDE} on a UNet of a tenth of SD 1.5's width."
            " The module is more work, so there is no target but to know how much."
        ),
    )
    with_module, plain = in_host.in_turns(run_of(moving), run_of(still), rounds)
    table.row(
        "seconds an evaluation, with the module and without",
        f"{median(with_module) / STEPS:.3f} s / {median(plain) / STEPS:.3f} s",
        f"{in_host.median_ratio(with_module, plain):.2f}x",
        "",
    )
    flops = [arithmetic(has_motion) for has_motion in (True, False)]
    table.row(
        "arithmetic of an evaluation at SD 1.5's own width, 512 x 512, counted",
        " / ".join(f"{count / 1e12:.1f} TFLOP" for count in flops),
        f"{flops[0] / flops[1]:.2f}x",
        "",
    )
    weights = sum(weight.nbytes for weight in module_at(FULL_WIDTHS).parameters())
    table.row(
        "weights of the module at that width, half precision", f"{weights / 2**20:.0f} MiB", "", ""
    )
    peaks = [memory.peak("motion", "sampling", name, folder).taken for name in ("moving", "still")]
    table.row(
        "peak memory of a run, with the module and without",
        " / ".join(f"{peak / 2**20:.0f} MiB" for peak in peaks),
        f"{peaks[0] / peaks[1]:.2f}x",
        "",
    )
    return [table]


def models(folder: Path) -> tuple:
    """(the plain UNet, the same with the module)."""
    folder_paths.add_model_folder_path(motion.FOLDER, str(folder / motion.FOLDER))
    folder_paths.filename_list_cache.clear()
    still = unet_patcher("sd15")
    return still, motion.attach_motion(still, FILE, FRAMES)[0]


def run_of(model) -> Callable[[], object]:
    text = conditioning(model, length=77)
    return ksampler(model, text, text, {"samples": torch.zeros(FRAMES, 4, SIDE, SIDE)}, STEPS, 1.0)


def sampling(name: str, folder: str) -> Callable[[], object]:
    """For memory.peak."""
    still, moving = models(Path(folder))
    return run_of(moving if name == "moving" else still)


def module_at(widths: tuple[int, ...]) -> MotionModule:
    """AnimateDiff v2's network at these widths, without weights."""
    return MotionModule(Architecture(widths, 32, True), dtype=torch.float16, device="meta")


def arithmetic(has_motion: bool) -> int:
    """FLOPs of one evaluation at SD 1.5's own width, counted on tensors without numbers."""
    config = UNETS["sd15"][0](unet_config("sd15", FULL_WIDTH))
    with torch.device("meta"):
        patcher = ModelPatcher(config.get_model({}, ""), torch.device("cpu"), torch.device("cpu"))
        if has_motion:
            patcher = motion_patch.with_motion(
                patcher, module_at(FULL_WIDTHS).float(), FILE, FRAMES
            )
        x, time, text = (
            torch.zeros(FRAMES, 4, 64, 64),
            torch.zeros(FRAMES),
            torch.zeros(FRAMES, 77, 768),
        )
        # The host's attention for a CPU asks how much memory is free; this one does not.
        options = {
            **patcher.model_options["transformer_options"],
            "cond_or_uncond": [0],
            "optimized_attention_override": lambda _, *args, **kwargs: attention_pytorch(
                *args, **kwargs
            ),
        }
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            patcher.model.diffusion_model(x, time, context=text, transformer_options=options)
    return counter.get_total_flops()


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=7)
