"""A user's own accelerators: what a declaration may say, what it becomes, and that nothing in it
can break the pack.
"""

from __future__ import annotations

import json
import re
import string
from dataclasses import replace

import pytest
from comfyui_fewstep.loras.accelerator import (
    UNKNOWN_LICENCE,
    Accelerator,
    Expert,
    Kind,
    Licence,
    Parameterization,
    PublishedFile,
    Solver,
    are_partners,
)
from comfyui_fewstep.loras.bases import Base, base_in_host, unlisted
from comfyui_fewstep.loras.catalog import CATALOG
from comfyui_fewstep.loras.decision import record_of
from comfyui_fewstep.loras.declaration import (
    ENTRIES,
    LARGEST_FILE,
    REQUIRED,
    SUFFIX,
    DeclarationError,
    declaration_of,
    id_of,
    parse_declaration,
)
from comfyui_fewstep.loras.header import Header
from comfyui_fewstep.loras.recognition import recognise
from comfyui_fewstep.loras.schedules import (
    ConsistencyGrid,
    FirstTimesteps,
    Flux2Flow,
    FluxFlow,
    HostSpacedFlow,
    LiteralSigmas,
    OwnFlow,
    ShiftedFlow,
    Trailing,
    TrigFlow,
    TwoClockFlow,
    scaled_linear_sigma,
)
from comfyui_fewstep.samplers.plan import make_plan
from hypothesis import given
from hypothesis import strategies as st
from processor_time import processor_seconds_below
from published_headers import header_of
from thinning import examples

MINIMAL = {
    "file": "my_lora.safetensors",
    "base": "SDXL",
    "steps": [4],
    "schedule": {"type": "trailing"},
    "sampler": "euler",
}


def parse(changes=(), name="my-lora.fewstep.json", without=()):
    entries = {
        key: value for key, value in {**MINIMAL, **dict(changes)}.items() if key not in without
    }
    return parse_declaration(json.dumps(entries), name)


def refused(changes=(), **options) -> str:
    with pytest.raises(DeclarationError) as error:
        parse(changes, **options)
    return str(error.value)


def test_the_shortest_declaration_is_an_accelerator():
    record = parse()
    assert isinstance(record, Accelerator)
    assert (record.id, record.bases, record.steps, record.default_steps) == (
        "my-lora",
        (Base.SDXL,),
        (4,),
        4,
    )
    assert (record.schedule, record.solver, record.cfg, record.strength) == (
        Trailing(),
        Solver.EULER,
        1.0,
        1.0,
    )
    assert record.kind is Kind.LORA and record.files[0].name == "my_lora.safetensors"
    assert record.files[0].url == "" and str(record.licence).startswith("unknown")
    assert make_plan(record, 0, 1.0, scaled_linear_sigma).steps == 4


def test_everything_that_can_be_declared():
    record = parse(
        {
            "file": ["a.safetensors", "folder/b.safetensors"],
            "base": ["wan_t2v", "Wan 2.1 VACE"],
            "steps": [8, 4],
            "default_steps": 8,
            "schedule": {"type": "shifted", "shift": 3},
            "sampler": "lcm",
            "kind": "LoRA",
            "cfg": 2,
            "strength": -0.5,
            "missing_alpha": 8,
            "noise_clip": 2.5,
            "expert": "low",
            "boundary": 0.9,
            "words": ["mine|ours", "fast"],
            "licence": {"name": "CC0", "commercial": True, "note": "do as you like"},
            "family": "Mine",
            "source": "me",
            "notes": ["a", "b"],
            "embedded_guidance": 3.5,
            "parameterization": "native",
        }
    )
    assert (
        record.bases == (Base.WAN_T2V, Base.WAN_VACE)
        and record.steps == (4, 8)
        and record.default_steps == 8
    )
    assert record.expert is Expert.LOW_NOISE and record.boundary == 0.9
    assert record.licence == Licence("CC0", True, "do as you like")
    assert record.name_words == ("mine|ours", "fast") and [file.name for file in record.files] == [
        "a.safetensors",
        "b.safetensors",
    ]
    assert set(ENTRIES) >= set(REQUIRED)


