"""WMDP and MMLU in their published layout: item by item what lm-evaluation-harness finds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from conftest import prepare, refused, undial
from small import byte_tokenizer, random_llama, shared_tokenizer
from wmdp import list_local_words, write_library_task, write_wmdp

from undial_cli.config.schema import Run
from undial_cli.data.encode import Encoder
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.harness import index_harness_tasks, make_sharded_model, set_fewshot
from undial_cli.evaluation.suite import Suite
from undial_cli.runs.compose import compose_run
from undial_cli.runs.evaluation_inputs import load_evaluation_rows

Files = tuple[Path, dict[str, list[dict[str, Any]]]]


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A folder with all files, and their rows."""
    folder = tmp_path_factory.mktemp("wmdp")
    return folder, write_wmdp(folder)


def compose(files: Files, *words: str, field: str = "bio", command: str = "evaluate") -> Run:
    return compose_run(command, ["model=tiny", *list_local_words(files[0], field), *words])


@pytest.mark.slow
def test_corpora_and_questions_are_read_in_their_layout(files: Files) -> None:
    for field in ("bio", "cyber"):
        run = compose(files, "model.path=pkg://undial_cli/models/tiny", "model.from_scratch=true",
                      "method.retain=gdr", field=field, command="unlearn")  # fmt: skip
        inputs = prepare(run, weights=False)
        decode = inputs.encoder.decode
        for name in ("forget", "retain"):
            texts = [decode(example.input_ids) for example in inputs.sets[name]]
            rows = files[1][f"corpora/{field}-{name}-corpus"]
            assert texts == [row["text"] for row in rows]
        asked = {name: len(items) for name, items in inputs.suite.items.items()}
        counts = {"bio": 11, "cyber": 9, "chem": 5}
        expected = {"forget": counts.pop(field), **counts, "mmlu": 8}
        assert asked == expected
        note = next((line for line in inputs.notes if "columns that nothing reads" in line), "")
        unread = "title (forget); abstract (forget); doi (forget)"
        assert note.endswith(unread) if field == "bio" else not note


@pytest.mark.parametrize(
    "words, parts",
    [
        (["data.forget_split=bio-forget-corpus2"],
         ["data.forget_split=bio-forget-corpus2", "bio-forget-corpus, bio-retain-corpus"]),
        (["data.text_key=body"],
         ["data.forget_split=bio-forget-corpus", "columns text, title, abstract, doi", "'body'"]),
        (["eval.sets.forget.choices=options"],
         ["row 1 has no column 'options'", "answer, choices, question"]),
        pytest.param(
            ["eval.sets.forget.split=wmdp-bio/train"],
            ["eval.sets.forget.split=wmdp-bio/train", "wmdp-bio/test, wmdp-chem/test"],
            marks=pytest.mark.slow),
        pytest.param(
            ["eval.sets.mmlu.answer_key=label", "eval.sets.mmlu.optional=false"],
            ["eval.sets.mmlu.split=all/test", "'label'"], marks=pytest.mark.slow),
    ],
)  # fmt: skip
def test_a_wrong_column_or_split_is_refused_by_name(
    files: Files, words: list[str], parts: list[str]
) -> None:
    chosen = ["model.path=pkg://undial_cli/models/tiny", "model.from_scratch=true", *words]
    refused(lambda: prepare(compose(files, *chosen, command="unlearn"), weights=False), *parts)


PART = "-00000-of-00001.parquet"
SPOKEN = {"doc_to_text": "Question: {{question.strip()}}\nAnswer:", "doc_to_choice": "{{choices}}"}


def write_library_tasks(files: Files, folder: Path) -> None:
    """The library's tasks on these files, by the sets of the suite; of MMLU one subject's."""
    questions, mmlu, subject = files[0] / "wmdp", files[0] / "mmlu/all", folder / "anatomy.parquet"
    table = pyarrow.parquet.read_table(f"{mmlu / 'test'}{PART}")
    pyarrow.parquet.write_table(table.slice(4), subject)
    for name, field in {"forget": "bio", "cyber": "cyber", "chem": "chem"}.items():
        of_field = {"test": Path(f"{questions / f'wmdp-{field}' / 'test'}{PART}")}
        write_library_task(folder, f"wmdp/wmdp_{field}.yaml", f"own_{name}", of_field)
        if name == "forget":
            write_library_task(
                folder, "wmdp/wmdp_bio.yaml", "own_spoken_forget", of_field, **SPOKEN
            )
    of_subject = {"test": subject, "dev": Path(f"{mmlu / 'dev'}{PART}")}
    write_library_task(folder, "mmlu/default/mmlu_anatomy.yaml", "own_mmlu", of_subject)


