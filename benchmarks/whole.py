"""Step Budget's prediction of the whole wait against real jobs on a server, over HTTP.

    python benchmarks/whole.py [--rounds 7]

In each round a job measures, and then a job samples and decodes, so that a drift of the machine's
speed meets both. The real time is the server's own, from a job's start to its end; its models are
loaded and its text is encoded, and its pictures are not saved. The figures are those of the median
round.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import in_host

in_host.enter()

import torch  # noqa: E402
from tables import Table, Target, main_of  # noqa: E402

from comfy_client import Client, Prompt  # noqa: E402
from comfy_server import running_server  # noqa: E402
from host import ensure_host  # noqa: E402
from prompts import accelerator, core_sampler, few_steps, node, wan_inputs, wan_model  # noqa: E402

DEMO_LORA = "fewstep-demo/fewstep_demo_lightx2v_4step.safetensors"
WAN, WAN_VAE = "whole_wan.safetensors", "whole_wan_vae.safetensors"


@dataclass(frozen=True)
class Case:
    """models: nodes, of which "loaded" has the MODEL. text, size, vae: where the others are.

    sampler: the node that samples, from the steps that were chosen and a seed.
    """

    name: str
    models: Prompt
    size: list
    vae: list
    sampler: Callable[[int, int], dict[str, Any]]
    decodes_itself: bool = False  # as the Streaming Sampler does


def demo_case(name: str, frames: int, variant: str = "base", is_accelerated: bool = True) -> Case:
    demo = node("FewStepDemo", prompt="a red circle moving right", frames=frames, variant=variant)
    if variant == "causal":
        models = {"loaded": demo}
        at = "loaded"
    else:
        at = "demo" if is_accelerated else "loaded"
        models = {at: demo} | ({"loaded": accelerator("demo", DEMO_LORA)} if is_accelerated else {})
    inputs = {"positive": [at, 1], "latent_image": [at, 4]}

    def sampler(steps: int, seed: int) -> dict[str, Any]:
        if variant == "causal":
            return stream(**inputs, vae=[at, 3], seed=seed)
        if is_accelerated:
            return few_steps("loaded", **inputs, steps=steps, seed=seed)
        return core_sampler(
            "loaded", steps, **inputs, negative=[at, 2], seed=seed, cfg=5.0, scheduler="simple"
        )

    return Case(name, models, [at, 4], [at, 3], sampler, decodes_itself=variant == "causal")


def stream(**inputs: Any) -> dict[str, Any]:
    settings = {"frames_per_block": 0, "window_frames": 0, "sink_frames": 0}
    return node("FewStepStream", model=["loaded", 0], **settings, **inputs)


def wan_case(name: str, side: int, length: int) -> Case:
    """side: in pixels. length: in pictures."""
    models = {
        "model": wan_model(WAN),
        "loaded": accelerator("model", id="wan21-t2v-lightx2v-4step"),
        "vae": node("VAELoader", vae_name=WAN_VAE),
        **wan_inputs(length, side, side),
    }

    def sampler(steps: int, seed: int) -> dict[str, Any]:
        return few_steps("loaded", steps=steps, seed=seed)

    return Case(name, models, ["size", 0], ["vae", 0], sampler)


CASES = (
    demo_case("demo model, 4 steps, 17 frames", 17),
    demo_case("demo model, 4 steps, 65 frames", 65),
    demo_case("demo model, full steps and guidance, 17 frames", 17, is_accelerated=False),
    demo_case("demo model, streamed, 65 frames", 65, variant="causal"),
    wan_case("small Wan and its VAE, 4 steps, 17 frames of 192 x 192", 192, 17),
    wan_case("small Wan and its VAE, 4 steps, a picture of 384 x 384", 384, 1),
)


def measured(client: Client, case: Case, number: int) -> dict[str, Any]:
    """Step Budget's data. number: of the round; another price has it measure again."""
    inputs = {
        "model": ["loaded", 0],
        "latent_image": case.size,
        "experience": "batch",
        "seconds": 0.0,
        "seconds_per_evaluation": 0.0,
        "price_per_hour": 1.0 + number,
        "vae": case.vae,
    }
    graph = {
        **case.models,
        "budget": node("FewStepBudget", **inputs),
        "end": node("PreviewAny", source=["budget", 2]),
    }
    return client.run(graph)["outputs"]["budget"]["fewstep_report"][0]


def real_seconds(client: Client, case: Case, steps: int, seed: int) -> float:
    """Of a job that makes the pictures and shows how many they are."""
    graph = {**case.models, "sample": case.sampler(steps, seed)}
    pictures = ["sample", 1]
    if not case.decodes_itself:
        graph["decode"] = node("VAEDecode", samples=["sample", 0], vae=case.vae)
        pictures = ["decode", 0]
    graph["count"] = node("GetImageSize", image=pictures)
    graph["end"] = node("PreviewAny", source=["count", 2])
    messages = dict(client.run(graph)["status"]["messages"])
    ends = (messages[kind]["timestamp"] for kind in ("execution_success", "execution_start"))
    finished, started = ends
    return (finished - started) / 1000


def write_models(folder: Path) -> None:
    from small_models import write_wan, write_wan_vae

    write_wan(folder / "diffusion_models" / WAN, "wan21_t2v")
    write_wan_vae(folder / "vae" / WAN_VAE)


def tables(rounds: int, folder: Path) -> list[Table]:
    table = Table(
        "Step Budget with a VAE: its prediction of the whole wait against a real job over HTTP",
        ("job", "steps", "sampling", "decoding", "once", "whole", "real", "error", "target"),
    )
    base = folder / "whole"
    write_models(base / "models")
    packs = {"fewstep-test-support": in_host.ROOT / "tests" / "host" / "support_nodes"}
    is_cpu = not torch.cuda.is_available()
    with running_server(ensure_host(), base, packs=packs, cpu=is_cpu) as server:
        for case in CASES:
            add_case(table, server.client, case, rounds)
    return [table]


def add_case(table: Table, client: Client, case: Case, rounds: int) -> None:
    pairs = []
    for number in range(rounds + 1):  # the first warms up
        report = measured(client, case, number)
        pairs.append((report, real_seconds(client, case, report["steps"], number)))
    errors = {
        number: report["whole_seconds"] / real - 1
        for number, (report, real) in enumerate(pairs)
        if number
    }
    ranked = sorted(errors, key=errors.__getitem__)
    middle = ranked[len(ranked) // 2]
    report, real = pairs[middle]
    least, error, most = (errors[number] for number in (ranked[0], middle, ranked[-1]))
    parts = ("predicted_seconds", "decoding_seconds", "once_seconds", "whole_seconds")
    table.row(
        case.name,
        report["steps"],
        *(f"{report[part]:.3f} s" for part in parts),
        f"{real:.3f} s",
        f"{error:+.1%} ({least:+.1%} to {most:+.1%})",
        Target("within 10 %", abs(error) <= 0.1),
    )


if __name__ == "__main__":
    main_of(__doc__, tables, rounds=7)
