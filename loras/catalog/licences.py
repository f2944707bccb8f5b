"""Licences that several releases share, by the name they are published under."""

from __future__ import annotations

from ..accelerator import UNKNOWN_LICENCE, Licence

__all__ = [
    "APACHE",
    "CC_BY_NC_SA",
    "FLUX1_DEV",
    "HUNYUAN",
    "LTX",
    "MIT",
    "OPENRAIL",
    "UNKNOWN",
    "secondary",
]

UNKNOWN = UNKNOWN_LICENCE
APACHE = Licence("Apache-2.0", True)
MIT = Licence("MIT", True)
OPENRAIL = Licence("openrail++", True)
CC_BY_NC_SA = Licence("CC BY-NC-SA 4.0", False)
FLUX1_DEV = Licence("FLUX.1-dev Non-Commercial", False, "as a derivative of FLUX.1-dev")
HUNYUAN = Licence(
    "Tencent Hunyuan Community Licence", True, "not granted in the EU, the UK and South Korea"
)
LTX = Licence(
    "LTX-2.x Community License of 11 Aug 2026", None, "read its terms before commercial use"
)


def secondary(licence: Licence) -> Licence:
    """The same licence, known from a third party only."""
    note = "; ".join(filter(None, (licence.note, "from a secondary source")))
    return Licence(licence.name, licence.commercial, note)
