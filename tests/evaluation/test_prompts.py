"""Items of a set: what is asked, what is scored, what is cut and said."""

from __future__ import annotations

from typing import Any

import pytest
from conftest import refused
from families import FAMILIES
from small import bundled_tokenizer, byte_tokenizer

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.config.suites import EvalSetConfig
from undial_cli.data.encode import IGNORE, Encoder
from undial_cli.errors import UserError
from undial_cli.evaluation.prompts import PromptItem, collect_end_labels, make_prompt_items

BUNDLED = bundled_tokenizer()
LONG = "Ann is a baker in the old town of Kelmwick, and naïve 日本 by the sea 😀 every day."


def items_of(
    rows: list[Any],
    tokenizer: Any = BUNDLED,
    limit: int = 200,
    data: DataConfig | None = None,
    template: TemplateConfig | None = None,
    shots: list[Any] | None = None,
    **options: Any,
) -> list[PromptItem]:
    encoder = Encoder(tokenizer, template or TemplateConfig(), data or DataConfig())
    needs = {"answer", "alternatives", "generation"}
    return make_prompt_items(
        encoder, "mine", EvalSetConfig(**options), rows, shots or [], needs, limit
    )


def scored_ids(item: PromptItem) -> list[int]:
    (example,) = item.answers["answer"]
    return [label for label in example.labels if label != IGNORE]


def qa(answer: str, question: str = "Who is Ann?") -> dict[str, Any]:
    return {"question": question, "answer": answer}


@pytest.mark.parametrize("kind", ["continuation", "few_shot"])
@pytest.mark.parametrize("family", ["gpt2", "llama2", "roberta_like", "t5", "qwen2"])
def test_a_text_that_is_continued_is_one_string_without_an_end_token(
    family: str, kind: str
) -> None:
    tokenizer = FAMILIES[family]()
    rows = [qa("Ann is a baker", "Question: what\nAnswer: ")]
    shots = [qa("that", "what")]
    (item,) = items_of(rows, tokenizer, kind=kind, shots=shots)
    prompt = "Question: what\nAnswer: "
    if kind == "few_shot":
        prompt = f"Question: what\nAnswer: that\n\nQuestion: {prompt}\nAnswer: "
    whole = tokenizer(prompt + "Ann is a baker")["input_ids"]
    whole = whole[: len(whole) - (whole[-1] == tokenizer.eos_token_id)]
    assert item.prompt_ids + scored_ids(item) == whole
    assert tokenizer.eos_token_id not in scored_ids(item)
    assert tokenizer.decode(scored_ids(item)).strip() == "Ann is a baker"
    blank = tokenizer.decode(item.prompt_ids)
    assert blank == blank.rstrip()
    assert collect_end_labels([item]) == set()


@pytest.mark.parametrize("family", ["llama3", "llama2", "qwen3", "gpt2"])
def test_a_long_reference_is_cut_to_the_tokens_that_can_be_generated(family: str) -> None:
    tokenizer = FAMILIES[family]()
    template = TemplateConfig(chat=tokenizer.chat_template is not None)
    cut = set()
    for limit in [*range(1, 40), 60, 90]:
        (item,) = items_of([qa(LONG)], tokenizer, limit, template=template)
        assert item.scored == LONG
        assert LONG.startswith(item.reference)
        first = tokenizer.decode(scored_ids(item)[:limit]).strip()
        whole = limit >= len(scored_ids(item)) - 1
        assert item.reference.strip() == (LONG if whole else first.rstrip("\ufffd").strip())
        assert item.notes == (() if whole else (f"reference cut at max_new_tokens={limit}",))
        cut.add(item.reference)
    assert LONG in cut
    assert len(cut) > 20


def test_a_row_beyond_max_length_is_cut_alike_for_every_metric() -> None:
    (whole,) = items_of([qa(LONG)])
    prompt, answer = len(whole.prompt_ids), len(scored_ids(whole)) - 1
    for size in [2, *range(prompt - 1, prompt + answer + 2)]:
        (item,) = items_of([qa(LONG)], data=DataConfig(max_length=size))
        kept = min(max(size - prompt, 0), answer)
        assert scored_ids(item) == scored_ids(whole)[: max(size - prompt, 0)]
        assert item.scored == item.reference == expected_text(scored_ids(whole)[:kept], answer)
        if kept:
            assert item.prompt_ids == whole.prompt_ids
            phrase = "answer cut at"
        else:
            assert item.prompt_ids == []
            phrase = "no answer token within"
        note = f"{phrase} data.max_length={size}"
        assert item.notes == (() if size > prompt + answer else (note,))
        assert collect_end_labels([item]) == {BUNDLED.eos_token_id}


def expected_text(ids: list[int], answer: int) -> str:
    return LONG if len(ids) == answer else BUNDLED.decode(ids).rstrip("\ufffd")


def test_a_document_is_continued_only_beyond_its_prompt() -> None:
    tokenizer = byte_tokenizer()
    text = "the quick brown fox says yes and the lazy dog says no"
    ids = tokenizer(text)["input_ids"]
    for size in (len(ids) - 1, len(ids), len(ids) + 5):
        (item,) = items_of([{"text": text}], tokenizer, prompt_tokens=size)
        assert item.scored == text
        assert item.document == ids == item.answers["answer"][0].labels
        if size < len(ids):
            assert (item.prompt_ids, item.notes) == (ids[:size], ())
            assert item.prompt + item.reference == text
        else:
            assert (item.prompt_ids, item.reference) == ([], "")
            note = f"document of at most prompt_tokens={size}, not continued"
            assert item.notes == (note,)


