"""Focus spans from a column or from spaCy, and the tokens that they become."""

from __future__ import annotations

import dataclasses
import itertools
import json
import sys
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from conftest import refused
from hypothesis import example as given_example
from hypothesis import given, settings
from hypothesis import strategies as st
from small import CORPUS, bundled_tokenizer, byte_tokenizer, templated_tokenizer
from tokenizers import Tokenizer, normalizers, trainers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data import focus
from undial_cli.data.answers import read_scored_text
from undial_cli.data.columns import check_columns
from undial_cli.data.encode import IGNORE, Encoder, Example
from undial_cli.data.spans import Span
from undial_cli.errors import UserError

TRIMMED = (
    "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] | trim }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
DATA = DataConfig()


def metaspace_tokenizer() -> Any:
    """A tokenizer like Llama 2's: spaces begin tokens, unknown characters fall back to bytes."""
    core = Tokenizer(BPE(byte_fallback=True, unk_token="<unk>"))
    core.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    fallback = [f"<0x{i:02X}>" for i in range(256)]
    special = ["<unk>", "<s>", "</s>", *fallback]
    core.train_from_iterator(
        CORPUS, trainers.BpeTrainer(vocab_size=400, special_tokens=special, show_progress=False)
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def tagged_encoder(tokenizer: Any, prompt: str) -> Encoder:
    return Encoder(tokenizer, TemplateConfig(chat=False, prompt=prompt), DATA)


ENCODERS = {
    "chat": Encoder(bundled_tokenizer(), TemplateConfig(), DATA),
    "trimmed": Encoder(templated_tokenizer(TRIMMED), TemplateConfig(), DATA),
    "bos": tagged_encoder(byte_tokenizer(bos=True, closed=True), "{question} "),
    "metaspace": tagged_encoder(metaspace_tokenizer(), "[INST] {question} [/INST]"),
}


def with_max_length(encoder: Encoder, max_length: int, **data: Any) -> Encoder:
    """The same encoder for other lengths."""
    config = dataclasses.replace(encoder.data, max_length=max_length, **data)
    return dataclasses.replace(encoder, data=config)


def qa_row(answer: str, **columns: Any) -> dict[str, Any]:
    return {"question": "Who?", "answer": answer, **columns}


def in_column(text: str, value: Any) -> list[Span]:
    """The spans of one document by its own column."""
    (spans,) = focus.find_focus_spans([{"text": text, "focus": value}], DATA, "column", None)
    return spans


def words_at(encoder: Encoder, example: Example) -> list[str]:
    """The runs of focus tokens as text."""
    runs: list[list[int]] = []
    for i in example.focus:
        if not runs or runs[-1][-1] != i - 1:
            runs.append([])
        runs[-1].append(i)
    return [encoder.decode([example.input_ids[i] for i in run]).strip() for run in runs]


def check_alignment(
    example: Example, text: str, offsets: list[tuple[int, int]], spans: list[Span]
) -> None:
    """Each focus token overlaps a span by a character that is seen; no such target is left out."""
    marked = {i for start, end in spans for i in range(start, end) if not text[i].isspace()}
    targets = [i for i, label in enumerate(example.labels) if label != IGNORE]
    assert set(example.focus) <= set(targets)
    assert list(example.focus) == sorted(set(example.focus))
    offsets = [*offsets, (0, 0)][: len(example.input_ids)]
    for i in example.focus:
        assert marked & set(range(*offsets[i]))
    seen = {i for place in example.focus for i in range(*offsets[place])}
    there = {i for place in targets for i in range(*offsets[place])}
    assert marked & there <= seen


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
WORDS = [
    "Ann Lee",
    "Ann",
    "Zoe\u0308",
    "Zoë",
    "東京",
    "👩‍🚀",
    "🇫🇷",
    "New\u00a0York",
    "กรุงเทพ",
    "서울",
    "yes",
]
FILLERS = [" ", "  ", "\n\n", ", ", " says ", "は", " - "]
MIXED = st.lists(st.tuples(st.sampled_from(WORDS), st.sampled_from(FILLERS)), max_size=8).map(
    lambda parts: "".join(itertools.chain(*parts))
)
PLACES = st.lists(st.tuples(st.integers(0, 30), st.integers(0, 30)), max_size=4)


def spans_within(text: str, places: list[tuple[int, int]]) -> list[Span]:
    pairs = [(min(p), max(p)) for p in places]
    return [(a, min(b, len(text))) for a, b in pairs if a < min(b, len(text))]


@pytest.mark.parametrize("kind", list(ENCODERS))
@settings(deadline=None, max_examples=60)
@given(answer=TEXT | MIXED, places=PLACES, size=st.integers(2, 60))
@given_example(answer="  Ann Lee \n", places=[(0, 4), (6, 11)], size=60)
def test_tokens_and_spans_of_an_answer_agree(
    kind: str, answer: str, places: list[tuple[int, int]], size: int
) -> None:
    encoder, spans = with_max_length(ENCODERS[kind], size), spans_within(answer, places)
    (example,) = encoder.encode([qa_row(answer)], [spans])
    rendering = encoder.render_question("Who?", answer)
    body, first = rendering.answer, len(rendering.prompt)
    shift = first - (0 if body == answer else len(answer) - len(answer.lstrip()))
    offsets = encoder.tokenise(rendering.text, special=not rendering.chat).offsets
    last = first + len(body)
    absolute = [(max(a + shift, first), min(b + shift, last)) for a, b in spans]
    check_alignment(example, rendering.text, offsets, absolute)
    bare = dataclasses.replace(example, focus=())
    assert [bare] == encoder.encode([qa_row(answer)])


@pytest.mark.parametrize("kind", ["chat", "bos", "metaspace"])
@settings(deadline=None, max_examples=40)
@given(texts=st.lists(TEXT | MIXED, min_size=1, max_size=3), places=PLACES, size=st.integers(3, 20))
def test_tokens_and_spans_of_documents_agree(
    kind: str, texts: list[str], places: list[tuple[int, int]], size: int
) -> None:
    rows, spans = [{"text": t} for t in texts], [spans_within(t, places) for t in texts]
    for encoder in (ENCODERS[kind], with_max_length(ENCODERS[kind], 512, joined=True)):
        whole, all_spans = texts, spans
        if encoder.data.joined:
            starts = [sum(len(t) + 2 for t in texts[:i]) for i in range(len(texts))]
            pairs = zip(starts, spans, strict=True)
            all_spans = [[(a + s, b + s) for s, own in pairs for a, b in own]]
            whole = ["\n\n".join(texts)]
        kept = [
            (t, s) for t, s in zip(whole, all_spans, strict=True) if encoder.encode([{"text": t}])
        ]
        examples = encoder.encode(rows, spans)
        for (text, own), example in zip(kept, examples, strict=True):
            check_alignment(example, text, encoder.tokenise(text).offsets, own)
            begin = int(example.input_ids[0] == encoder.tokenizer.bos_token_id)
            step, found = size - begin, []
            pieces = with_max_length(encoder, size, joined=False).encode([{"text": text}], [own])
            for number, piece in enumerate(pieces):
                found += [number * step + i for i in piece.focus]
            length = sum(len(p.input_ids) - begin for p in pieces) + begin
            assert found == [i for i in example.focus if i < length]


@settings(deadline=None, max_examples=100)
@given(text=MIXED, strings=st.lists(st.sampled_from(WORDS), unique=True, max_size=4))
def test_every_occurrence_counts_and_nothing_else(text: str, strings: list[str]) -> None:
    spans = {span for string in strings for span in focus.find_occurrences(text, string)}
    assert {text[a:b] for a, b in spans} == {
        s for s in strings if s in text and s in list_words(text)
    }
    for string in strings:
        assert sum(text[a:b] == string for a, b in spans) == list_words(text).count(string)


def list_words(text: str) -> list[str]:
    """Every string that stands between two borders of words, by comparing all pairs of places."""
    inside = [i > 0 and is_spaced(text[i - 1]) and is_spaced(text[i]) for i in range(len(text))] + [
        False
    ]
    borders = [i for i, within in enumerate(inside) if not within]
    return [text[a:b] for a in borders for b in borders if a < b]


def is_mark(character: str) -> bool:
    return unicodedata.category(character).startswith("M")


def is_spaced(character: str) -> bool:
    name = unicodedata.name(character, "")
    unspaced = ("CJK", "HIRAGANA", "KATAKANA", "THAI", "HANGUL SYLLABLE")
    return (character.isalnum() or is_mark(character)) and not name.startswith(unspaced)


@pytest.mark.parametrize(
    ("text", "string", "count"),
    [
        ("Ann, Ann and Annual Joann (Ann)", "Ann", 3),
        ("Lee-Ann's snake_Ann Ann2", "Ann", 1),
        ("#1 of #12, #1", "#1", 2),
        ("cafe cafe\u0301 cafe", "cafe", 2),
        ("私は東京に住む。東京!", "東京", 2),
        ("서울은 서울", "서울", 2),
        ("Ленин Ленинград", "Ленин", 1),
        ("a b a b a", "a b a", 2),
        ("か\u3099か", "か", 1),
        ("👍\ufe0f👍", "👍", 2),
        ("👍Ann👍", "Ann", 1),
        ("", "Ann", 0),
    ],
)
def test_a_string_counts_where_it_is_a_word_of_its_own(text: str, string: str, count: int) -> None:
    assert [text[a:b] for a, b in focus.find_occurrences(text, string)] == [string] * count


def test_a_column_holds_strings_or_pairs_or_either_as_json() -> None:
    text = "Ann Lee met Ann in Paris."
    strings, pairs = ["Ann", " Paris ", "Rome"], [[0, 7], [19, 24]]
    named = [(0, 3), (12, 15), (19, 24)]
    assert in_column(text, strings) == in_column(text, json.dumps(strings)) == named
    assert in_column(text, pairs) == in_column(text, json.dumps(pairs)) == [(0, 7), (19, 24)]
    rows = [{"text": text, "words": ["Lee"]}, {"text": text, "words": []}]
    found = focus.find_focus_spans(rows, DataConfig(focus_key="words"), "column", None)
    assert found == [[(4, 7)], []]


@pytest.mark.parametrize(
    "value",
    [
        None, 5, "", "Ann", '{"a": 1}', [""], ["Ann", [0, 3]], [[0, 3, 4]], [[3, 3]], [[-1, 3]],
        [[0, 99]], [[0.0, 3.0]], [[True, 3]], {"Ann": 1}, "[[0, 99]]", "null",
    ],
)  # fmt: skip
def test_a_column_that_cannot_be_read_is_refused(value: Any) -> None:
    rows = [qa_row("Ann Lee.", focus=["Ann"]), qa_row("Ann\nLee.", focus=value)]
    refused(
        lambda: focus.find_focus_spans(rows, DATA, "column", None),
        "data.focus_key=focus: row 2 holds ", "a list of strings",
        "[start, end] pairs within its 8 characters", "JSON",
    )  # fmt: skip


def test_what_gives_nothing_to_focus_on_is_refused() -> None:
    rows = [qa_row("Ann Lee.", focsu=["Ann"])]
    refused(
        lambda: focus.find_focus_spans(rows, DATA, "column", None),
        "data.focus_key=focus: found columns question, answer, focsu; method.focus=column needs",
        "did you mean 'focsu'?",
    )  # fmt: skip
    refused(lambda: in_column("Ann Lee.", ["Rome"]), "data.focus_key=focus", "in any of the 1 rows")
    ids: list[Any] = [{"input_ids": [1, 2, 3]}]
    refused(lambda: focus.find_focus_spans(ids, DATA, "column", None), "method.focus", "token ids")
    refused(lambda: ENCODERS["chat"].encode(ids, [[]]), "method.focus", "token ids")
    messages = [{"messages": [{"role": "user", "content": "Who?"}], "focus": []}]
    refused(lambda: check_columns(messages, DATA, "data.forget_file"), "column 'messages'")
    refused(
        lambda: focus.find_focus_spans([], DATA, "entitties", None), "method.focus=entitties",
        "column, entities, noun_chunks", "did you mean 'entities'?",
    )  # fmt: skip


def test_the_text_that_is_scored_is_the_answers_the_completion_or_the_document() -> None:
    turns = [("user", "Ann?"), ("assistant", "Ann."), ("user", "Who?"), ("assistant", " Ann Lee ")]
    rows: list[Any] = [
        {"messages": [{"role": role, "content": text} for role, text in turns]},
        {"prompt": "Ann says Ann", "completion": " Ann Lee"},
        {"text": "Ann Lee"},
        qa_row("Ann Lee", text="Bob"),
    ]
    last = DataConfig(turns="last")
    assert [read_scored_text(row, last).strip() for row in rows] == ["Ann Lee"] * 4
    assert read_scored_text(rows[0], DATA) == "Ann.\n\n Ann Lee "
    for row in rows:
        spans = focus.find_focus_spans([{**row, "focus": ["Ann"]}], DATA, "column", None)
        for encoder in (ENCODERS["chat"], ENCODERS["trimmed"]):
            (example,) = encoder.encode([row], spans)
            assert words_at(encoder, example) == ["Ann"] * (2 if "messages" in row else 1)


def test_spans_of_each_turn_become_tokens_of_that_turn() -> None:
    turns = [
        ("user", "Ann?"),
        ("assistant", "  Ann Lee."),
        ("user", "Lee?"),
        ("assistant", "Bo Lee"),
    ]
    row = {"messages": [{"role": role, "content": text} for role, text in turns]}
    spans = focus.find_focus_spans([{**row, "focus": [[6, 9], [12, 14]]}], DATA, "column", None)
    for encoder in (ENCODERS["chat"], ENCODERS["trimmed"]):
        (example,) = encoder.encode([row], spans)
        assert words_at(encoder, example) == ["Lee", "Bo"]
        (last,) = with_max_length(encoder, 512, turns="last").encode([row], [[(3, 6)]])
        assert words_at(encoder, last) == ["Lee"]
        assert min(last.focus) > max(example.focus)


def test_a_shared_space_does_not_make_a_token_one_of_the_focus() -> None:
    encoder = tagged_encoder(bundled_tokenizer(), "{question}")
    (example,) = encoder.encode([qa_row("Ann and the goat")], [[(0, 4), (7, 8)]])
    ids = [example.input_ids[i] for i in example.focus]
    assert encoder.tokenizer.decode(ids) == "Ann"


def test_truncation_keeps_the_focus_of_what_is_left() -> None:
    row, spans = qa_row("Ann Lee met Ann Lee."), [[(0, 7), (12, 19)]]
    (whole,) = ENCODERS["chat"].encode([row], spans)
    assert words_at(ENCODERS["chat"], whole) == ["Ann Lee", "Ann Lee"]
    for size in range(2, len(whole.input_ids) + 2):
        (cut,) = with_max_length(ENCODERS["chat"], size).encode([row], spans)
        assert cut.focus == tuple(i for i in whole.focus if i < size)


def test_an_example_without_spans_is_what_it_was() -> None:
    assert Example([1, 2], [IGNORE, 2], 2) == Example([1, 2], [IGNORE, 2], 2, ())
    rows: list[Any] = [qa_row("Ann Lee"), {"text": "Ann Lee"}]
    assert ENCODERS["chat"].encode(rows, [[], []]) == ENCODERS["chat"].encode(rows)
    with pytest.raises(ValueError, match="zip"):
        ENCODERS["chat"].encode(rows, [[]])


def nouns(doc: Any) -> Any:
    """A parser of three nouns and what stands before them; texts without one stay as they are."""
    tokens = [token.text for token in doc]
    heads = [i + (word in ("Ann", "a")) for i, word in enumerate(tokens)]
    known = [word in ("Lee", "Paris", "baker") for word in tokens]
    if not any(known):
        return doc
    return type(doc)(
        doc.vocab, words=tokens, spaces=[bool(token.whitespace_) for token in doc], heads=heads,
        pos=["NOUN" if noun else "X" for noun in known],
        deps=["nsubj" if noun else "dep" for noun in known],
    )  # fmt: skip


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Real pipelines made of rules: of entities, of noun chunks, and of neither."""
    spacy = pytest.importorskip("spacy", reason="spaCy is not installed (undial[focus])")
    folder = tmp_path_factory.mktemp("pipelines")
    names = ["Ann Lee", "Paris"]
    rules = spacy.blank("en")
    ruler = rules.add_pipe("entity_ruler")
    ruler.add_patterns([{"label": "NAME", "pattern": name} for name in names])
    rules.to_disk(folder / "entities")
    spacy.Language.component("undial_test_nouns", func=nouns)
    rules.add_pipe("undial_test_nouns")
    rules.to_disk(folder / "noun_chunks")
    spacy.blank("en").to_disk(folder / "blank")
    other = spacy.blank("xx")
    other.add_pipe("attribute_ruler").add(patterns=[[{}]], attrs={"POS": "NOUN", "DEP": "nsubj"})
    other.to_disk(folder / "other")
    broken = folder / "broken"
    broken.mkdir()
    return {path.name: str(path) for path in folder.iterdir()}


def found_by(pipelines: dict[str, str], name: str, source: str, *texts: str) -> list[list[str]]:
    rows = [qa_row(text) for text in texts]
    spans = focus.find_focus_spans(rows, DATA, source, pipelines[name])
    assert all(own == sorted(set(own)) for own in spans)
    return [[t[a:b] for a, b in own] for t, own in zip(texts, spans, strict=True)]


def test_entities_and_every_other_occurrence_of_them(pipelines: dict[str, str]) -> None:
    texts = "Ann Lee of Paris and @Paris, not Parisian.", "", "A baker.", " \n", "Paris"
    found = found_by(pipelines, "entities", "entities", *texts)
    assert found == [["Ann Lee", "Paris", "Paris"], [], [], [], ["Paris"]]


def test_noun_chunks_of_a_pipeline(pipelines: dict[str, str]) -> None:
    texts = "Ann Lee is a baker in Paris.", "", "So it is."
    found = found_by(pipelines, "noun_chunks", "noun_chunks", *texts)
    assert found == [["Ann Lee", "a baker", "Paris"], [], []]
    rows = [qa_row(texts[0])]
    spans = focus.find_focus_spans(rows, DATA, "noun_chunks", pipelines["noun_chunks"])
    (example,) = ENCODERS["chat"].encode(rows, spans)
    assert words_at(ENCODERS["chat"], example) == ["Ann Lee", "a baker", "Paris"]


def test_long_documents_reach_spacy_in_pieces(
    pipelines: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "Ann Lee came. \n\n" * 9 + "Then she was in Paris, " * 5
    whole = focus.find_focus_spans([{"text": text}], DATA, "entities", pipelines["entities"])
    assert len(whole[0]) == 14
    monkeypatch.setattr(focus, "SPACY_PIECE", 40)
    monkeypatch.setattr(focus, "find_occurrences", lambda text, string: iter(()))
    assert (
        focus.find_focus_spans([{"text": text}], DATA, "entities", pipelines["entities"]) == whole
    )


@settings(deadline=None, max_examples=60)
@given(text=TEXT, limit=st.integers(1, 9))
def test_pieces_are_the_text(text: str, limit: int) -> None:
    pieces = list(focus.cut_text_pieces(text, limit))
    assert all(0 < len(piece) <= limit for _, piece in pieces)
    assert all(text[start:].startswith(piece) for start, piece in pieces)
    covered = {i for start, piece in pieces for i in range(start, start + len(piece))}
    assert len(covered) == sum(len(piece) for _, piece in pieces)
    assert all(text[i].isspace() for i in set(range(len(text))) - covered)


@pytest.mark.parametrize(
    ("name", "source", "parts"),
    [
        ("blank", "entities", ("gives no entities", "parts: none", "ner or entity_ruler")),
        ("blank", "noun_chunks", ("gives no noun chunks", "a pipeline with a parser, for a known")),
        ("other", "noun_chunks", ("gives no noun chunks", "language 'xx'")),
        ("entities", "noun_chunks", ("gives no noun chunks",)),
        ("broken", "entities", ("no spaCy pipeline (",)),
    ],
)
def test_a_pipeline_that_cannot_be_used_is_refused(
    pipelines: dict[str, str], name: str, source: str, parts: tuple[str, ...]
) -> None:
    key = f"method.spacy_model={pipelines[name]}: "
    refused(lambda: found_by(pipelines, name, source, "", "Ann Lee."), key, *parts)


def test_texts_that_give_nothing_and_texts_that_fail_are_refused(pipelines: dict[str, str]) -> None:
    place = f"method.spacy_model={pipelines['entities']}: "
    for text, part in (("Nobody.", "in any of the 1 rows"), ("\ud800", "fails on these texts")):
        refused(lambda text=text: found_by(pipelines, "entities", "entities", text), place, part)


def test_a_pipeline_that_is_not_there_is_refused_with_how_to_get_one(tmp_path: Path) -> None:
    pytest.importorskip("spacy", reason="spaCy is not installed (undial[focus])")
    rows, hint = [qa_row("Ann.")], "python -m spacy download en_core_web_sm"
    for name in ("en_core_web_tiny", str(tmp_path / "nowhere"), "a/b c"):
        refused(
            lambda name=name: focus.find_focus_spans(rows, DATA, "entities", name),
            f"method.spacy_model={name}: ", "is installed", hint,
        )  # fmt: skip
    for name in (None, ""):
        refused(
            lambda name=name: focus.find_focus_spans(rows, DATA, "noun_chunks", name),
            "method.spacy_model=null", "method.focus=noun_chunks", hint,
        )  # fmt: skip
    refused(lambda: focus.find_focus_spans(rows, DATA, "entities", "numpy"), "no spaCy pipeline (")


def test_spacy_is_needed_only_where_it_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "spacy", None)
    assert in_column("Ann Lee.", ["Ann"]) == [(0, 3)]
    with pytest.raises(UserError, match=r"method\.focus=entities: needs spaCy: pip install"):
        focus.find_focus_spans([qa_row("Ann.")], DATA, "entities", "en_core_web_sm")
