"""What a plain run leaves out of tables and generated examples, and that it says so."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from types import SimpleNamespace
from typing import Any

import pytest
import thinning
from hypothesis import given, settings
from hypothesis import strategies as st


def case(mark: pytest.MarkDecorator, test: str = "test_any", **params: Any) -> Any:
    """What pytest collects of a test with one mark, as far as it is looked at."""
    return SimpleNamespace(
        nodeid=f"tests/test_any.py::{test}[{'-'.join(map(str, params.values()))}]",
        callspec=SimpleNamespace(params=params),
        get_closest_marker=lambda name: mark.mark if mark.name == name else None,
    )


def kept(cases: Iterable[Any]) -> list[Mapping[str, Any]]:
    cases = list(cases)
    gone = thinning.left_out(cases)
    return [one.callspec.params for one in cases if one not in gone]


def test_every_value_of_a_table_is_left_in_once() -> None:
    table = itertools.product("abc", (1, 2), (None, {}))
    left = kept(case(thinning.corners(), x=x, y=y, z=z) for x, y, z in table)
    # The first case, and then each that shows a value for the first time: 1 + 2 + 1 + 1 of 12.
    assert [tuple(params.values()) for params in left] == [
        ("a", 1, None),
        ("a", 1, {}),
        ("a", 2, None),
        ("b", 1, None),
        ("c", 1, None),
    ]


def test_a_parameter_that_does_not_count_adds_no_case() -> None:
    mark = thinning.corners("x")
    left = kept(case(mark, x=x, y=y) for x, y in itertools.product("ab", (1, 2, 3)))
    assert left == [{"x": "a", "y": 1}, {"x": "b", "y": 1}]


def test_what_counts_of_a_case_may_be_worked_out() -> None:
    mark = thinning.corners("x", "y", of=lambda x, y: (x + y) % 2)
    left = kept(case(mark, x=x, y=y) for x, y in itertools.product((0, 1), (0, 1)))
    assert left == [{"x": 0, "y": 0}, {"x": 0, "y": 1}]


def test_of_things_that_hold_several_each_is_left_in_that_has_one_more() -> None:
    words = ("a b", "b", "a", "b c", "c a")
    mark = thinning.corners("x", of=lambda x: frozenset(x.split()))
    assert kept(case(mark, x=x) for x in words) == [{"x": "a b"}, {"x": "b c"}]


def test_two_tests_do_not_lend_each_other_what_they_have_seen() -> None:
    mark = thinning.corners()
    assert len(kept(case(mark, test, x=1) for test in ("test_one", "test_other"))) == 2


@pytest.mark.parametrize("name", ["thorough", "slow"])
def test_marked_tests_are_left_out_whole(name: str) -> None:
    assert kept([case(getattr(pytest.mark, name), x=1)]) == []
    assert kept([case(pytest.mark.skipif(False, reason=""), x=1)]) == [{"x": 1}]


@pytest.mark.parametrize(("is_all", "count", "fewer"), [(False, 20, 180), (True, 200, 0)])
def test_a_tenth_of_the_generated_examples_is_run(
    monkeypatch: pytest.MonkeyPatch, is_all: bool, count: int, fewer: int
) -> None:
    monkeypatch.setattr(thinning, "EVERYTHING", is_all)
    seen: list[int] = []

    @thinning.examples(200)
    @given(st.integers())
    def generated(number: int) -> None:
        seen.append(number)

    generated()
    assert len(seen) == count
    (mark,) = generated.pytestmark
    assert mark.name == "examples" and mark.args == (fewer,)
    assert settings().max_examples == 100, "of this test alone"


@pytest.mark.parametrize(
    ("cases", "examples", "words"),
    [
        (0, 0, ""),
        (1, 0, "left out: 1 case, run with --all"),
        (31, 1, "left out: 31 cases and 1 generated example, run with --all"),
        (0, 1350, "left out: 1350 generated examples, run with --all"),
    ],
)
def test_what_was_left_out_is_said_with_its_count(cases: int, examples: int, words: str) -> None:
    assert thinning.in_words(cases, examples) == words
