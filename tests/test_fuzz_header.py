"""The header reader on mutated files: one readable error or a header, no crash, no hang, no memory
beyond the header.
"""

from __future__ import annotations

import json
import re
import struct
import tracemalloc
from pathlib import Path

import pytest
from comfyui_fewstep.loras import header
from comfyui_fewstep.loras.architecture import architecture_of
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.fingerprint import fingerprint_of
from comfyui_fewstep.loras.header import (
    LARGEST_HEADER,
    FileProblem,
    Header,
    read_header,
    read_metadata,
)
from comfyui_fewstep.loras.names import LONGEST_TITLE, words_in
from comfyui_fewstep.loras.recognition import recognise
from hypothesis import given
from hypothesis import strategies as st
from processor_time import processor_seconds_below
from thinning import examples, thorough

PLAIN = {
    "__metadata__": {"lora_alpha": "8", "modelspec.title": "sdxl_lightning_4step_lora"},
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_down.weight": {
        "dtype": "F16",
        "shape": [4, 2048],
        "data_offsets": [0, 16384],
    },
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.lora_up.weight": {
        "dtype": "F16",
        "shape": [640, 4],
        "data_offsets": [16384, 21504],
    },
    "lora_unet_down_blocks_1_attentions_0_transformer_blocks_0_attn2_to_k.alpha": {
        "dtype": "F16",
        "shape": [],
        "data_offsets": [21504, 21506],
    },
}
# For each example: no header of a few bytes may keep anybody waiting.
LONGEST_SECONDS = 5.0
FUZZ = examples(1500)


def file_of(header: bytes, length: int | None = None, content: bytes = bytes(21506)) -> bytes:
    return struct.pack("<Q", len(header) if length is None else length) + header + content


WHOLE = file_of(json.dumps(PLAIN).encode())


def reads_or_refuses(path, content: bytes) -> Header | None:
    """The header, after every use of it has been made; None where the file was refused in words."""
    path.write_bytes(content)
    try:
        with processor_seconds_below(LONGEST_SECONDS):
            header = read_header(path)
            found = recognise(header, path.name, CATALOG.values())
    except FileProblem as error:
        assert path.name in str(error) or "metadata" in str(error)
        return None
    assert found.fingerprint == fingerprint_of(header)
    return header


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "file.safetensors"


def test_the_whole_file_is_read(path):
    assert len(reads_or_refuses(path, WHOLE).shapes) == 3


@FUZZ
@given(st.data())
def test_changed_bytes(path, data):
    content = bytearray(
        WHOLE[: data.draw(st.integers(0, len(WHOLE)))] if data.draw(st.booleans()) else WHOLE
    )
    for _ in range(data.draw(st.integers(0, 8))):
        if content:
            content[data.draw(st.integers(0, min(len(content), 700) - 1))] = data.draw(
                st.integers(0, 255)
            )
    reads_or_refuses(path, bytes(content))


@FUZZ
@given(st.integers(0, 2**64 - 1), st.binary(max_size=200))
def test_any_length_before_any_bytes(path, length, body):
    reads_or_refuses(path, struct.pack("<Q", length) + body)


NUMBERS = (
    st.integers(-(2**70), 2**70) | st.floats() | st.none() | st.booleans() | st.text(max_size=5)
)
TENSORS = st.fixed_dictionaries(
    {},
    optional={
        "dtype": st.sampled_from(["F16", "F32", "BF16", "F8_E4M3", "I64", "X", ""]) | NUMBERS,
        "shape": st.lists(NUMBERS, max_size=4) | NUMBERS,
        "data_offsets": st.lists(NUMBERS, max_size=3) | NUMBERS,
    },
)
KEYS = st.text(max_size=30) | st.sampled_from(
    [*PLAIN, "diffusion_model.blocks.0.self_attn.q.lora_A.weight", "a.diff_m", "x.alpha"]
)


@FUZZ
@given(
    st.dictionaries(
        KEYS,
        TENSORS | st.dictionaries(st.text(max_size=9), st.text(max_size=9), max_size=3),
        max_size=6,
    )
)
def test_any_json_as_header(path, entries):
    reads_or_refuses(path, file_of(json.dumps(entries).encode("utf-8", "surrogatepass")))


SHAPES = st.lists(st.integers(0, 2**62), max_size=5).map(tuple)
LAYER_NAMES = st.sampled_from(
    [
        "blocks.0.self_attn.q",
        "double_blocks.99999999999999999999.img_attn.qkv",
        "single_blocks.0.linear1",
        "transformer_blocks.0.attn1.to_q",
        "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k",
        "layers.0.attention.qkv",
        "patch_embedding",
        "",
        "\x00",
    ]
)
ENDINGS = st.sampled_from(
    [".lora_down.weight", ".lora_up.weight", ".lora_A.weight", ".alpha", ".diff", ".diff_m", ""]
)


@FUZZ
@given(
    st.dictionaries(st.tuples(LAYER_NAMES, ENDINGS).map("".join), SHAPES, max_size=8),
    st.dictionaries(
        st.sampled_from(["lora_alpha", "modelspec.title", "name", "x"]),
        st.text(max_size=30),
        max_size=3,
    ),
    st.text(max_size=40),
)
def test_any_header_is_recognised_or_not_and_nothing_else(shapes, metadata, name):
    try:
        with processor_seconds_below(LONGEST_SECONDS):
            found = recognise(Header(shapes, metadata), name, CATALOG.values())
    except FileProblem as error:
        assert "metadata" in str(error)
        return
    assert found.record is None or found.record in found.candidates


