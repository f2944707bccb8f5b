"""Faults in the middle of a run: at every evaluation of every node that evaluates a model, the run
ends in the host's own words, nothing is left on the model, the memory comes back, and the next run
is bit for bit that of a model nobody has touched.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import comfy.model_management
import comfy.sample
import folder_paths
import pytest
import torch
from comfy.model_management import InterruptProcessingException
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.nodes import accelerator, demo, motion
from comfyui_fewstep.nodes.distil import FewStepDistill
from comfyui_fewstep.nodes.guided_start import FewStepGuidedStart
from comfyui_fewstep.nodes.host import decoding, measure
from comfyui_fewstep.nodes.host import motion as motion_patch
from comfyui_fewstep.nodes.host.attach import with_record
from comfyui_fewstep.nodes.host.files import load_vae
from comfyui_fewstep.nodes.host.model import look_at, with_model_sampling
from comfyui_fewstep.nodes.host.timeline import with_start
from comfyui_fewstep.nodes.negative import FewStepNegative
from comfyui_fewstep.nodes.sampler import FewStepSampler
from comfyui_fewstep.nodes.skip import FewStepSkip
from comfyui_fewstep.nodes.stream import FewStepStream
from safetensors.torch import load_file
from thinning import thorough
from torch import Tensor, nn

import small_models
import support_nodes
from comfy_client import JobFailed, outputs
from left_behind import footprint, live_bytes
from prompts import demo_prompt
from small_loras import write_lora

LCM = "faults-lcm-lora-sdv1-5.safetensors"
LIGHTNING = "faults_animatediff_lightning_4step_comfyui.safetensors"


@dataclass(frozen=True)
class Scene:
    """models: what a fault must leave as it was. run: one whole run. inside: where the fault
    happens, the models' networks if empty.

    until_kept: from this evaluation on, counted from 0, an interrupt does not end the run: what is
    finished is kept.
    faults: what ends it besides.
    shares_weights: its models are one network with other patches, so that it depends on where a run
    ended which of them are on it. The host takes them off before anybody looks.
    """

    models: tuple
    run: Callable[[], Tensor]
    inside: tuple[nn.Module, ...] = ()
    until_kept: int | None = None
    faults: tuple[str, ...] = ("exception", "out of memory")
    shares_weights: bool = False

    def state(self) -> list:
        """What a fault must leave as it was."""
        if self.shares_weights:
            comfy.model_management.unload_all_models()
        return [footprint(model) for model in self.models]

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        return self.inside or tuple(
            {id(model.model): model.model.diffusion_model for model in self.models}.values()
        )


# ---------------------------------------------------------------- what is run


def sampled(models, text, shape, evaluations: int = 4) -> Tensor:
    model, low = (*models, None)[:2]
    output = FewStepSampler.execute(
        model, text, {"samples": torch.zeros(shape)}, 3, 0, 1.0, model_low_noise=low
    )
    made = output.ui["fewstep_report"][0]["evaluations"]
    assert made == evaluations, "the counter starts at 0"
    return output.args[0]["samples"]


def one_model(folder: Path, change: Callable = lambda model: model) -> Scene:
    """SD 1.5 with an LCM LoRA. change: what another node makes of the model."""
    base = small_models.unet_patcher("sd15")
    if not (folder / "loras" / LCM).exists():
        write_lora(folder / "loras" / LCM, base, "kohya-diffusers", rank=2, only="attn")
    model, _ = accelerator.attach_accelerator(base, LCM, "lcm-lora-sd15", 1.0)
    text, changed = small_models.conditioning(model), change(model)
    return Scene((model,), lambda: sampled((changed,), text, (1, 4, 8, 8)))


def guided(folder: Path) -> Scene:
    """SD 1.5 without its LCM LoRA for two guided steps, and with it for the other three: five
    forward passes, the first two of both prompts.
    """
    scene = one_model(folder)
    (fast,) = scene.models
    base = fast.parent
    while base.parent is not None:
        base = base.parent
    positive, negative = (small_models.conditioning(base, seed=seed) for seed in (0, 1))
    model = FewStepGuidedStart.execute(fast, base, negative, 1, 2, 3.5).args[0]
    run = partial(sampled, (model,), positive, (1, 4, 8, 8), evaluations=7)
    return Scene((model, fast, base), run, shares_weights=True)


def two_experts(folder: Path) -> Scene:
    """Wan 2.2: two evaluations of the one, two of the other."""
    models = []
    for seed, id in ((1, "wan22-t2v-lightning-high"), (2, "wan22-t2v-lightning-low")):
        path = folder / "diffusion_models" / f"faults_wan_{seed}.safetensors"
        model = small_models.load_model(small_models.write_wan(path, seed=seed))
        models.append(with_record(with_model_sampling(model, CATALOG[id]), CATALOG[id]))
    text = small_models.conditioning(length=6)
    return Scene(tuple(models), lambda: sampled(models, text, (1, 16, 2, 4, 4)))


def skipping(folder: Path, method: str) -> Scene:
    """Step Skip under core's sampler, with guidance."""
    path = folder / "diffusion_models" / "faults_flux.safetensors"
    flux = small_models.load_model(small_models.write_flux(path))
    model = FewStepSkip.execute(flux, method, 1.6, 3.0, 0.15, 0.95, 3, "auto").args[0]
    positive, negative = (small_models.conditioning(width=4096, seed=seed) for seed in (1, 2))

    def run() -> Tensor:
        noise = torch.randn(1, 16, 8, 8, generator=torch.Generator().manual_seed(5))
        return comfy.sample.sample(
            model,
            noise,
            12,
            3.0,
            "dpmpp_2m",
            "simple",
            positive,
            negative,
            torch.zeros_like(noise),
            disable_pbar=True,
            seed=5,
        )

    return Scene((model, flux), run)


