"""AnimateDiff-Lightning: motion modules for SD 1.5, one for each step count.

Lin and Yang 2024, arXiv 2403.12706.
"""

from __future__ import annotations

from ..accelerator import Accelerator, Kind, Licence, PublishedFile
from ..bases import Base
from ..schedules import Trailing


def lightning(steps: int) -> Accelerator:
    return Accelerator(
        id=f"animatediff-lightning-{steps}step",
        family="AnimateDiff-Lightning",
        kind=Kind.MOTION_MODULE,
        bases=(Base.SD15,),
        steps=(steps,),
        schedule=Trailing(),
        licence=Licence("creativeml-openrail-m", True, "use restrictions"),
        files=(
            PublishedFile(
                "ByteDance/AnimateDiff-Lightning",
                f"animatediff_lightning_{steps}step_comfyui.safetensors",
                folder="animatediff_models",
            ),
        ),
        name_words=("lightning",),
        sources=(
            "ByteDance/AnimateDiff-Lightning model card",
            "github Kosinkadink/ComfyUI-AnimateDiff-Evolved README",
        ),
        notes=(
            "Its noise levels are not SD 1.5's: AnimateDiff was trained on linear betas.",
            *(("For research only, by its card.",) if steps == 1 else ()),
        ),
    )


RECORDS = tuple(lightning(steps) for steps in (1, 2, 4, 8))
