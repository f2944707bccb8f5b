"""What the samplers of a template run: which files, how many steps, which sampler and noise levels.

A switch runs one of two ways: both are followed, each with all that hangs on the same switch.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from template_graph import PRIMITIVES, Place, PlacedNode, Source, TemplateGraph

SAMPLERS = ("KSampler", "KSamplerAdvanced", "SamplerCustom", "SamplerCustomAdvanced")
# Samplers that are nodes of their own -> the host's name.
SAMPLER_NODES = {
    "SamplerEulerAncestral": "euler_ancestral",
    "SamplerLCM": "lcm",
    "SamplerER_SDE": "er_sde",
    "SamplerARVideo": "ar_video",
}
SHIFTS = ("ModelSamplingSD3", "ModelSamplingAuraFlow", "ModelSamplingFlux", "MiniMaxH3SigmaShift")
LOADERS = ("UNETLoader", "CheckpointLoaderSimple", "ImageOnlyCheckpointLoader")
LORAS = ("LoraLoaderModelOnly", "LoraLoader")
MOST_SWITCHES = 6  # of one sampler


@dataclass(frozen=True)
class Run:
    """One way in which one sampler runs."""

    model: str = ""  # the model's file, empty where the graph does not say
    loras: tuple[tuple[str, float | None], ...] = ()  # with their strengths
    steps: int | None = None
    cfg: float | None = None
    sampler: str = ""  # the host's name
    scheduler: str = ""  # the host's scheduler or the class of the node that makes the sigmas
    sigmas: tuple[float, ...] = ()  # where they are written out, with their closing 0
    # The shift that a node sets: one number; the two of FLUX's node; None where none is there.
    shift: float | tuple[float, float] | None = None


class _Undecided(Exception):
    """A switch that the way followed now has not decided."""

    def __init__(self, switch: Place) -> None:
        self.switch = switch


class _Reader:
    """The values of one graph, with every switch thrown one way."""

    def __init__(self, graph: TemplateGraph, thrown: dict[Place, bool]) -> None:
        self.graph = graph
        self.thrown = thrown

    def maker(self, node: PlacedNode, name: str) -> PlacedNode | None:
        """The node behind an input, through the switches on the way."""
        return self._through(node.inputs.get(name, ("", None))[1])

    def _through(self, source: Source | None) -> PlacedNode | None:
        made = self.graph.maker(source)
        while made is not None and made[1].type == "ComfySwitchNode":
            place, switch = made
            way = "on_true" if self._throw(place, switch) else "on_false"
            made = self.graph.maker(switch.inputs.get(way, ("", None))[1])
        return made[1] if made else None

    def _throw(self, place: Place, switch: PlacedNode) -> bool:
        """Which way a switch is thrown: one for all that the same node throws."""
        lever = self.graph.maker(switch.inputs.get("switch", ("", None))[1])
        place = lever[0] if lever else place
        if place not in self.thrown:
            raise _Undecided(place)
        return self.thrown[place]

    def value(self, node: PlacedNode, name: str) -> Any:
        """What a widget holds, or the value that is linked to it; None for what is computed."""
        linked = self.linked(node, name)
        if linked is None:
            return node.widget(name)
        while (behind := self.maker(linked, "value")) is not None:
            linked = behind
        return linked.values[0] if linked.type in PRIMITIVES and linked.values else None

    def linked(self, node: PlacedNode, name: str) -> PlacedNode | None:
        aliases = {"file": ("unet_name", "ckpt_name", "lora_name"), "strength": ("strength_model",)}
        names = (name, *aliases.get(name, ()))
        return next((made for one in names if (made := self.maker(node, one))), None)


def runs_of(graph: TemplateGraph) -> list[Run]:
    """Every way in which the samplers of a graph run, each once."""
    found = [run for node in graph.of_type(*SAMPLERS) for run in _ways(graph, node)]
    return list(dict.fromkeys(found))


def _ways(graph: TemplateGraph, sampler: PlacedNode) -> Iterator[Run]:
    waiting: list[dict[Place, bool]] = [{}]
    while waiting:
        thrown = waiting.pop()
        try:
            yield _run(_Reader(graph, thrown), sampler)
        except _Undecided as undecided:
            if len(thrown) < MOST_SWITCHES:
                waiting += [{**thrown, undecided.switch: way} for way in (False, True)]


def _run(reader: _Reader, sampler: PlacedNode) -> Run:
    if sampler.type in ("KSampler", "KSamplerAdvanced"):
        settings = ("steps", "cfg", "sampler_name", "scheduler")
        steps, cfg, name, scheduler = (reader.value(sampler, setting) for setting in settings)
        run = Run(steps=steps, cfg=cfg, sampler=name or "", scheduler=scheduler or "")
        return _with_model(reader, run, sampler)
    guider = reader.maker(sampler, "guider") or sampler
    cfg = 1.0 if guider.type == "BasicGuider" else reader.value(guider, "cfg")
    chosen = reader.maker(sampler, "sampler")
    name = ""
    if chosen is not None:
        name = SAMPLER_NODES.get(chosen.type) or reader.value(chosen, "sampler_name") or ""
    run = _with_sigmas(reader, Run(cfg=cfg, sampler=name), reader.maker(sampler, "sigmas"))
    return _with_model(reader, run, guider)


def _with_sigmas(reader: _Reader, run: Run, maker: PlacedNode | None) -> Run:
    """The noise levels of a node that makes them. Of those cut in two the whole is taken."""
    while maker is not None and maker.inputs.get("sigmas", ("", None))[0] == "SIGMAS":
        maker = reader.maker(maker, "sigmas")
    if maker is None:
        return run
    if maker.type == "ManualSigmas":
        text = str(reader.value(maker, "sigmas") or "")
        sigmas = tuple(map(float, re.findall(r"\d*\.?\d+", text)))
        return replace(run, sigmas=sigmas, steps=len(sigmas) - 1, scheduler=maker.type)
    scheduler = reader.value(maker, "scheduler") or maker.type
    return replace(run, scheduler=scheduler, steps=reader.value(maker, "steps"))


def _with_model(reader: _Reader, run: Run, node: PlacedNode) -> Run:
    """What lies on the way from the sampler back to the model's file."""
    maker = reader.maker(node, "model")
    while maker is not None and maker.type not in LOADERS:
        if maker.type in LORAS:
            lora = (_name(reader.value(maker, "file")), reader.value(maker, "strength"))
            run = replace(run, loras=(*run.loras, lora))
        if maker.type in SHIFTS and run.shift is None:
            run = replace(run, shift=_shift(reader, maker))
        maker = reader.maker(maker, "model")
    return run if maker is None else replace(run, model=_name(reader.value(maker, "file")))


def _shift(reader: _Reader, node: PlacedNode) -> float | tuple[float, float] | None:
    if node.type == "ModelSamplingFlux":
        return (reader.value(node, "base_shift"), reader.value(node, "max_shift"))
    shift = reader.value(node, "shift")
    return None if shift is None else round(shift, 4)


def _name(file: Any) -> str:
    return str(file or "").replace("\\", "/").rpartition("/")[2]
