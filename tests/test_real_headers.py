"""Recognition on the headers of published files: to the byte where the published size is known,
through the reader, in any order, broken off and with keys written twice.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import json
import random

import pytest
import safetensors.torch
import torch
from comfyui_fewstep.loras import names
from comfyui_fewstep.loras.accelerator import Kind, Make
from comfyui_fewstep.loras.bases import Base
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.fingerprint import fingerprint_of
from comfyui_fewstep.loras.fit import misfits
from comfyui_fewstep.loras.header import FileProblem, Header, read_header
from comfyui_fewstep.loras.recognition import are_layers_of, recognise, recognise_lora
from comfyui_fewstep.loras.repair import repaired_key
from hypothesis import given, settings
from hypothesis import strategies as st
from processor_time import processor_seconds_below
from real_headers import BYTES, DATA, REAL_HEADERS, RealHeader, expanded, laid_out, written

RECORDS = tuple(CATALOG.values())
RECOGNISABLE = tuple(record for record in RECORDS if not record.only_by_choice)
EXACT = [real for real in REAL_HEADERS.values() if real.status == "exact"]
LORAS = [real for real in REAL_HEADERS.values() if real.name != "animatediff-lightning-4step"]
TORCH = {
    "F32": torch.float32,
    "I64": torch.int64,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
}
# What some published sizes lack, in bytes: metadata that nobody has read, by the looks of it.
MISSING = {"lcm-sdxl": 600, "ltx-2.3": 21_872}
RENAMED = "a1b2c3.safetensors"

every_header = pytest.mark.parametrize(
    "real", [pytest.param(real, id=real.name) for real in REAL_HEADERS.values()]
)
every_lora = pytest.mark.parametrize("real", [pytest.param(real, id=real.name) for real in LORAS])


# ---------------------------------------------------------------- the test data themselves


def test_there_are_29_of_which_23_are_known_to_the_byte():
    assert len(REAL_HEADERS) == 29 and len(EXACT) == 23
    assert {real.name for real in REAL_HEADERS.values() if real.status == "near"} == {
        "lcm-sdxl",
        "lcm-ssd-1b",
        "ltx-2.3",
        "ltx-2",
    }


@pytest.mark.parametrize("real", [pytest.param(real, id=real.name) for real in EXACT])
def test_the_rebuilt_file_has_the_published_number_of_bytes(real):
    assert real.size == real.bytes
    assert len(real.shapes) == real.tensors


@pytest.mark.parametrize("name", MISSING)
def test_a_file_known_nearly_lacks_what_its_note_says(name):
    real = REAL_HEADERS[name]
    assert real.bytes - real.size == MISSING[name] and len(real.shapes) == real.tensors
    assert f"{MISSING[name]:,} bytes less than published" in real.note


@every_header
def test_the_header_is_what_the_formats_own_library_writes(real):
    """At the same names, dtypes and metadata; every tensor a single number, for space."""
    single = {key: (1,) * len(shape) for key, shape in real.shapes.items()}
    tensors = {
        key: torch.zeros(shape, dtype=TORCH[real.dtype_of(key)]) for key, shape in single.items()
    }
    ours = written(single, laid_out(single, real.dtype_of), real.metadata)
    theirs = safetensors.torch.save(tensors, dict(real.metadata) or None)
    assert theirs.startswith(ours)
    assert len(theirs) - len(ours) == sum(BYTES[real.dtype_of(key)] for key in single)


@every_header
def test_every_published_name_is_one_of_the_catalogue(real):
    assert not real.published_as or real.owners(RECORDS)
    paths = [f"{file.repo}/{file.path}" for _, file in real.owners(RECORDS)]
    assert all(fnmatch.filter(paths, name) for name in real.published_as)


def test_every_table_of_layers_is_used():
    for kind in ("layers", "differences"):
        used = {name for entry in DATA["files"] for name in entry[kind]}
        assert used == set(DATA[kind])


def test_a_template_stands_for_each_of_its_names():
    assert expanded("blocks.{0-2}.{q,k}") == [f"blocks.{n}.{x}" for n in range(3) for x in "qk"]
    assert expanded("conv_in") == ["conv_in"]


# ---------------------------------------------------------------- the reader


@every_header
def test_the_reader_sees_in_a_file_of_the_whole_size_what_was_written(real, tmp_path):
    """Up to 7.7 GB of it a hole, which takes no space."""
    path = real.save(tmp_path / "file.safetensors")
    assert path.stat().st_size == real.size
    assert read_header(path) == real.header(real.size)


# ---------------------------------------------------------------- what the tensors prove

ALL_WAN = {Base.WAN_T2V, Base.WAN22_I2V}
PROVEN = {
    # name: (bases, width, ranks, alpha, whole differences)
    "lcm-sd15": ({Base.SD15}, None, (64,), "tensors", False),
    "lcm-sdxl": ({Base.SDXL}, None, (64,), "tensors", False),
    "lcm-ssd-1b": ({Base.SSD1B}, None, (64,), "tensors", False),
    "tcd-sdxl": ({Base.SDXL}, None, (64,), "tensors", False),
    "sdxl-lightning": ({Base.SDXL}, None, (64,), "tensors", False),
    "dmd2": ({Base.SDXL}, None, (64,), "tensors", False),
    "pcm-sdxl": ({Base.SDXL}, None, (64,), "tensors", False),
    "pcm-sd15": ({Base.SD15}, None, (64,), "tensors", False),
    "hyper-sd15": ({Base.SD15}, None, (64,), "tensors", False),
    "hyper-sdxl": ({Base.SDXL}, None, (64,), "tensors", False),
    "hyper-sd3": ({Base.SD3}, 1536, (64,), "absent", False),
    "hyper-flux": ({Base.FLUX}, 3072, (64,), "absent", False),
    "flux-turbo-alpha": ({Base.FLUX}, 3072, (64,), "absent", False),
    "qwen-lightning": ({Base.QWEN_IMAGE, Base.MAGE_FLOW}, 3072, (64,), "tensors", False),
    "lightx2v-t2v": ({Base.WAN_T2V}, 5120, (64,), "absent", True),
    "lightx2v-i2v": ({Base.WAN21_I2V}, 5120, (64,), "absent", True),
    "lightx2v-i2v-first-upload": ({Base.WAN21_I2V}, 5120, (64,), "absent", True),
    "lightx2v-wan22-i2v-high-1022": ({Base.WAN22_I2V}, 5120, (64,), "absent", True),
    "kijai-t2v-v2-rank64": (ALL_WAN, 5120, (64,), "absent", True),
    "kijai-i2v-rank64": ({Base.WAN21_I2V}, 5120, (64,), "absent", True),
    "kijai-t2v-rank32-and-fusionx": (ALL_WAN, 5120, (32,), "absent", True),
    "causvid-1.3b": (ALL_WAN, 1536, (32,), "absent", True),
    "fastwan-5b": ({Base.WAN22_TI2V}, 3072, (128,), "absent", True),
    "wan22-lightning-comfy-org": (ALL_WAN, 5120, (64,), "tensors", False),
    "wan22-lightning-kijai": (ALL_WAN, 5120, (64,), "tensors", False),
    "hunyuan-fast": ({Base.HUNYUAN_VIDEO}, 3072, (64,), "absent", True),
    "ltx-2.3": ({Base.LTXAV}, 4096, (384,), "absent", False),
    "ltx-2": ({Base.LTXAV}, 4096, (384,), "absent", False),
}


@pytest.mark.parametrize("name", PROVEN)
def test_what_a_published_header_proves(name):
    found = fingerprint_of(REAL_HEADERS[name].header())
    bases, width, ranks, alpha, has_differences = PROVEN[name]
    assert found.kind is Kind.LORA
    assert (set(found.bases), found.width, found.ranks) == (bases, width, ranks)
    assert (found.alpha, found.has_differences) == (alpha, has_differences)


def test_every_lora_among_them_is_proven_something():
    assert set(PROVEN) == {real.name for real in LORAS}


def test_a_motion_module_is_one():
    assert (
        fingerprint_of(REAL_HEADERS["animatediff-lightning-4step"].header()).kind
        is Kind.MOTION_MODULE
    )


# ---------------------------------------------------------------- recognition


def owned_files():
    return [
        pytest.param(real, record, file, id=f"{real.name}: {record.id}: {file.name}")
        for real in LORAS
        for record, file in real.owners(RECOGNISABLE)
    ]


def is_generic(file) -> bool:
    return names.is_generic(file.name.rsplit(".", 1)[0])


@pytest.mark.parametrize(("real", "record", "file"), owned_files())
def test_a_published_file_is_recognised_by_its_name(real, record, file):
    found = recognise(real.header(), file.name, RECORDS)
    if is_generic(file):
        assert found.record is None and record in found.candidates, found.evidence
        found = recognise(real.header(), f"{file.repo}/{file.path}", RECORDS)
    assert found.record is record, found.evidence


@every_lora
def test_a_renamed_file_is_recognised_as_one_of_its_own_or_those_are_among_the_candidates(real):
    owners = {record.id for record, _ in real.owners(RECOGNISABLE)}
    found = recognise(real.header(), RENAMED, RECORDS)
    if found.record is None:
        assert owners <= {record.id for record in found.candidates}
    else:
        assert found.record.id in owners and found.is_certain


@every_lora
def test_the_catalogue_says_what_the_published_header_shows(real):
    proven = fingerprint_of(real.header())
    for record, file in real.owners(RECOGNISABLE):
        if real.status == "inferred":
            assert file.rank is None, record.id
        else:
            assert (file.rank,) == proven.ranks, record.id
            assert file.make == Make(proven.naming, proven.pairs, proven.dtype), record.id


LOW_1022 = "wan2.2_i2v_A14b_low_noise_lora_rank64_lightx2v_4step_1022.safetensors"
OF_WAN21 = "wan2.1_i2v_lora_rank64_lightx2v_4step.safetensors"


@pytest.mark.parametrize(
    ("name", "base", "id"),
    [
        (LOW_1022, Base.WAN22_I2V, "wan22-i2v-lightning-low"),
        (OF_WAN21, Base.WAN21_I2V, "wan21-i2v-lightx2v-4step"),
        # What the name is for does not go on the model, and the other thing it is does.
        (LOW_1022, Base.WAN21_I2V, "wan21-i2v-lightx2v-4step"),
        (OF_WAN21, Base.WAN22_I2V, "wan22-i2v-lightning-low"),
        # The model alone.
        (RENAMED, Base.WAN21_I2V, "wan21-i2v-lightx2v-4step"),
        (RENAMED, Base.WAN22_I2V, "wan22-i2v-lightning-low"),
        # The name alone: on a model that neither is for, or where none is connected.
        (LOW_1022, None, "wan22-i2v-lightning-low"),
        (OF_WAN21, Base.WAN_T2V, "wan21-i2v-lightx2v-4step"),
        (RENAMED, None, None),
        (RENAMED, Base.SDXL, None),
    ],
)
def test_of_one_file_that_is_published_as_two_name_and_model_decide(name, base, id):
    found = recognise(REAL_HEADERS["lightx2v-i2v"].header(), name, RECORDS, base)
    assert (found.record.id if found.record else None) == id
    assert {record.id for record in found.candidates} <= {
        "wan21-i2v-lightx2v-4step",
        "wan22-i2v-lightning-low",
    }
    assert "published as both" in found.evidence[1]
    if found.record is not None:
        decided = f"its name is that of {id}", f"the connected model is {base and base.label}"
        assert found.evidence[1].endswith(decided) and found.is_certain


@pytest.mark.parametrize("rank", [8, 32])
def test_a_low_noise_half_of_another_size_goes_by_its_name(rank):
    smaller = dataclasses.replace(REAL_HEADERS["lightx2v-i2v"], rank=rank, bytes=None)
    found = recognise(smaller.header(), LOW_1022, RECORDS, Base.WAN22_I2V)
    assert found.record.id == "wan22-i2v-lightning-low"


@pytest.mark.parametrize(
    ("header", "bases"),
    [
        ("lightx2v-t2v", {Base.WAN_T2V}),
        ("lightx2v-wan22-i2v-high-1022", {Base.WAN22_I2V}),
    ],
)
def test_the_channels_of_the_input_tell_text_to_video_from_image_to_video(header, bases):
    """Under another's name, too: the 1022 high-noise file as a text-to-video one."""
    real = REAL_HEADERS[header]
    found = recognise(real.header(0), RENAMED, RECORDS)
    assert all(set(record.bases) & bases for record in found.candidates)
    for name in ("wan22_t2v_lightx2v_high.safetensors", "wan22_i2v_lightx2v_high.safetensors"):
        record = recognise(real.header(0), name, RECORDS).record
        assert record is None or set(record.bases) & bases


