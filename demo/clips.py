"""Procedural clips and the sentences that describe them.

One flat shape on a dull background, moving, growing, shrinking or standing still. The world is a
torus: a shape that leaves on the right comes back on the left, so that a clip may be any length and
its sentence stays true.
"""

import random
from dataclasses import dataclass, replace

import torch
from torch import Tensor

SIDE = 64  # pixels
FRAMES = 17  # the training length: five latent frames

COLOURS = {
    "red": (0.90, 0.12, 0.12),
    "green": (0.12, 0.75, 0.20),
    "blue": (0.15, 0.30, 0.95),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.75, 0.15, 0.85),
    "white": (0.98, 0.98, 0.98),
}
SHAPES = ("circle", "square", "triangle")
SIZES = {"small": (8.5, 10.0), "big": (12.0, 14.5)}  # radius in pixels
DIRECTIONS = {
    "left": (-1, 0),
    "right": (1, 0),
    "up": (0, -1),
    "down": (0, 1),
}  # pixel axes: x right, y down
MOTIONS = (
    *(f"moving {direction}" for direction in DIRECTIONS),
    "growing",
    "shrinking",
    "standing still",
)
BACKGROUNDS = ("dark", "grey", "striped", "gradient")

GROWS = {"growing": 1, "shrinking": -1}  # which way; the other motions do not
GROWTH = 1.35  # a growing shape goes from radius / GROWTH to radius * GROWTH
# Equal radius should look equally big, so each shape's extent is scaled towards the circle's area.
SQUARE_HALF_SIDE = 0.886  # sqrt(pi) / 2: exactly the circle's area
TRIANGLE_CIRCUMRADIUS = (
    1.45  # 87 % of the circle's area; exact equality would not leave room to move
)

# Row 0 of the embedding table: the empty prompt, and what a sentence is padded with.
VOCABULARY = (
    "",
    "a",
    *SIZES,
    *COLOURS,
    *SHAPES,
    "moving",
    *DIRECTIONS,
    "growing",
    "shrinking",
    "standing",
    "still",
    "on",
    *BACKGROUNDS,
    "background",
)
# In words, padded: "a small red circle moving right on a dark background" is the longest.
SENTENCE_LENGTH = 10


@dataclass(frozen=True)
class Scene:
    """What a clip shows. Its position is that of its first frame, in pixels; its speed in pixels a
    frame.
    """

    colour: str
    shape: str
    motion: str
    size: str
    background: str
    radius: float
    position: tuple[float, float]
    speed: float
    phase: float  # brightness and offset of the background, 0 to 1
    since: int = 0  # its first frame in the clip, where it is not there from the beginning

    def sentence(self, with_size: bool = True, with_background: bool = True) -> str:
        """The prompt. Size and background are optional words."""
        size = f"{self.size} " if with_size else ""
        background = f" on a {self.background} background" if with_background else ""
        return f"a {size}{self.colour} {self.shape} {self.motion}{background}"


def draw_scene(rng: random.Random) -> Scene:
    """A random scene whose shape stays inside the picture for FRAMES frames."""
    size, motion = rng.choice(list(SIZES)), rng.choice(MOTIONS)
    radius, speed = rng.uniform(*SIZES[size]), rng.uniform(1.0, 1.6)
    margin = radius * (GROWTH if motion in ("growing", "shrinking") else 1.0) * 1.25 + 1
    position = []
    for axis in (0, 1):
        travel = speed * (FRAMES - 1) * DIRECTIONS.get(motion.split()[-1], (0, 0))[axis]
        position.append(rng.uniform(margin - min(travel, 0), SIDE - margin - max(travel, 0)))
    return Scene(
        colour=rng.choice(list(COLOURS)),
        shape=rng.choice(SHAPES),
        motion=motion,
        size=size,
        background=rng.choice(BACKGROUNDS),
        radius=radius,
        position=tuple(position),
        speed=speed,
        phase=rng.random(),
    )


def turned(scene: Scene, frame: int, **facts: str | float) -> Scene:
    """What the scene becomes at this frame, when these facts of it change: it goes on from where
    its shape is, and in a new motion grows or shrinks from the size that it has by then.
    """
    if "motion" not in facts:
        return replace(scene, **facts)
    direction = DIRECTIONS.get(facts["motion"].split()[-1], (0, 0))
    position = tuple(
        place + scene.speed * step
        for place, step in zip(place_of(scene, frame - 1), direction, strict=True)
    )
    radius = radii(scene, frame)[-1].item() * GROWTH ** GROWS.get(facts["motion"], 0)
    return replace(scene, **{"radius": radius, "position": position, "since": frame, **facts})


