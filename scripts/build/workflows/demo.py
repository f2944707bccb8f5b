"""The tiny models that come with this pack, so that there is nothing to download."""

from __future__ import annotations

from collections.abc import Sequence

from workflow_graph import Graph, Output, Placed

from .parts import (
    accelerate,
    few_steps,
    prefix,
    prompt_box,
    sample,
    save_clip,
    save_picture,
    show_report,
    takes_over,
)
from .workflow import workflow

DEMO_LORA = "fewstep-demo/fewstep_demo_lightx2v_4step.safetensors"
# Titles of the four ways that `four_ways` shows; scripts/demo.py finds their nodes by these.
FULL, QUICK, PLAIN, GUIDED = (
    "50 steps, CFG 5",
    "4 steps accelerated",
    "4 steps plain",
    "4 steps accelerated, CFG 5",
)
NEXT_PROMPT = "a blue circle moving left on a striped background"
# Wide enough for a square clip, and no wider: the editor enlarges it to the node's width.
SQUARE = 320
# As the picture calls them.
FOUR_NAMES = "\n".join(
    (
        f"{FULL}: 100 evaluations",
        f"{QUICK}: 4 evaluations",
        f"{PLAIN}: 4 evaluations",
        f"{GUIDED}: 8 evaluations",
    )
)


def save_small_square(graph: Graph, frames: Output) -> None:
    """Save the demo model's frames as MP4, large enough to look at."""
    larger = graph.node(
        "ImageScaleBy",
        "Larger",
        collapsed=True,
        image=frames,
        upscale_method="nearest-exact",
        scale_by=6.0,
    )
    saved = save_clip(graph, larger["IMAGE"], fps=8, collapsed=True)
    # Square frames stand higher in the node than those of a usual clip.
    saved.size = (SQUARE, 106 + SQUARE)


@workflow(
    "Demo, runs on any computer",
    "demo",
    """
    ## Try it without downloading anything

    A tiny video model that comes with this pack: coloured shapes that move. It runs in seconds,
    on a CPU too.

    The accelerator makes the clip in 4 evaluations; the model alone needs 50 steps with guidance,
    100 evaluations.

    **Prompt**: for example *a big blue square moving up on a striped background*. Words it does
    not know are refused with the list of those it knows.
    """,
)
def accelerated(graph: Graph) -> None:
    with graph.group("Demo model"):
        model = graph.node("FewStepDemo")
        fast = accelerate(graph, model, DEMO_LORA, output="model")
    sampled = sample(graph, fast, model["positive"], model["latent"])
    with graph.group("Video", width=SQUARE):
        save_small_square(graph, decoded_clip(graph, sampled["latent"], model))
    show_report(graph, sampled, SQUARE)


@workflow(
    "Demo, 100 evaluations and 4",
    "demo_compare",
    """
    ## What acceleration costs, seen on any computer

    The tiny model that comes with this pack, four times with the same seed. Press **Run**, and the
    picture shows them in four rows:

    1. as it was trained: 50 steps with guidance, which is 100 evaluations
    2. with its accelerator: 4 evaluations
    3. without the accelerator in 4 steps: why it takes one
    4. with the accelerator, but CFG left at 5: what guidance does to a model that has it built in
       (`lock_cfg` is off in the loader, or the sampler would refuse)

    KSampler has no report of its own: Step Budget's stands for the first, with the seconds it
    predicts for 50 steps with guidance.
    """,
    seeds="fixed",
)
def four_ways(graph: Graph) -> None:
    with graph.group("Demo model", width=260):
        model = graph.node("FewStepDemo")
        # Unlocked, for the last of the four ways: it shows what the lock is for.
        fast = accelerate(graph, model, DEMO_LORA, output="model", lock_cfg=False)
    with graph.group("As it was trained", width=260):
        full = core_clip(graph, FULL, model, model, steps=50, cfg=5.0)
    with graph.group("Accelerated", below=True, width=260):
        quick = few_steps(graph, fast, model["positive"], model["latent"], QUICK)
        quick_clip = decoded_clip(graph, quick["latent"], model)
    with graph.group("Without the accelerator", width=260):
        plain = core_clip(graph, PLAIN, model, model, steps=4, cfg=1.0)
    with graph.group("CFG left at 5", below=True, width=260):
        guided = core_clip(graph, GUIDED, fast, model, steps=4, cfg=5.0)
    with graph.group("The four ways, row by row", width=620):
        budget = graph.node(
            "FewStepBudget",
            "What the 50 steps cost",
            collapsed=True,
            model=model["model"],
            latent_image=model["latent"],
            experience="batch",
        )
        compared = graph.node(
            "FewStepCompare",
            "Compare",
            collapsed=True,
            reference=full,
            candidate=quick_clip,
            reference_report=budget["report"],
            candidate_report=quick["report"],
            candidate_2=plain,
            candidate_3=guided,
            names=FOUR_NAMES,
        )
        save_picture(graph, compared["strip"]).size = (620, 440)
    with graph.group("The clips, side by side", width=280):
        save_side_by_side(graph, (full, quick_clip, plain, guided))
    with graph.group("What was done", below=True, width=280):
        graph.node("PreviewAny", "Report", source=compared["report"])