@pytest.mark.parametrize(
    ("declared", "schedule", "more"),
    [
        ({"type": "trailing"}, Trailing(), {}),
        ({"type": "lcm"}, ConsistencyGrid(50), {"sampler": "lcm", "parameterization": "lcm"}),
        (
            {"type": "lcm", "original_steps": 100},
            ConsistencyGrid(100),
            {"sampler": "tcd", "gamma": 0.3},
        ),
        (
            {"type": "timesteps", "timesteps": [999, 899, 799, 699]},
            FirstTimesteps((999, 899, 799, 699)),
            {},
        ),
        ({"type": "shifted", "shift": 5}, ShiftedFlow(5.0), {"base": "flux"}),
        ({"type": "normal", "shift": 3}, HostSpacedFlow(3.0, "normal"), {"base": "hidream"}),
        (
            {"type": "sgm_uniform", "shift": 3},
            HostSpacedFlow(3.0, "sgm_uniform"),
            {"base": "boogu"},
        ),
        ({"type": "flux"}, FluxFlow(0.5, 1.15), {"base": "flux"}),
        ({"type": "own"}, OwnFlow(), {"base": "ideogram4"}),
        ({"type": "flux2"}, Flux2Flow(), {"base": "flux2"}),
        (
            {"type": "two_clocks", "video_shift": 6, "audio_shift": 3},
            TwoClockFlow(6.0, 3.0),
            {"base": "minimax_h3"},
        ),
        ({"type": "rcm", "sigma_max": 80}, TrigFlow(80.0), {"base": "wan_t2v"}),
        (
            {"type": "sigmas", "sigmas": [1, 0.9, 0.5, 0.2, 0]},
            LiteralSigmas(((1.0, 0.9, 0.5, 0.2),)),
            {"base": "ltxav"},
        ),
        (
            {"type": "sigmas", "sigmas": [[1, 0.9, 0.5, 0.2], [1, 0.5]]},
            LiteralSigmas(((1.0, 0.9, 0.5, 0.2), (1.0, 0.5))),
            {"base": "ltxav", "steps": [2, 4]},
        ),
    ],
)
def test_every_kind_of_schedule(declared, schedule, more):
    assert parse({"schedule": declared, **more}).schedule == schedule


def test_gamma_is_one_number_or_one_for_each_step_count():
    tcd = {"sampler": "tcd", "schedule": {"type": "lcm"}, "steps": [2, 4]}
    assert dict(parse({**tcd, "gamma": 0.3}).gamma) == {2: 0.3, 4: 0.3}
    assert dict(parse({**tcd, "gamma": {"2": 1, "4": 0.2}}).gamma) == {2: 1.0, 4: 0.2}
    assert "gamma" in refused({**tcd, "gamma": {"2": 1}}) and "gamma" in refused(tcd)


def test_sigmas_above_1_are_stable_diffusions_alone():
    sigmas = {"type": "sigmas", "sigmas": [14.6, 5, 2, 1]}
    assert parse({"schedule": sigmas}).schedule == LiteralSigmas(((14.6, 5.0, 2.0, 1.0),))
    for base in ("wan_t2v", "flux", ["sdxl", "flux"]):
        assert "a sigma of a flow lies in 0..1" in refused({"schedule": sigmas, "base": base})


@pytest.mark.parametrize(
    ("entries", "bases"),
    [
        ({"base": "FluxInpaint"}, (Base.FLUX_FILL,)),  # by ComfyUI's class for it
        ({"base": "flux.1 fill"}, (Base.FLUX_FILL,)),
        ({"base": ["FLUX_FILL", "flux"]}, (Base.FLUX_FILL, Base.FLUX)),
        ({"host_class": "FluxInpaint"}, (Base.FLUX_FILL,)),
        ({"host_class": "NewModel"}, (unlisted("NewModel"),)),
        ({"host_class": ["NewModel", "Flux"]}, (unlisted("NewModel"), Base.FLUX)),
    ],
)
def test_a_base_is_named_by_its_name_its_label_or_the_hosts_class(entries, bases):
    schedule = {"type": "shifted", "shift": 3}
    record = parse(
        {**entries, "schedule": schedule}, without=() if "base" in entries else ("base",)
    )
    assert record.bases == bases


def test_a_class_that_is_not_listed_may_have_any_noise_levels():
    # Its model says which when the accelerator is attached.
    for schedule in (
        {"type": "trailing"},
        {"type": "shifted", "shift": 3},
        {"type": "sigmas", "sigmas": [80, 20, 10, 1]},
    ):
        parse({"host_class": "NewModel", "schedule": schedule}, without=("base",))


