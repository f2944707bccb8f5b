"""Accelerators that a user declares: a small JSON file, `<name>.fewstep.json`.

It lies beside the LoRA or in models/fewstep.

It becomes an Accelerator like the catalogue's, under the id its file name spells. It holds data
only; everything in it is checked, and what is wrong is named with what was expected.

    {"file": "my_lora.safetensors", "base": "SDXL", "steps": [4], "schedule": {"type": "trailing"},
    "sampler": "euler"}
"""

from __future__ import annotations

import difflib
import json
import math
import re
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any

from .accelerator import (
    UNKNOWN_LICENCE,
    Accelerator,
    Expert,
    Kind,
    Licence,
    Parameterization,
    PublishedFile,
    Solver,
)
from .bases import Base, BaseRow, base_in_host
from .refusal import Refusal
from .schedules import (
    ConsistencyGrid,
    FirstTimesteps,
    Flux2Flow,
    FluxFlow,
    HostSpacedFlow,
    LiteralSigmas,
    OwnFlow,
    Schedule,
    ShiftedFlow,
    Trailing,
    TrigFlow,
    TwoClockFlow,
)

SUFFIX = ".fewstep.json"
LARGEST_FILE = 64 * 1024
LONGEST_LIST = 100
MOST_STEPS = 100


class DeclarationError(Refusal):
    """A declaration that cannot be an accelerator, with the file, the entry, expected and found."""


class _Wrong(Exception):
    """What is wrong with one entry."""


def id_of(file_name: str) -> str:
    """The id a declaration's file name spells: lower-case words joined by hyphens, or empty."""
    name = file_name.replace("\\", "/").rpartition("/")[2].removesuffix(SUFFIX)
    return "-".join(re.findall(r"[a-z0-9]+", name.lower()))


def parse_declaration(text: str, file_name: str) -> Accelerator:
    """The accelerator a declaration describes. Raises DeclarationError."""
    try:
        if not file_name.endswith(SUFFIX) or not id_of(file_name):
            raise _Wrong(f"its name must be letters or digits and end in {SUFFIX}")
        entries = _object(_parse(text), "the file")
        _no_unknown(entries, ENTRIES, "an entry")
        named = {"base" if name == "host_class" else name for name in entries}
        missing = [name for name in REQUIRED if name not in named]
        if missing:
            raise _Wrong(
                f"{', '.join(missing)} is missing; every declaration needs {', '.join(REQUIRED)}"
            )
        if "base" in entries and "host_class" in entries:
            raise _Wrong("it has both base and host_class, and one of them is enough")
        settings: dict[str, Any] = {}
        for name, value in entries.items():
            settings |= ENTRIES[name](value)
        return _accelerator(id_of(file_name), settings)
    except _Wrong as wrong:
        raise DeclarationError(f"{file_name}: {wrong}.") from None


def _accelerator(id: str, settings: dict[str, Any]) -> Accelerator:
    defaults = {
        "family": "declared by the user",
        "kind": Kind.LORA,
        "licence": UNKNOWN_LICENCE,
        "is_declared": True,
        "sources": ("declared by the user",),
    }
    gamma = settings.pop("gamma", None)
    if gamma is not None:
        settings["gamma"] = (
            gamma if isinstance(gamma, dict) else {steps: gamma for steps in settings["steps"]}
        )
    try:
        return Accelerator(**{**defaults, **settings, "id": id})
    except ValueError as error:
        raise _Wrong(str(error).rstrip(".")) from None


def _parse(text: str) -> Any:
    if len(text.encode("utf-8", "surrogatepass")) > LARGEST_FILE:
        raise _Wrong(
            f"it is larger than {LARGEST_FILE // 1024} KB, and a declaration is a few lines"
        )

    def no_constant(name: str) -> None:
        raise _Wrong(f"{name} is not a number in JSON")

    def no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        entries: dict[str, Any] = {}
        for name, value in pairs:
            if name in entries:
                raise _Wrong(f"it has {name!r} twice")
            entries[name] = value
        return entries

    try:
        return json.loads(text, parse_constant=no_constant, object_pairs_hook=no_twice)
    except json.JSONDecodeError as error:
        raise _Wrong(
            f"it is not JSON: {error.msg} in line {error.lineno}, column {error.colno}"
        ) from None
    except RecursionError:
        raise _Wrong("it is nested too deeply") from None
    except ValueError as error:
        # Python refuses integers of thousands of digits.
        raise _Wrong(f"it holds a number that cannot be read ({error})") from None