def draw_sentence(scene: Scene, rng: random.Random) -> str:
    """The scene's sentence with each optional part kept half of the time."""
    return scene.sentence(rng.random() < 0.5, rng.random() < 0.5)


def word_ids(sentence: str) -> list[int]:
    """Row numbers of the embedding table, padded to SENTENCE_LENGTH. Raises for an unknown word."""
    words = sentence.lower().replace(",", " ").replace(".", " ").split()
    unknown = [word for word in words if word not in VOCABULARY]
    if unknown:
        raise ValueError(
            f"The demo model does not know {unknown}. Its words: {', '.join(VOCABULARY[1:])}."
        )
    if len(words) > SENTENCE_LENGTH:
        raise ValueError(f"The demo model reads at most {SENTENCE_LENGTH} words, not {len(words)}.")
    return [VOCABULARY.index(word) for word in words] + [0] * (SENTENCE_LENGTH - len(words))


def render(scenes: list[Scene], frames: int = FRAMES) -> Tensor:
    """Clips (B, 3, T, H, W) in [-1, 1], edges antialiased over one pixel."""
    clips = [_shape_over(_background(scene), scene, frames) for scene in scenes]
    return torch.stack(clips) * 2 - 1


def _background(scene: Scene) -> Tensor:
    """Grey levels (H, W) in [0, 0.5]: always darker than white and duller than every colour."""
    y, x = torch.meshgrid(torch.arange(SIDE) + 0.5, torch.arange(SIDE) + 0.5, indexing="ij")
    if scene.background == "dark":
        return torch.full_like(x, 0.03 + 0.06 * scene.phase)
    if scene.background == "grey":
        return torch.full_like(x, 0.36 + 0.08 * scene.phase)
    if scene.background == "striped":
        # Four stripes, an edge about three pixels wide.
        wave = torch.sin((x / 16 + scene.phase) * 2 * torch.pi)
        return 0.22 + 0.12 * (wave * 2).clamp(-1, 1)
    return 0.05 + 0.35 * y / SIDE + 0.08 * scene.phase


def radii(scene: Scene, frames: int) -> Tensor:
    """Of the shape in each frame, (T,) in pixels."""
    # -1 to 1 over the training length, then constant.
    progress = (2 * (torch.arange(frames) - scene.since) / (FRAMES - 1) - 1).clamp(max=1)
    return scene.radius * GROWTH ** (GROWS.get(scene.motion, 0) * progress)


def place_of(scene: Scene, frame: int | Tensor) -> tuple:
    """Centre (x, y) of the shape in a frame of the clip, in pixels, not wrapped round the torus."""
    direction = DIRECTIONS.get(scene.motion.split()[-1], (0, 0))
    moved = scene.speed * (frame - scene.since)
    return tuple(at + step * moved for at, step in zip(scene.position, direction, strict=True))


def _shape_over(background: Tensor, scene: Scene, frames: int) -> Tensor:
    """One clip (3, T, H, W) in [0, 1]."""
    time = torch.arange(frames).view(-1, 1, 1)
    radius = radii(scene, frames).view(-1, 1, 1)

    pixel = torch.arange(SIDE) + 0.5
    # Offsets from the centre by the shorter way round the torus: (T, 1, W) and (T, H, 1).
    x, y = place_of(scene, time)
    dx, dy = (
        (axis - centre + SIDE / 2) % SIDE - SIDE / 2
        for axis, centre in ((pixel.view(1, 1, -1), x), (pixel.view(1, -1, 1), y))
    )
    cover = (0.5 - _distance(scene.shape, dx, dy, radius)).clamp(0, 1)  # (T, H, W)
    colour = torch.tensor(COLOURS[scene.colour]).view(3, 1, 1, 1)
    return background * (1 - cover) + colour * cover


def _distance(shape: str, dx: Tensor, dy: Tensor, radius: Tensor) -> Tensor:
    """Signed distance to the outline in pixels, negative inside (at the corners an upper bound,
    which is enough).
    """
    if shape == "circle":
        return (dx**2 + dy**2).sqrt() - radius
    if shape == "square":
        return torch.maximum(dx.abs(), dy.abs()) - SQUARE_HALF_SIDE * radius
    slanted = dx.abs() * 3**0.5 / 2 - dy / 2  # the two upper sides of a triangle that points up
    return torch.maximum(slanted, dy.expand_as(slanted)) - TRIANGLE_CIRCUMRADIUS * radius / 2
