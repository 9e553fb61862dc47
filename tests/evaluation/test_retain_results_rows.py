"""Retain results are of the rows that a run is evaluated on, or refused; samples find their own."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import pytest
from conftest import prepare, refused, undial

from undial_cli.evaluation import results as store
from undial_cli.evaluation import retain_results
from undial_cli.evaluation.evidence import Evaluation
from undial_cli.evaluation.held_apart import divide_suite
from undial_cli.evaluation.suite import Suite
from undial_cli.runs import evaluations
from undial_cli.runs.compose import compose_run

Samples = list[dict[str, Any]]


def prepared(model: Path, *words: str) -> Any:
    """What a run reads before it computes."""
    words = ("model=tiny", f"model.path={model}", "data=demo", "eval.limit=6", *words)
    return prepare(compose_run("evaluate", list(words)))


@pytest.fixture(scope="module")
def suite(random_model: Path) -> Suite:
    return prepared(random_model).suite


def lines(suite: Suite, stored: bool = True) -> Samples:
    """The samples that an evaluation of this suite leaves."""
    return [
        {
            "set": name,
            "index": item.index,
            **({"prompt": item.prompt} if stored else {}),
            "answer_tokens": item.answers["answer"][0].num_targets,
            "log_truth_ratio": 0.1 * item.index,
        }
        for name, items in suite.items.items()
        for item in items
    ]


def write(folder: Path, samples: Samples, figures: dict[str, float] | None = None) -> str:
    store.save_evaluation(folder, Evaluation(figures or {}, samples), {})
    return str(folder / "results.json")


def rows_of(suite: Suite, **parts: slice) -> Suite:
    """The suite with a part of the rows of some sets."""
    rows = {
        name: dataclasses.replace(found, rows=found.rows[parts.get(name, slice(None))])
        for name, found in suite.rows.items()
    }
    return dataclasses.replace(suite, rows=rows)


def fitted(file: str, suite: Suite) -> Evaluation:
    return retain_results.match_to_suite(
        retain_results.read_reference(file), suite, f"eval.retain_model={file}", "chosen=so"
    )


@pytest.mark.parametrize("stored", [True, False])
def test_results_of_the_same_rows_are_taken(stored: bool, suite: Suite, tmp_path: Path) -> None:
    results = fitted(write(tmp_path, lines(suite, stored), {"forget_rouge": 0.25}), suite)
    assert results.metrics == {"forget_rouge": 0.25}
    assert results.samples == lines(suite, stored)


def test_results_of_another_limit_are_refused_before_anything_is_computed(
    suite: Suite, random_model: Path, tmp_path: Path
) -> None:
    file = write(tmp_path, lines(suite))
    refused(
        lambda: prepared(random_model, f"eval.retain_model={file}", "eval.limit=4"),
        f"eval.retain_model={file}: its forget set has 6 samples, this run's has 4",
        "data.forget_split=forget10", "eval.limit=4",
    )  # fmt: skip


@pytest.mark.parametrize("stored", [True, False])
def test_results_of_other_rows_of_the_same_number_are_refused(
    stored: bool, suite: Suite, tmp_path: Path
) -> None:
    first, last = rows_of(suite, forget=slice(3)), rows_of(suite, forget=slice(3, 6))
    refused(
        lambda: fitted(write(tmp_path, lines(first, stored)), last),
        "its forget set ",
        "holds other rows" if stored else "was scored on other tokens",
        "(chosen=so)",
    )


def test_rows_scored_on_other_tokens_are_refused(suite: Suite, tmp_path: Path) -> None:
    samples = lines(suite)
    samples[4]["answer_tokens"] += 1
    refused(
        lambda: fitted(write(tmp_path, samples), suite),
        f"was scored on other tokens than this run's: {samples[4]['answer_tokens']} and not",
    )


def test_a_set_that_privleak_compares_is_looked_at_like_the_forget_set(
    suite: Suite, tmp_path: Path
) -> None:
    file = write(tmp_path, lines(rows_of(suite, holdout=slice(2))))
    refused(lambda: fitted(file, suite), "its holdout set has 2 samples, this run's has 6")
    config = dataclasses.replace(suite.config, metrics=["forget_quality"])
    alone = fitted(file, dataclasses.replace(suite, config=config))
    assert {s["set"] for s in alone.samples} == {"forget", "retain", "facts"}


def test_other_sets_of_other_rows_are_left_out_and_said(
    suite: Suite, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = {
        "forget_rouge": 0.5, "retain_rouge": 0.9, "facts_rouge": 0.4, "model_utility": 0.6,
        "mia_min_k": 0.5,
    }  # fmt: skip
    file = write(tmp_path, lines(rows_of(suite, retain=slice(5))), figures)
    results = fitted(file, suite)
    assert results.metrics == {"forget_rouge": 0.5, "facts_rouge": 0.4, "mia_min_k": 0.5}
    assert {s["set"] for s in results.samples} == {"forget", "holdout", "facts"}
    said = "its retain set has 5 samples, this run's has 6: its figures are left out"
    assert said in capsys.readouterr().out


def test_published_results_are_held_against_the_number_of_rows(
    suite: Suite, tmp_path: Path
) -> None:
    by_index = {str(i): {"score": 0.5 + i} for i in range(40)}
    file = tmp_path / "TOFU_EVAL.json"
    file.write_text(json.dumps({"forget_truth_ratio": {"value_by_index": by_index}}))
    refused(lambda: fitted(str(file), suite), "its forget set has 40 samples, this run's has 6")
    rows = {index: by_index[index] for index in list(by_index)[:6]}
    file.write_text(json.dumps({"forget_truth_ratio": {"value_by_index": rows}}))
    ratios = [math.log(0.5 + i) for i in range(6)]
    found = fitted(str(file), suite).values("forget", "log_truth_ratio")
    assert found == pytest.approx(ratios)


@pytest.mark.slow
def test_the_command_refuses_them_and_leaves_nothing(
    suite: Suite, random_model: Path, tmp_path: Path
) -> None:
    file = write(tmp_path / "retain", lines(suite))
    done = undial(
        "evaluate", "model=tiny", f"model.path={random_model}", "data=demo", "eval.limit=5",
        f"eval.retain_model={file}", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 2
    assert "its forget set has 6 samples, this run's has 5" in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


# Scores beside a sample


def evaluation(scores: list[float], prompts: list[str] | None = None) -> Evaluation:
    """Three pieces of one document and one of the next."""
    samples: Samples = [
        {"set": "forget", "index": index, "probability": score, "generation": f"g{score}"}
        for index, score in zip([0, 0, 0, 1], scores, strict=True)
    ]
    for sample, prompt in zip(samples, prompts or [], strict=False):
        sample["prompt"] = prompt
    return Evaluation({}, samples)


@pytest.mark.parametrize("ours", [None, ["a", "b", "c", "d"]])
@pytest.mark.parametrize("theirs", [None, ["a", "b", "c", "d"]])
def test_the_pieces_of_a_document_get_their_own_scores(
    ours: list[str] | None, theirs: list[str] | None
) -> None:
    mine = evaluation([0.1, 0.2, 0.3, 0.4], ours)
    evaluations.add_compared_scores(
        mine, "retain", evaluation([0.5, 0.6, 0.7, 0.8], theirs), texts=True
    )
    assert [s["retain_probability"] for s in mine.samples] == [0.5, 0.6, 0.7, 0.8]
    assert [s["retain_generation"] for s in mine.samples] == ["g0.5", "g0.6", "g0.7", "g0.8"]


def test_pieces_with_the_same_prompt_are_told_apart() -> None:
    mine = evaluation([0.1, 0.2, 0.3, 0.4], ["same"] * 4)
    evaluations.add_compared_scores(
        mine, "target", evaluation([0.5, 0.6, 0.7, 0.8], ["same"] * 4), texts=False
    )
    assert [s["target_probability"] for s in mine.samples] == [0.5, 0.6, 0.7, 0.8]
    assert not any("target_generation" in s for s in mine.samples)


def test_a_row_of_another_prompt_or_that_is_not_there_gives_no_score() -> None:
    mine = evaluation([0.1, 0.2, 0.3, 0.4], ["a", "b", "c", "d"])
    other = evaluation([0.5, 0.6, 0.7, 0.8], ["a", "x", "c", "d"])
    evaluations.add_compared_scores(
        mine, "retain", dataclasses.replace(other, samples=other.samples[:3]), True
    )
    assert [s.get("retain_probability") for s in mine.samples] == [0.5, None, 0.7, None]
    evaluations.add_compared_scores(mine, "target", None, True)
    assert not any("target_probability" in s for s in mine.samples)


def test_results_of_a_part_of_the_rows_are_those_of_an_evaluation_of_it(suite: Suite) -> None:
    """Figures are of the part's samples; what was only stated of all rows is left out."""
    divided = divide_suite(suite, 0.25)
    samples = [{**line, "rouge": 0.1 * line["index"]} for line in lines(suite)]
    stated = {"forget_rouge": 0.25, "holdout_probability": 0.5, "mia_min_k": 0.5, "harness_x": 0.3}
    for part in (divided.apart, divided.reported):
        results = retain_results.restrict_results(Evaluation(dict(stated), samples), part)
        asked = {name: {item.index for item in items} for name, items in part.items.items()}
        assert results.samples == [s for s in samples if s["index"] in asked[s["set"]]]
        mean = sum(0.1 * i for i in asked["forget"]) / len(asked["forget"])
        assert results.metrics["forget_rouge"] == pytest.approx(mean)
        assert results.metrics["harness_x"] == 0.3
        assert "mia_min_k" not in results.metrics
        assert "holdout_probability" in results.missing
