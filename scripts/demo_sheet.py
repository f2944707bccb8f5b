"""Draw what scripts/demo.py shows: a labelled contact sheet, and an animation of clips.

    python demo_sheet.py clips.webp "first way" "second way" ...

Runs with the host's Python, which has Pillow. Writes demo_sheet.png and demo_sheet.webp beside the
file given.
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont, ImageSequence

from console import print_everywhere

MOMENTS = 5  # frames of each clip on the sheet
LABEL = 22  # pixels
GAP = 6
MILLISECONDS = 125


def labelled(frame: Image.Image, ways: list[str]) -> Image.Image:
    """One frame of all clips with their names above."""
    canvas = Image.new("RGB", (frame.width, frame.height + LABEL), "white")
    canvas.paste(frame, (0, LABEL))
    draw, width = ImageDraw.Draw(canvas), frame.width // len(ways)
    for index, way in enumerate(ways):
        draw.text((index * width + 4, 4), way, "black", ImageFont.load_default(13))
    return canvas


def contact_sheet(frames: list[Image.Image], ways: list[str]) -> Image.Image:
    """A row for each way, with moments of its clip from left to right."""
    width, height = frames[0].width // len(ways), frames[0].height
    moments = [round(index * (len(frames) - 1) / (MOMENTS - 1)) for index in range(MOMENTS)]
    sheet = Image.new(
        "RGB", (MOMENTS * (width + GAP) + GAP, len(ways) * (height + LABEL) + GAP), "white"
    )
    draw = ImageDraw.Draw(sheet)
    for row, way in enumerate(ways):
        top = row * (height + LABEL)
        draw.text((GAP, top + 4), way, "black", ImageFont.load_default(13))
        for column, moment in enumerate(moments):
            clip = frames[moment].crop((row * width, 0, (row + 1) * width, height))
            sheet.paste(clip, (GAP + column * (width + GAP), top + LABEL))
    return sheet


def main() -> None:
    path, ways = Path(sys.argv[1]), sys.argv[2:]
    with Image.open(path) as animated:
        frames = [frame.convert("RGB") for frame in ImageSequence.Iterator(animated)]
    contact_sheet(frames, ways).save(path.parent / "demo_sheet.png")
    first, *rest = [labelled(frame, ways) for frame in frames]
    first.save(
        path.parent / "demo_sheet.webp",
        save_all=True,
        append_images=rest,
        duration=MILLISECONDS,
        loop=0,
        lossless=True,
    )


if __name__ == "__main__":
    print_everywhere()
    main()
