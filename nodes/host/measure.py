"""What one evaluation of a model costs here at this size: a few real ones, timed.

Nothing is remembered.

The model runs through the host's own sampling machinery, with loading, patches and wrappers, on
noise of the latent's shape and an empty prompt: text as long as the model's text encoder makes it,
all zeros. What a prompt says does not change what it costs.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterable

import comfy.model_management
import comfy.nested_tensor
import comfy.samplers
import comfy.utils
import torch
from torch import Tensor

from ...loras.accelerator import Accelerator
from ...loras.bases import TextInput
from ...samplers.budget.advice import Machine
from ...samplers.budget.cost import BlockCost, BudgetError, Cost
from ...samplers.causal import Block, StreamPlan, Window
from .latent import fitted_latent
from .model import LoadedModel
from .run import RunLog, guider_for
from .stream import shape_of
from .stream_cache import CachedFrames, add_to_loading

TIMED = 5
# A warm-up this slow says that the next evaluations will be long too: two of them are enough.
SLOW_SECONDS = 10.0
TIMED_SLOW = 2
# Above this a device is busy with one prompt alone, and both prompts together take twice as long.
BUSY_SECONDS = 1.0


# SD3's and FLUX.1's first layers for the pooled text beside a prompt.
POOLED_LAYERS = ("y_embedder.mlp.0", "vector_in.in_layer")


def measure_cost(
    loaded: LoadedModel, latent, clock: Callable[[], float] = time.perf_counter
) -> Cost:
    """Seconds of an evaluation and of a guided step on this model at this latent's size. clock:
    what gives the seconds.

    Raises BudgetError where the model cannot be evaluated without more than a prompt.
    """
    prompt, model = empty_prompt(loaded), loaded.patcher
    samples = fitted_latent(model, latent)
    progress = comfy.utils.ProgressBar(2 * (TIMED + 1))
    if loaded.is_negative_forced:  # no patch that does so need work without a negative prompt
        guided_step = _seconds(model, samples, prompt, prompt, progress, clock)
        progress.update_absolute(progress.total)
        return Cost(guided_step / 2, guided_step)
    evaluation = _seconds(model, samples, prompt, None, progress, clock)
    is_busy = evaluation > BUSY_SECONDS or loaded.is_guidance_distilled
    guided_step = (
        2 * evaluation if is_busy else _seconds(model, samples, prompt, prompt, progress, clock)
    )
    progress.update_absolute(progress.total)
    return Cost(evaluation, max(evaluation, guided_step))


def measure_blocks(
    loaded: LoadedModel,
    latent,
    records: Iterable[Accelerator],
    clock: Callable[[], float] = time.perf_counter,
) -> dict[int, BlockCost]:
    """Seconds per evaluation of a causal model's block, for each of these records' block sizes.

    The network runs as under the Streaming Sampler, with a cache for the whole clip: a block at its
    start, and one at its end.
    """
    prompt, model = empty_prompt(loaded), loaded.patcher
    shape = shape_of(model, latent)
    by_size = {
        record.causal.frames_per_block: record for record in records if record.causal is not None
    }
    progress = comfy.utils.ProgressBar(2 * (TIMED + 1) * len(by_size))
    costs = {
        size: _block_cost(model, shape, record, prompt, progress, clock)
        for size, record in sorted(by_size.items())
    }
    progress.update_absolute(progress.total)
    return costs


@torch.no_grad()
def _block_cost(
    model, shape: torch.Size, record: Accelerator, prompt, progress, clock: Callable[[], float]
) -> BlockCost:
    """shape: (B, C, frames, H, W) of the whole clip."""
    batch, channels, frames, height, width = shape
    size = min(record.causal.frames_per_block, frames)
    first, last = Block(0, size), Block(frames - size, size)
    plan = StreamPlan(record, frames, 0, (first, last), Window())
    run, medians = RunLog(is_measurement=True), []
    guider = guider_for(model, 1.0, prompt, None, run)
    add_to_loading(guider, plan, shape, None)

    def evaluate(denoise, x: Tensor, sigmas: Tensor, extra_args=None, **options) -> Tensor:
        memory = CachedFrames(denoise, extra_args or {}, plan, shape, x.device, lambda *_: None)
        for block in (first,) if first == last else (first, last):
            # The block at the end sees as many keys as frames stand before it; what they hold does
            # not change what they cost.
            memory.keep(Block(0, block.start))
            memory.make_room(block)
            medians.append(
                _median(
                    lambda sigma, block=block: memory.evaluate(x, float(sigma), block),
                    sigmas,
                    run,
                    progress,
                    clock,
                )
            )
        return x

    noise = noise_like(torch.empty(batch, channels, size, height, width))
    guider.sample(
        noise,
        torch.zeros_like(noise),
        comfy.samplers.KSAMPLER(evaluate),
        _sigmas_of(model),
        disable_pbar=True,
        seed=0,
    )
    return BlockCost(medians[0], max(medians))


def machine_of(model) -> Machine:
    """Bits of a weight in memory, packed or not, and a low precision that computes faster."""
    weights = list(model.model.diffusion_model.parameters())
    bits = 8 * sum(weight.nbytes for weight in weights) / sum(weight.numel() for weight in weights)
    management, device = comfy.model_management, model.load_device
    faster = (
        "NVFP4"
        if management.supports_nvfp4_compute(device)
        else "FP8"
        if management.supports_fp8_compute(device)
        else ""
    )
    return Machine(round(bits), faster)


def device_name(model) -> str:
    """What the host calls the device that the model runs on."""
    return comfy.model_management.get_torch_device_name(model.load_device)


def empty_prompt(loaded: LoadedModel) -> list:
    """A CONDITIONING of zeros as the model's text is shaped. BudgetError for an unknown shape."""
    text, model = loaded.base.text, loaded.patcher.model
    if text is None:
        raise BudgetError(
            f"A {loaded.words} model takes more than a prompt, so it cannot be measured with an"
            " empty one. Run it once, read the seconds per pass in the sampler's report or its it/s"
            " in the console, and enter them in seconds_per_evaluation."
        )
    width = (
        model.diffusion_model.get_submodule(text.layer).in_features
        if text.layer
        else model.model_config.unet_config["context_dim"]
    )
    tokens = text.tokens if loaded.facts is None else loaded.facts.text_tokens
    pooled = _pooled_width(model, text)
    beside = {"pooled_output": None if pooled is None else torch.zeros(1, pooled)}
    if text.has_mask:
        beside["attention_mask"] = torch.ones(1, tokens, dtype=torch.long)
    return [[torch.zeros(1, tokens, width), beside]]


