"""Every causal family of transformers, full and lora: as a plain loop trains it, or refused."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest
from family_runs import DOC, compare, documented, word
from model_families import FAMILIES, NOT_TRIED

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", autouse=True)
def few_objects() -> Iterator[None]:
    """accelerate collects garbage after each training: a third of the time, without what is old."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


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


def test_the_table_is_whole_and_of_the_versions_that_are_pinned() -> None:
    constraints = (DOC.parents[1] / "constraints.txt").read_text().split()
    for package in ("torch", "transformers", "peft"):
        version = metadata.version(package).split("+")[0]
        if f"{package}=={version}" not in constraints:
            pytest.skip(f"{package} {version} is not the one that is pinned")
    assert documented().keys() == {*FAMILIES, *NOT_TRIED}
    assert len(NOT_TRIED) <= 10
