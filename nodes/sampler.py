"""FewStepSampler and FewStepSchedule: the run an accelerator was distilled for, and the same as
parts for other samplers.
"""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..loras.accelerator import Accelerator, Parameterization
from ..loras.words import counted, in_figures
from ..samplers.causal import in_frames
from ..samplers.plan import PlanError, SamplingPlan, make_expert_plan, make_plan
from .host.latent import handed_on, image_tokens
from .host.model import LoadedModel, look_at, sigma_of
from .host.recognise import AcceleratedModels, accelerated
from .host.report import Report
from .host.run import Run, embedded_guidance, host_sampler, refuse_cfg_sent, sample, sigmas_tensor

STEPS_TOOLTIP = (
    "0 runs the accelerator's own count. Other values must be ones it was distilled for; more steps"
    " cost more and look better only where the accelerator allows several."
)
DENOISE_TOOLTIP = (
    "1 starts from pure noise. Lower keeps more of the latent it is given (image to image); most"
    " accelerators then run fewer of their steps."
)


class FewStepSampler(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepSampler",
            display_name="Few-Step Sampler",
            category="few-step",
            description=(
                "Samples an accelerated model on the exact schedule, with the exact sampler, it was"
                " distilled for. CFG is locked to the value of the distillation, 1 for nearly all,"
                " so every step costs one evaluation."
            ),
            search_aliases=[
                "lcm",
                "lightning",
                "hyper-sd",
                "lightx2v",
                "turbo",
                "4 step",
                "speed",
                "ksampler",
            ],
            inputs=[
                io.Model.Input(
                    "model",
                    tooltip="A model with an accelerator. With Wan 2.2: the high-noise expert.",
                ),
                io.Conditioning.Input("positive", tooltip="What the picture or video should show."),
                io.Latent.Input(
                    "latent_image",
                    tooltip="The latent to start from: its size, batch and noise mask are obeyed.",
                ),
                io.Int.Input(
                    "seed",
                    default=0,
                    min=0,
                    max=0xFFFFFFFFFFFFFFFF,
                    control_after_generate=True,
                    tooltip="The same seed gives the same result.",
                ),
                io.Int.Input("steps", default=0, min=0, max=100, tooltip=STEPS_TOOLTIP),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=DENOISE_TOOLTIP
                ),
                io.Conditioning.Input(
                    "negative",
                    optional=True,
                    tooltip=(
                        "Only read by accelerators that kept guidance, and by patches such as NAG."
                        " At CFG 1 a negative prompt has no effect and costs nothing."
                    ),
                ),
                io.Model.Input(
                    "model_low_noise",
                    optional=True,
                    tooltip=(
                        "Wan 2.2 only: the low-noise expert with its own accelerator. It takes over"
                        " at the boundary."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The finished latent, for VAE Decode."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip="Steps, evaluations, seconds and the settings that were used.",
                ),
            ],
            hidden=[io.Hidden.unique_id, io.Hidden.prompt],
        )

    @classmethod
    def execute(
        cls,
        model,
        positive,
        latent_image,
        seed: int,
        steps: int,
        denoise: float,
        negative=None,
        model_low_noise=None,
    ) -> io.NodeOutput:
        experts = (model,) if model_low_noise is None else (model, model_low_noise)
        models = accelerated(*map(look_at, experts))
        refuse_causal(models.records[0])
        plan = plan_run(models, steps, denoise, latent_image)
        refuse_cfg_sent(cls.hidden, plan)
        notes = notes_on_negative(models, plan, is_connected=negative is not None)
        run = sample(models.patchers, plan, positive, negative, latent_image, seed)
        guidance = embedded_guidance(positive)
        latent = handed_on(latent_image, run.samples)
        is_negative_read = negative is not None and models.is_negative_forced
        notes = (*models.notes, *notes)
        report = report_on_run(plan, run, notes, is_negative_read, guidance)
        return io.NodeOutput(latent, report.markdown, ui=report.publish(cls.hidden))


