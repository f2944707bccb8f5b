"""One row per base, and nothing of a base anywhere else; one dataclass per schedule likewise."""

from __future__ import annotations

import ast
import dataclasses
import re
from pathlib import Path

import pytest
from comfyui_fewstep.loras.accelerator import Kind, is_taken, runs_on
from comfyui_fewstep.loras.architecture import BY_NAMES, flat
from comfyui_fewstep.loras.bases import Base, BaseRow, Levels, StepRange, base_in_host, unlisted
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.schedules import Schedule, ShiftedFlow, Trailing
from published_headers import WIDTHS, layers_of

ROOT = Path(__file__).resolve().parent.parent
SHIPPED = [
    path
    for folder in ("loras", "samplers", "nodes", "motion", "quality")
    for path in (ROOT / folder).rglob("*.py")
    if "catalog" not in path.parts
]


# ---------------------------------------------------------------- the places to touch

# Where a base may be named beside its row: those whose layers have the same names are told apart
# there, and the others can do something that no other base can.
SHARE_NAMES = {
    "FLUX",
    "FLUX2",
    "HUNYUAN_VIDEO",
    "HUNYUAN15",
    "HUNYUAN15_SR",
    "SDXL",
    "SSD1B",
    "WAN_T2V",
    "WAN21_I2V",
    "WAN22_I2V",
    "WAN22_TI2V",
}
NAMING_BASES = {
    "loras/architecture.py": SHARE_NAMES,
    "samplers/causal.py": {"WAN_CAUSAL"},  # the one that is unrolled block by block
    "nodes/accelerator.py": {"WAN_CAUSAL", "WAN_T2V"},  # a causal file without its mark
    "nodes/motion.py": {"SD15"},  # the one that motion modules are made for
    # Editions of one architecture, told by a file's name: records, as the catalogue's are.
    "loras/editions.py": {"QWEN_IMAGE", "LTXAV", "HUNYUAN15"},
    # Where attention to text is one with attention to the picture, and where core has a node.
    "nodes/host/negative.py": {
        *("FLUX", "FLUX_SCHNELL", "FLUX2", "HUNYUAN_VIDEO", "HUNYUAN15", "KREA2", "QWEN_IMAGE"),
    },
}
NAMING_SCHEDULES = {
    "loras/declaration.py": {kind.__name__ for kind in Schedule.__subclasses__()},
    "loras/accelerator.py": {"ConsistencyGrid"},  # the law of TCD and LCM
    "samplers/plan.py": {"ConsistencyGrid"},  # TCD's jumps
}


def named_bases(tree: ast.AST) -> set[str]:
    return {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and ast.unparse(node.value) == "Base"
    }


def named_schedules(tree: ast.AST) -> set[str]:
    kinds = {kind.__name__ for kind in Schedule.__subclasses__()}
    return {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)} & kinds


@pytest.mark.parametrize(
    ("named", "row", "allowed"),
    [
        (named_bases, "loras/bases.py", NAMING_BASES),
        (named_schedules, "loras/schedules.py", NAMING_SCHEDULES),
    ],
)
def test_a_base_is_one_row_and_a_schedule_one_dataclass(named, row, allowed):
    # A table of bases or a chain of isinstance elsewhere would be one more place to touch.
    found = {
        path.relative_to(ROOT).as_posix(): names
        for path in SHIPPED
        if (names := named(ast.parse(path.read_text(encoding="utf-8"))))
    }
    found.pop(row, None)
    assert found
    extra = {path: names - allowed.get(path, set()) for path, names in found.items()}
    assert {path: names for path, names in extra.items() if names} == {}


def test_a_table_elsewhere_is_caught():
    assert named_bases(ast.parse("RATES = {Base.SDXL: 24.0}")) == {"SDXL"}
    assert named_schedules(ast.parse("isinstance(x, ShiftedFlow | FluxFlow)")) == {
        "ShiftedFlow",
        "FluxFlow",
    }


def test_a_new_base_is_a_row_with_a_label_and_a_class():
    # All else has a default that is true of a base of which no more is known.
    needed = [
        field.name for field in dataclasses.fields(BaseRow) if field.default is dataclasses.MISSING
    ]
    assert needed == ["label", "host_classes"]
    row = BaseRow(label="New", host_classes=("New",))
    assert row.full_run == StepRange() and row.text is None and not row.has_timesteps


# ---------------------------------------------------------------- the rows


