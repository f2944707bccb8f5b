"""docs/accelerators.md is what the catalogue says, now."""

from __future__ import annotations

import build_docs
from comfyui_fewstep.loras.catalog import CATALOG


def test_the_page_of_accelerators_is_current():
    assert build_docs.TARGET.read_text(encoding="utf-8") == build_docs.document(), "run python scripts/build_docs.py"


def test_every_record_and_every_file_is_on_it():
    page = build_docs.document()
    for record in CATALOG.values():
        assert f"`{record.id}`" in page
        assert all((file.url or file.path) in page for file in record.files)
        assert str(record.licence).replace("|", "\\|") in page
