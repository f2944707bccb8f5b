"""Teacher and student in one MODEL: a copy of it with a LoRA that is switched on and off.

Used of the host, and not written again:

* of its LoRA training (comfy_extras.nodes_train) the guider that loads a model whole and hands the
  run to a sampler (TrainGuider), and gradient checkpointing (find_modules_at_depth, patch, unpatch)
* the LoRA that can be trained (LoRAAdapter.to_train of comfy.weight_adapter), and the hooks that
  add what it makes of a layer's input to that layer's output (BypassInjectionManager): no weight is
  touched, and quantised ones need not be unpacked for it
* ModelPatcher's injections, by which the hooks come and go
* cond_cat, by which several prompts become one batch
* in_training, which has the host take those of its paths that have a backward pass
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import comfy.lora
import comfy.model_management
import comfy.model_sampling
import comfy.samplers
import comfy.utils
import latent_preview
import torch
from comfy.weight_adapter import BypassInjectionManager, LoRAAdapter
from torch import Tensor

from ...loras.accelerator import Accelerator
from ...loras.declaration import declaration_of
from ...loras.schedules import Schedule, of_a_base
from ...loras.words import counted
from ...samplers.budget.cost import seconds_in_words
from ...samplers.distil import Course, Distillation, DistilSettings, is_check_due
from .distil_files import DistilFiles, read_tensors, write_tensors, write_text
from .distil_memory import reckon, refuse_too_little, refuse_weights
from .model import sigma_of

KEY = "fewstep.distil"
# Of the network's modules: its blocks, whose inputs alone are kept where memory is saved.
CHECKPOINT_DEPTH = 2
COMPUTED_IN = torch.bfloat16
LAYERS = (torch.nn.Linear, torch.nn.Conv1d, torch.nn.Conv2d, torch.nn.Conv3d)
# Paths of the teacher that are kept at once, in bytes and in number.
PATHS_BYTES = 2**30
MOST_PATHS = 4096
UP, DOWN = ".lora_up.weight", ".lora_down.weight"
HALF = 2  # bytes of a number in half precision
PROGRESS = 1000  # parts of a run that its bar can show
SAVE_EVERY = 60.0  # seconds
# How many times as long as a checkpoint takes to write the run goes on before the next, at least.
BETWEEN_SAVES = 20


@contextlib.contextmanager
def training() -> Iterator[None]:
    """The host set to train, as its own node sets it, and autograd on; then both as before."""
    before = comfy.model_management.in_training
    comfy.model_management.in_training = True
    try:
        with torch.inference_mode(False), torch.enable_grad():
            yield
    finally:
        comfy.model_management.in_training = before


def own_copy(model):
    """The MODEL on weights of its own. Call it within training().

    What a graph has loaded was made in inference mode, and autograd refuses such tensors. A copy
    also means that nothing can be left on the model, whatever happens. Raises ValueError where the
    host cannot make one.
    """
    if model.is_dynamic():
        if model.cached_patcher_init is None:
            raise ValueError(
                "Distil Accelerator works on a copy of the model, which under dynamic VRAM ComfyUI"
                " loads from its file once more, and the loader of this model does not say how."
                " Load it with Load Diffusion Model or Load Checkpoint, or start ComfyUI with"
                " --disable-dynamic-vram."
            )
        copied = model.clone(disable_dynamic=True)  # which the host loads from its file once more
        copied.model.requires_grad_(False)
    else:
        unload(model)  # with its patches on, they would be in the copy's weights, and put on again
        # The configuration is read and never changed, and it cannot be copied.
        config = model.model.model_config
        network = copy.deepcopy(model.model, {id(config): config}).requires_grad_(False)
        bare = type(model)(network, model.load_device, model.offload_device)
        copied = model.clone(model_override=bare.get_clone_model_override())
    copied.object_patches = copy.deepcopy(copied.object_patches)
    if copied.model.get_dtype_inference() == torch.float16:
        # Gradients vanish in half precision.
        copied.set_model_compute_dtype(COMPUTED_IN)
    return copied


def unload(model) -> None:
    """Have the host take a model off its device, and its patches off the model."""
    others = [
        loaded
        for loaded in comfy.model_management.current_loaded_models
        if loaded.model is None or loaded.model.model is not model.model
    ]
    comfy.model_management.free_memory(1e30, model.load_device, others)


def as_normal(value: Any) -> Any:
    """The same nested value with tensors that autograd can use, and autocast: on a CPU it cannot
    mix two half precisions.
    """
    if isinstance(value, Tensor):
        return value.float() if value.dtype == torch.float16 else value.clone()
    if isinstance(value, Mapping):
        return {key: as_normal(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(as_normal(each) for each in value)
    return value


# ---------------------------------------------------------------- the student's LoRA


@dataclass(frozen=True)
class StudentLora:
    """A LoRA on a model, for training."""

    weights: dict[str, Tensor]  # its matrices, by the name they have in a file
    # Of the matrices in a file, which has kernels where these are flat.
    shapes: dict[str, torch.Size]
    layers: list[torch.nn.Module]  # that have a pair each
    blocks: list[torch.nn.Module]  # of the network

    @property
    def numbers(self) -> int:
        return sum(weight.numel() for weight in self.weights.values())

    def tensors(self) -> dict[str, Tensor]:
        """As they stand in a file: half precision, with an alpha for each pair, its rank."""
        tensors = {}
        for name, weight in self.weights.items():
            tensors[name] = weight.detach().cpu().half().reshape(self.shapes[name]).contiguous()
            if name.endswith(DOWN):
                tensors[name.removesuffix(DOWN) + ".alpha"] = torch.tensor(float(len(weight)))
        return tensors


def put_lora(model, rank: int, seed: int) -> StudentLora:
    """Put a LoRA on every matrix and convolution of a MODEL that the host has a name for in LoRA
    files. It changes nothing yet: one factor of each pair is 0.
    """
    generator = torch.Generator().manual_seed(seed)
    names, manager = file_names(model.model), BypassInjectionManager()
    weights, shapes, layers = {}, {}, []
    for path, module in model.model.named_modules():
        key = f"{path}.weight"
        if key not in names or not takes_lora(module):
            continue
        up, down = factors(module.weight.shape, rank, generator)
        adapter = trainable(up, down)
        manager.add_adapter(key, adapter)
        layers.append(module)
        flat = [1] * (module.weight.ndim - 2)
        for ending, weight, shape in (
            (UP, adapter.lora_up.weight, (*up.shape, *flat)),
            (DOWN, adapter.lora_down.weight, (rank, *module.weight.shape[1:])),
        ):
            weights[names[key] + ending], shapes[names[key] + ending] = weight, torch.Size(shape)
    model.set_injections(KEY, manager.create_injections(model.model))
    return StudentLora(weights, shapes, layers, blocks_of(model.model.diffusion_model))


def takes_lora(module: torch.nn.Module) -> bool:
    """Whether it is one of the host's layers, with a matrix or kernels that all inputs share."""
    is_layer = isinstance(module, LAYERS) or hasattr(module, "in_features")
    return hasattr(module, "weight_function") and is_layer and getattr(module, "groups", 1) == 1


