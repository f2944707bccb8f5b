"""FewStepReport: what a run of any sampler cost, and why Step Skip left out as much as it did."""

from __future__ import annotations

from typing import Any

from comfy_api.v0_0_2 import io

from ..loras.words import counted, in_figures
from .host.last_runs import FinishedRun, last_runs_of
from .host.report import SENT_AGAIN, Report

NODE = "Run Report"
NOT_WATCHED = (
    "Nobody watched this run: the connected model carries no Step Skip. Connect the model that goes"
    " into the sampler, with Step Skip in front of both; at target_speedup 1 it leaves nothing out"
    " and only counts."
)
NOT_SAMPLED = (
    "No run of this model is known: it was not sampled since Step Skip was put on it. Connect the"
    " model that goes into the sampler that made this latent."
)
ANOTHER = (
    "This latent is not what any of the model's last runs made: it was changed after sampling, or"
    " comes from another model. The figures are of the latest run."
)


class FewStepReport(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="FewStepReport",
            display_name=NODE,
            category="few-step",
            description=(
                "Behind any sampler: what the run cost in evaluations and seconds, which steps Step"
                " Skip left out, and why it left out no more. The latent passes through unchanged."
                " The report is for Speed-Quality Compare, batches and Preview as Text."
            ),
            search_aliases=["step skip", "speed", "evaluations", "seconds", "statistics", "nfe"],
            inputs=[
                io.Latent.Input(
                    "latent",
                    tooltip="The latent from the sampler. It passes through unchanged.",
                ),
                io.Model.Input(
                    "model",
                    tooltip=(
                        "The model that goes into that sampler, with Step Skip on it: Step Skip is"
                        " what watches the run."
                    ),
                ),
            ],
            outputs=[
                io.Latent.Output(
                    display_name="latent", tooltip="The latent as it came, for VAE Decode."
                ),
                io.String.Output(
                    display_name="report",
                    tooltip=(
                        "Steps, evaluations, seconds and what Step Skip did, for Speed-Quality"
                        " Compare and Preview as Text."
                    ),
                ),
            ],
            hidden=[io.Hidden.unique_id],
            **SENT_AGAIN,
        )

    @classmethod
    def execute(cls, latent, model) -> io.NodeOutput:
        last_runs = last_runs_of(model)
        run, made_this = (None, False) if last_runs is None else last_runs.run_of(latent)
        if run is None:
            report = nothing_known(NOT_WATCHED if last_runs is None else NOT_SAMPLED)
        else:
            report = report_on(run, made_this)
        return io.NodeOutput(latent, report.markdown, ui=report.publish(cls.hidden))


def nothing_known(reason: str) -> Report:
    return Report(NODE, reason, rows=(), notes=(reason,))


def report_on(run: FinishedRun, made_this: bool) -> Report:
    """made_this: whether the run made the latent that is connected, as far as can be told."""
    watched, figures = run.report, figures_of(run)
    evaluations, seconds = counted(figures["evaluations"], "evaluation"), in_figures(run.seconds)
    is_counted = made_this and not run.is_reported
    return Report(
        node=NODE,
        summary=f"{counted(run.steps, 'step')} of {run.sampler}, {evaluations}, {seconds} s",
        rows=(
            ("sampler", run.sampler),
            # Speed-Quality Compare reads the next rows, as it reads a sampler's.
            ("steps", str(run.steps)),
            ("evaluations", f"{figures['evaluations']:g}"),
            ("seconds", seconds),
            *((f"{watched.node}: {name}", value) for name, value in watched.rows),
        ),
        notes=(*(() if made_this else (ANOTHER,)), *watched.notes),
        data={
            "run": figures,
            "watched_by": watched.node,
            "watched": watched.data,
            "is_of_this_latent": made_this,
            "is_reported_by_sampler": run.is_reported,
            # Whoever adds up the reports of a job finds each run once.
            **({key: figures[key] for key in ("evaluations", "seconds")} if is_counted else {}),
        },
    )


def figures_of(run: FinishedRun) -> dict[str, Any]:
    return {
        "sampler": run.sampler,
        "steps": run.steps,
        "evaluations": round(run.evaluations, 2),
        "seconds": run.seconds,
    }


NODES = [FewStepReport]
