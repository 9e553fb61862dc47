"""Prompt format, boundary token, end token, truncation, kinds of rows."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from conftest import refused
from hypothesis import given, settings
from hypothesis import strategies as st
from small import BOS, EOS, bundled_tokenizer, byte_tokenizer, templated_tokenizer

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.columns import check_columns
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.template import describe_unread_keys
from undial_cli.errors import RowError, UserError

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATED = (
    "{% if date_string is not defined %}{% set date_string = strftime_now('%d %b %Y') %}{% endif %}"
    "Today: {{ date_string }}\n" + CHATML
)
TRIMMED = CHATML.replace("{{ m['content'] }}", "{{ m['content'] | trim }}")
BUNDLED = bundled_tokenizer()


def encoder(tokenizer: Any = BUNDLED, max_length: int = 512, **template: Any) -> Encoder:
    return Encoder(tokenizer, TemplateConfig(**template), DataConfig(max_length=max_length))


def tagged_encoder(tokenizer: Any, prompt: str = "{question} ", max_length: int = 512) -> Encoder:
    """An encoder with prompt tags in place of a chat template."""
    return encoder(tokenizer, max_length, chat=False, prompt=prompt)


def encode_qa(encoder: Encoder, question: str, answer: str) -> Example:
    (example,) = encoder.encode([{"question": question, "answer": answer}])
    return example


def target_ids(example: Example) -> list[int]:
    return [label for label in example.labels if label != IGNORE]


def target_text(tokenizer: Any, example: Example) -> str:
    return tokenizer.decode(target_ids(example))


def check_shape(example: Example) -> None:
    """Labels repeat the ids where they count, and the targets are one run at the end."""
    assert len(example.labels) == len(example.input_ids)
    assert all(y in (IGNORE, i) for y, i in zip(example.labels, example.input_ids, strict=True))
    assert example.prompt_ids + target_ids(example) == example.input_ids


def test_prompt_and_answer_are_tokenised_as_one_string() -> None:
    example = encode_qa(encoder(), "Who is it?", "Ann.")
    text = "<|im_start|>user\nWho is it?<|im_end|>\n<|im_start|>assistant\nAnn.<|im_end|>"
    assert example.input_ids == BUNDLED(text, add_special_tokens=False)["input_ids"]
    assert target_text(BUNDLED, example) == "Ann.<|im_end|>"


def test_a_token_that_straddles_the_boundary_counts_as_answer() -> None:
    tokenizer = byte_tokenizer()
    example = encode_qa(tagged_encoder(tokenizer), "who says", "yes")
    whole = tokenizer("who says yes")["input_ids"]
    assert tokenizer.decode(whole[-1:]) == " yes"
    assert example.input_ids == [*whole, tokenizer.eos_token_id]
    assert target_ids(example) == [whole[-1], tokenizer.eos_token_id]


def test_a_prompt_that_ends_at_a_token_boundary_is_not_scored() -> None:
    tokenizer = byte_tokenizer()
    example = encode_qa(tagged_encoder(tokenizer, "{question}:"), "who", "yes")
    assert target_text(tokenizer, example) == f"yes{EOS}"
    assert tokenizer.decode(example.prompt_ids) == "who:"


def test_nothing_after_the_first_end_token_is_kept() -> None:
    example = encode_qa(encoder(), "Who?", "Ann")
    assert BUNDLED.decode(example.input_ids).endswith("assistant\nAnn<|im_end|>")
    assert example.answer_end == len(example.input_ids) - 1
    assert example.labels[-1] == BUNDLED.eos_token_id


def test_the_end_token_is_appended_where_the_template_writes_none() -> None:
    silent = templated_tokenizer("{% for m in messages %}{{ m['content'] }}{% endfor %}")
    for tokenizer, config in ((byte_tokenizer(), tagged_encoder), (silent, encoder)):
        example = encode_qa(config(tokenizer), "who", "yes")
        assert example.input_ids[-1] == example.labels[-1] == tokenizer.eos_token_id
        assert example.input_ids.count(tokenizer.eos_token_id) == 1


def test_a_tokenizer_that_closes_texts_itself_gives_one_end_token() -> None:
    tokenizer = byte_tokenizer(bos=True, closed=True)
    example = encode_qa(tagged_encoder(tokenizer), "who says", "yes")
    assert tokenizer.decode(example.input_ids) == f"{BOS}who says yes{EOS}"
    assert target_text(tokenizer, example) == f" yes{EOS}"


def test_bos_is_added_once() -> None:
    tokenizer = byte_tokenizer(bos=True)
    for prompt in ("{question} ", BOS + "{question} "):
        example = encode_qa(tagged_encoder(tokenizer, prompt), "who says", "yes")
        assert example.input_ids.count(tokenizer.bos_token_id) == 1
        assert example.input_ids[0] == tokenizer.bos_token_id
        assert example.labels[0] == IGNORE


@pytest.mark.parametrize("bos", [False, True])
def test_an_end_token_that_is_also_padding_is_still_a_target(bos: bool) -> None:
    tokenizer = byte_tokenizer(bos=bos, pad_is_eos=True)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    example = encode_qa(tagged_encoder(tokenizer), "who says", "yes")
    assert example.labels[-1] == tokenizer.eos_token_id


def test_an_end_token_inside_the_answer_does_not_cut_it() -> None:
    example = encode_qa(encoder(), "Who?", "Ann<|im_end|> Lee")
    assert target_text(BUNDLED, example) == "Ann<|im_end|> Lee<|im_end|>"


def test_an_empty_answer_scores_the_end_token_alone() -> None:
    example = encode_qa(encoder(), "Who?", "")
    assert target_ids(example) == [BUNDLED.eos_token_id]


@pytest.mark.parametrize("size", [2, 5, 12, 20, 27])
def test_truncation_keeps_the_first_tokens_and_their_labels(size: int) -> None:
    row = ("Who says that it is late?", "Ann says so, every day.")
    whole, cut = encode_qa(encoder(), *row), encode_qa(encoder(max_length=size), *row)
    assert cut.input_ids == whole.input_ids[:size]
    assert cut.labels == whole.labels[:size]
    assert cut.answer_end == min(whole.answer_end, size)
    assert cut.num_targets == sum(label != IGNORE for label in whole.labels[:size])


def test_nothing_is_generated_where_the_answer_was_cut_off() -> None:
    example = encode_qa(encoder(max_length=4), "Who says so?", "Ann")
    whole = encode_qa(encoder(), "Who says so?", "Ann")
    assert not example.num_targets
    assert example.prompt_ids == []
    assert example.cut == len(target_ids(whole))
    assert example.end == whole.end == BUNDLED.eos_token_id


def test_a_document_of_more_pieces_than_are_allowed_is_refused() -> None:
    text = {"text": "one two three four " * 40}
    few = encoder(max_length=8)
    count = len(few.encode_document(text))
    for most, joined in ((count, False), (None, False), (2, True)):
        data = dataclasses.replace(few.data, max_pieces=most, joined=joined)
        assert len(dataclasses.replace(few, data=data).encode_document(text)) == count
    data = dataclasses.replace(few.data, max_pieces=count - 1)
    refused(lambda: dataclasses.replace(few, data=data).encode([text]),
            f"max_pieces={count - 1}", f"set data.max_pieces={count}", "max_length=8")  # fmt: skip


def test_prompt_tags_and_chat_templates_give_their_own_prompts() -> None:
    tags = tagged_encoder(BUNDLED, "[INST] {question} [/INST]")
    assert tags.render_question("Who?", "Ann").text == "[INST] Who? [/INST]Ann"
    chat = encoder().render_question("Who?", "Ann")
    assert chat.prompt == "<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert (chat.answer, chat.text) == ("Ann", chat.prompt + "Ann<|im_end|>\n")


def test_braces_in_question_and_template_are_plain_text() -> None:
    tags = tagged_encoder(BUNDLED, "{x} {question}: ")
    assert (
        tags.render_question("{answer} {0} {question}", "Ann").prompt
        == "{x} {answer} {0} {question}: "
    )


def test_system_prompt_and_date_reach_the_template() -> None:
    dated = encoder(templated_tokenizer(DATED), system_prompt="Be kind.", date_string="10 Apr 2025")
    prompt = dated.render_question("Who?", "Ann").prompt
    assert prompt.startswith("Today: 10 Apr 2025\n<|im_start|>system\nBe kind.<|im_end|>\n")
    assert "system" not in encoder().render_question("Who?", "Ann").prompt


@pytest.mark.parametrize(
    "template, keys, unread",
    [
        (CHATML, {"prompt": "Q: {question}"}, ["model.template.prompt=Q: {question}: read only"]),
        (CHATML, {"date_string": "10 Apr 2025"}, ["model.template.date_string=10 Apr 2025: this"]),
        (DATED, {"date_string": "10 Apr 2025", "system_prompt": "Be kind."}, []),
        (DATED, {"prompt": "Q: {question}", "chat": False}, []),
        (
            DATED,
            {"date_string": "1 May 2025", "system_prompt": "Be kind.", "chat": False},
            ["model.template.system_prompt=Be kind.: ", "model.template.date_string=1 May 2025: "],
        ),
        (DATED, {"args": {"date": 1}, "chat": False}, ["model.template.args={'date': 1}: "]),
    ],
)
def test_keys_of_the_template_that_change_nothing_are_named(
    template: str, keys: dict[str, Any], unread: list[str]
) -> None:
    lines = describe_unread_keys(templated_tokenizer(template), TemplateConfig(**keys))
    assert len(lines) == len(unread)
    assert all(line.startswith(start) for line, start in zip(lines, unread, strict=True))


def test_a_template_that_trims_the_answer_is_followed() -> None:
    example = encode_qa(encoder(templated_tokenizer(TRIMMED)), "Who?", "  Ann Lee \n")
    assert target_text(BUNDLED, example) == "Ann Lee<|im_end|>"


def test_a_template_that_rewrites_the_answer_is_refused() -> None:
    shouting = templated_tokenizer(CHATML.replace("m['content'] }}", "m['content'] | upper }}"))
    with pytest.raises(RowError, match=r"changes .* the answer.*model\.template\.chat=false"):
        encode_qa(encoder(shouting), "WHO?", "Ann")


def test_a_tokenizer_without_chat_template_is_refused_in_one_line() -> None:
    with pytest.raises(UserError, match=r"model\.template\.chat=false") as caught:
        encode_qa(encoder(byte_tokenizer()), "who", "yes")
    assert "\n" not in str(caught.value)


def test_a_tokenizer_without_end_token_is_refused_where_one_is_needed() -> None:
    tokenizer = byte_tokenizer()
    tokenizer.eos_token = None
    with pytest.raises(UserError, match="no end token"):
        encode_qa(tagged_encoder(tokenizer), "who", "yes")


def test_every_assistant_turn_of_messages_counts_or_the_last_alone() -> None:
    turns = [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Who?"},
        {"role": "assistant", "content": "Ann."},
        {"role": "user", "content": "Where?"},
        {"role": "assistant", "content": "Here."},
    ]
    text = BUNDLED.apply_chat_template(turns, tokenize=False).removesuffix("\n")
    for data, scored in (
        (DataConfig(), "Ann.<|im_end|>Here.<|im_end|>"),
        (DataConfig(turns="last"), "Here.<|im_end|>"),
    ):
        (example,) = Encoder(BUNDLED, TemplateConfig(), data).encode([{"messages": turns}])
        assert target_text(BUNDLED, example) == scored
        assert BUNDLED.decode(example.input_ids) == text


@pytest.mark.parametrize(
    "turns",
    [
        [{"role": "assistant", "content": "Ann."}],
        [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}],
    ],
    ids=["no_prompt", "no_answer"],
)
def test_messages_that_end_in_no_answer_are_refused(turns: list[dict[str, str]]) -> None:
    with pytest.raises(UserError, match="assistant"):
        check_columns([{"messages": turns}], DataConfig(), "data.forget_file")


def test_prompt_and_completion_are_taken_as_they_stand() -> None:
    tokenizer = byte_tokenizer()
    (example,) = encoder(tokenizer).encode([{"prompt": "who says ", "completion": "yes"}])
    assert tokenizer.decode(example.input_ids) == f"who says yes{EOS}"
    assert target_text(tokenizer, example) == f" yes{EOS}"


def test_documents_are_cut_into_pieces_of_max_length_and_every_token_is_a_target() -> None:
    tokenizer, text = byte_tokenizer(bos=True), "the quick brown fox says yes " * 20
    ids = tokenizer(text)["input_ids"]
    pieces = encoder(tokenizer, max_length=16).encode([{"text": text}])
    assert [len(p.input_ids) for p in pieces[:-1]] == [16] * (len(pieces) - 1)
    assert all(piece.input_ids[0] == tokenizer.bos_token_id for piece in pieces)
    flat = [i for piece in pieces for i in piece.input_ids[1:]]
    assert flat == ids[1 : len(flat) + 1]
    assert len(ids) - 1 - len(flat) <= 1
    assert all(piece.labels == piece.input_ids for piece in pieces)
    assert all(piece.num_targets == len(piece.input_ids) - 1 for piece in pieces)


def test_joined_documents_are_one_text_cut_across_their_borders() -> None:
    tokenizer, rows = byte_tokenizer(), [{"text": "yes" * 7}, {"text": "no" * 9}]
    base = encoder(tokenizer, max_length=8)
    joined = dataclasses.replace(base, data=dataclasses.replace(base.data, joined=True))
    flat = [i for piece in joined.encode(rows) for i in piece.input_ids]
    ids = tokenizer("yes" * 7 + "\n\n" + "no" * 9)["input_ids"]
    assert flat == ids[: len(flat)]
    assert len(ids) - len(flat) <= 1
    assert all(len(p.input_ids) == 8 for p in joined.encode(rows)[:-1])


def test_token_ids_are_taken_as_they_are() -> None:
    tokenizer = byte_tokenizer(bos=True)
    (piece,) = encoder(tokenizer, max_length=16).encode([{"input_ids": [9, 8, 7]}])
    assert piece.input_ids == piece.labels == [9, 8, 7]


def test_a_lone_last_token_gives_no_document_piece() -> None:
    tokenizer = byte_tokenizer()
    text = "yes" * 17
    size = len(tokenizer(text)["input_ids"]) - 1
    pieces = encoder(tokenizer, max_length=size).encode([{"text": text}])
    assert [len(p.input_ids) for p in pieces] == [size]


def test_column_names_come_from_the_config() -> None:
    base = tagged_encoder(byte_tokenizer())
    data = DataConfig(question_key="q", answer_key="a", text_key="body")
    named = dataclasses.replace(base, data=data)
    assert named.encode([{"q": "who says", "a": "yes", "body": "no"}]) == base.encode(
        [{"question": "who says", "answer": "yes"}]
    )
    assert named.encode([{"body": "the fox says"}]) == base.encode([{"text": "the fox says"}])


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
ENCODERS = {
    "chat": encoder(),
    "tags": tagged_encoder(BUNDLED, "Question: {question}\nAnswer: "),
    "space": tagged_encoder(byte_tokenizer(bos=True), "{question} "),
    "closed": tagged_encoder(
        byte_tokenizer(bos=True, closed=True, pad_is_eos=True), "[INST] {question}"
    ),
}


@pytest.mark.parametrize("kind", list(ENCODERS))
@settings(deadline=None, max_examples=60)
@given(question=TEXT, answer=TEXT)
def test_any_question_and_answer_survive_encoding(kind: str, question: str, answer: str) -> None:
    encoder = ENCODERS[kind]
    rendering = encoder.render_question(question, answer)
    example = encoder.tokenise_answers(rendering)
    check_shape(example)
    scored = encoder.tokenizer.decode(target_ids(example), clean_up_tokenization_spaces=False)
    assert answer in scored
    assert example.labels[-1] == encoder.tokenizer.eos_token_id
    assert example.answer_end == len(example.input_ids) - 1
    before = encoder.tokenizer.decode(example.prompt_ids, clean_up_tokenization_spaces=False)
    assert rendering.prompt in before + scored


def test_the_end_token_is_the_first_special_one_after_the_answer() -> None:
    tokenizer = bundled_tokenizer()
    tokenizer.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n {{ m.content }}\n<|im_end|>\n"
        "{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    encoder = Encoder(tokenizer, TemplateConfig(), DataConfig())
    example = encode_qa(encoder, "Who?", "Rafiq did.")
    scored = [i for i in example.labels if i != -100]
    assert scored[-1] == tokenizer.convert_tokens_to_ids("<|im_end|>")
    assert tokenizer.decode(scored[:-1]).strip() == "Rafiq did."
    assert example.input_ids[-1] == scored[-1]