@pytest.mark.parametrize("read", [read_header, read_metadata])
@pytest.mark.parametrize("refuses", ["open", "map"])
def test_what_the_system_refuses_is_not_blamed_on_the_download(path, monkeypatch, read, refuses):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied")

    path.write_bytes(WHOLE)
    monkeypatch.setattr(*((Path, "open") if refuses == "open" else (header, "safe_open")), refuse)
    with pytest.raises(FileProblem) as problem:
        read(path)
    assert str(problem.value) == "file.safetensors could not be opened: Permission denied."


def test_hostile_names_and_widths_cost_no_more_than_their_size():
    widths = {f"blocks.{at}.self_attn.q": (5120, at + 1) for at in range(20_000)}
    underscores = {"_" * 100_000 + "a": (1, 1)}
    with processor_seconds_below(2.0):
        architecture_of(widths)
        architecture_of(underscores)


def test_of_a_title_no_more_is_read_than_a_title_has():
    (title,) = words_in({"title": "x" * 1_000_000}, "").titles.values()
    assert len(title.text) == LONGEST_TITLE


def changed(key: str, **entry) -> dict:
    return {**PLAIN, key: {**PLAIN[key], **entry}}


DOWN, UP, ALPHA = (key for key in PLAIN if key != "__metadata__")
# Headers of a whole file that lie about its tensors.
LIES = {
    "a tensor far larger than the file": json.dumps(
        changed(DOWN, shape=[2**20, 2**20], data_offsets=[0, 2**41])
    ),
    "a shape far larger than its bytes": json.dumps(changed(DOWN, shape=[2**30, 2**30])),
    "a size beyond 64 bits": json.dumps(changed(DOWN, shape=[2**62, 2**62])),
    "two tensors in the same place": json.dumps(changed(UP, data_offsets=[0, 5120])),
    "tensors that overlap": json.dumps(changed(UP, data_offsets=[16383, 21503])),
    "a hole between two": json.dumps(changed(ALPHA, data_offsets=[21506, 21508])),
    "bytes before the start": json.dumps(changed(DOWN, data_offsets=[-16384, 0])),
    "an end before its start": json.dumps(changed(DOWN, data_offsets=[16384, 0])),
    # The last of the two would stand in the header, and the bytes of the first for nothing.
    "a key twice": (
        json.dumps(PLAIN)[:-1]
        + f', {json.dumps(DOWN)}: {{"dtype": "F16", "shape": [2], "data_offsets": [21506,'
        " 21510]}}"
    ),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_header_that_lies_is_refused_and_costs_nothing(path, lie):
    before = bytes_of_its_own()
    assert reads_or_refuses(path, file_of(LIES[lie].encode())) is None
    assert bytes_of_its_own() - before < 32_000_000


@pytest.mark.parametrize("length", [2**62, 2**40, 100_000_001, 99_999_999])
def test_a_header_that_claims_to_be_huge_takes_no_memory(path, length):
    content = struct.pack("<Q", length) + b'{"a":' + bytes(1000)
    before = bytes_of_its_own()
    tracemalloc.start()
    try:
        assert reads_or_refuses(path, content) is None
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    # What the reader's own library takes is not traced.
    assert bytes_of_its_own() - before < 32_000_000


def test_a_header_larger_than_any_real_one_is_not_read(path):
    with path.open("wb") as file:
        file.write(struct.pack("<Q", LARGEST_HEADER + 1))
        file.truncate(LARGEST_HEADER + 100)  # never written: a hole
    before = bytes_of_its_own()
    with pytest.raises(FileProblem, match="its header is 16000001 bytes long, and no more"):
        read_header(path)
    assert bytes_of_its_own() - before < 32_000_000


def bytes_of_its_own() -> int:
    """Memory this process has filled, where the system tells. Pages of files are left out: those
    come and go with what others need.
    """
    status = Path("/proc/self/status")
    found = (
        re.findall(r"(?:RssAnon|VmSwap):\s+(\d+) kB", status.read_text()) if status.exists() else []
    )
    return sum(map(int, found)) << 10


def header_of_many(count: int) -> tuple[bytes, int]:
    """(a header of so many tensors of one number each, bytes of those numbers)."""
    entries = {
        f"diffusion_model.blocks.{number}.self_attn.q.lora_down.weight": {
            "dtype": "F16",
            "shape": [1, 1],
            "data_offsets": [at, at + 2],
        }
        for number, at in zip(range(count), range(0, 2 * count, 2), strict=True)
    }
    return json.dumps(entries).encode(), 2 * count


def test_a_file_of_many_tensors_is_read(path):
    raw, size = header_of_many(5000)
    header = reads_or_refuses(path, file_of(raw, content=bytes(size)))
    assert header is not None and len(header.shapes) == 5000


@thorough
def test_a_header_of_ten_megabytes_is_judged_within_a_small_multiple_of_its_size(path):
    raw, size = header_of_many(80_000)
    assert 9e6 < len(raw) < LARGEST_HEADER
    path.write_bytes(file_of(raw, content=bytes(size)))
    tracemalloc.start()
    try:
        found = recognise(read_header(path), path.name, CATALOG.values())
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Measured at 8: a few objects of Python's for each tensor.
    assert peak < 12 * len(raw)
    assert found.record is None
