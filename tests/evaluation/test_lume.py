"""LUME on its real rows: the scores and the aggregate of the task's evaluate_generations.py."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from statistics import harmonic_mean, mean
from typing import Any

import pytest
from conftest import prepare, refused
from plain_models import answer_plainly, remember_texts, score_text
from rouge_score.rouge_scorer import RougeScorer
from small import shared_tokenizer

from undial_cli.data.encode import Encoder
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.suite import Suite
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evaluation_inputs import load_evaluation_rows

# Rows of each task and kind, and tokens of an answer; texts that the model is trained on.
ROWS, TOKENS = 2, 12
GENERATED = ("forget", "forget_completion", "retain", "retain_completion")
TINY = ["model=tiny", "model.path=pkg://undial_cli/models/tiny", "model.from_scratch=true"]
MIA = {"member": ["Ann lives in Rome.", "Bo likes tea and bread."],
       "nonmember": ["Cy keeps two bees.", "Di went home by train."]}  # fmt: skip


@pytest.fixture
def real_rows(data_root: Path) -> dict[str, list[dict[str, str]]]:
    """Some real rows of every task and kind, which end in a file of theirs as in the whole."""
    folder = data_root / "LUME"
    if not folder.is_dir():
        pytest.skip(f"no LUME at {folder}")
    rows: dict[str, list[dict[str, str]]] = {}
    for name in ("forget", "retain"):
        parts: dict[Any, list[dict[str, str]]] = defaultdict(list)
        for line in (folder / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            parts[row["task"], row["id"][-3:-1]].append(row)
        assert len(parts) == 6
        short = [sorted(part, key=lambda row: len(row["input"] + row["output"]))[:ROWS]
                 for part in parts.values()]  # fmt: skip
        rows[name] = [row for part in short for row in part]
    return rows


def lay_out(folder: Path, rows: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Write sets as files; returns the words that read them."""
    for name, part in rows.items():
        file = folder / f"{name}.jsonl"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("".join(json.dumps(row) + "\n" for row in part))
    return [*TINY, "data=lume", f"data.path={folder}"]


def evaluate(words: list[str], tokenizer: Any, model: Any) -> Any:
    run = compose_run("evaluate", words)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    suite = Suite(run.eval, encoder, load_evaluation_rows(run, encoder), run.seed)
    return evaluate_suite(model, suite, "test")