def test_a_model_with_noise_levels_of_its_own_has_a_list_alone():
    sigmas = {"type": "sigmas", "sigmas": [80, 20, 10, 1]}
    assert parse({"base": "COSMOS_T2V", "schedule": sigmas}).schedule.lists == ((80, 20, 10, 1),)
    for schedule in ({"type": "trailing"}, {"type": "shifted", "shift": 3}):
        told = refused({"base": "COSMOS_T2V", "schedule": schedule})
        assert "a schedule of timesteps and a parameterization go with Stable Diffusion" in told


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ({"base": "flux_fil"}, "did you mean 'flux_fill'"),
        ({"base": "NewModel"}, "named by ComfyUI's class for it, in host_class"),
        ({"base": "flux", "host_class": "Flux"}, "both base and host_class"),
        ({"host_class": "new model"}, "must be the name of one of ComfyUI's"),
    ],
)
def test_a_base_that_is_not_one_is_refused_with_the_way_to_name_it(entries, message):
    schedule = {"type": "shifted", "shift": 3}
    told = refused({"schedule": schedule, **entries}, without={"base"} - entries.keys())
    assert message in told and len(told) < 300


def test_host_class_stands_for_base_and_one_of_them_is_needed():
    assert "base is missing" in refused(without=("base",))


def test_a_file_declared_for_an_unlisted_class_is_what_it_is_declared_for():
    record = parse({"host_class": "NewModel", "file": "new_turbo.safetensors"}, without=("base",))
    records = [*CATALOG.values(), record]
    unknown = Header({"deep.0.lora_down.weight": (8, 64), "deep.0.lora_up.weight": (64, 8)}, {}, 0)
    # New models often have the layers of older ones: what is declared is believed.
    for header in (unknown, header_of(CATALOG["sdxl-lightning-4step-lora"])):
        assert recognise(header, "new_turbo.safetensors", records).record is record
        assert record not in recognise(header, "other.safetensors", records).candidates
    listed = parse({"base": "flux", "schedule": {"type": "flux"}, "file": "new_turbo.safetensors"})
    other = recognise(
        header_of(CATALOG["sdxl-lightning-4step-lora"]), "new_turbo.safetensors", [listed]
    )
    assert other.record is None


def refusal_of(header: Header, name: str, records) -> str:
    with pytest.raises(ValueError) as refusal:
        record_of(recognise(header, name, records), name, None, records)
    return str(refusal.value)


def test_a_declaration_for_another_base_than_the_files_is_named():
    record = parse({"base": "sd15", "file": "mine.safetensors"})
    records = [*CATALOG.values(), record]
    shown = header_of(CATALOG["sdxl-lightning-4step-lora"])
    assert refusal_of(shown, "x/mine.safetensors", records) == (
        "x/mine.safetensors is declared as my-lora for SD 1.5, and its layers are those of SDXL."
        " Correct the base in the declaration."
    )


def test_a_file_that_is_declared_twice_is_told_with_both():
    names = ("one.fewstep.json", "two.fewstep.json")
    both = [parse({"file": "mine.safetensors"}, name=name) for name in names]
    shown = header_of(CATALOG["sdxl-lightning-4step-lora"])
    message = refusal_of(shown, "mine.safetensors", [*CATALOG.values(), *both])
    assert message.startswith("mine.safetensors is declared more than once: choose one or two in")


def test_a_declaration_is_known_by_its_file_and_its_words_alone():
    # Its id is no word of a path: mine.fewstep.json is not for every file with "mine" in its name.
    record = parse({"file": "a.safetensors"}, name="mine.fewstep.json")
    assert record.id == "mine" and record.name_words == () and record.is_declared
    shown = header_of(CATALOG["sdxl-lightning-4step-lora"])
    assert recognise(shown, "mine_2.safetensors", [record]).record is None
    assert recognise(shown, "x/A.safetensors", [record]).record is record


def test_two_experts_name_each_other():
    wan = {"base": "wan_t2v", "schedule": {"type": "shifted", "shift": 5}, "boundary": 0.875}
    high = parse({**wan, "expert": "high", "partner": "my-low"}, name="my-high.fewstep.json")
    low = parse({**wan, "expert": "low", "partner": "my-high"}, name="my-low.fewstep.json")
    assert are_partners(high, low) and are_partners(low, high)
    assert not are_partners(high, None) and not are_partners(high, high)
    assert "only an expert has a partner" in refused({"partner": "my-low"})
    assert "partner must be the other declaration's id" in refused({**wan, "partner": "My Low"})


def test_a_full_model_can_be_declared():
    record = parse(
        {"kind": "full model", "file": "mine_turbo.safetensors", "parameterization": "x0"}
    )
    assert record.kind is Kind.MODEL and record.parameterization is Parameterization.X0


