"""Check what `python3 scripts/demo.py` printed and made, on a machine that had nothing.

    python3 .ci/check_demo.py OUTPUT.txt FOLDER

OUTPUT.txt: what it printed. FOLDER: the home folder it ran with, which has to hold all it made.
Standard library only.
"""

from __future__ import annotations

import re
import struct
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

# What the demo's four ways take, and the sizes of what it draws: for each way five moments of
# 192 x 192 with a label above, and the four clips of 17 frames beside each other.
LONG_RUN, ACCELERATED = "50 steps, CFG 5", "4 steps accelerated"
EVALUATIONS = {
    LONG_RUN: 100,
    ACCELERATED: 4,
    "4 steps plain": 4,
    "4 steps accelerated, CFG 5": 8,
}
PICTURE_SIZE = (996, 862)
CLIP_SIZE = (768, 214)
FRAMES = 17
# A blank picture has few values.
LEAST_VALUES = 100
PNG, EXTENDED_WEBP = b"\x89PNG\r\n\x1a\n", b"VP8X"


def problems_of(printed: str, folder: Path) -> Iterator[str]:
    """What is not as it has to be, in words."""
    yield from table_problems(printed)
    for kind, check in (("picture", picture_problems), ("clip", clip_problems)):
        found = re.search(rf"^{kind}: +(.+)$", printed, re.MULTILINE)
        if found is None:
            yield f"no {kind} is named"
        elif not (path := Path(found[1])).is_file():
            yield f"the {kind} {path} is not there"
        elif not path.resolve().is_relative_to(folder.resolve()):
            yield f"the {kind} {path} lies outside {folder}"
        else:
            yield from check(path.read_bytes())


def table_problems(printed: str) -> Iterator[str]:
    """A row: way, evaluations, seconds, times faster, PSNR in dB but for the long run."""
    lines = [re.split(r" {2,}", line) for line in printed.splitlines()]
    rows = {
        cells[0]: [float(cell.split()[0]) for cell in cells[1:]]
        for cells in lines
        if cells[0] in EVALUATIONS
    }
    if rows.keys() != EVALUATIONS.keys():
        yield f"the table has rows for {', '.join(rows) or 'nothing'}"
        return
    for way, expected in EVALUATIONS.items():
        if rows[way][0] != expected:
            yield f"{way} took {rows[way][0]:g} evaluations, not {expected}"
    if rows[ACCELERATED][2] <= 1:
        yield f"{ACCELERATED} is {rows[ACCELERATED][2]} times as fast as the long run"
    psnr = {way: cells[3] for way, cells in rows.items() if way != LONG_RUN}
    if max(psnr, key=lambda way: psnr[way]) != ACCELERATED:
        yield f"{ACCELERATED} is not nearest to the long run: {psnr}"


def picture_problems(content: bytes) -> Iterator[str]:
    if not content.startswith(PNG):
        yield "the picture is no PNG"
        return
    size = struct.unpack(">II", content[16:24])
    if size != PICTURE_SIZE:
        yield f"the picture is {size}, not {PICTURE_SIZE}"
    values = len(set(zlib.decompress(b"".join(png_chunks(content, b"IDAT")))))
    if values < LEAST_VALUES:
        yield f"the picture has {values} different values: it is blank"


def png_chunks(content: bytes, kind: bytes) -> Iterator[bytes]:
    position = len(PNG)
    while position + 8 <= len(content):
        length, found = struct.unpack(">I4s", content[position : position + 8])
        if found == kind:
            yield content[position + 8 : position + 8 + length]
        position += 12 + length  # length, kind and check sum


def clip_problems(content: bytes) -> Iterator[str]:
    if content[8:16] != b"WEBP" + EXTENDED_WEBP:
        yield "the clip is no animated WEBP"
        return
    width, height = (int.from_bytes(content[at : at + 3], "little") + 1 for at in (24, 27))
    if (width, height) != CLIP_SIZE:
        yield f"the clip is {(width, height)}, not {CLIP_SIZE}"
    if (frames := webp_chunks(content).count(b"ANMF")) != FRAMES:
        yield f"the clip has {frames} frames, not {FRAMES}"


def webp_chunks(content: bytes) -> list[bytes]:
    """The kinds of its chunks, in order; an ANMF is a frame."""
    kinds, position = [], 12
    while position + 8 <= len(content):
        kind, length = struct.unpack("<4sI", content[position : position + 8])
        kinds.append(kind)
        position += 8 + length + length % 2
    return kinds


def main(output: str, folder: str) -> int:
    problems = list(problems_of(Path(output).read_text(encoding="utf-8"), Path(folder)))
    for problem in problems:
        print(f"demo: {problem}", file=sys.stderr)
    if not problems:
        print("The demo printed and made what it has to.")
    return 1 if problems else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
