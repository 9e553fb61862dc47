"""Names of splits: the slice that one may carry, and the several that make one set."""

from __future__ import annotations

import pytest

from undial_cli.config.splits import cut_slice, find_first_row, list_splits


@pytest.mark.parametrize(
    "split, parts",
    [
        ("forget10", ("forget10", "")),
        ("forget10[:20]", ("forget10", "[:20]")),
        ("full[-200:-40]", ("full", "[-200:-40]")),
        ("full[:10%]", ("full", "[:10%]")),
        ("forget10[:20]_perturbed", ("forget10_perturbed", "[:20]")),
        ("people.jsonl[3:]", ("people.jsonl", "[3:]")),
        ("odd[name].json", ("odd[name].json", "")),
    ],
)
def test_a_slice_is_cut_off_its_split(split: str, parts: tuple[str, str]) -> None:
    assert cut_slice(split) == parts


@pytest.mark.parametrize(
    "split, row", [("full", 0), ("full[:9]", 0), ("full[7:9]", 7), ("full[-9:]", None),
                   ("full[5%:]", None)],
)  # fmt: skip
def test_the_first_row_is_known_where_the_slice_counts_from_the_start(
    split: str, row: int | None
) -> None:
    assert find_first_row(split) == row


def test_a_key_names_no_split_one_or_several() -> None:
    assert (list_splits(None), list_splits("a"), list_splits(["a", "b"])) == ([], ["a"], ["a", "b"])
