"""A prompt that changes in the middle of a stream, on the demo's causal model: the part "timeline"
of claims.py.

Colour, shape and direction of motion change; size and background stay. Measured is how many clips
show the first prompt in all frames before the change, and the second from nine frames after it and
in the last 17 frames, each read back from the pixels (demo/turns.py). Import it within the host.
"""

from __future__ import annotations

import json
import random
from dataclasses import dataclass
from statistics import fmean

import in_host
import torch
from comfyui_fewstep.nodes import demo
from comfyui_fewstep.nodes.host.files import load_tensors, load_vae
from comfyui_fewstep.nodes.host.model import sigma_of
from comfyui_fewstep.nodes.host.stream import run_stream
from comfyui_fewstep.nodes.host.timeline import timeline_of
from comfyui_fewstep.nodes.stream import FewStepStream
from comfyui_fewstep.nodes.timeline import FewStepTimeline
from comfyui_fewstep.samplers.causal import Handover, Window, make_stream_plan
from torch import Tensor

with in_host.demo_scripts():
    import turns

BATCH = 20  # clips made together
FRAMES = 65
# Latent frames in view, the first one of the clip among them.
WINDOW = Window(7, 1)
SECONDS = 4.0  # at which the second prompt takes over
TURN = 33  # the first frame of the block that begins at that time or after it
VARIANT = "causal"


@dataclass(frozen=True)
class Way:
    """One way of coming from the first prompt to the second. handover: None for the nodes' own."""

    name: str
    handover: Handover | None = None
    is_one_clip: bool = True  # False: two that know nothing of each other


TIMELINE = Way("Prompt Timeline: what is in view is read again")
NOT_READ = Way("not read again", Handover(reads_again=False))
SINKS_GO = Way("read again, the first frame let go", Handover(keeps_sinks=False))
ONE_FRAME = Way("only the last frame read again", Handover(keeps_sinks=False, frames=1))
SEPARATE = Way("two separate clips", is_one_clip=False)
WAYS = (TIMELINE, NOT_READ, SINKS_GO, ONE_FRAME, SEPARATE)


@dataclass(frozen=True)
class TurnResult:
    """Shares of clips. evaluations: of one pair."""

    way: Way
    evaluations: float
    before: float
    after: float
    end: float

    @property
    def row(self) -> str:
        shares = " | ".join(f"{share:.1%}" for share in (self.before, self.after, self.end))
        return f"| {self.way.name} | {self.evaluations:.0f} | {shares} |"


HEADER = (
    "| way | evaluations | first prompt before the change | second from"
    f" {turns.SETTLED} frames after it | second in the last {turns.END} frames"
    " |\n|---|---|---|---|---|"
)


class PairBench:
    """The same pairs of prompts and the same noise for every way."""

    def __init__(self, count: int):
        rng = random.Random(0)
        self.pairs = [pair.sentences(rng) for pair in turns.draw_pairs(count, TURN)]
        tensors, metadata = load_tensors(str(demo.FOLDER / demo.BASE))
        text = json.loads(metadata["fewstep_demo"])
        self.prompts = [
            torch.cat([demo.embed(sentence, tensors[demo.WORDS], text) for sentence in sentences])
            for sentences in zip(*self.pairs, strict=True)
        ]  # the first and the second of each pair, (N, L, 4096)
        self.vae, self.model = load_vae(str(demo.FOLDER / demo.VAE)), demo.load_model(VARIANT)

    @torch.no_grad()
    def measure(self, way: Way) -> TurnResult:
        followed, evaluations = [], 0.0
        for begin in range(0, len(self.pairs), BATCH):
            first, second = (prompts[begin : begin + BATCH] for prompts in self.prompts)
            if way.is_one_clip:
                clips, price = self._made([(first, 0.0), (second, SECONDS)], FRAMES, begin, way)
            else:
                before, price = self._made([(first, 0.0)], TURN, begin, way)
                after, more = self._made([(second, 0.0)], FRAMES - TURN + 1, begin, way)
                # A clip is a whole number of latent frames and one frame more.
                clips, price = torch.cat([before, after[:, 1:]], 1), price + more
            evaluations += price * len(first)
            followed += [
                turns.read_turn(clip.permute(3, 0, 1, 2), pair, TURN)
                for clip, pair in zip(clips, self.pairs[begin : begin + BATCH], strict=True)
            ]
        shares = (fmean(getattr(each, name) for each in followed) for name in PARTS_READ)
        return TurnResult(way, evaluations / len(self.pairs), *shares)

    def _made(
        self, prompts: list[tuple[Tensor, float]], frames: int, seed: int, way: Way
    ) -> tuple[Tensor, float]:
        """(clips (B, T, H, W, 3) in 0..1, evaluations of one). prompts: with the second that each
        begins at.
        """
        positive = None
        for embedded, seconds in prompts:
            positive = FewStepTimeline.execute([[embedded, {}]], seconds, positive).args[0]
        shape = torch.Size(
            (len(prompts[0][0]), 16, (frames - 1) // 4 + 1, demo.LATENT_SIDE, demo.LATENT_SIDE)
        )
        if way.handover is None:
            empty = {"samples": torch.zeros(shape)}
            window = (WINDOW.frames, WINDOW.sink)
            output = FewStepStream.execute(self.model, positive, empty, seed, 0, *window)
            samples = output.args[0]["samples"]
            evaluations = output.ui["fewstep_report"][0]["evaluations"]
        else:
            # No node lets one choose; the rest is what the Streaming Sampler does.
            plan = make_stream_plan(
                demo.VARIANTS[VARIANT].record,
                shape[2],
                sigma_of(self.model),
                window=WINDOW,
                timeline=timeline_of(positive, demo.FRAME_RATE),
                handover=way.handover,
            )
            run = run_stream(self.model, plan, positive, shape, seed)
            samples, evaluations = run.samples, run.evaluations
        return self.vae.decode(samples), evaluations


PARTS_READ = ("before", "after", "end")  # of turns.Followed