def list_library_items(
    model: Any, tokenizer: Any, folder: Path, name: str, shots: int | None
) -> list[tuple[list[float], int, float]]:
    """Log-likelihoods, right choice and acc of every item, by the library's own evaluation."""
    from lm_eval.evaluator import evaluate as evaluate_tasks

    loaded = index_harness_tasks((name,), str(folder)).load([name])
    for task in loaded["tasks"].values():
        set_fewshot(task, shots, seed=0)
    lm = make_sharded_model(model, tokenizer, batch_size=4)
    result: Any = evaluate_tasks(lm, loaded, log_samples=True)
    samples = sorted(result["samples"][name], key=lambda sample: sample["doc_id"])
    return [
        ([float(answer[0][0]) for answer in s["resps"]], int(s["target"]), s["acc"])
        for s in samples
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "sets", "kind", "shots"),
    [
        ([], ["forget", "cyber", "chem", "mmlu"], "", None),
        (["eval.sets.mmlu.shots=all/dev"], ["mmlu"], "", 3),
        (["eval.sets.forget.lettered=false"], ["forget"], "spoken_", None),
    ],
    ids=["questions alone", "after solved ones", "choices themselves"],
)
@pytest.mark.parametrize("begins", [False, True], ids=["", "begin token"])
def test_every_item_is_scored_as_the_library_scores_it(
    begins: bool, words: list[str], sets: list[str], kind: str, shots: int | None,
    files: Files, tmp_path: Path,
) -> None:  # fmt: skip
    write_library_tasks(files, tmp_path)
    tokenizer = byte_tokenizer(bos=True) if begins else shared_tokenizer()
    model = random_llama(vocab=len(tokenizer), seed=3)
    run = compose(files, *words)
    encoder = Encoder(tokenizer, run.model.template, run.data)
    suite = Suite(run.eval, encoder, load_evaluation_rows(run, encoder), run.seed)
    found, both = evaluate_suite(model, suite, "test"), set[float]()
    for name in sets:
        samples = [sample for sample in found.samples if sample["set"] == name]
        expected = list_library_items(model, tokenizer, tmp_path, f"own_{kind}{name}", shots)
        accuracies = [accuracy for *_, accuracy in expected]
        if name == "mmlu":
            samples = samples[4:]
        else:
            assert found.metrics[f"{name}_accuracy"] == sum(accuracies) / len(accuracies)
        assert len(samples) == len(expected) > 3
        for sample, (likelihoods, right, accuracy) in zip(samples, expected, strict=True):
            assert sample["choice_log_likelihoods"] == pytest.approx(likelihoods, abs=1e-4)
            assert sample["right_choice"] == right
            assert sample["accuracy"] == accuracy
        both |= set(accuracies)
    assert both == {0.0, 1.0}
    assert found.metrics["model_utility"] == found.metrics["mmlu_accuracy"]


@pytest.mark.slow
def test_the_command_finds_the_same_accuracy_both_ways(
    files: Files, random_model: Path, tmp_path: Path
) -> None:
    test = files[0] / "wmdp" / "wmdp-cyber" / "test-00000-of-00001.parquet"
    write_library_task(tmp_path, "wmdp/wmdp_cyber.yaml", "wmdp_cyber", {"test": test})
    done = undial(
        "evaluate", "model=tiny", f"model.path={random_model}",
        *list_local_words(files[0], "cyber"), "eval.harness.tasks=[wmdp_cyber]",
        f"eval.harness.include_path={tmp_path}", "eval.retain_model=none", "hardware=cpu",
        "name=it", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    results = json.loads((tmp_path / "outputs/evaluate/it/evaluation/results.json").read_text())
    metrics = results["metrics"]
    assert metrics["forget_accuracy"] == pytest.approx(metrics["harness_wmdp_cyber_acc"])
    assert results["statistics"]["forget_accuracy"]["n"] == 9
    assert results["statistics"]["mmlu_accuracy"]["subjects"] == 2
