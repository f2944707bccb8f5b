"""Whether a file holds infinity or NaN.

One such number is enough to make a whole picture black, and the host's LoRA code adds it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from .header import FileProblem, Header
from .words import counted

# The numbers read as integers, and the lowest bits, without the sign, that stand for no finite
# number: the exponent's all set; of e4m3fn only the very last.
FIRST_NOT_FINITE = {
    torch.float64: (torch.int64, 0x7FF << 52),
    torch.float32: (torch.int32, 0xFF << 23),
    torch.bfloat16: (torch.int16, 0xFF << 7),
    torch.float16: (torch.int16, 0x1F << 10),
    torch.float8_e5m2: (torch.int8, 0x1F << 2),
    torch.float8_e4m3fn: (torch.int8, 0x7F),
}

# Bytes looked at together: they stay in the processor's own memory, where they are looked at twice.
CHUNK = 1 << 20
# Bytes of a tensor up to which it is looked at together with others: there are thousands.
SMALL = 1 << 16


def refuse_damaged(path: str | Path, header: Header, tensors: Mapping[str, Tensor]) -> None:
    """Raise FileProblem for a file with infinity or NaN in it. header and tensors: of that file.

    They are looked at where the host's loader has them. Where it maps the file, this is what reads
    it, in the order in which it lies on the disk, and the host finds it read.
    """
    path = Path(path)
    # Of a map, what is no longer behind it cannot be looked at.
    if path.stat().st_size < header.size:
        raise FileProblem(f"{path.name} became shorter while it was read. Download it again.")
    if _are_finite(tensors.values()):
        return
    damaged = [key for key, tensor in tensors.items() if not _are_finite([tensor])]
    raise FileProblem(
        f"{path.name} is damaged: {len(damaged)} of its {counted(len(tensors), 'tensor')}"
        f" {'holds' if len(damaged) == 1 else 'hold'} values that are not finite"
        f" numbers, such as {damaged[0]}. Download it again."
    )


def _are_finite(tensors: Iterable[Tensor]) -> bool:
    """Whole numbers always are."""
    small: dict[torch.dtype, list[Tensor]] = {}
    for tensor in sorted(tensors, key=Tensor.data_ptr):
        if tensor.dtype not in FIRST_NOT_FINITE or not tensor.numel():
            continue
        integer, first = FIRST_NOT_FINITE[tensor.dtype]
        bits = tensor.detach().view(integer).flatten()
        if bits.nbytes <= SMALL:
            small.setdefault(tensor.dtype, []).append(bits)
        elif not _bits_are_finite(bits, first):
            return False
    return all(
        _bits_are_finite(torch.cat(parts), FIRST_NOT_FINITE[dtype][1])
        for dtype, parts in small.items()
    )


def _bits_are_finite(bits: Tensor, first: int) -> bool:
    """Infinity and NaN have the largest bits, of either sign. bits: (N,), numbers read as integers.

    By numpy, at the speed of memory: torch would wake all its threads for every chunk.
    """
    signed = bits.numpy()
    sign = 1 << 8 * signed.itemsize - 1
    for begin in range(0, len(signed), CHUNK // signed.itemsize):
        chunk = signed[begin : begin + CHUNK // signed.itemsize]
        if chunk.max() >= first or chunk.view(f"u{signed.dtype.name}").max() >= first + sign:
            return False
    return True
