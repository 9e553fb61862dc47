"""Every causal family of transformers, lora: as a plain loop trains it, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_runs import compare, documented, word
from model_families import FAMILIES

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_agrees_with_a_plain_loop_or_is_refused(family: str, tmp_path: Path) -> None:
    finding = compare(family, "lora", tmp_path / family)
    assert finding.agrees or finding.refused, finding
    assert "\n" not in finding.refused
    row = documented().get(family)
    if row is not None:
        assert row[1] == word(finding), finding