def test_a_member_has_its_rows_fields_and_cannot_be_changed():
    assert Base.SDXL.label == Base.SDXL.value == "SDXL" and Base("SDXL") is Base.SDXL
    assert repr(Base.SDXL) == "Base.SDXL"
    with pytest.raises(dataclasses.FrozenInstanceError):
        Base.SDXL.label = "another"


def test_labels_are_unique_and_every_base_is_found_by_its_class():
    assert len({base.label for base in Base}) == len(Base)
    for base in Base:
        # A class that is newer than what could be read has no name here, and its ComfyUI has.
        assert base.host_classes or base.since
        for name in base.host_classes:
            assert base_in_host(name, base.input_channels or 16) is base


@pytest.mark.parametrize(
    ("channels", "base"),
    # More channels than image-to-video has are Fun's control signals on it.
    [(16, Base.WAN_T2V), (36, Base.WAN22_I2V), (48, Base.WAN22_I2V)],
)
def test_of_bases_that_share_a_class_the_input_channels_decide(channels, base):
    assert base_in_host("WAN21_T2V", channels) is base
    assert base_in_host("NoSuchModel", channels) == unlisted("NoSuchModel")


def test_every_record_has_a_width_that_its_bases_were_published_in():
    strange = [
        record.id
        for record in CATALOG.values()
        if record.width is not None
        and record.family != "Demo"
        and not any(record.width in base.widths for base in record.bases)
    ]
    assert strange == []


def test_steps_of_an_undistilled_run_are_a_range():
    for base in Base:
        assert base.full_run is None or 0 < base.full_run.least <= base.full_run.most <= 50


def test_kin_are_other_bases_and_take_what_their_layers_can_hold():
    for base in Base:
        for name in (*base.layers_as, *base.takes):
            assert Base[name] is not base
        # A LoRA that is taken is one whose layers are where the base has its own.
        assert set(base.takes) <= set(base.layers_as), base
        assert all(Base[name].levels is base.levels for name in base.takes), base


def test_a_flow_says_its_shift_and_nothing_else_has_one():
    for base in Base:
        is_read = base.levels is Levels.FLOW or base.since != ""
        assert (base.shift is not None) == (is_read and base.host_classes != ()), base


@pytest.mark.parametrize("base", [base for base in Base if base.takes], ids=lambda base: base.name)
def test_a_base_takes_the_loras_of_what_it_was_made_from_and_nothing_else(base):
    parents = {Base[name] for name in base.takes}
    for record in CATALOG.values():
        is_plain = record.kind is Kind.LORA and record.expert is None and not record.only_by_choice
        taken = is_plain and base not in record.bases and bool(parents & set(record.bases))
        assert is_taken(record, base) is taken
        assert runs_on(record, base) is (taken or base in record.bases)


def test_an_expert_a_recipe_and_a_whole_model_are_not_taken():
    refused = [
        "wan22-t2v-lightning-high",  # on its own it never ends a picture
        "wan22-t2v-wan21-lora-low",
        "wan21-t2v-lightx2v-4step-model",
    ]
    for id in refused:
        assert Base.WAN_T2V in CATALOG[id].bases
        assert not runs_on(CATALOG[id], Base.WAN22_S2V)


def test_a_class_that_is_not_listed_is_equal_to_itself_alone():
    assert unlisted("NewModel") == unlisted("NewModel") != unlisted("Other")
    assert len({unlisted("NewModel"), unlisted("NewModel"), unlisted("Other")}) == 2
    new = unlisted("NewModel")
    assert new.label == "NewModel" and new.host_classes == ("NewModel",)
    # Its noise levels are not known, so no schedule is refused before its model is seen.
    assert all(schedule.fits(new) for schedule in (Trailing(), ShiftedFlow(3.0)))


# ---------------------------------------------------------------- order of the layers' names


def test_only_a_turn_decides_which_names_are_looked_for_first():
    # A marker meets another base's layers only where its turn comes later than that base's own.
    for base in Base:
        if not base.layers:
            continue
        try:
            layers = layers_of(base, WIDTHS.get(base, 64))
        except KeyError:
            continue  # of which no published LoRA is known
        names = [flat(name) for name, _, _ in layers]
        own = min(names.turn for names in base.layers)
        for other, sharing in BY_NAMES:
            if base not in sharing and any(re.search(other.marker, name) for name in names):
                assert other.turn > own, (base, sharing)


def test_turns_are_looked_for_in_their_order():
    turns = [names.turn for names, _ in BY_NAMES]
    assert turns == sorted(turns) and len(set(turns)) > 1
