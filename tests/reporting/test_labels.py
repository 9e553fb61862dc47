"""What tells runs apart: the keys that differ, their labels, and numbers that were swept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from undial_cli.reporting.collect import RunRecord
from undial_cli.reporting.labels import (
    describe_values,
    find_differing_keys,
    find_swept_numbers,
    format_typed_value,
    label_runs,
)


def record(folder: str, /, **settings: Any) -> RunRecord:
    """A run with these settings; `__` stands for the dot of a key."""
    dotted = {key.replace("__", "."): value for key, value in settings.items()}
    return RunRecord(Path("outputs/unlearn") / folder, settings=dotted)


def test_keys_that_follow_from_an_option_do_not_tell_runs_apart() -> None:
    runs = [
        record("a", method__name="undial", method__strength=10.0, seed=0),
        record("b", method__name="npo", method__beta=0.1, seed=0),
    ]
    assert find_differing_keys(runs) == ["method.name"]


def test_a_key_of_a_group_counts_among_runs_of_the_same_option() -> None:
    runs = [
        record("a", method__name="undial", method__strength=3.0),
        record("b", method__name="undial", method__strength=10.0),
        record("c", method__name="npo", method__beta=0.1),
    ]
    assert find_differing_keys(runs) == ["method.name", "method.strength"]


def test_how_a_target_is_made_follows_from_the_model() -> None:
    runs = [record("a", model__name="tiny", target__epochs=8),
            record("b", model__name="gpt2", target__epochs=1)]  # fmt: skip
    assert find_differing_keys(runs) == ["model.name"]
    runs = [record("a", model__name="tiny", target__epochs=8),
            record("b", model__name="tiny", target__epochs=1)]  # fmt: skip
    assert find_differing_keys(runs) == ["target.epochs"]


def test_the_seed_stands_last_and_where_a_run_goes_is_not_told() -> None:
    runs = [
        record("a", seed=0, train__epochs=1, name="x", output_dir="one", data__name="demo"),
        record("b", seed=1, train__epochs=2, name="y", output_dir="two", data__name="tofu"),
    ]
    assert find_differing_keys(runs) == ["data.name", "train.epochs", "seed"]


def test_a_key_that_only_some_runs_have_differs() -> None:
    runs = [record("a", train__stop=1), record("b")]
    assert find_differing_keys([*runs, record("c", train__stop=1)]) == []
    assert find_differing_keys([record("a", x=1, train__stop=1), record("b", x=1)]) == [
        "train.stop"
    ]


def test_runs_of_a_sweep_keep_its_labels_and_others_are_given_some() -> None:
    swept = [record("a"), record("b")]
    for run, seed in zip(swept, "01", strict=True):
        run.values, run.label = {"seed": seed}, f"seed={seed}"
    assert label_runs(swept) == ["seed"]
    assert [(run.label, run.short) for run in swept] == [("seed=0", "seed 0"), ("seed=1", "seed 1")]
    found = [record("a", method__name="npo"), record("b", method__name="ga")]
    assert label_runs(found) == ["method"]
    assert [(run.label, run.short, run.values) for run in found] == [
        ("method=npo", "npo", {"method": "npo"}), ("method=ga", "ga", {"method": "ga"}),
    ]  # fmt: skip


def test_equal_names_of_two_lines_are_numbered_and_one_run_is_called_by_its_method() -> None:
    same = [record("a", method__name="npo"), record("b", method__name="npo")]
    assert label_runs(same) == []
    assert [run.label for run in same] == ["a", "b"]
    twins = [record("a"), record("a")]
    label_runs(twins)
    assert [run.short for run in twins] == ["a", "a (2)"]
    (alone,) = [record("a", method__name="npo")]
    label_runs([alone])
    assert (alone.label, alone.short) == ("a", "npo")


def test_values_are_words_without_the_name_of_their_group() -> None:
    values = {"method": "npo", "train.learning_rate": "0.0001", "seed": "1"}
    assert describe_values(values) == "npo, learning rate 1e-4, seed 1"
    assert [format_typed_value(v) for v in ("0.0001", "npo", None, True, [1, 2])] == [
        "1e-4", "npo", "null", "true", "[1, 2]",
    ]  # fmt: skip


def test_swept_numbers_take_two_values_or_more_in_all_runs() -> None:
    runs = [record("a"), record("b")]
    runs[0].values = {"x": "1e-4", "y": "3", "z": "npo", "seed": "0", "w": "1"}
    runs[1].values = {"x": "3e-4", "y": "3", "z": "5", "seed": "1"}
    assert find_swept_numbers(runs, ["x", "y", "z", "seed", "w"]) == ["x"]
