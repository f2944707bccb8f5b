"""AnimateDiff: motion for SD 1.5."""

from __future__ import annotations

from workflow_graph import Graph

from .files import DREAMSHAPER, accelerator_file
from .parts import finish_video, prompt_box, sample
from .workflow import workflow

PROMPT = "a sailing boat on a stormy sea, waves, clouds moving fast, cinematic"
FRAMES = 16


@workflow(
    "AnimateDiff-Lightning 4 steps",
    "animatediff_lightning",
    """
    ## A moving picture in any SD 1.5 style in 4 steps

    The Motion Module Loader puts AnimateDiff-Lightning on an SD 1.5 checkpoint. Nothing else
    needs to be installed.

    **batch_size** of the empty latent is the number of frames; set `frames` to the same. The
    modules were made on 16.

    There are files for 1, 2, 4 and 8 steps; each runs its own number.

    **CFG is locked to 1.**
    """,
)
def lightning(graph: Graph) -> None:
    with graph.group("Models"):
        loaded = graph.node("CheckpointLoaderSimple", ckpt_name=DREAMSHAPER)
        moving = graph.node(
            "FewStepMotion",
            model=loaded["MODEL"],
            motion_name=accelerator_file("animatediff-lightning-4step"),
            frames=FRAMES,
        )
    with graph.group("Prompt and size"):
        positive = prompt_box(graph, loaded["CLIP"], PROMPT)
        latent = graph.node(
            "EmptyLatentImage", "Size and frames", width=512, height=512, batch_size=FRAMES
        )
    sampled = sample(graph, moving, positive, latent["LATENT"])
    finish_video(graph, sampled, loaded["VAE"], fps=8)


WORKFLOWS = (lightning,)