@pytest.mark.slow
def test_every_score_and_the_aggregate_are_those_of_the_task(
    real_rows: dict[str, list[dict[str, str]]], tmp_path: Path
) -> None:
    tokenizer: Any = shared_tokenizer()
    known = [*real_rows["retain"][::ROWS], *real_rows["forget"][:: 2 * ROWS]]
    told = [f"{row['input']} {row['output']}" for row in known]
    model = remember_texts(tokenizer, [*told, *MIA["member"]], steps=250)
    scorer = RougeScorer(["rougeL"], use_stemmer=True)
    expected, overall, parts = {}, {}, []
    for name, rows in real_rows.items():
        scores: dict[tuple[str, str], list[float]] = defaultdict(list)
        for row in rows:
            output = answer_plainly(model, tokenizer, row["input"], TOKENS)
            truth = tokenizer.decode(tokenizer(f" {row['output']}")["input_ids"][:TOKENS])
            if row["id"][:-1].endswith("sc"):
                score = scorer.score(truth, output)["rougeL"].recall
                scores[f"{name}_completion_{row['task'].lower()}_rouge", "sc"].append(score)
            else:
                score = float(truth.strip().lower() == output.strip().lower())
                scores[f"{name}_{row['task'].lower()}_exact_match", "qa"].append(score)
        assert len(scores) == 6
        means = {figure: mean(values) for (figure, _), values in scores.items()}
        parts += [1 - value if name == "forget" else value for value in means.values()]
        expected |= means
        for kind, figure in (("sc", f"{name}_completion_rouge"), ("qa", f"{name}_exact_match")):
            overall[figure] = mean(v for (_, k), vs in scores.items() if k == kind for v in vs)
    assert min(parts) > 0
    assert len(set(parts)) > 1
    losses = {k: [score_text(model, tokenizer, text) for text in MIA[k]] for k in MIA}
    auc = mean(float(a < b) for a in losses["member"] for b in losses["nonmember"])

    mmlu = tmp_path / "mmlu" / "all" / "test.jsonl"
    mmlu.parent.mkdir(parents=True)
    question = {"subject": "anatomy", "question": "Which?", "choices": ["a", "b", "c", "d"]}
    mmlu.write_text("".join(json.dumps({**question, "answer": i}) + "\n" for i in range(4)))
    documents = {f"mia_data/{k}": [{"id": str(i), "document": text} for i, text in enumerate(v)]
                 for k, v in MIA.items()}  # fmt: skip
    words = lay_out(tmp_path / "lume", {**real_rows, **documents})
    words += [f"eval.sets.{name}.max_new_tokens={TOKENS}" for name in GENERATED]
    found = evaluate([*words, f"eval.sets.mmlu.path={tmp_path / 'mmlu'}"], tokenizer, model)
    for figure, value in (expected | overall).items():
        assert found.metrics[figure] == pytest.approx(value), figure
    aggregate = harmonic_mean(parts)
    assert found.metrics["task_aggregate"] == pytest.approx(aggregate)
    assert found.metrics["mia_loss"] == pytest.approx(auc)
    mia_score = 1 - abs(auc - 0.5) * 2
    assert found.metrics["mia_score"] == pytest.approx(mia_score)
    accuracy = found.metrics["mmlu_accuracy"]
    assert accuracy == 0.25
    assert found.metrics["final_score"] == pytest.approx(mean([aggregate, mia_score, accuracy]))


ROW = {"id": "x1qa0", "input": "Who?", "output": "Ann", "task": "Task1"}
OTHER = {**ROW, "id": "x1sc1"}


def test_what_a_copy_lacks_is_named(tmp_path: Path) -> None:
    words = lay_out(tmp_path, {"forget": [ROW, OTHER], "retain": [ROW, OTHER]})
    words += [f"eval.sets.{name}.max_new_tokens=2" for name in GENERATED]
    model = remember_texts(shared_tokenizer(), ["Who? Ann"], steps=1)
    found = evaluate([*words, "eval.sets.mmlu.split=null"], shared_tokenizer(), model)
    assert "eval.sets.members.split=mia_data/member" in found.missing["members"]
    assert "forget, retain" in found.missing["members"]
    assert found.missing["mia_score"] == "mia_loss: the set 'members' is missing"
    assert found.missing["task_aggregate"] == "forget_task2_exact_match: it is not evaluated"
    assert found.missing["final_score"].startswith("task_aggregate: ")


@pytest.mark.parametrize(
    "row, words, parts",
    [
        ({**ROW, "output": None}, [], ["forget", "'output'"]),
        ({k: v for k, v in ROW.items() if k != "task"}, [],
         ["eval.sets.forget.group_by=task", "id, input, output"]),
        ({k: v for k, v in ROW.items() if k != "id"}, [],
         ["eval.sets.forget.where.id", "no column 'id'", "input, output, task"]),
        pytest.param(
            ROW, ["data.forget_split=forget_train"],
            ["data.forget_split=forget_train", "forget, retain"], marks=pytest.mark.slow),
        pytest.param(
            ROW, ["eval.sets.forget.prompt='{question} {context} '"],
            ["eval.sets.forget", "no column 'context'"], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_wrong_column_or_split_is_refused_by_name(
    row: dict[str, Any], words: list[str], parts: list[str], tmp_path: Path
) -> None:
    chosen = lay_out(tmp_path, {"forget": [row, {**row, "id": "y"}], "retain": [ROW, OTHER]})
    if "id" not in row:
        chosen = lay_out(tmp_path, {"forget": [row], "retain": [ROW, OTHER]})
    refused(lambda: prepare(compose_run("unlearn", [*chosen, *words]), weights=False), *parts)
