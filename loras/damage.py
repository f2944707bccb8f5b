"""Whether a file holds infinity or NaN.

One such number is enough to make a whole picture black, and the host's LoRA code adds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import torch
from torch import Tensor

from .header import FileProblem, Header, Stored
from .mapped import Buffer
from .words import counted

# The numbers read as integers, and the lowest bits, without the sign, that stand for no finite
# number: the exponent's all set; of e4m3fn only the very last.
FIRST_NOT_FINITE = {
    "F64": (torch.int64, 0x7FF << 52),
    "F32": (torch.int32, 0xFF << 23),
    "BF16": (torch.int16, 0xFF << 7),
    "F16": (torch.int16, 0x1F << 10),
    "F8_E5M2": (torch.int8, 0x1F << 2),
    "F8_E4M3": (torch.int8, 0x7F),
}

# Bytes looked at together: they stay in the processor's own memory, where they are looked at twice,
# and a file of any size takes no more of the machine's.
CHUNK = 1 << 18


def refuse_damaged(path: str | Path, header: Header, data: Buffer | None = None) -> None:
    """Raise FileProblem for a .safetensors file with infinity or NaN in it. header: of that file.

    data: a map of the file, if there is one: what is looked at there has been read for everybody
    who uses it later. Either way it is read in order, as it lies on the disk.
    """
    path = Path(path)
    if _are_finite(path, header.stored.values(), data):
        return
    damaged = [
        key for key, stored in header.stored.items() if not _are_finite(path, [stored], data)
    ]
    raise FileProblem(
        f"{path.name} is damaged: {len(damaged)} of its {counted(len(header.stored), 'tensor')}"
        f" {'holds' if len(damaged) == 1 else 'hold'} values that are not finite"
        f" numbers, such as {damaged[0]}. Download it again."
    )


def _are_finite(path: Path, tensors: Iterable[Stored], data: Buffer | None) -> bool:
    return all(
        _bits_are_finite(chunk, FIRST_NOT_FINITE[run.dtype][1])
        for run in _runs(tensors)
        for chunk in (_read(path, run) if data is None else _seen(data, run))
    )


def _seen(data: Buffer, run: Stored) -> Iterator[Tensor]:
    """The numbers of a run where they are, as integers, in chunks."""
    integer, _ = FIRST_NOT_FINITE[run.dtype]
    count = (run.end - run.begin) // integer.itemsize
    if count:
        whole = torch.frombuffer(data, dtype=integer, count=count, offset=run.begin)
        yield from torch.split(whole, CHUNK // integer.itemsize)


def _read(path: Path, run: Stored) -> Iterator[Tensor]:
    """The same from the file, by one buffer."""
    integer, begin = FIRST_NOT_FINITE[run.dtype][0], run.begin
    buffer = torch.empty(CHUNK, dtype=torch.uint8)
    with path.open("rb") as file:
        file.seek(begin)
        while begin < run.end:
            read = file.readinto(buffer[: run.end - begin].numpy().data)
            if not read or read % integer.itemsize:
                raise FileProblem(
                    f"{path.name} became shorter while it was read. Download it again."
                )
            yield buffer[:read].view(integer)
            begin += read


def _bits_are_finite(bits: Tensor, first: int) -> bool:
    """Infinity and NaN have the largest bits, of either sign. bits: numbers read as integers.

    By numpy, at the speed of memory: torch would wake all its threads for every chunk.
    """
    signed = bits.numpy()
    unsigned = signed.view(f"u{signed.dtype.name}")
    return bool(signed.max() < first and unsigned.max() < first + (1 << 8 * signed.itemsize - 1))


def _runs(tensors: Iterable[Stored]) -> Iterator[Stored]:
    """Neighbours of one dtype as one, in the file's order. Whole numbers are left out."""
    run = None
    for stored in sorted(
        (each for each in tensors if each.dtype in FIRST_NOT_FINITE), key=lambda each: each.begin
    ):
        if run is not None and (stored.dtype, stored.begin) == (run.dtype, run.end):
            run = run._replace(end=stored.end)
            continue
        if run is not None:
            yield run
        run = stored
    if run is not None:
        yield run
