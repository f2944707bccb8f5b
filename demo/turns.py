"""Clips whose prompt changes on the way: a scene becomes another one at some frame, in its place.

What true ones are made of, for training; which pairs of prompts are measured; and how a clip is
judged that was made of such a pair.
"""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

import clips
import measure

CHANGE = 0.75  # how often each of colour, shape and motion changes in training
RARE_CHANGE = 0.12  # the same of background and size
# Radius in pixels up to which a shape has room to grow, and from which on to shrink.
MOST_GROWING, LEAST_SHRINKING = 10.7, 11.5
SETTLED = 9  # frames of video after a change from which on a clip is to show the second prompt
END = 17  # frames at the end of a clip that are judged once more, by themselves


@dataclass(frozen=True)
class Turn:
    """Two scenes of one clip."""

    before: clips.Scene
    after: clips.Scene
    frame: int  # of video: the first that shows `after`

    def sentences(self, rng: random.Random) -> tuple[str, str]:
        """The two prompts. Size and background are in both half of the time, and in the second
        where they are new.
        """
        parts = ("size", "background")
        named = [rng.random() < 0.5 for _ in parts]
        is_new = [getattr(self.before, name) != getattr(self.after, name) for name in parts]
        after = (kept or new for kept, new in zip(named, is_new, strict=True))
        return self.before.sentence(*named), self.after.sentence(*after)


def draw_turn(scene: clips.Scene, frame: int, rng: random.Random) -> Turn:
    """Any change of a scene, for training: of at least one of colour, shape and motion."""
    facts: dict[str, str | float] = {}
    choices = {
        "colour": clips.COLOURS,
        "shape": clips.SHAPES,
        "motion": possible_motions(clips.radii(scene, frame)[-1].item()),
    }
    while not facts:
        facts = {
            name: other(scene, name, values, rng)
            for name, values in choices.items()
            if rng.random() < CHANGE
        }
    if rng.random() < RARE_CHANGE:
        facts["background"] = other(scene, "background", clips.BACKGROUNDS, rng)
    grows = {scene.motion, facts.get("motion")} & set(clips.GROWS)
    if not grows and rng.random() < RARE_CHANGE:
        facts["size"] = other(scene, "size", clips.SIZES, rng)
        facts["radius"] = rng.uniform(*clips.SIZES[facts["size"]])
    return Turn(scene, clips.turned(scene, frame, **facts), frame)


def possible_motions(radius: float) -> list[str]:
    """Of a shape that has this radius by now, so that it stays within the sizes there are."""
    impossible = {"growing": radius > MOST_GROWING, "shrinking": radius < LEAST_SHRINKING}
    return [motion for motion in clips.MOTIONS if not impossible.get(motion)]


def draw_pairs(count: int, frame: int, seed: int = 2000) -> list[Turn]:
    """Scenes that training never drew, and that change in colour, shape and direction, and in
    nothing else.
    """
    rng, pairs = random.Random(seed), []
    while len(pairs) < count:
        scene = clips.draw_scene(rng)
        if not scene.motion.startswith("moving"):
            continue
        values = {
            "colour": clips.COLOURS,
            "shape": clips.SHAPES,
            "motion": [f"moving {direction}" for direction in clips.DIRECTIONS],
        }
        facts = {name: other(scene, name, all_of_them, rng) for name, all_of_them in values.items()}
        pairs.append(Turn(scene, clips.turned(scene, frame, **facts), frame))
    return pairs


def other(scene: clips.Scene, name: str, values: Iterable[str], rng: random.Random) -> str:
    """One of the values that the scene does not have."""
    return rng.choice([value for value in values if value != getattr(scene, name)])


def render(turns: Sequence[Turn], frames: int) -> Tensor:
    """Clips (B, 3, T, H, W) in [-1, 1]."""
    before, after = (
        clips.render([getattr(turn, name) for turn in turns], frames)
        for name in ("before", "after")
    )
    changes = torch.tensor([turn.frame for turn in turns]).view(-1, 1, 1, 1, 1)
    return torch.where(torch.arange(frames).view(-1, 1, 1) >= changes, after, before)


@dataclass(frozen=True)
class Followed:
    """Whether a clip shows what its prompts say, read as demo/measure.py reads colour, shape and
    motion.
    """

    before: bool  # the first prompt in all frames before the change
    after: bool  # the second from SETTLED frames after it
    end: bool  # the second in the last END frames


def read_turn(clip: Tensor, pair: tuple[str, str], frame: int) -> Followed:
    """clip: (3, T, H, W) in [0, 1]. frame: the first one that was made for the second prompt."""
    parts = clip[:, :frame], clip[:, frame + SETTLED :], clip[:, -END:]
    readings = [measure.read_clip(part) for part in parts]
    return Followed(
        readings[0].agrees_with(pair[0]),
        readings[1].agrees_with(pair[1]),
        readings[2].agrees_with(pair[1]),
    )