def with_motion(folder: Path, is_inside: bool) -> Scene:
    """A clip of four frames; is_inside: the fault happens in the motion module rather than in the
    UNet.
    """
    if not motion_patch.host_patches_layers():
        pytest.skip("motion modules need ComfyUI 0.20 or newer")
    from motion_files import animatediff_keys, motion_adapter, save

    path = folder / "animatediff_models" / LIGHTNING
    if not path.exists():
        save(path, animatediff_keys(motion_adapter(size=0.3).state_dict()))
    model, _ = motion.attach_motion(small_models.unet_patcher("sd15"), LIGHTNING, 4)
    text = small_models.conditioning(model)
    (extra,) = model.get_additional_models()
    return Scene(
        (model, extra),
        lambda: sampled((model,), text, (4, 4, 8, 8)),
        inside=(extra.model.middle,) if is_inside else (model.model.diffusion_model,),
    )


def measuring(folder: Path) -> Scene:
    """Step Budget's measurement, by a clock that ticks once a look: six evaluations with one
    prompt, six with two.
    """
    model = small_models.load_model(
        small_models.write_wan(folder / "diffusion_models" / "faults_wan_1.safetensors", seed=1)
    )

    def run() -> Tensor:
        seconds = itertools.count()
        cost = measure.measure_cost(
            look_at(model),
            {"samples": torch.zeros(1, 16, 1, 4, 4)},
            clock=lambda: 0.01 * next(seconds),
        )
        return torch.tensor([cost.evaluation, cost.guided_step])

    return Scene((model,), run)


def measuring_blocks(folder: Path) -> Scene:
    """The same for a causal model, by the seconds that each look at the clock adds: six evaluations
    of the first block, six of the last.
    """
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    model = small_models.load_model(
        small_models.write_wan(
            folder / "diffusion_models" / "faults_causal.safetensors", "wan21_causal"
        )
    )
    latent = {"samples": torch.zeros(1, 16, 6, 4, 4)}

    def run() -> Tensor:
        seconds = itertools.count()
        cost = measure.measure_blocks(
            look_at(model),
            latent,
            [CATALOG["self-forcing-dmd"]],
            clock=lambda: 0.01 * next(seconds),
        )[3]
        return torch.tensor([cost.first, cost.last])

    return Scene((model,), run)