class FewStepSchedule(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepSchedule",
            display_name="Few-Step Schedule",
            category="few-step",
            description=(
                "The accelerator's exact sigmas, sampler, CFG and step count, for SamplerCustom and"
                " other samplers."
            ),
            search_aliases=["sigmas", "scheduler", "lightning", "lightx2v", "lcm"],
            inputs=[
                io.Model.Input("model", tooltip="A model with an accelerator."),
                io.Int.Input("steps", default=0, min=0, max=100, tooltip=STEPS_TOOLTIP),
                io.Float.Input(
                    "denoise", default=1.0, min=0.0, max=1.0, step=0.01, tooltip=DENOISE_TOOLTIP
                ),
                io.Latent.Input(
                    "latent_image",
                    optional=True,
                    tooltip=(
                        "Only read by accelerators whose schedule depends on the size of the"
                        " picture."
                    ),
                ),
            ],
            outputs=[
                io.Sigmas.Output(
                    display_name="sigmas",
                    tooltip="The noise levels of the distillation, one more than steps.",
                ),
                io.Sampler.Output(
                    display_name="sampler", tooltip="The sampler it was distilled for."
                ),
                io.Float.Output(display_name="cfg", tooltip="The guidance scale it must run at."),
                io.Int.Output(display_name="steps", tooltip="How many steps the sigmas hold."),
            ],
        )

    @classmethod
    def execute(cls, model, steps: int, denoise: float, latent_image=None) -> io.NodeOutput:
        models = accelerated(look_at(model))
        refuse_expert(models.records[0])
        refuse_changed(model, models.loaded[0])
        plan = plan_run(models, steps, denoise, latent_image)
        return io.NodeOutput(sigmas_tensor(plan), host_sampler(plan), plan.cfg, plan.steps)


def plan_run(
    models: AcceleratedModels, steps: int, denoise: float, latent_image=None
) -> SamplingPlan:
    first = models.patchers[0]
    sigma = sigma_of(first)
    if len(models.loaded) == 2:
        return make_expert_plan(*models.records, steps, denoise, sigma)
    tokens = None if latent_image is None else image_tokens(first, latent_image)
    return make_plan(models.records[0], steps, denoise, sigma, tokens)


def notes_on_negative(
    models: AcceleratedModels, plan: SamplingPlan, is_connected: bool
) -> tuple[str, ...]:
    """What to tell of the negative prompt. Raises PlanError where a run cannot do without."""
    record = plan.accelerators[0]
    if is_connected:
        if record.is_guided or models.is_negative_forced:
            return ()
        return (
            "negative is connected and was not read: CFG is locked to 1, where it has no effect.",
        )
    if record.is_guided:
        raise PlanError(
            f"{record.id} was distilled with guidance kept and runs at CFG"
            f" {plan.cfg:g}: connect a negative prompt (an empty one will do)."
        )
    if models.has_self_attention_guidance:
        raise PlanError(
            "Self-Attention Guidance on the model reads the negative prompt at every step, and"
            " there is none: connect one to negative (an empty one will do), or take Self-Attention"
            " Guidance off."
        )
    if models.is_negative_forced:
        return (
            "A patch on the model (such as NAG) asks for the negative prompt and may do nothing"
            " without: connect one to negative.",
        )
    return ()


def refuse_causal(record: Accelerator | None) -> None:
    """Raise for a model that is made block by block: all its frames at once are not what it was
    distilled for.
    """
    if record is not None and record.causal is not None:
        raise PlanError(
            f"{record.id} is causal: it makes {in_frames(record.causal.frames_per_block)} at a"
            " time, each block after the one before. Use the Streaming Sampler, or core's"
            " SamplerARVideo with the sigmas of the Few-Step Schedule."
        )


def refuse_expert(record: Accelerator | None) -> None:
    """Raise for one of Wan 2.2's two experts, in the words of a node that has no input for the
    other.
    """
    if record is not None and record.expert is not None:
        raise PlanError(
            f"{record.id} belongs to Wan 2.2's {record.expert.value} expert, and the Few-Step"
            " Schedule takes one model, which makes the whole video. For two experts use the"
            " Few-Step Sampler."
        )


def refuse_changed(model, loaded: LoadedModel) -> None:
    """Raise where sigmas do not say all that the record sets, and `model`, which goes to another
    sampler as it is, lacks the rest.
    """
    record = loaded.record
    # It is another model only where a record was recognised.
    if loaded.patcher is not model and (
        record.schedule.audio_shift is not None or record.parameterization is Parameterization.X0
    ):
        raise PlanError(
            f"{record.id} was recognised without an Accelerator Loader, and it needs settings on"
            " the model that sigmas cannot carry. Put an Accelerator Loader in front of this node"
            " and of the sampler, or use the Few-Step Sampler."
        )