def test_a_long_document_is_held_against_what_can_be_generated() -> None:
    tokenizer, text = byte_tokenizer(), "the quick brown fox says yes 日本 " * 3
    (item,) = items_of([{"text": text}], tokenizer, limit=5, prompt_tokens=4)
    ids = tokenizer(text)["input_ids"]
    assert item.reference == tokenizer.decode(ids[4:9]).rstrip("\ufffd")
    assert item.notes == ("reference cut at max_new_tokens=5",)
    (first,) = items_of([{"text": text}], tokenizer, prompt_tokens=4, max_tokens=8)
    assert first.document == ids[:8]
    assert first.notes == ("document cut at max_tokens=8",)


TURNS = [
    {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ann."},
    {"role": "user", "content": "Where?"}, {"role": "assistant", "content": "In Rome."},
]  # fmt: skip


def test_each_turn_is_asked_after_all_that_precedes_it() -> None:
    first, second = items_of([{"messages": TURNS}])
    assert [first.index, second.index] == [0, 0]
    for item, end in ((first, 2), (second, 4)):
        ids = BUNDLED.apply_chat_template(
            TURNS[: end - 1], tokenize=True, return_dict=False, add_generation_prompt=True
        )
        assert item.prompt_ids == ids
        assert item.reference == TURNS[end - 1]["content"]
        assert BUNDLED.decode(scored_ids(item)) == item.reference + "<|im_end|>"
    (last,) = items_of([{"messages": TURNS}], data=DataConfig(turns="last"))
    assert last == second


def test_alternatives_belong_to_the_last_answer_of_any_kind_of_row() -> None:
    others = {"paraphrased_answer": "It is Rome.", "perturbed_answer": ["Paris.", "Ulm."]}
    rows: list[Any] = [
        {"messages": TURNS, **others},
        {"prompt": "Where? ", "completion": "In Rome.", **others},
        {**qa("In Rome.", "Where?"), **others},
    ]
    for row in rows:
        *before, item = items_of([row])
        assert all(set(i.answers) == {"answer"} for i in before)
        texts = {
            kind: [BUNDLED.decode([y for y in e.labels if y != IGNORE]) for e in examples]
            for kind, examples in item.answers.items()
        }
        assert [t.strip() for t in texts["perturbed"]] == ["Paris.<|im_end|>", "Ulm.<|im_end|>"]
        assert [t.strip() for t in texts["paraphrase"]] == ["It is Rome.<|im_end|>"]
        lengths = {len(e.prompt_ids) for examples in item.answers.values() for e in examples}
        assert len(lengths) == 1


def test_a_row_that_a_template_refuses_is_left_out_and_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tokenizer = FAMILIES["gemma"]()
    odd = [{"role": "system", "content": "Be kind."}, *TURNS]
    rows = [{"messages": TURNS[:2]}, {"messages": odd}, {"messages": TURNS[:2]}]
    assert [item.index for item in items_of(rows, tokenizer)] == [0, 2]
    said = " ".join(capsys.readouterr().out.split())
    assert "eval.sets.mine: 1 of 3 rows are left out (2)" in said
    assert "System role not supported" in said
    refused(
        lambda: items_of(rows[1:2], tokenizer), "eval.sets.mine: none of its 1 rows", "row 1",
        "System role not supported", "'prompt' and 'completion'",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "row", "column"),
    [
        ("continuation", {"text": "Ann"}, "question"),
        ("few_shot", {"question": "Who?", "answr": "Ann"}, "answer"),
        ("question", {"text": "Ann"}, "question"),
        ("document", qa("Ann"), "text"),
        ("auto", {"quest": "Who?"}, "question"),
    ],
)
def test_a_row_of_another_kind_is_refused_by_its_number_and_column(
    kind: str, row: Any, column: str
) -> None:
    rows = [{"text": "Ann is a baker."} if kind == "document" else qa("Ann"), row]
    with pytest.raises(UserError) as error:
        items_of(rows, kind=kind)
    line = str(error.value)
    assert line.startswith(f"eval.sets.mine: row 2 has no column '{column}', which a set of kind=")
    assert "\n" not in line
    if kind == "few_shot":
        assert line.endswith("did you mean 'answr'?")
        refused(
            lambda: items_of(rows[:1], kind=kind, shots=[row]), "eval.sets.mine.shots: row 1",
            "'answer'",
        )  # fmt: skip


def test_an_answer_ends_where_the_template_ends_it_whatever_the_tokenizer_says() -> None:
    tokenizer = bundled_tokenizer()
    tokenizer.eos_token = "<|pad|>"
    (item,) = items_of([qa("Ann")], tokenizer)
    assert collect_end_labels([item]) == {BUNDLED.convert_tokens_to_ids("<|im_end|>")}
    assert BUNDLED.decode(scored_ids(item)) == "Ann<|im_end|>"
    plain = TemplateConfig(chat=False, prompt="{question} ")
    (tagged,) = items_of([qa("Ann")], tokenizer, template=plain)
    assert collect_end_labels([tagged]) == {tokenizer.eos_token_id}
    assert tagged.scored == "Ann"


def test_the_reference_of_a_set_that_generates_nothing_stays_whole() -> None:
    encoder = Encoder(byte_tokenizer(), TemplateConfig(), DataConfig())
    row, options = {"text": "the quick brown fox says yes"}, EvalSetConfig(prompt_tokens=4)
    (scored,) = make_prompt_items(encoder, "mine", options, [row], [], {"answer"}, 3)
    (told,) = make_prompt_items(encoder, "mine", options, [row], [], {"generation"}, 1)
    assert scored.prompt + scored.reference == row["text"]
    assert scored.notes == ()
    assert told.notes == ("reference cut at max_new_tokens=1",)
    assert len(told.reference) < len(scored.reference)