def _pooled_width(model, text: TextInput) -> int | None:
    """model: the host's, inside its patcher."""
    if model.adm_channels and text.pooled:
        return text.pooled
    modules = dict(model.diffusion_model.named_modules())
    return next((modules[layer].in_features for layer in POOLED_LAYERS if layer in modules), None)


def _seconds(
    model, samples: Tensor, positive, negative, progress, clock: Callable[[], float]
) -> float:
    """Median seconds of a step after a warm-up, with one prompt or with two."""
    run, medians = RunLog(is_measurement=True), []
    guider = guider_for(model, 1.0 if negative is None else 2.0, positive, negative, run)

    def evaluate(denoise, x: Tensor, sigmas: Tensor, extra_args=None, **options) -> Tensor:
        medians.append(
            _median(
                lambda sigma: denoise(x, sigma.expand(x.shape[0]), **(extra_args or {})),
                sigmas,
                run,
                progress,
                clock,
            )
        )
        return x

    guider.sample(
        noise_like(samples),
        samples,
        comfy.samplers.KSAMPLER(evaluate),
        _sigmas_of(model),
        disable_pbar=True,
        seed=0,
    )
    return medians[0]


def measure_once(
    loaded: LoadedModel, latent, clock: Callable[[], float] = time.perf_counter
) -> float:
    """Seconds that one run of a sampler takes beside its evaluations, its model being loaded."""
    prompt, model = empty_prompt(loaded), loaded.patcher
    samples = fitted_latent(model, latent)
    noise, sigmas = noise_like(samples), _sigmas_of(model)
    sampler = comfy.samplers.KSAMPLER(lambda denoise, x, sigmas, **options: x)
    seconds = []
    for _ in range(TIMED):
        started = clock()
        guider = guider_for(model, 1.0, prompt, None, RunLog(is_measurement=True))
        guider.sample(noise, samples, sampler, sigmas, disable_pbar=True, seed=0)
        seconds.append(clock() - started)
    return statistics.median(seconds)


def _median(
    evaluate: Callable[[Tensor], Tensor],
    sigmas: Tensor,
    run: RunLog,
    progress,
    clock: Callable[[], float],
) -> float:
    """Median seconds of an evaluation at these levels, the first being the warm-up.

    Raises BudgetError where none can be timed.
    """
    seconds: list[float] = []
    for sigma in sigmas[:-1]:
        calls, started = run.calls, clock()
        evaluate(sigma).flatten()[0].item()  # waits for the device, whichever it is
        # A skip node may have answered in place of the network.
        if run.calls > calls:
            seconds.append(clock() - started)
        # The host stops an interrupted run where progress is told.
        progress.update(1)
        if seconds and seconds[0] > SLOW_SECONDS and len(seconds) > TIMED_SLOW:
            break
    if len(seconds) < 2:
        raise BudgetError(
            "A node on this model answered in place of the network, so nothing could be measured."
            " Connect the model as it is before that node."
        )
    return statistics.median(seconds[1:])


def _sigmas_of(model) -> Tensor:
    """Noise levels of a warm-up and of the evaluations that are timed."""
    return comfy.samplers.calculate_sigmas(
        model.get_model_object("model_sampling"), "simple", TIMED + 1
    )


def noise_like(samples: Tensor) -> Tensor:
    """Noise in the latent's shape, from a generator of its own."""
    generator = torch.Generator().manual_seed(0)
    if samples.is_nested:
        return comfy.nested_tensor.NestedTensor(
            [torch.randn(part.shape, generator=generator) for part in samples.unbind()]
        )
    return torch.randn(samples.shape, generator=generator)
