"""A prompt that changes in a stream, on the demo's causal model: the part "timeline" of claims.py.

Colour, shape and direction of motion change; size and background stay. Measured is how many clips
show the first prompt in all frames before the change, and the second from nine frames after it and
in the last 17 frames, each read back from the pixels (demo/turns.py). Import it within the host.

The change comes after 17 frames, for which the model was taught to keep a shape within the picture.
Later many shapes lie across the border where they turn, stay there, and are lost by the VAE: of
true clips that turn after 33 frames it leaves two thirds to be read right. The row of true clips
says what it leaves here.
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
FRAMES = 49
# Latent frames in view, the first one of the clip among them.
WINDOW = Window(7, 1)
SECONDS = 2.1  # at which the second prompt takes over
TURN = 17  # the first frame of the block that begins at that time or after it
VARIANT = "causal"


@dataclass(frozen=True)
class Way:
    """One way of coming from the first prompt to the second."""

    name: str
    handover: Handover | None = None  # None for the nodes' own
    is_one_clip: bool = True  # False: two that know nothing of each other
    is_made: bool = True  # False: true clips, which have gone through the VAE alone


TIMELINE = Way("Prompt Timeline: what is in view is read again")
NOT_READ = Way("not read again", Handover(reads_again=False, keeps_sinks=True))
SINKS_STAY = Way("read again, the first frame kept", Handover(keeps_sinks=True))
ONE_FRAME = Way("only the last frame read again", Handover(frames=1))
SEPARATE = Way("two separate clips", is_one_clip=False)
TRUE = Way("true clips, through the VAE alone", is_made=False)
WAYS = (TIMELINE, NOT_READ, SEPARATE, TRUE, SINKS_STAY, ONE_FRAME)
PARTS_READ = ("before", "after", "end")  # of turns.Followed


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
        self.turns = turns.draw_pairs(count, TURN)
        self.pairs = [turn.sentences(rng) for turn in self.turns]
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
            part = slice(begin, begin + BATCH)
            pairs = self.pairs[part]
            clips, price = self._clips(part, way)
            evaluations += price * len(pairs)
            followed += [
                turns.read_turn(clip.permute(3, 0, 1, 2), pair, TURN)
                for clip, pair in zip(clips, pairs, strict=True)
            ]
        shares = (fmean(getattr(each, name) for each in followed) for name in PARTS_READ)
        return TurnResult(way, evaluations / len(self.pairs), *shares)

    def _clips(self, part: slice, way: Way) -> tuple[Tensor, float]:
        """(clips (B, T, H, W, 3) in 0..1, evaluations of one)"""
        if not way.is_made:
            true = (turns.render(self.turns[part], FRAMES) / 2 + 0.5).movedim(1, -1)
            return self.vae.decode(torch.cat([self.vae.encode(clip) for clip in true])), 0
        first, second = (prompts[part] for prompts in self.prompts)
        if way.is_one_clip:
            return self._made([(first, 0.0), (second, SECONDS)], FRAMES, part.start, way)
        before, price = self._made([(first, 0.0)], TURN, part.start, way)
        after, more = self._made([(second, 0.0)], FRAMES - TURN + 1, part.start, way)
        # A clip is a whole number of latent frames and one frame more.
        return torch.cat([before, after[:, 1:]], 1), price + more

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
            samples, report = output.args[0]["samples"], output.ui["fewstep_report"][0]
            evaluations = report["evaluations"]
            changes = [change["frame"] for change in report["prompt_changes"]]
            assert changes == [TURN] * (len(prompts) - 1)
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