# ---------------------------------------------------------------- written


def declaration_of(record: Accelerator) -> str:
    """The declaration of a record, for the schedules and settings that a LoRA made here has:
    parse_declaration makes the record of it again.
    """
    (base,) = record.bases
    entries: dict[str, Any] = {
        "file": [file.name or file.path for file in record.files],
        **({"base": base.name} if isinstance(base, Base) else {"host_class": base.host_classes[0]}),
        "steps": list(record.steps),
        "schedule": _written(record.schedule),
        "sampler": record.solver.value,
        "family": record.family,
        "source": list(record.sources),
        "notes": list(record.notes),
    }
    return json.dumps({name: value for name, value in entries.items() if value != []}, indent=2)


def _written(schedule: Schedule) -> dict[str, Any]:
    """A schedule as a declaration says it. Raises ValueError for kinds that nothing here makes."""
    if isinstance(schedule, Trailing):
        return {"type": "trailing"}
    if isinstance(schedule, ShiftedFlow):
        return {"type": "shifted", "shift": schedule.shift}
    raise ValueError(f"A declaration of {type(schedule).__name__} is not written.")


# ---------------------------------------------------------------- values


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=True, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _object(value: Any, name: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise _Wrong(f"{name} must be an object in braces, not {_shown(value)}")
    return value


def _no_unknown(given: Mapping[str, Any], known: Mapping[str, Any], what: str) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise _Wrong(
                f"{_shown(name)} is not {what}"
                + (f"; did you mean {near[0]!r}" if near else f"; the choice is {', '.join(known)}")
            )


def _text(value: Any, name: str, longest: int = 500) -> str:
    if (
        not isinstance(value, str)
        or not value.strip()
        or len(value) > longest
        or not value.isprintable()
    ):
        raise _Wrong(f"{name} must be a text of at most {longest} characters, not {_shown(value)}")
    return value


def _number(value: Any, name: str, low: float, high: float) -> float:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
        or not math.isfinite(value)
    ):
        raise _Wrong(f"{name} must be a number from {low:g} to {high:g}, not {_shown(value)}")
    return float(value)


