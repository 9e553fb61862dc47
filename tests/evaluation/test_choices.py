"""Questions with choices: what is asked, which choice is taken, which rows are refused."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from conftest import refused
from questions import plain_score
from small import bundled_encoder, random_llama, shared_tokenizer

from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.evaluation.catalog import METRICS
from undial_cli.evaluation.choices import encode_choices
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.evidence import Evidence
from undial_cli.evaluation.prompts import make_prompt_items
from undial_cli.evaluation.scoring import Score
from undial_cli.evaluation.set_rows import check_set_rows
from undial_cli.evaluation.suite import SetRows, Suite, check_suite_fits
from undial_cli.evaluation.suite_metrics import check_metric_names
from undial_cli.models.capacity import ModelCapacity

ROW = {"question": " Which town? ", "choices": ["Ulm", "Rome", "Bonn"], "answer": 1}
LISTED = "Which town?\nA. Ulm\nB. Rome\nC. Bonn\nAnswer:"


def make_item(row: dict[str, Any] = ROW, shots: Any = (), limit: int = 512, **options: Any) -> Any:
    """The item of a row of a set of choices."""
    chosen = EvalSetConfig(split="x", kind="choice", **options)
    encoder = bundled_encoder(max_length=limit)
    (item,) = make_prompt_items(encoder, "quiz", chosen, [row], list(shots), {"answer"}, 8)
    return item


def decode_scored(item: Any) -> list[tuple[str, str]]:
    """Of each scored choice in its order, the text before and the text that is scored."""
    found = []
    for example in (e for kind in item.answers.values() for e in kind):
        start = len(example.prompt_ids)
        ids = example.input_ids
        assert example.labels == [-100] * start + ids[start:]
        decode = shared_tokenizer().decode
        found.append((decode(ids[:start]), decode(ids[start:])))
    return found


def test_letters_are_scored_after_the_listed_choices() -> None:
    item = make_item()
    assert decode_scored(item) == [(LISTED, f" {letter}") for letter in "ABC"]
    assert [len(examples) for examples in item.answers.values()] == [1, 1, 1]
    assert list(item.answers) == ["before", "answer", "after"]
    assert item.reference == "B"


def test_the_choices_themselves_are_scored_where_they_are_not_lettered() -> None:
    item = make_item(lettered=False)
    asked = "Question: Which town?\nAnswer:"
    assert decode_scored(item) == [(asked, f" {town}") for town in ROW["choices"]]
    assert item.reference == "Rome"


def test_an_instruction_and_solved_examples_stand_before_the_question() -> None:
    shot = {"question": "Sky?", "choices": ["red", "blue"], "answer": "B"}
    row = ROW | {"subject": "high_school_geography"}
    item = make_item(row, [shot], instruction="On {subject}.")
    start = "On high school geography.\n\nSky?\nA. red\nB. blue\nAnswer: B\n\n"
    assert decode_scored(item)[0] == (start + LISTED, " A")


def test_choices_may_stand_in_a_column_each_and_the_answer_be_a_letter() -> None:
    row = {"question": "Which town?", "a": "Ulm", "b": "Rome", "c": "Bonn", "key": "c"}
    item = make_item(row, choices=["a", "b", "c"], answer_key="key")
    assert decode_scored(item)[2] == (LISTED, " C")
    assert item.reference == "C"
    spelled = make_item(ROW | {"choices": '["Ulm", "Rome", "Bonn"]', "answer": "0"})
    assert spelled.reference == "A"


def test_only_max_tokens_cuts_a_question_and_from_its_beginning() -> None:
    whole = make_item(limit=4).answers["answer"][0]
    cut = make_item(max_tokens=5)
    assert len(whole.input_ids) > 5
    assert cut.answers["answer"][0].input_ids == whole.input_ids[-5:]
    assert cut.answers["answer"][0].labels == whole.labels[-5:]
    assert cut.notes == ("question cut to its last max_tokens=5",)
    assert not make_item(limit=4).notes
    assert not make_item(max_tokens=len(whole.input_ids)).notes


def test_a_question_that_a_model_has_no_positions_for_is_refused() -> None:
    options = EvalSetConfig(split="x", kind="choice", metrics=["accuracy"])
    config = EvalConfig(name="own", sets={"quiz": options})
    suite = Suite(config, bundled_encoder(), {"quiz": SetRows([dict(ROW)])})
    capacity = ModelCapacity(positions=9, made_for=9, rows=len(shared_tokenizer()))
    line = "eval.sets.quiz.max_tokens=null: row 1 of the quiz set"
    refused(lambda: check_suite_fits(capacity, suite, 512), line, "allowed is at most 9")


def test_the_likeliest_choice_is_taken_and_of_equals_the_first() -> None:
    def score(before: list[float], right: float, after: list[float]) -> float | None:
        def make(losses: list[float]) -> list[Score]:
            return [Score([loss / 2, loss / 2], []) for loss in losses]

        answers = {"before": make(before), "answer": make([right]), "after": make(after)}
        sample = METRICS["accuracy"].sample
        assert sample is not None
        return sample(Evidence(EvalSetConfig(), "", "", answers))

    assert score([2.0, 3.0], 1.5, [4.0]) == 1
    assert score([2.0, 1.0], 1.5, [4.0]) == 0
    assert score([], 1.5, [1.5]) == 1
    assert score([1.5], 1.5, []) == 0
    assert math.isnan(score([math.nan], 1.5, []) or 0)


def test_a_whole_answer_counts_and_not_its_mean_per_token() -> None:
    """A long choice of likely tokens loses to a short one: as in the library's acc."""
    model = random_llama(vocab=len(shared_tokenizer()))
    rows = [
        {"question": f"Where is {i}?", "choices": [f"At {i}", "By the " * 4 + "sea"], "answer": 1}
        for i in range(12)
    ]
    options = EvalSetConfig(split="x", kind="choice", lettered=False, metrics=["accuracy"])
    config = EvalConfig(name="own", sets={"quiz": options}, batch_size=3)
    encoder = bundled_encoder()
    found = evaluate_suite(model, Suite(config, encoder, {"quiz": SetRows(rows)}), "test")
    sums, means = [], []
    for row, sample in zip(rows, found.samples, strict=True):
        prompt = f"Question: {row['question']}\nAnswer:"
        texts = [f" {text}" for text in row["choices"]]
        scores = [plain_score(model, e) for e in encode_choices(encoder, prompt, texts)]
        expected = [-sum(one.token_ce) for one in scores]
        assert sample["choice_log_likelihoods"] == pytest.approx(expected, rel=1e-4)
        assert sample["right_choice"] == 1
        assert sample["accuracy"] == (expected[1] > expected[0])
        sums.append(expected[1] > expected[0])
        means.append(scores[1].ce < scores[0].ce)
    assert found.metrics["quiz_accuracy"] == sum(sums) / 12
    assert sums != means


