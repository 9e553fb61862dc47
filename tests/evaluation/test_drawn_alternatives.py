"""Other answers drawn from a real small model: what is asked, and that no draw is made twice."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from conftest import refused
from small import bundled_encoder, random_llama, shared_tokenizer

from undial_cli.config.alternatives import AlternativesConfig
from undial_cli.evaluation.drawn_alternatives import (
    AskedRow,
    DrawnAnswers,
    ask_rows,
    draw_alternatives,
)
from undial_cli.evaluation.generation import GeneratingModel
from undial_cli.evaluation.sharding import Journal

QUESTION, ANSWER = "Where does Ann Lee live?", "Ann Lee lives in Oslo."
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Who is Ann Lee?"},
    {"role": "assistant", "content": "A baker."},
    {"role": "user", "content": QUESTION},
    {"role": "assistant", "content": ANSWER},
]
ROWS: list[dict[str, Any]] = [
    {"question": QUESTION, "answer": ANSWER},
    {"messages": TALK},
    {"prompt": QUESTION, "completion": f" {ANSWER}"},
]
INVENT = "Invent an answer to: {question} Not this: {answer}"


def ask(config: AlternativesConfig, rows: list[dict[str, Any]] = ROWS) -> list[AskedRow]:
    return ask_rows(rows, bundled_encoder(max_length=8), config, [], "data.forget_file")


@functools.cache
def make_ending_model() -> Any:
    """A random model of whose tokens each fourth ends an answer."""
    model = random_llama(vocab=len(shared_tokenizer()))
    model.generation_config.eos_token_id = [*range(3, len(shared_tokenizer()), 4)]
    return model


def draw(config: AlternativesConfig, folder: Path | None, model: Any = None) -> DrawnAnswers:
    generator = GeneratingModel(model or make_ending_model(), shared_tokenizer())
    return draw_alternatives(generator, ask(config), config, 8, 0, Journal(folder))


def test_every_kind_of_row_is_asked_in_its_own_format_with_all_of_the_prompt() -> None:
    """No prompt is cut at data.max_length, and a conversation keeps what was said before."""
    asked = ask(AlternativesConfig(prompts=["{question}", INVENT]))
    texts = [[shared_tokenizer().decode(ids) for ids in row.prompts] for row in asked]
    plain, inventing = QUESTION, INVENT.format(question=QUESTION, answer=ANSWER)
    for bare, worded in texts:
        assert plain in bare
        assert ANSWER not in bare
        assert inventing in worded.replace("  ", " ")
    assert "A baker." in texts[1][0]
    assert "A baker." in texts[1][1]
    assert all(row.rules.facts == {"oslo"} for row in asked)


def test_what_asks_nothing_is_refused_with_its_row() -> None:
    rows = [*ROWS, {"text": "Ann Lee lives in Oslo."}]
    refused(lambda: ask(AlternativesConfig(), rows), "data.forget_file", "row 4", "questions")


def test_answers_are_counted_and_drawn_once(tmp_path: Path) -> None:
    """What is asked again is read back: a model that is asked all the same would fail."""
    config = AlternativesConfig(count=3, rounds=2, max_new_tokens=12)
    first = draw(config, tmp_path)
    assert first.drawn == sum(map(len, first.taken)) + sum(first.refused.values()) > 9
    assert all(len(set(texts)) == len(texts) <= 3 for texts in first.taken)
    silent = random_llama(vocab=len(shared_tokenizer()))
    silent.generation_config.eos_token_id = make_ending_model().generation_config.eos_token_id

    def fail(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("it is asked again")

    silent.forward = fail
    assert draw(config, tmp_path, silent) == first
    assert draw(config, None) == first  # and without a journal it is the same anew


def test_more_rounds_go_on_from_fewer(tmp_path: Path) -> None:
    few = draw(AlternativesConfig(count=4, rounds=1, max_new_tokens=6), tmp_path)
    files = {file: file.read_bytes() for file in tmp_path.iterdir()}
    more = draw(AlternativesConfig(count=4, rounds=3, max_new_tokens=6), tmp_path)
    assert all(file.read_bytes() == content for file, content in files.items())
    assert [texts[: len(drawn)] for texts, drawn in zip(more.taken, few.taken, strict=True)] == (
        few.taken
    )
    assert sum(map(len, more.taken)) > sum(map(len, few.taken))