@pytest.mark.parametrize(
    ("name", "id"),
    [
        ("x.fewstep.json", "x"),
        ("A Folder/My LoRA_v2.1.fewstep.json", "my-lora-v2-1"),
        ("a\\b.fewstep.json", "b"),
        (".fewstep.json", ""),
    ],
)
def test_the_id_is_what_the_file_name_spells(name, id):
    assert id_of(name) == id


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepps": 4}, "\"stepps\" is not an entry; did you mean 'steps'"),
        ({"base": "SDXLL"}, "base must be one of .*did you mean 'sdxl'"),
        ({"base": 7}, "base must be one of"),
        ({"steps": []}, "steps must hold 1 to 100 values, not 0"),
        ({"steps": [4.0]}, "steps must be a whole number from 1 to 100, not 4.0"),
        ({"steps": True}, "steps must be a whole number"),
        ({"steps": 0}, "from 1 to 100, not 0"),
        ({"steps": 10**30}, "from 1 to 100"),
        ({"default_steps": 5}, "default_steps is one of steps"),
        ({"sampler": "eular"}, "did you mean 'euler'"),
        ({"sampler": "tcd", "schedule": {"type": "lcm"}}, "gamma exactly when the solver is TCD"),
        ({"sampler": "tcd", "gamma": 0.3}, "TCD has the grid of a consistency model"),
        ({"schedule": "trailing"}, "schedule must be an object"),
        ({"schedule": {"type": "shifted"}}, "schedule needs shift"),
        (
            {"schedule": {"type": "shifted", "shift": "5"}},
            "shift must be a number from 0.01 to 100",
        ),
        ({"schedule": {"type": "shifted", "shift": 5}}, "go with Stable Diffusion"),
        ({"schedule": {"type": "trailing", "shift": 5}}, "not a setting of this schedule"),
        (
            {"schedule": {"type": "sigmas", "sigmas": [0.5, 1]}},
            "must fall from each value to the next",
        ),
        ({"schedule": {"type": "sigmas", "sigmas": [0]}}, "more than the closing 0"),
        ({"schedule": {"type": "sigmas", "sigmas": [[1], [1]]}}, "two are of one length"),
        ({"schedule": {"type": "sigmas", "sigmas": [1, 0.5]}}, "the schedule has every step count"),
        ({"schedule": {"type": "timesteps", "timesteps": [1000]}}, "from 0 to 999"),
        ({"cfg": 0}, "cfg must be a number from 1 to 30"),
        ({"strength": 0}, "strength is finite and not 0"),
        ({"strength": "1"}, "strength must be a number"),
        ({"file": ""}, "file must be a text"),
        ({"file": "a\nb"}, "file must be a text"),
        ({"licence": "MIT"}, "licence must be an object"),
        ({"licence": {"commercial": True}}, "licence.name must be a text"),
        ({"licence": {"name": "MIT", "commercial": "yes"}}, "true, false or null"),
        ({"expert": "high"}, "boundary"),
        ({"words": ["two words"]}, "words must be letters and digits"),
        ({"kind": "motion module"}, "kind must be one of lora, full model"),
        ({"notes": [1]}, "notes must be a text"),
    ],
)
def test_what_is_wrong_is_named_with_what_was_expected(changes, message):
    text = refused(changes)
    assert re.search(message, text), text
    assert text.startswith("my-lora.fewstep.json: ")


@pytest.mark.parametrize("name", REQUIRED)
def test_what_is_missing_is_named(name):
    assert (
        f"{name} is missing; every declaration needs file, base, steps, schedule, sampler"
        in refused(without=(name,))
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "must be an object"),
        ("null", "must be an object"),
        ("1", "must be an object"),
        ('{"cfg": NaN}', "NaN is not a number"),
        ('{"cfg": Infinity}', "Infinity is not a number"),
        ('{"cfg": 1, "cfg": 2}', "twice"),
        ("[" * 30000, "nested too deeply|not JSON"),
        ('{"cfg": ' + "9" * 5000 + "}", "cannot be read"),
        (" " * (LARGEST_FILE + 1), "larger than 64 KB"),
    ],
)
def test_a_file_that_is_no_declaration_is_refused(text, message):
    with pytest.raises(DeclarationError, match=message):
        parse_declaration(text, "x.fewstep.json")


@pytest.mark.parametrize("name", ["x.json", ".fewstep.json", "---.fewstep.json", "x"])
def test_a_name_that_spells_no_id_is_refused(name):
    with pytest.raises(DeclarationError, match="its name must be"):
        parse_declaration(json.dumps(MINIMAL), name)