def measuring_decoding(folder: Path, is_stream: bool) -> Scene:
    """Step Budget's decoding of a latent frame, four times; or of three as a stream does it, after
    three to warm up. Where memory runs out the host decodes in tiles, or the report says so.
    """
    path = small_models.write_wan_vae(folder / "vae" / "faults_budget_vae.safetensors")
    vae, frames = load_vae(str(path)), 3 if is_stream else 1

    def run() -> Tensor:
        seconds = itertools.count()
        latent = torch.zeros(1, 16, frames, 4, 4)
        made = decoding.measure_decoding(vae, latent, is_stream, lambda: 0.01 * next(seconds))
        return torch.tensor([made.seconds])

    return Scene((vae.patcher,), run, (vae.first_stage_model.decoder,), faults=("exception",))


def demonstration(folder: Path) -> Scene:
    """The demo model with its own accelerator."""
    demo.offer_loras()
    loaded, positive, _, _, latent, _ = demo.FewStepDemo.execute(
        "a red circle moving right", 5, "base"
    ).args
    model, _ = accelerator.attach_accelerator(
        loaded, f"fewstep-demo/{CATALOG['fewstep-demo-4step'].files[0].name}", "auto", 1.0
    )
    return Scene((model, loaded), lambda: sampled((model,), positive, latent["samples"].shape))


def streaming(
    folder: Path,
    is_decoded: bool,
    change: Callable = lambda model: model,
    starts: tuple[float, ...] = (0.0,),
    is_recorded: bool = False,
) -> Scene:
    """Two blocks of three frames of a causal Wan: four evaluations and the context pass each.

    starts: of its prompts, in seconds. change: what another node makes of the model. is_decoded:
    the fault happens in the VAE, at one of the six frames. Where memory runs out there, the run
    goes on and decodes last. is_recorded: into a file too, which no fault leaves open.
    """
    if not small_models.HAS_CAUSAL_WAN:
        pytest.skip("this ComfyUI has no causal Wan")
    path = folder / "diffusion_models" / "faults_causal.safetensors"
    record = CATALOG["self-forcing-dmd"]
    model = small_models.load_model(small_models.write_wan(path, "wan21_causal"))
    model = change(with_record(with_model_sampling(model, record), record))
    text = [
        with_start(small_models.conditioning(seed=seed, length=6)[0], start)
        for seed, start in enumerate(starts)
    ]
    vae = (
        load_vae(str(small_models.write_wan_vae(folder / "vae" / "faults_vae.safetensors")))
        if is_decoded
        else None
    )

    def run() -> Tensor:
        empty, record = {"samples": torch.zeros(1, 16, 6, 4, 4)}, "clip" if is_recorded else ""
        with torch.inference_mode(), outputs_in(folder):
            try:
                clip = FewStepStream.execute(
                    model, text, empty, 3, 0, 0, 0, vae, record=record
                ).args
            finally:
                assert not held_open(folder)
            return clip[1] if is_decoded and not is_recorded else clip[0]["samples"]

    if vae is None:
        return Scene((model,), run, until_kept=4)
    return Scene(
        (model, vae.patcher),
        run,
        (vae.first_stage_model.decoder,),
        # Behind the last of a block's three frames.
        until_kept=2,
        faults=("exception",),
    )


@contextlib.contextmanager
def outputs_in(folder: Path) -> Iterator[None]:
    """Within it the host writes into this folder."""
    before = folder_paths.get_output_directory()
    folder_paths.set_output_directory(str(folder))
    try:
        yield
    finally:
        folder_paths.set_output_directory(before)


def held_open(folder: Path) -> list[str]:
    """Files of a folder that this process holds open for writing, where the system tells."""
    found = []
    for link in Path("/proc/self/fd").glob("*"):
        with contextlib.suppress(OSError):
            found.append(os.readlink(link))
    return [path for path in found if path.startswith(str(folder)) and path.endswith(".mp4")]


