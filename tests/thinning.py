"""Which tests a plain run leaves out, and how a test says so. FEWSTEP_ALL_TESTS in the environment,
which `scripts/test.py --all` sets, leaves out none.

A table of cases that costs much is run at its corners; what is generated, with a few examples.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable
from typing import Any

import pytest
from hypothesis import settings

EVERYTHING = bool(os.environ.get("FEWSTEP_ALL_TESTS"))

# Only part of a run of everything.
thorough = pytest.mark.thorough


def corners(*names: str, of: Callable[..., Hashable] | None = None) -> pytest.MarkDecorator:
    """Every value of every parameter once: of a test's cases, each that has a value which none
    before it had.

    names: of the parameters that count, all if none is given. of: what of a case counts, in place
    of its values, called with the parameters of these names; a frozenset is several such things.
    """
    return pytest.mark.corners(names, of)


def some_of(values: Iterable[Any], *plain: Any) -> list[Any]:
    """A parameter's values for parametrize. plain: those that a plain run takes."""
    return [value if value in plain else pytest.param(value, marks=thorough) for value in values]


def examples(count: int) -> Callable[[Any], Any]:
    """So many examples of a generated test; a tenth of them in a plain run."""

    def decorate(test: Any) -> Any:
        few = count if EVERYTHING else count // 10
        return pytest.mark.examples(count - few)(settings(max_examples=few)(test))

    return decorate


def left_out(items: Iterable[pytest.Item]) -> list[pytest.Item]:
    """Of the tests that were collected those that a plain run leaves out."""
    seen: dict[str, set[Hashable]] = {}
    return [item for item in items if is_thorough(item) or not is_corner(item, seen)]


def is_thorough(item: pytest.Item) -> bool:
    return any(item.get_closest_marker(name) for name in ("thorough", "slow"))


def is_corner(item: pytest.Item, seen: dict[str, set[Hashable]]) -> bool:
    """Whether a case shows a value that none before it had. seen: those so far, by test."""
    mark = item.get_closest_marker("corners")
    if mark is None:
        return True
    names, of = mark.args
    case: dict[str, Any] = item.callspec.params  # type: ignore[attr-defined]
    names = names or tuple(case)
    if of:
        found = of(*(case[name] for name in names))
        values = found if isinstance(found, frozenset) else {found}
    else:
        # A table's values are the same things in each of its cases, also where they are not equal.
        values = {(name, id(case[name])) for name in names}
    before = seen.setdefault(item.nodeid.partition("[")[0], set())
    is_new = not values <= before
    before.update(values)
    return is_new


def in_words(cases: int, examples: int) -> str:
    """What was left out, with its count; empty where nothing was."""
    parts = [
        f"{count} {noun}{'s' * (count != 1)}"
        for count, noun in ((cases, "case"), (examples, "generated example"))
        if count
    ]
    return f"left out: {' and '.join(parts)}, run with --all" if parts else ""