# ---------------------------------------------------------------- fuzzing

# For each example: no declaration may keep anybody waiting.
LONGEST_SECONDS = 5.0

JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4)
    ),
    max_leaves=12,
)
SCHEDULE_TYPES = [
    "trailing",
    "lcm",
    "timesteps",
    "shifted",
    "normal",
    "flux",
    "flux2",
    "own",
    "two_clocks",
    "rcm",
    "sigmas",
    "?",
]
SCHEDULES = st.dictionaries(
    st.sampled_from(
        [
            "type",
            "shift",
            "sigmas",
            "timesteps",
            "original_steps",
            "sigma_max",
            "video_shift",
            "audio_shift",
        ]
    ),
    st.sampled_from(SCHEDULE_TYPES) | JSON_VALUES,
    max_size=4,
)
PLAUSIBLE = st.fixed_dictionaries(
    {
        "file": st.text(max_size=20) | JSON_VALUES,
        "base": st.sampled_from([base.name for base in Base]) | JSON_VALUES,
        "steps": st.lists(st.integers(-1, 120), max_size=4) | JSON_VALUES,
        "schedule": SCHEDULES | JSON_VALUES,
        "sampler": st.sampled_from([solver.value for solver in Solver]) | JSON_VALUES,
    },
    optional={name: JSON_VALUES for name in ENTRIES if name not in REQUIRED},
)


def is_accelerator_or_refused(text: str) -> None:
    """Whatever it is given, it answers with a lawful record or one readable error."""
    try:
        with processor_seconds_below(LONGEST_SECONDS):
            record = parse_declaration(text, "fuzz.fewstep.json")
    except DeclarationError as error:
        assert str(error).startswith("fuzz.fewstep.json: ") and len(str(error)) < 3000
        return
    assert isinstance(record, Accelerator)
    assert all(0 < steps <= 100 for steps in record.steps)


def test_thousands_of_entries_are_refused_at_once():
    # Every node's list of accelerators reads every declaration again, the wrong ones too.
    text = json.dumps({f"{number:x}": 0 for number in range(7000)}, separators=(",", ":"))
    assert len(text) < LARGEST_FILE
    # Comparing each name with all others, 7000 names took 1 s and more.
    with processor_seconds_below(0.25), pytest.raises(DeclarationError, match="is not an entry"):
        parse_declaration(text, "many.fewstep.json")


@examples(1500)
@given(PLAUSIBLE)
def test_any_entries_are_an_accelerator_or_one_error(entries):
    is_accelerator_or_refused(json.dumps(entries))


@examples(500)
@given(st.text(max_size=300) | JSON_VALUES.map(json.dumps))
def test_any_text_is_an_accelerator_or_one_error(text):
    is_accelerator_or_refused(text)


@examples(1000)
@given(st.data())
def test_a_broken_declaration_is_an_accelerator_or_one_error(data):
    text = json.dumps({**MINIMAL, "gamma": 0.3, "licence": {"name": "MIT", "commercial": None}})
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(text)))
        kept = data.draw(st.integers(0, 6))
        text = text[:at] + data.draw(st.text(string.printable, max_size=4)) + text[at + kept :]
    is_accelerator_or_refused(text)


def test_the_suffix_is_one_thing_everywhere():
    assert SUFFIX == ".fewstep.json"


@pytest.mark.parametrize(
    ("bases", "schedule"),
    [
        ((Base.WAN_T2V,), ShiftedFlow(5.0)),
        ((Base.SDXL,), Trailing()),
        ((base_in_host("NewModel"),), ShiftedFlow(3.5)),
    ],
)
def test_a_record_that_is_made_here_is_read_again_as_itself(bases, schedule):
    record = Accelerator(
        id="mine",
        family="distilled here",
        kind=Kind.LORA,
        bases=bases,
        steps=(4,),
        schedule=schedule,
        files=(PublishedFile("", "mine.safetensors"),),
        licence=UNKNOWN_LICENCE,
        sources=("distilled from a model",),
        notes=("Guidance 5 is built in.",),
        is_declared=True,
    )
    assert parse_declaration(declaration_of(record), "mine.fewstep.json") == record


def test_a_schedule_that_nothing_here_makes_is_not_written():
    record = replace(CATALOG["lcm-lora-sdxl"], is_declared=True)
    with pytest.raises(ValueError, match="ConsistencyGrid"):
        declaration_of(record)