def keeping_out(model):
    """The model with a negative prompt in its attention."""
    text = small_models.conditioning(model, seed=2, length=5)
    return FewStepNegative.execute(model, text, 5.0, 0.5, 2.5, 0.0, 1.0).args[0]


def distilling(folder: Path) -> Scene:
    """Two iterations of Distil Accelerator: an evaluation to reckon memory by, five walks of the
    teacher in four steps, then each iteration and its check. Once the first iteration is done, an
    interrupt keeps what was learned.
    """
    path = folder / "diffusion_models" / "faults_distil.safetensors"
    model = small_models.load_model(small_models.write_wan(path))
    texts = [small_models.conditioning(seed=seed, length=6) for seed in (1, 2)]
    inputs = {
        "model": model,
        "positive": texts[0],
        "negative": texts[1],
        "latent_image": {"samples": torch.zeros(2, 16, 1, 4, 4)},
        "steps": 2,
        "cfg": 3.0,
        "iterations": 2,
        "minutes": 0.0,
        "rank": 2,
        "learning_rate": 0.01,
        "seed": 3,
        "teacher_steps": 4,
    }
    numbers = itertools.count()

    def run() -> Tensor:
        name = f"faults_distilled_{next(numbers)}"
        asked = {key: [value] for key, value in inputs.items()}
        with torch.inference_mode():
            FewStepDistill.execute(**asked, file_name=[name])
        weights = load_file(folder / "loras" / f"{name}.safetensors")
        for file in (folder / "loras").glob(f"{name}.*"):
            file.unlink()
        return torch.cat([weights[key].flatten() for key in sorted(weights)])

    return Scene((model,), run, until_kept=1 + 5 * 4 + 1)


SCENES: dict[str, Callable[[Path], Scene]] = {
    "sampler": one_model,
    "guided start": guided,
    "two experts": two_experts,
    "skip, forecast": lambda folder: skipping(folder, "forecast"),
    "skip, teacache": lambda folder: skipping(folder, "teacache"),
    "motion": lambda folder: with_motion(folder, is_inside=False),
    "motion, in its module": lambda folder: with_motion(folder, is_inside=True),
    "negative": lambda folder: one_model(folder, keeping_out),
    "stream": lambda folder: streaming(folder, is_decoded=False),
    "stream, negative": lambda folder: streaming(folder, False, keeping_out),
    "stream, timeline": lambda folder: streaming(folder, False, starts=(0.0, 0.5)),
    "stream, in its VAE": lambda folder: streaming(folder, is_decoded=True),
    "stream, recorded": lambda folder: streaming(folder, is_decoded=True, is_recorded=True),
    "budget": measuring,
    "budget, stream": measuring_blocks,
    "budget, decoding": lambda folder: measuring_decoding(folder, is_stream=False),
    "budget, decoding a stream": lambda folder: measuring_decoding(folder, is_stream=True),
    "demo": demonstration,
    "distil": distilling,
}

# Like another one, so that a plain run leaves them out.
ALIKE = (
    "skip, teacache",
    "motion, in its module",
    "stream, negative",
    "budget, stream",
    "budget, decoding a stream",
)


# ---------------------------------------------------------------- what goes wrong


@dataclass(frozen=True)
class Fault:
    """happen: called inside the network. error, words: what has to reach the host, untouched."""

    happen: Callable[[], None]
    error: type[BaseException]
    words: str


def fail(error: BaseException) -> None:
    raise error


FAULTS = {
    # As the Stop button does it: a flag, that the host reads before the network's next layer.
    "interrupt": Fault(
        comfy.model_management.interrupt_current_processing, InterruptProcessingException, "^$"
    ),
    "exception": Fault(
        lambda: fail(RuntimeError("the network broke")), RuntimeError, "the network broke"
    ),
    "out of memory": Fault(
        lambda: fail(torch.OutOfMemoryError("tried to allocate 20 GiB")),
        comfy.model_management.OOM_EXCEPTION,
        "tried to allocate 20 GiB",
    ),
}


