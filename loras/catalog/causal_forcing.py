"""Self Forcing and Causal Forcing: causal Wan 2.1, re-noised block by block.

Huang et al. 2025, arXiv 2506.08009.

The lists of the published configs (1000, 750, 500, 250) are warped by shift 5. Causal Forcing++
needs four steps for the first block alone, and two or one for every later one.
"""

from __future__ import annotations

from functools import partial

from ..accelerator import Accelerator, Causal, Kind, PublishedFile, Solver
from ..bases import Base
from ..schedules import ShiftedFlow
from .licences import APACHE, CC_BY_NC_SA

CONVERT = "a pickle: convert it to .safetensors"
WARPED = ShiftedFlow(5.0)

causal = partial(
    Accelerator,
    kind=Kind.MODEL,
    bases=(Base.WAN_CAUSAL,),
    steps=(4,),
    schedule=WARPED,
    solver=Solver.LCM,
    licence=APACHE,
)
causal_forcing = partial(
    causal,
    family="Causal Forcing",
    width=1536,
    sources=("github thu-ml/Causal-Forcing configs and README",),
)
pickle = partial(
    PublishedFile, "zhuhz22/Causal-Forcing", folder="diffusion_models", caution=CONVERT
)


def plus_plus(steps: int) -> Accelerator:
    return causal_forcing(
        id=f"causal-forcing-plus-framewise-{steps}step",
        steps=(steps,),
        causal=Causal(frames_per_block=1, first_block=WARPED, first_block_steps=4),
        files=(pickle(f"causal-forcing++/framewise-{steps}step.pt"),),
        name_words=(f"{steps}step", "framewise"),
        notes=(
            (
                "The first block takes four steps; the host's own ar_video sampler knows one list"
                " for all."
            ),
        ),
        unverified=("that its list is warped like the first block's",) if steps == 2 else (),
    )


RECORDS = (
    causal(
        id="self-forcing-dmd",
        family="Self Forcing",
        width=1536,
        causal=Causal(frames_per_block=3),
        licence=CC_BY_NC_SA,
        files=(
            PublishedFile(
                "gdhe17/Self-Forcing",
                "checkpoints/self_forcing_dmd.pt",
                folder="diffusion_models",
                caution=CONVERT,
            ),
        ),
        name_words=("self", "forcing"),
        sources=(
            "github guandeh17/Self-Forcing configs",
            "huggingface gdhe17/Self-Forcing model card (licence)",
        ),
    ),
    causal_forcing(
        id="causal-forcing-chunkwise",
        causal=Causal(frames_per_block=3),
        files=(pickle("chunkwise/causal_forcing.pt"),),
        name_words=("causal", "chunkwise"),
    ),
    causal_forcing(
        id="causal-forcing-framewise",
        causal=Causal(frames_per_block=1),
        files=(
            pickle("framewise/causal_forcing.pt"),
            PublishedFile(
                "TalmajM/causal_forcing_framewise_ComfyUI_repackaged",
                "split_files/diffusion_models/causal_forcing-framewise.safetensors",
                folder="diffusion_models",
            ),
        ),
        name_words=("causal", "framewise"),
        sources=(
            "github thu-ml/Causal-Forcing configs",
            "comfyui-workflow-templates video_causal_forcing_i2v.json",
        ),
    ),
    plus_plus(2),
    plus_plus(1),
    causal(
        id="krea-realtime-14b",
        family="Self Forcing",
        width=5120,
        causal=Causal(frames_per_block=3),
        licence=CC_BY_NC_SA,
        files=(PublishedFile("krea/krea-realtime-video", folder="diffusion_models"),),
        name_words=("krea", "realtime"),
        sources=("github krea-ai/realtime-video",),
        unverified=("file name", "sigma list: Self Forcing's is taken", "frames in a block"),
    ),
)
