"""Leaving evaluations out of a run of many steps. Pure torch.

A method is one file with a class (method.py says what one is), and one entry here.
"""

from __future__ import annotations

from .forecast import Forecast
from .method import SkipMethod
from .teacache import TeaCache

METHODS: dict[str, type[SkipMethod]] = {"forecast": Forecast, "teacache": TeaCache}
