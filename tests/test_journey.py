"""The count of a file's way through the pack, on a small house of three rooms."""

from __future__ import annotations

import importlib.util
import sys

import pytest

from journey import follow

HALL = """
from house.kitchen import Oven, cook
from house.cellar import fetch


def dinner():
    wine = fetch()
    meal = [cook(course) for course in range(3)]
    after = fetch()
    return wine, meal, after, Oven().heat, str(Oven())
"""
KITCHEN = """
from house.cellar import fetch


def cook(course):
    return peel(course), fetch()


def peel(course):
    return course


class Oven:
    @property
    def heat(self):
        return 200

    def __str__(self):
        return "oven"
"""
CELLAR = "def fetch():\n    return 1\n"


@pytest.fixture
def house(tmp_path, monkeypatch):
    root = tmp_path / "house"
    root.mkdir()
    rooms = {"__init__": "", "hall": HALL, "kitchen": KITCHEN, "cellar": CELLAR}
    for name, text in rooms.items():
        (root / f"{name}.py").write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(
        "house", root / "__init__.py", submodule_search_locations=[str(root)]
    )
    monkeypatch.setitem(sys.modules, "house", importlib.util.module_from_spec(spec))
    yield root
    for name in [name for name in sys.modules if name.startswith("house.")]:
        del sys.modules[name]


def test_a_way_is_counted_by_the_rooms_it_enters(house) -> None:
    result, journey = follow(house, importlib.import_module("house.hall").dinner)
    assert result == (1, [(0, 1), (1, 1), (2, 1)], 1, 200, "oven")
    # The three courses are cooked at one place, so they count once; reading the oven's heat and
    # writing its name are no calls.
    assert journey.calls == [
        ("hall.py", "dinner"),
        ("cellar.py", "fetch"),
        ("kitchen.py", "cook"),
        ("kitchen.py", "peel"),
        ("cellar.py", "fetch"),
        ("cellar.py", "fetch"),
    ]
    assert journey.stays == ["hall.py", "cellar.py", "kitchen.py", "cellar.py"]
    assert journey.summary() == "3 rooms, 4 stays, 1 returns, 6 calls"


def test_what_lies_outside_the_house_is_no_room(house) -> None:
    _, journey = follow(house, lambda: sorted([2, 1], key=lambda value: value))
    assert journey.calls == [] and journey.stays == []


def test_nothing_is_followed_after_the_end_of_a_run(house) -> None:
    def fails() -> None:
        raise ValueError

    with pytest.raises(ValueError):
        follow(house, fails)
    assert sys.getprofile() is None