def core_clip(
    graph: Graph, title: str, sampled: Placed, demo: Placed, steps: int, cfg: float
) -> Output:
    """The frames of core's sampler. sampled: the node whose model it takes."""
    made = graph.node(
        "KSampler",
        title,
        model=sampled["model"],
        positive=demo["positive"],
        negative=demo["negative"],
        latent_image=demo["latent"],
        seed=1,
        steps=steps,
        cfg=cfg,
        sampler_name="euler",
        scheduler="simple",
    )
    return decoded_clip(graph, made["LATENT"], demo)


def decoded_clip(graph: Graph, latent: Output, demo: Placed) -> Output:
    return graph.node("VAEDecode", collapsed=True, samples=latent, vae=demo["vae"])["IMAGE"]


def save_side_by_side(graph: Graph, clips: Sequence[Output]) -> None:
    """Save one animation of all clips, from left to right."""
    strip, *others = clips
    for clip in others:
        strip = graph.node(
            "ImageStitch",
            collapsed=True,
            image1=strip,
            image2=clip,
            direction="right",
            match_image_size=False,
        )["IMAGE"]
    larger = graph.node(
        "ImageScaleBy",
        "Larger",
        collapsed=True,
        image=strip,
        upscale_method="nearest-exact",
        scale_by=3.0,
    )
    saved = graph.node(
        "SaveAnimatedWEBP", images=larger["IMAGE"], filename_prefix=prefix(graph), fps=8.0
    )
    # Four squares beside each other are low, and the editor draws its controls above them.
    saved.size = (saved.size[0], 370)


@workflow(
    "Demo, streamed frame by frame",
    "demo_stream",
    """
    ## Video that is shown while it is made, on any computer

    The causal one of the tiny models that come with this pack. Each latent frame takes 4
    evaluations, the first one 8, and one more to be remembered; it is decoded and shown on the
    sampler before the next one is begun.

    `window_frames` is 7 and `sink_frames` 1: it sees seven latent frames at once, the first of
    the clip always among them, so a clip may be as long as you like.

    **The prompt changes** after 4 seconds, by the **Prompt Timeline**: what is in view is read
    again under the second one.

    **Say something while it runs**: `clip` is connected. In a terminal: `python scripts/live.py
    workflows/api/demo_stream.json`, then type *a green triangle growing* and press Enter.

    **Interrupt** keeps what is finished.
    """,
    steps=4,
)
def streamed(graph: Graph) -> None:
    with graph.group("Demo model"):
        model = graph.node("FewStepDemo", variant="causal", frames=65)
        then = prompt_box(graph, model["clip"], NEXT_PROMPT, "What then")
        prompts = takes_over(graph, then, 4.0, model["positive"])
    with graph.group("Streaming"):
        clip = graph.node(
            "FewStepStream",
            model=model["model"],
            positive=prompts,
            latent_image=model["latent"],
            vae=model["vae"],
            clip=model["clip"],
            window_frames=7,
            sink_frames=1,
            seed=1,
        )
    with graph.group("Video", width=SQUARE):
        save_small_square(graph, clip["images"])
    show_report(graph, clip, SQUARE)


@workflow(
    "Demo, distil an accelerator",
    "distil_demo",
    """
    ## Make an accelerator of your own, on any computer

    Distil Accelerator teaches the tiny model that comes with this pack to make its clips in 4
    evaluations instead of 100, from nothing but 512 prompts. Then the Few-Step Sampler runs what
    was made.

    Press **Run**: it takes some minutes on two processor cores, and the picture under the node
    shows the student beside its teacher. **Interrupt** keeps what was learned; run it again
    to go on, for `resume` is on. The file is `my_demo_accelerator.safetensors` in models/loras.

    With a model of your own: connect its loader, prompts of your own kind, and the size you use.
    """,
    seeds="fixed",
)
def distilled(graph: Graph) -> None:
    with graph.group("Demo model"):
        model = graph.node("FewStepDemo")
        batch = graph.node(
            "RepeatLatentBatch", "Learned from at once", samples=model["latent"], amount=32
        )
        prompts = graph.node("FewStepDemoPrompts")
    with graph.group("Distilling"):
        made = graph.node(
            "FewStepDistill",
            model=model["model"],
            positive=prompts["prompts"],
            negative=model["negative"],
            latent_image=batch["LATENT"],
            iterations=600,
            rank=32,
            file_name="my_demo_accelerator",
            resume=True,
            gradient_checkpointing=False,
        )
    with graph.group("What was learned", below=True):
        graph.node("PreviewImage", "Chart", images=made["chart"])
    with graph.group("What was made"):
        fast = graph.node(
            "FewStepAccelerator",
            model=model["model"],
            lora_name=made["lora_name"],
            accelerator="auto",
        )
        sampled = few_steps(graph, fast, model["positive"], model["latent"])
    with graph.group("Video", width=SQUARE):
        save_small_square(graph, decoded_clip(graph, sampled["latent"], model))
    with graph.group("What was done", below=True, width=SQUARE):
        graph.node("PreviewAny", "Report", source=made["report"])


WORKFLOWS = (accelerated, four_ways, streamed, distilled)
