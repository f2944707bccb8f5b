"""Leaving evaluations out of a many-step run: one file per method, one table of them. Pure torch."""

from __future__ import annotations

from .forecast import Forecast
from .teacache import TeaCache

METHODS: dict[str, type[Forecast] | type[TeaCache]] = {"forecast": Forecast, "teacache": TeaCache}