@every_lora
def test_no_name_makes_a_published_file_of_one_base_an_accelerator_of_another(real):
    proven = fingerprint_of(real.header())
    # Without its size, which alone would decide for some.
    named = {
        file.name: recognise_lora(proven, real.metadata, file.path, 0, RECORDS).record
        for record in RECORDS
        for file in record.files
    }
    wrong = {
        name: found.id
        for name, found in named.items()
        if found is not None and not are_layers_of(found, proven)
    }
    assert wrong == {}


# ---------------------------------------------------------------- repair and fit


@every_lora
def test_a_repaired_key_is_repaired_once_and_no_two_become_one(real):
    names = [repaired_key(key) for key in real.shapes]
    assert len(set(names)) == len(names)
    assert [repaired_key(name) for name in names] == names
    renamed = sum(name != key for name, key in zip(names, real.shapes))
    assert renamed == sum(key.endswith(".diff_m") for key in real.shapes)


@every_lora
def test_the_tensors_of_a_published_file_agree_with_each_other(real):
    assert misfits(real.shapes, lambda layer: None) == set()


# ---------------------------------------------------------------- other orders, and damage


def reordered(real: RealHeader, keys: list[str]) -> Header:
    header = real.header()
    return Header(
        {key: header.shapes[key] for key in keys}, header.metadata, header.size, header.stored
    )