def report_on_run(
    plan: SamplingPlan,
    run: Run,
    notes: tuple[str, ...] = (),
    is_negative_read: bool = False,
    guidance: float | None = None,
) -> Report:
    """notes: what to tell from before the run. is_negative_read: a patch has a negative prompt
    evaluated at CFG 1. guidance: what the graph sets as embedded guidance.
    """
    evaluations, record, log = run.evaluations, plan.accelerators[0], run.log
    ids = " + ".join(record.id for record in plan.accelerators)
    locked = "guidance kept" if record.is_guided else "locked"
    count = notes_on_evaluations(plan, evaluations, is_negative_read)
    guidance_row, experts_row = rows_on_guidance(record, guidance), rows_on_experts(plan)
    data, seconds = data_of_run(plan, run), in_figures(run.seconds)
    per_pass = in_figures(run.seconds / max(log.calls, 1))
    passes = f"{counted(log.calls, 'forward pass')} of {counted(log.rows, 'row')} in all"
    return Report(
        node="Few-Step Sampler",
        summary=(
            f"{counted(plan.steps, 'step')}, {counted(evaluations, 'evaluation')}, {seconds} s,"
            f" CFG {plan.cfg:g} {locked}"
        ),
        rows=(
            ("accelerator", ids),
            ("steps", str(plan.steps)),
            ("evaluations", f"{evaluations:g} per sample ({passes})"),
            ("seconds", f"{seconds} ({per_pass} per pass)"),
            ("CFG", f"{plan.cfg:g} ({locked})"),
            *guidance_row,
            ("sampler", plan.solver.value),
            ("sigmas", ", ".join(f"{sigma:.4g}" for sigma in plan.sigmas)),
            *experts_row,
            *((entry["node"], entry["summary"]) for entry in log.entries),
        ),
        notes=(*notes, *plan.notes, *count),
        data=data,
    )


def notes_on_evaluations(
    plan: SamplingPlan, evaluations: float, is_negative_read: bool
) -> tuple[str, ...]:
    """What to tell of a count that is not the plan's."""
    is_guided = plan.accelerators[0].is_guided
    if is_negative_read and not is_guided and evaluations > plan.evaluations:
        return (
            "Another patch on the model (NAG, SAG or CFG++) has the host evaluate the negative"
            f" prompt too: {counted(evaluations, 'evaluation')} instead of {plan.evaluations}.",
        )
    if evaluations != plan.evaluations:
        return (
            f"{counted(evaluations, 'evaluation')} instead of the plan's {plan.evaluations}:"
            " regional prompts, context windows or a skip node change the count.",
        )
    return ()


def rows_on_experts(plan: SamplingPlan) -> tuple[tuple[str, str], ...]:
    if plan.switch_step is None:
        return ()
    switch = plan.switch_step
    steps = f"high-noise for steps 1 to {switch}, low-noise for {switch + 1} to {plan.steps}"
    return (("experts", steps),)


def rows_on_guidance(record: Accelerator, guidance: float | None) -> tuple[tuple[str, str], ...]:
    """Embedded guidance beside CFG: another knob, an input of the network that costs nothing."""
    if record.embedded_guidance is None:
        return ()
    value = "the model's default" if guidance is None else f"{guidance:g}"
    distilled = f"{record.id} was distilled at {record.embedded_guidance:g}"
    return (("embedded guidance", f"{value}, as the graph sets it; {distilled}"),)


def data_of_run(plan: SamplingPlan, run: Run) -> dict[str, Any]:
    """The report for programs."""
    return {
        "accelerators": [record.id for record in plan.accelerators],
        "steps": plan.steps,
        "evaluations": run.evaluations,
        "forward_passes": run.log.calls,
        "rows": run.log.rows,
        "seconds": run.seconds,
        "cfg": plan.cfg,
        "sampler": plan.solver.value,
        "sigmas": list(plan.sigmas),
        "switch_step": plan.switch_step,
        "entries": run.log.entries,
    }


NODES = [FewStepSampler, FewStepSchedule]