@pytest.mark.parametrize(
    "change, parts",
    [
        ({"choices": None}, ["row 1 has no column 'choices'", "kind=choice", "question, answer"]),
        ({"answer": None}, ["row 1 has no column 'answer'"]),
        ({"answer": 3}, ["column 'answer' holds 3 in row 1", "its 3 choices, 0 to 2", "A to C"]),
        ({"answer": "Rome"}, ["column 'answer' holds 'Rome' in row 1"]),
        ({"choices": "Ulm"}, ["column 'choices' holds no choices in row 1", "2 to 26 texts"]),
        ({"choices": ["Ulm", " "]}, ["choice 2 is empty in row 1"]),
        ({"choices": [["Ulm"], "Rome"]}, ["column 'choices' holds no choices"]),
    ],
)
def test_what_is_no_choice_is_refused_by_column_and_row(change: Any, parts: list[str]) -> None:
    options, data = EvalSetConfig(kind="choice"), bundled_encoder().data
    refused(lambda: check_set_rows([ROW | change], options, data, "eval.sets.quiz"), *parts)
    check_set_rows([ROW], options, data, "eval.sets.quiz")


def test_accuracy_needs_a_set_of_choices() -> None:
    for kind in ("choice", "auto"):
        config = EvalConfig(sets={"quiz": EvalSetConfig(kind=kind, metrics=["accuracy"])})
        if kind == "choice":
            check_metric_names(config)
    refused(lambda: check_metric_names(config), "eval.sets.quiz.metrics=accuracy", "kind=choice")


