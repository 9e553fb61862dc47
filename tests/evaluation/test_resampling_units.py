"""Whom rows are about: by a column, or by blocks of the split."""

from __future__ import annotations

from undial_cli.config.splits import find_first_row
from undial_cli.config.suites import EvalSetConfig
from undial_cli.evaluation.resampling_units import number_subjects


def test_subjects_come_from_a_column_or_from_blocks_of_the_split() -> None:
    rows = [{"subject": who} for who in ("ann", "bob", "ann", None)]
    options = EvalSetConfig("forget[5:9]", rows_per_subject=3)
    assert number_subjects(rows, options, "subject") == {0: 0, 1: 1, 2: 0}
    assert number_subjects(rows, options, "who") == {0: 1, 1: 2, 2: 2, 3: 2}
    assert number_subjects(rows, EvalSetConfig("forget[-4:]", rows_per_subject=3), "who") == {}
    assert number_subjects(rows, EvalSetConfig("forget"), "who") == {}
    starts = {"a": 0, "a[:5]": 0, "a[20:]_perturbed": 20, "a[10%:]": None, "a[-3:]": None}
    assert {split: find_first_row(split) for split in starts} == starts