@every_lora
def test_the_order_of_the_keys_says_nothing(real):
    path = next((file.name for _, file in real.owners(RECOGNISABLE)), RENAMED)
    expected = recognise(real.header(), path, RECORDS)
    shuffled = list(real.shapes)
    random.Random(5).shuffle(shuffled)
    for keys in (sorted(real.shapes, reverse=True), shuffled):
        assert recognise(reordered(real, keys), path, RECORDS) == expected


def reads_or_refuses(path, content: bytes, size: int) -> Header | None:
    """The header of a file that begins with these bytes and is so long, or None if it is refused in
    words. Reading and recognising it takes a few seconds at most.
    """
    with path.open("wb") as file:
        file.write(content)
        file.truncate(max(size, len(content)))
    try:
        with processor_seconds_below(5.0):
            header = read_header(path)
            found = recognise(header, path.name, RECORDS)
    except FileProblem as error:
        assert path.name in str(error) or "metadata" in str(error)
        return None
    assert found.record is None or found.record in found.candidates
    return header


@every_header
@settings(max_examples=3)
@given(data=st.data())
def test_a_file_that_breaks_off_anywhere_is_refused(real, tmp_path, data):
    path = tmp_path / "file.safetensors"
    inside = data.draw(st.integers(0, len(real.written) - 1), label="bytes of the header")
    assert reads_or_refuses(path, real.written[:inside], 0) is None
    short = data.draw(st.integers(len(real.written), real.size - 1), label="bytes of the file")
    assert reads_or_refuses(path, real.written, short) is None
    assert reads_or_refuses(path, real.written, real.size + 1) is None
    assert reads_or_refuses(path, real.written, real.size) is not None


