"""Every causal family of transformers, full and lora: as a plain loop trains it, or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from family_runs import compare, documented, word
from model_families import FAMILIES, NOT_TRIED

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_agrees_with_a_plain_loop_or_is_refused(family: str, tmp_path: Path) -> None:
    row = documented().get(family)
    for column, adapter in enumerate(("none", "lora")):
        finding = compare(family, adapter, tmp_path / family)
        assert finding.agrees or finding.refused, (adapter, finding)
        assert "\n" not in finding.refused
        assert row is None or row[column] == word(finding), (adapter, finding)
        if row is not None and adapter == "none" and not finding.refused:
            assert row[3] == ("yes" if finding.lean else "")
            assert row[2] == ("packed" if finding.packed else "padded")


def test_few_families_are_not_tried() -> None:
    assert len(NOT_TRIED) <= 10
    assert documented().keys() <= {*FAMILIES, *NOT_TRIED}