@contextlib.contextmanager
def at_evaluation(
    scene: Scene, number: int | None, happen: Callable[[], None]
) -> Iterator[list[int]]:
    """Let it happen inside the network at its evaluation of this number, from 0. Yields a list that
    every evaluation lengthens.
    """
    seen: list[int] = []

    def before(module, args) -> None:
        seen.append(len(seen))
        if seen[-1] == number:
            happen()

    handles = [network.register_forward_pre_hook(before) for network in scene.networks]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def what_goes_wrong(scene: Scene, count: int, is_rest: bool) -> list[tuple[str, int]]:
    """(fault, evaluation) of a run of so many evaluations. An interrupt comes at any time; what
    else goes wrong in the middle or at the end goes wrong anywhere.

    is_rest: without those of a plain run, an interrupt and another fault in the middle.
    """
    interrupts = count if scene.until_kept is None else scene.until_kept
    plain = [("interrupt", interrupts // 2), (scene.faults[-1], count // 2)]
    if not is_rest:
        return plain
    others = itertools.product(scene.faults, (count // 2, count - 1))
    every = [*(("interrupt", number) for number in range(interrupts)), *others]
    return [each for each in every if each not in plain]


@pytest.mark.parametrize(
    ("name", "is_rest"),
    [
        *(
            pytest.param(name, False, id=name, marks=[thorough] if name in ALIKE else [])
            for name in SCENES
        ),
        *(pytest.param(name, True, id=f"{name}, the rest", marks=thorough) for name in SCENES),
    ],
)
def test_a_fault_at_any_evaluation_leaves_nothing_and_the_next_run_is_the_first(
    models, name, is_rest
):
    expected = SCENES[name](models).run()
    scene = SCENES[name](models)
    with at_evaluation(scene, None, fail) as evaluations:
        assert torch.equal(scene.run(), expected)
    count, footprints, held = (
        len(evaluations),
        scene.state(),
        live_bytes(),
    )
    assert count >= 4
    wrongs = what_goes_wrong(scene, count, is_rest)
    assert wrongs
    for fault, number in wrongs:
        where, wrong = f"{fault} at evaluation {number + 1} of {count}", FAULTS[fault]
        with (
            pytest.raises(wrong.error, match=wrong.words),
            at_evaluation(scene, number, wrong.happen) as seen,
        ):
            scene.run()
        assert len(seen) == number + 1, f"{where}: the run went on"
        assert not comfy.model_management.processing_interrupted(), where
        assert scene.state() == footprints, where
        assert torch.equal(scene.run(), expected), where
    assert scene.state() == footprints and live_bytes() == held, "memory is held"


# ---------------------------------------------------------------- in a server


def test_in_a_server_the_client_is_told_and_the_next_job_is_that_of_another_process(server):
    """The demo with its accelerator, which this process runs too, untouched by any fault there."""
    job = demo_prompt(seed=20, steps=4)
    demo.offer_loras()
    _, positive, _, _, latent, _ = (
        made := demo.FewStepDemo.execute(*job["demo"]["inputs"].values())
    ).args
    model, _ = accelerator.attach_accelerator(
        made.args[0], job["loader"]["inputs"]["lora_name"], "auto", 1.0
    )
    samples = FewStepSampler.execute(model, positive, latent, 20, 4, 1.0).args[0]
    (expected,) = support_nodes.TestLatentReport.execute(samples).ui["test_latent"]
    for run, (kind, evaluation) in enumerate(
        (kind, evaluation) for kind in ("exception", "out of memory") for evaluation in (1, 4)
    ):
        broken = {
            **job,
            "fault": {
                "class_type": "TestFault",
                "inputs": {
                    "model": ["loader", 0],
                    "kind": kind,
                    "evaluation": evaluation,
                    "run": run,
                },
            },
        }
        broken["sample"] = {
            **job["sample"],
            "inputs": {**job["sample"]["inputs"], "model": ["fault", 0]},
        }
        with pytest.raises(JobFailed, match=f"FewStepSampler: .*{FAULTS[kind].words}") as failure:
            server.client.run(broken)
        assert not failure.value.is_interruption and server.is_alive
        assert outputs(server.client.run(job), "test_latent") == [expected]
        server.client.forget()
