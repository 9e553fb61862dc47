"""An evaluation on disk is the one that was written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from made_evaluations import PARTS, make_utility

from undial_cli.evaluation import results
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.sharding import Journal


def test_notes_and_statistics_are_kept_on_disk(tmp_path: Path) -> None:
    ours = make_utility({name: PARTS[name] for name in list(PARTS)[:6]})
    ours.statistics = {"harness_piqa_acc": {"n": 20, "stderr": 0.1}}
    results.save_evaluation(tmp_path, ours, {})
    found = results.load_evaluation(tmp_path)
    assert found == ours
    assert (
        "of 9 parts"
        in json.loads((tmp_path / "results.json").read_text())["notes"]["model_utility"]
    )


def make_part(*texts: str, incomplete: bool = False) -> Evaluation:
    samples = [{"set": "", "index": n, "prompt": text} for n, text in enumerate(texts)]
    return Evaluation({}, samples, rows={"": {"scored": len(texts)}}, incomplete=incomplete)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path))
    return tmp_path / "evaluations"


def test_a_journal_whose_removal_was_interrupted_goes_when_its_whole_is_read(cache: Path) -> None:
    journals = []

    def compute(names: list[str], journal: Journal) -> dict[str, Evaluation]:
        journal.add("scores", {0: 1.0})
        journals.append(journal)
        return {name: make_part(name) for name in names}

    expected = {name: make_part(name) for name in ("forget", "retain")}
    keys = {"forget": "one", "retain": "two"}
    assert results.load_or_evaluate(keys, compute) == expected
    left = {file.name for file in cache.iterdir()}
    assert len(left) == 2
    journals[0].add("scores", {0: 1.0})
    assert results.load_or_evaluate(keys, compute) == expected
    assert {file.name for file in cache.iterdir()} == left
    assert len(journals) == 1


def test_parts_are_computed_once_whatever_their_sets_are_called(cache: Path) -> None:
    asked = []

    def compute(names: list[str], journal: Journal) -> dict[str, Evaluation]:
        asked.append(names)
        return {name: make_part(name) for name in names}

    results.load_or_evaluate({"forget": "a", "request_2": "b", "retain": "r"}, compute)
    second = results.load_or_evaluate({"request_1": "a", "forget": "b", "other": "c"}, compute)
    assert asked == [["forget", "request_2", "retain"], ["other"]]
    prompts = {name: part.samples[0]["prompt"] for name, part in second.items()}
    assert prompts == {"request_1": "forget", "forget": "request_2", "other": "other"}


def test_sets_that_change_their_names_share_no_journal(cache: Path) -> None:
    read = []

    def compute(names: list[str], journal: Journal) -> dict[str, Evaluation]:
        read.append(journal.read("forget"))
        journal.add("forget", {0: "said of a"})
        raise KeyboardInterrupt

    for keys in ({"forget": "a", "retain": "b"}, {"forget": "b", "retain": "a"}):
        with pytest.raises(KeyboardInterrupt):
            results.load_or_evaluate(keys, compute)
    assert read == [{}, {}]


def test_of_an_incomplete_computation_the_journal_alone_is_kept(cache: Path) -> None:
    read = []

    def compute(names: list[str], journal: Journal) -> dict[str, Evaluation]:
        read.append(journal.read("forget"))
        journal.add("forget", {0: "said"})
        lacks = len(read) == 1
        return {name: make_part(name, incomplete=lacks and name == "forget") for name in names}

    keys = {"forget": "a", "retain": "b"}
    for _ in range(2):
        assert results.load_or_evaluate(keys, compute).keys() == keys.keys()
    assert read == [{}, {0: "said"}]
    assert results.load_or_evaluate(keys, compute).keys() == keys.keys()
    assert len(read) == 2
    assert not list(cache.glob("*.partial"))