def test_a_model_that_is_broken_has_no_accuracy() -> None:
    model = random_llama(vocab=len(shared_tokenizer()))
    with torch.no_grad():
        model.model.norm.weight.fill_(math.nan)
    options = EvalSetConfig(split="x", kind="choice", metrics=["accuracy"])
    config = EvalConfig(name="own", sets={"quiz": options})
    suite = Suite(config, bundled_encoder(), {"quiz": SetRows([dict(ROW)])})
    found = evaluate_suite(model, suite, "test")
    assert found.metrics["quiz_accuracy"] is None
    assert "no finite accuracy" in found.missing["quiz_accuracy"]


def test_a_prompt_puts_a_choice_into_the_models_format() -> None:
    shot = {"question": "Sky?", "choices": ["red", "blue"], "answer": 1}
    row = ROW | {"question": "Which town?", "topic": "old_towns", "solved": [shot]}
    prompt = "Of {topic}.\\n{solved}Question: {question}\\n{choices}"
    item = make_item(row, prompt=prompt, answer_prefix="Answer:")
    user = (
        "Of old towns.\nQuestion: Sky?\nA. red\nB. blue\nAnswer: B\n\n"
        "Question: Which town?\nA. Ulm\nB. Rome\nC. Bonn"
    )
    start = shared_tokenizer().apply_chat_template(
        [{"role": "user", "content": user}], tokenize=False, add_generation_prompt=True
    )
    assert decode_scored(item) == [(f"{start}Answer:", f" {letter}") for letter in "ABC"]


def test_choices_may_have_labels_of_which_one_is_right() -> None:
    labelled = {"choices": ["A cat.", "A mayor."], "labels": [0, 1]}
    row = {"question": "Who rules?", "targets": labelled}
    item = make_item(row, choices="targets", answer_key="targets", lettered=False)
    assert item.reference == "A mayor."
    two = {"question": "Who rules?", "targets": labelled | {"labels": [1, 1]}}
    refused(
        lambda: make_item(two, choices="targets", answer_key="targets", lettered=False),
        "'targets'",
        "row 1",
    )


@pytest.mark.parametrize(
    "options, parts",
    [
        ({"answer_prefix": "Answer:"}, ["answer_prefix needs a prompt"]),
        ({"prompt": "{question}"}, ["no {choices}", "lettered=false"]),
    ],
)
def test_text_around_a_choice_that_would_lose_it_is_refused(
    options: dict[str, Any], parts: list[str]
) -> None:
    refused(lambda: make_item(**options), "eval.sets.quiz", *parts)


def test_only_a_question_may_have_several_right_answers() -> None:
    several = {"question": "Which river?", "answer": ["Tiber", "River Tiber", "Tiber"]}
    encoder = bundled_encoder(max_length=128)

    def make(kind: str, row: dict[str, Any]) -> Any:
        options = EvalSetConfig(split="x", kind=kind)
        return make_prompt_items(encoder, "quiz", options, [row], [], {"generation"}, 8)[0]

    item = make("question", several)
    assert (item.reference, item.others) == ("Tiber", ("River Tiber",))
    refused(lambda: make("continuation", several), "'answer' holds a list in row 1", "text")
    for answer in ([], [["Tiber"]], {"choices": ["Tiber"], "labels": [1]}):
        refused(lambda a=answer: make("question", several | {"answer": a}), "'answer' holds a")