def _whole(value: Any, name: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise _Wrong(f"{name} must be a whole number from {low} to {high}, not {_shown(value)}")
    return value


def _list(value: Any, name: str) -> list[Any]:
    """A list, or one value standing for a list of one."""
    values = value if isinstance(value, list) else [value]
    if not 0 < len(values) <= LONGEST_LIST:
        raise _Wrong(f"{name} must hold 1 to {LONGEST_LIST} values, not {len(values)}")
    return values


def _choice(value: Any, name: str, choices: Mapping[str, Any]) -> Any:
    key = value.lower() if isinstance(value, str) else ""
    if key not in choices:
        near = difflib.get_close_matches(key, choices, n=1)
        raise _Wrong(
            f"{name} must be one of {', '.join(choices)}, not {_shown(value)}"
            + (f"; did you mean {near[0]!r}" if near else "")
        )
    return choices[key]


def _falling(values: Any, name: str, low: float, high: float) -> tuple[float, ...]:
    numbers = tuple(_number(value, name, low, high) for value in _list(values, name))
    if any(now <= then for now, then in zip(numbers, numbers[1:])):
        raise _Wrong(
            f"{name} must fall from each value to the next, and {_shown(list(numbers))} does not"
        )
    return numbers


# ---------------------------------------------------------------- schedules


def _sigma_lists(value: Any) -> LiteralSigmas:
    """One list of sigmas, or a list of them, each with or without its closing 0."""
    lists = value if isinstance(value, list) and value and isinstance(value[0], list) else [value]
    found = []
    for sigmas in _list(lists, "sigmas"):
        numbers = _falling(sigmas, "sigmas", 0.0, 1000.0)
        kept = numbers[:-1] if numbers[-1] == 0.0 else numbers
        if not kept:
            raise _Wrong("sigmas must hold more than the closing 0")
        found.append(kept)
    if len({len(sigmas) for sigmas in found}) < len(found):
        raise _Wrong("sigmas must hold one list for each step count, and two are of one length")
    return LiteralSigmas(tuple(found))


def _timesteps(value: Any) -> FirstTimesteps:
    values = tuple(_whole(timestep, "timesteps", 0, 999) for timestep in _list(value, "timesteps"))
    _falling(list(values), "timesteps", 0, 999)
    return FirstTimesteps(values)


def _shift(value: Any, name: str = "shift") -> float:
    return _number(value, name, 0.01, 100.0)


# Type -> (what makes it, its settings: name -> (check, default or None where it must be given)).
SCHEDULES: dict[
    str, tuple[Callable[..., Schedule], dict[str, tuple[Callable[[Any], Any], Any]]]
] = {
    "trailing": (Trailing, {}),
    "lcm": (
        ConsistencyGrid,
        {"original_steps": (lambda value: _whole(value, "original_steps", 1, 1000), 50)},
    ),
    "timesteps": (lambda timesteps: timesteps, {"timesteps": (_timesteps, None)}),
    "shifted": (ShiftedFlow, {"shift": (_shift, None)}),
    "normal": (lambda shift: HostSpacedFlow(shift, "normal"), {"shift": (_shift, None)}),
    "sgm_uniform": (lambda shift: HostSpacedFlow(shift, "sgm_uniform"), {"shift": (_shift, None)}),
    "flux": (
        FluxFlow,
        {
            "base_shift": (lambda value: _number(value, "base_shift", 0.0, 10.0), 0.5),
            "max_shift": (lambda value: _number(value, "max_shift", 0.0, 10.0), 1.15),
        },
    ),
    "flux2": (Flux2Flow, {}),
    "own": (OwnFlow, {}),
    "two_clocks": (
        TwoClockFlow,
        {
            "video_shift": (lambda value: _shift(value, "video_shift"), None),
            "audio_shift": (lambda value: _shift(value, "audio_shift"), None),
        },
    ),
    "rcm": (
        TrigFlow,
        {"sigma_max": (lambda value: _number(value, "sigma_max", 15.0, 10000.0), None)},
    ),
    "sigmas": (lambda sigmas: sigmas, {"sigmas": (_sigma_lists, None)}),
}


def _schedule(value: Any) -> Schedule:
    given = dict(_object(value, "schedule"))
    kind: tuple[Callable[..., Schedule], Any] = _choice(
        given.pop("type", None), "schedule.type", SCHEDULES
    )
    make, known = kind
    _no_unknown(given, known, "a setting of this schedule")
    settings = {}
    for name, (check, default) in known.items():
        if name not in given and default is None:
            raise _Wrong(f"schedule needs {name}")
        settings[name] = check(given[name]) if name in given else default
    return make(**settings)


# ---------------------------------------------------------------- entries


def _by_words(members: type[Enum]) -> dict[str, Any]:
    """An enum's members by name and by value, in lower case."""
    return {word.lower(): member for member in members for word in (member.name, str(member.value))}


def _bases() -> dict[str, Base]:
    """The bases by name, by label and by the host's class, where that has one base alone."""
    classes = [name for base in Base for name in base.host_classes]
    return _by_words(Base) | {
        name.lower(): base
        for base in Base
        for name in base.host_classes
        if classes.count(name) == 1
    }


BASES = _bases()
KINDS = {Kind.LORA.value.lower(): Kind.LORA, Kind.MODEL.value: Kind.MODEL}
EXPERTS = {expert.word: expert for expert in Expert}
SOLVERS = {solver.value: solver for solver in Solver}
PARAMETERIZATIONS = {kind.value: kind for kind in Parameterization}


def _files(value: Any) -> dict[str, Any]:
    names = [_text(name, "file", 255).replace("\\", "/") for name in _list(value, "file")]
    return {"files": tuple(PublishedFile("", name) for name in names)}


def _base(value: Any) -> Base:
    key = value.lower() if isinstance(value, str) else ""
    if key in BASES:
        return BASES[key]
    near = difflib.get_close_matches(key, BASES, n=1)
    raise _Wrong(
        f"base must be one of those in docs/declaring-accelerators.md, not {_shown(value)}"
        + (f"; did you mean {near[0]!r}?" if near else ".")
        + " A model that is not among them is named by ComfyUI's class for it, in host_class"
    )


def _base_of_class(value: Any) -> BaseRow:
    """The base of a class in the host, which need not be one that is known here."""
    name = _text(value, "host_class", 60)
    if not name.isidentifier():
        raise _Wrong(
            "host_class must be the name of one of ComfyUI's model classes, such as FluxInpaint,"
            f" not {_shown(value)}"
        )
    return base_in_host(name)


def _steps(value: Any) -> dict[str, Any]:
    counts = {_whole(count, "steps", 1, MOST_STEPS) for count in _list(value, "steps")}
    return {"steps": tuple(sorted(counts))}


def _gamma(value: Any) -> dict[str, Any]:
    if not isinstance(value, dict):
        return {"gamma": _number(value, "gamma", 0.0, 1.0)}
    by_steps = {}
    for steps, gamma in value.items():
        if not re.fullmatch(r"[1-9][0-9]{0,2}", steps):
            raise _Wrong(
                f"gamma must be a number, or numbers by step count, and {_shown(steps)} is not"
                " a step count"
            )
        by_steps[int(steps)] = _number(gamma, "gamma", 0.0, 1.0)
    return {"gamma": by_steps}


def _licence(value: Any) -> dict[str, Any]:
    given = _object(value, "licence")
    _no_unknown(given, {"name": 0, "commercial": 0, "note": 0}, "an entry of licence")
    commercial = given.get("commercial")
    if commercial is not None and not isinstance(commercial, bool):
        raise _Wrong(f"licence.commercial must be true, false or null, not {_shown(commercial)}")
    note = _text(given["note"], "licence.note") if "note" in given else ""
    return {"licence": Licence(_text(given.get("name"), "licence.name"), commercial, note)}


def _texts(entry: str, field: str) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {field: tuple(_text(text, entry) for text in _list(value, entry))}


def _words(value: Any) -> dict[str, Any]:
    words = tuple(_text(word, "words", 60).lower() for word in _list(value, "words"))
    wrong = next(
        (word for word in words if not re.fullmatch(r"[a-z0-9]+(\|[a-z0-9]+)*", word)), None
    )
    if wrong is not None:
        raise _Wrong(
            "words must be letters and digits, several ways to say one joined by |, not"
            f" {_shown(wrong)}"
        )
    return {"name_words": words}


def _partner(value: Any) -> dict[str, Any]:
    id = _text(value, "partner", 100)
    if id != id_of(id):
        raise _Wrong(f"partner must be the other declaration's id, not {_shown(value)}")
    return {"partner": id}


def _numeric(field: str, low: float, high: float) -> Callable[[Any], dict[str, Any]]:
    return lambda value: {field: _number(value, field, low, high)}


ENTRIES: dict[str, Callable[[Any], dict[str, Any]]] = {
    "file": _files,
    "base": lambda value: {"bases": tuple(_base(base) for base in _list(value, "base"))},
    "host_class": lambda value: {
        "bases": tuple(_base_of_class(name) for name in _list(value, "host_class"))
    },
    "steps": _steps,
    "schedule": lambda value: {"schedule": _schedule(value)},
    "sampler": lambda value: {"solver": _choice(value, "sampler", SOLVERS)},
    "kind": lambda value: {"kind": _choice(value, "kind", KINDS)},
    "default_steps": lambda value: {"default_steps": _whole(value, "default_steps", 1, MOST_STEPS)},
    "parameterization": lambda value: {
        "parameterization": _choice(value, "parameterization", PARAMETERIZATIONS)
    },
    "cfg": _numeric("cfg", 1.0, 30.0),
    "strength": _numeric("strength", -10.0, 10.0),
    "embedded_guidance": _numeric("embedded_guidance", 0.0, 30.0),
    "missing_alpha": _numeric("missing_alpha", 0.001, 10000.0),
    "noise_clip": _numeric("noise_clip", 0.0, 10.0),
    "gamma": _gamma,
    "expert": lambda value: {"expert": _choice(value, "expert", EXPERTS)},
    "boundary": _numeric("boundary", 0.001, 0.999),
    "partner": _partner,
    "licence": _licence,
    "words": _words,
    "family": lambda value: {"family": _text(value, "family", 60)},
    "source": _texts("source", "sources"),
    "notes": _texts("notes", "notes"),
}
REQUIRED = ("file", "base", "steps", "schedule", "sampler")
