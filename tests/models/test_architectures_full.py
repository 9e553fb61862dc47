"""Every causal family of transformers, full: as a plain loop trains it, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_runs import compare, documented, word
from model_families import FAMILIES, NOT_TRIED

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_agrees_with_a_plain_loop_or_is_refused(family: str, tmp_path: Path) -> None:
    finding = compare(family, "none", tmp_path / family)
    assert finding.agrees or finding.refused, finding
    assert "\n" not in finding.refused
    row = documented().get(family)
    if row is not None:
        assert row[0] == word(finding), finding
        if not finding.refused:
            assert row[3] == ("yes" if finding.lean else "")
            assert row[2] == ("packed" if finding.packed else "padded")


def test_few_families_are_not_tried() -> None:
    assert len(NOT_TRIED) <= 10
    assert documented().keys() <= {*FAMILIES, *NOT_TRIED}