@every_header
@settings(max_examples=5)
@given(data=st.data())
def test_a_file_with_changed_bytes_is_read_or_refused(real, tmp_path, data):
    content = bytearray(real.written)
    for _ in range(data.draw(st.integers(1, 6))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    reads_or_refuses(tmp_path / "file.safetensors", bytes(content), real.size)


@every_header
def test_a_key_that_is_written_twice_is_refused(real, tmp_path):
    """The last of the two would stand in the header, and the bytes of the first for nothing."""
    content = json.loads(real.written[8:])
    at = real.size - len(real.written)
    for key in random.Random(7).sample(sorted(real.shapes), 3):
        entry = dict(content[key], data_offsets=[at, at + _bytes_of(content[key])])
        again = json.dumps({key: entry})[1:]
        text = json.dumps(content)[:-1] + ", " + again
        raw = len(text).to_bytes(8, "little") + text.encode()
        size = len(raw) + entry["data_offsets"][1]
        assert reads_or_refuses(tmp_path / "file.safetensors", raw, size) is None


def _bytes_of(entry) -> int:
    begin, end = entry["data_offsets"]
    return end - begin


@every_lora
@settings(max_examples=5)
@given(data=st.data())
def test_a_file_that_lacks_some_tensors_is_never_another_accelerators(real, data):
    """What a trainer's pruning leaves: any part of the keys, under a name that says nothing."""
    count = data.draw(st.integers(1, len(real.shapes)))
    keys = data.draw(
        st.lists(
            st.sampled_from(sorted(real.shapes)), min_size=1, max_size=min(count, 60), unique=True
        )
    )
    found = recognise(reordered(real, keys), RENAMED, RECORDS)
    owners = {record.id for record, _ in real.owners(RECOGNISABLE)}
    assert found.record is None or found.record.id in owners