def factors(shape: Sequence[int], rank: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """(up of zeros, down of random numbers) for a weight of this shape."""
    outputs, inputs = shape[0], torch.Size(shape[1:]).numel()
    down = torch.randn(rank, inputs, generator=generator) * inputs**-0.5
    return torch.zeros(outputs, rank), down


def trainable(up: Tensor, down: Tensor) -> Any:
    """The host's LoRA of two factors, for training, at scale 1."""
    # Its layers are initialised with the global random numbers, before they are given these.
    with torch.random.fork_rng(devices=[]):
        adapter = LoRAAdapter(set(), (up, down, float(len(down)), None, None, None)).to_train()
    adapter.alpha.requires_grad_(False)
    return adapter


def file_names(model) -> dict[str, str]:
    """The host's weights -> their layers' names in LoRA files: kohya's for a UNet, in diffusers'
    terms, and the model's own for everything else. model: the host's, inside its patcher.
    """
    of_weight: dict[str, str] = {}
    for name, weight in comfy.lora.model_lora_keys_unet(model, {}).items():
        if isinstance(weight, str) and weight == f"{name}.weight":
            of_weight[weight] = name
    for layer, weight in comfy.utils.unet_to_diffusers(model.model_config.unet_config).items():
        weight = f"diffusion_model.{weight}"
        if weight in of_weight:
            flat = layer.removesuffix(".weight").replace(".", "_")
            of_weight[weight] = f"lora_unet_{flat}"
    return of_weight


# ---------------------------------------------------------------- prompts


def digest_of(*prompts: Any) -> str:
    """What these entries of a CONDITIONING say, to know them again."""
    digest = hashlib.sha256()
    for text, options in prompts:
        for each in (text, options.get("pooled_output")):
            if isinstance(each, Tensor):
                digest.update(each.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


# ---------------------------------------------------------------- a network that is both


class Network:
    """The two ways to evaluate one network in a run: the teacher with guidance and without the
    LoRA, the student with the LoRA and without guidance.
    """

    def __init__(self, guider, extra_args: Mapping[str, Any], cfg: float):
        self.guider, self.extra_args, self.cfg = guider, extra_args, cfg
        self.prompts, self.negative = guider.conds["positive"], guider.conds["negative"]
        self.rows = 0  # evaluated so far, each branch for itself

    def teacher(self, x: Tensor, sigma: Tensor, prompts: Sequence[int]) -> Tensor:
        self._begin(len(x) * (1 if self.cfg == 1.0 else 2))
        with self.guider.model_patcher.use_ejected():
            return self._denoised(x, sigma, prompts, self.cfg)

    def student(self, x: Tensor, sigma: Tensor, prompts: Sequence[int]) -> Tensor:
        self._begin(len(x))
        return self._denoised(x, sigma, prompts, 1.0)

    def _begin(self, rows: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        self.rows += rows

    def _denoised(self, x: Tensor, sigma: Tensor, prompts: Sequence[int], cfg: float) -> Tensor:
        together = side_by_side([self.prompts[number] for number in prompts])
        self.guider.conds = {"positive": [together], "negative": self.negative}
        self.guider.set_cfg(cfg)
        with torch.autocast(x.device.type, dtype=COMPUTED_IN):
            return self.guider(x, sigma, **self.extra_args).float()

    @property
    def groups(self) -> list[list[int]]:
        """Numbers of prompts; those of a group fit into one batch."""
        groups: list[list[int]] = []
        for number, prompt in enumerate(self.prompts):
            for group in groups:
                first = self.prompts[group[0]]
                if comfy.samplers.cond_equal_size(first["model_conds"], prompt["model_conds"]):
                    group.append(number)
                    break
            else:
                groups.append([number])
        return groups


def side_by_side(prompts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """One of the host's conditions with a row for each of these."""
    first = prompts[0]
    rows = comfy.samplers.cond_cat([prompt["model_conds"] for prompt in prompts])
    conditions = {
        name: condition._copy_with(rows[name]) for name, condition in first["model_conds"].items()
    }
    return {**first, "model_conds": conditions}


class Handover(comfy.samplers.Sampler):
    """A sampler that hands the network on and samples nothing, as the host's own trainer does."""

    def __init__(self, teach: Callable[[Network], None], cfg: float):
        self.teach, self.cfg = teach, cfg

    def sample(self, model_wrap, sigmas, extra_args, callback, noise, *others, **more) -> Tensor:
        self.teach(Network(model_wrap, extra_args, self.cfg))
        return noise


def training_parts():
    """The host's own training nodes. Imported here, for the host knows its extra nodes by their
    paths: this is a copy of the module, which only what trains should pay for.
    """
    from comfy_extras import nodes_train

    return nodes_train


def blocks_of(network: torch.nn.Module) -> list[torch.nn.Module]:
    """The blocks that a network is made of."""
    modules = training_parts().find_modules_at_depth(network, CHECKPOINT_DEPTH)
    return [module for module in modules if any(module.children())]


@contextlib.contextmanager
def checkpointed(blocks: Sequence[torch.nn.Module]) -> Iterator[None]:
    """Within it these blocks keep their inputs alone, and are evaluated again for the backward
    pass.
    """
    try:
        for block in blocks:
            training_parts().patch(block)
        yield
    finally:
        for block in blocks:
            training_parts().unpatch(block)


# ---------------------------------------------------------------- a run


@dataclass(frozen=True)
class Assignment:
    """What is asked for, decided: all that a run depends on."""

    model: Any  # the host's MODEL
    settings: DistilSettings
    course: Course
    record: Accelerator  # of the accelerator to be
    positive: Sequence[Any]  # CONDITIONING, each entry a prompt
    negative: Any
    shape: tuple[int, ...]  # of the latent, one row
    is_checkpointed: bool
    is_resumed: bool
    files: DistilFiles
    facts: dict[str, Any]  # what made it, for its file


@dataclass
class DistilRun:
    """What came of a run."""

    iterations: int = 0  # done, those of earlier runs among them
    resumed_at: int = 0
    evaluations: int = 0  # rows evaluated in this run, each branch of guidance for itself
    seconds: float = 0.0  # of this run and those before it
    losses: list[float] = field(default_factory=list)
    checks: list[tuple[int, float]] = field(default_factory=list)
    own_from: int = 0  # iteration from which the student learned from its own states
    paths: int = 0  # of the teacher's, that were learned from
    is_interrupted: bool = False
    has_other_prompts: bool = False  # than the run that it goes on with


def schedule_of(model) -> Schedule:
    """The schedule of a student of this MODEL: the one its own noise levels have. Raises ValueError
    for noise levels that no declaration can say.
    """
    sampling = model.get_model_object("model_sampling")
    if isinstance(sampling, comfy.model_sampling.ModelSamplingFlux):
        # FLUX and its kin write the shift as mu.
        return of_a_base(math.exp(sampling.shift))
    is_flow = isinstance(sampling, comfy.model_sampling.ModelSamplingDiscreteFlow)
    if is_flow and not hasattr(sampling, "audio_shift"):
        return of_a_base(float(sampling.shift))
    kind = type(sampling).__mro__[1]
    if kind is comfy.model_sampling.ModelSamplingDiscrete:
        return of_a_base(None)
    raise ValueError(
        "Distil Accelerator takes flows and models of 1000 timesteps, as they come from their"
        f" loader, and this model has noise levels of another kind ({kind.__name__}). If another"
        " node changed its sampling, connect the model in front of that."
    )


def course_of(
    model, settings: DistilSettings, schedule: Schedule, rows: int, shape: tuple[int, ...]
) -> Course:
    """shape: of the latent, one row."""
    sigma = sigma_of(model)
    levels = schedule.sigmas(settings.steps, 1.0, sigma)
    grid = schedule.sigmas(settings.steps * settings.substeps, 1.0, sigma)
    # The same noise levels by both formulas, but for the last bit.
    grid[:: settings.substeps] = levels
    path_bytes = len(levels) * math.prod(shape) * HALF
    return Course(
        tuple(levels),
        tuple(grid),
        iterations=settings.iterations,
        rows=rows,
        learning_rate=settings.learning_rate,
        seed=settings.seed,
        most_paths=max(rows, min(MOST_PATHS, PATHS_BYTES // path_bytes)),
        first_scale=first_scale(model, levels[0]),
    )


def first_scale(model, sigma: float) -> float:
    """What the host multiplies noise by, where a run begins at its first noise level."""
    sampling, one = model.get_model_object("model_sampling"), torch.ones(1)
    return sampling.noise_scaling(torch.full((1,), sigma), one, torch.zeros(1), True).item()


def distil(assignment: Assignment, show: Callable[[str], None]) -> DistilRun:
    """Make the accelerator, and write it. show: what takes a line on how far it is.

    An interruption ends a run in order once something was learned; before that it is the host's.
    """
    settings = assignment.settings
    refuse_weights(assignment.model)
    with training():
        copied = own_copy(assignment.model)
        try:
            lora = put_lora(copied, settings.rank, settings.seed)
            session = Session(assignment, lora, Screen(copied, assignment.course, show))
            guider = training_parts().TrainGuider(copied)
            guider.inner_set_conds(
                {
                    "positive": as_normal(assignment.positive),
                    "negative": as_normal(assignment.negative),
                }
            )
            empty, sampler = (
                torch.zeros(1, *assignment.shape),
                Handover(session.teach, settings.cfg),
            )
            with checkpointed(lora.blocks if assignment.is_checkpointed else []):
                guider.sample(empty, empty, sampler, torch.zeros(1), disable_pbar=True, seed=0)
        finally:
            unload(copied)
    return session.outcome


class Session:
    """One run: it goes through the iterations, shows how far it is, and keeps what was learned."""

    def __init__(self, assignment: Assignment, lora: StudentLora, screen: Screen):
        self.assignment, self.lora, self.screen = assignment, lora, screen
        self.outcome = DistilRun()
        self.prompts = digest_of(*assignment.positive, *assignment.negative)
        self.seconds_before = 0.0  # in earlier runs
        self.started = self.saved = time.perf_counter()
        self.saving = 0.0  # seconds that the last checkpoint took

    def teach(self, network: Network) -> None:
        assignment, outcome = self.assignment, self.outcome
        device = assignment.model.load_device
        run = Distillation(
            assignment.course, self.lora.weights, network.groups, assignment.shape, device
        )
        if assignment.is_resumed and assignment.files.begun is not None:
            self._restore(run)
        done = self._share_done(run)
        if done < 1.0:
            self._refuse_memory(network)
        try:
            while done < 1.0:
                run.go_on(network.teacher, network.student, done)
                before, done = done, self._share_done(run)
                self._after_iteration(run, network, before, done)
        except comfy.model_management.InterruptProcessingException:
            if run.iteration == 0:
                raise
            outcome.is_interrupted = True
        self._save(run, is_finished=not outcome.is_interrupted)
        outcome.iterations, outcome.evaluations = run.iteration, network.rows
        outcome.losses, outcome.checks, outcome.seconds = run.losses, run.checks, self._seconds()
        outcome.own_from, outcome.paths = run.own_from, (run.walks - 1) * run.course.rows

    def _refuse_memory(self, network: Network) -> None:
        """Raise TooLittleMemory where a batch would not fit."""
        assignment, course = self.assignment, self.assignment.course
        x = torch.zeros(1, *assignment.shape, device=assignment.model.load_device)
        first = x.new_full((1,), course.levels[0])
        refuse_too_little(
            reckon(
                lambda: network.student(x, first, [0]),
                assignment.model,
                self.lora.layers,
                self.lora.blocks,
                self.lora.numbers,
                course.rows,
                assignment.is_checkpointed,
            )
        )

    def _seconds(self) -> float:
        """Of this run and those before it."""
        return self.seconds_before + time.perf_counter() - self.started

    def _share_done(self, run: Distillation) -> float:
        minutes = self.assignment.settings.minutes
        by_time = self._seconds() / (60 * minutes) if minutes else 0.0
        return max(run.iteration / run.course.iterations, by_time)

    def _seconds_left(self, run: Distillation) -> float:
        minutes, seconds = self.assignment.settings.minutes, self._seconds()
        work = run.course.work_share(run.iteration / run.course.iterations)
        left = seconds * (1 - work) / work
        return min(left, max(0.0, 60 * minutes - seconds)) if minutes else left

    def _after_iteration(
        self, run: Distillation, network: Network, before: float, done: float
    ) -> None:
        """before, done: share of the run in front of the iteration and behind it."""
        if is_check_due(before, done):
            self.screen.show_pair(run.check(network.student), run.held_out.end)
        self.screen.tell(run, done, self._seconds_left(run))
        if time.perf_counter() - self.saved > max(SAVE_EVERY, BETWEEN_SAVES * self.saving):
            self._save(run)

    def _save(self, run: Distillation, is_finished: bool = False) -> None:
        """Write the LoRA, its declaration, and what to go on from."""
        began, files = time.perf_counter(), self.assignment.files
        facts = {**self.assignment.facts, "iterations": run.iteration}
        state = {
            **facts,
            **run.facts(not is_finished),
            "seconds": self._seconds(),
            "prompts": self.prompts,
        }
        # First what resume goes on from: without it a LoRA that is there could not be gone on with.
        write_tensors(files.checkpoint, run.tensors(not is_finished), state)
        write_tensors(files.lora, self.lora.tensors(), facts)
        write_text(files.declaration, declaration_of(self.assignment.record))
        self.saved = time.perf_counter()
        self.saving = self.saved - began

    def _restore(self, run: Distillation) -> None:
        files = self.assignment.files
        facts = files.begun
        if facts.get("prompts") != self.prompts:
            # Paths are known by the numbers of their prompts, which are others now.
            facts["paths"], self.outcome.has_other_prompts = [], True
        run.restore(read_tensors(files.checkpoint), facts)
        self.seconds_before = facts["seconds"]
        self.outcome.resumed_at = run.iteration


class Screen:
    """Progress and previews on the node, by the host's own means."""

    def __init__(self, model, course: Course, show: Callable[[str], None]):
        self.show, self.bar = show, comfy.utils.ProgressBar(PROGRESS)
        self.preview = latent_preview.get_previewer(model.load_device, model.model.latent_format)

    def tell(self, run: Distillation, done: float, seconds_left: float) -> None:
        """done: share of the run, by iterations or by its minutes."""
        self.bar.update_absolute(int(min(done, 1.0) * PROGRESS))
        self.show(
            f"{run.iteration} of {counted(run.course.iterations, 'iteration')}, loss"
            f" {run.losses[-1]:.4f}, about {seconds_in_words(seconds_left)} left"
        )

    def show_pair(self, student: Tensor, teacher: Tensor) -> None:
        """The student's present picture beside the teacher's, (B, ...) latents of the model."""
        if self.preview is None:
            return
        pair = torch.cat([student[:1].cpu(), teacher[:1]], -1)
        picture = self.preview.decode_latent_to_preview_image("JPEG", pair.to(student.device))
        self.bar.update_absolute(self.bar.current, preview=picture)
