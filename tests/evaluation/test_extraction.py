"""Extraction figures the authors' way, against plain loops; the texts of a document's parts."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
from small import byte_tokenizer, random_llama
from tokenizers import Tokenizer, decoders, pre_tokenizers
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.config.suites import EvalConfig, EvalSetConfig
from undial_cli.data.encode import Encoder
from undial_cli.evaluation import extraction
from undial_cli.evaluation.decoding import Decoding
from undial_cli.evaluation.evaluate import evaluate_suite
from undial_cli.evaluation.prompts import PromptItem, decode_added_text, make_prompt_items
from undial_cli.evaluation.suite import SetRows, Suite

VOCAB, TOKENS = 64, 30
LINE = ["the", "old", "river", "keeps", "its", "slow", "counsel"]


@torch.no_grad()
def next_token(model: Any, ids: list[int]) -> int:
    return int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())


def continued_greedily(model: Any, ids: list[int], tokens: int, ends: Any = ()) -> list[int]:
    """Greedy, without the end token."""
    new: list[int] = []
    while len(new) < tokens:
        new.append(next_token(model, ids + new))
        if new[-1] in ends:
            return new[:-1]
    return new


def memorised(model: Any, start: int, length: int, vocab: int, wrong: float) -> list[int]:
    """A text that the model says itself, but for a share of its tokens."""
    draw = random.Random(start)
    ids = [start]
    while len(ids) < length:
        by_itself = draw.random() >= wrong
        ids.append(next_token(model, ids) if by_itself else draw.randrange(8, vocab))
    return ids


@pytest.fixture(scope="module")
def model() -> Any:
    return random_llama(VOCAB)


@pytest.fixture(scope="module")
def documents(model: Any) -> list[list[int]]:
    """Four, three, one and no prefix of the authors lie in them."""
    sizes = (170, 130, 44, 20)
    return [memorised(model, 9 + i, size, VOCAB, 0.3) for i, size in enumerate(sizes)]


def unique_share(text: list[int], truth: list[int], n: int) -> float:
    grams = {tuple(text[i : i + n]) for i in range(len(text) - n + 1)}
    known = {tuple(truth[i : i + n]) for i in range(len(truth) - n + 1)}
    return len(grams & known) / len(grams) if grams else 0.0


@pytest.mark.parametrize("ends", [frozenset(), frozenset(range(8, 30))])
def test_the_one_likeliest_token_gives_the_figures_of_plain_greedy_loops(
    model: Any, documents: list[list[int]], ends: frozenset[int]
) -> None:
    how = Decoding(TOKENS, ends, 0.95, top_k=1)
    found = extraction.extract_sampled(model, "it", documents, [3, 10], how, 4)
    for ids, figures in zip(documents, found, strict=True):
        prefixes = [p for p in (40, 80, 120, 160) if p < len(ids)]
        hits = [next_token(model, ids[:p]) == ids[p] for p in prefixes]
        assert figures["ma"] == (np.mean(hits) if hits else None)
        for n in (3, 10):
            shares = [
                unique_share(continued_greedily(model, ids[:p], TOKENS, ends), ids[p:], n)
                for p in prefixes
                if len(ids) - p >= n
            ]
            expected = pytest.approx(np.mean(shares)) if shares else None
            assert figures[f"el_{n}"] == expected
    assert found[3] == {"ma": None, "el_3": None, "el_10": None}


@pytest.mark.slow
def test_ma_is_greedy_whatever_is_sampled(model: Any, documents: list[list[int]]) -> None:
    flat = [
        extraction.extract_sampled(model, "it", documents, [1], how, 4)
        for how in (
            Decoding(60, frozenset(), 0.95, 2.0, seed=1, top_k=50),
            Decoding(60, frozenset(), 0.95, 2.0, seed=2, top_k=50),
            Decoding(60, frozenset(), 0.95, 2.0, seed=2),
        )
    ]
    ma = [[figures["ma"] for figures in found] for found in flat]
    assert ma[0] == ma[1] == ma[2]
    assert [figures["el_1"] for figures in flat[0]] != [figures["el_1"] for figures in flat[1]]
    # A greedy token is the true one more often than one that is drawn almost evenly.
    assert np.mean([value for value in ma[0] if value is not None]) > 0.5


@pytest.mark.slow
def test_the_authors_way_draws_from_50_tokens_and_ends_at_the_end_token() -> None:
    tokenizer = byte_tokenizer()
    model = random_llama(len(tokenizer))
    rows = [{"input_ids": memorised(model, 9 + i, 170, len(tokenizer), 0.1)} for i in range(3)]
    encoder = Encoder(tokenizer, TemplateConfig(), DataConfig())

    def figures(**options: Any) -> dict[str, float]:
        options |= {"prefixes": "authors", "kind": "document", "metrics": ["ma", "el_3"]}
        config = EvalConfig(name="own", sets={"forget": EvalSetConfig("a", **options)})
        suite = Suite(config, encoder, {"forget": SetRows(rows)}, seed=3)
        return evaluate_suite(model, suite, "it").metrics

    found = figures()
    assert found == figures(top_p=0.95, top_k=50)
    assert found != figures(top_k=1)
    assert found != figures(top_p=0.3)
    assert found["forget_ma"] == figures(top_k=1)["forget_ma"]
    how = Decoding(200, frozenset([2]), 0.95, seed=3, top_k=50)  # 2: </s>
    ids = [row["input_ids"] for row in rows]
    expected = extraction.extract_sampled(model, "forget", ids, [3], how, 8)
    assert found["forget_el_3"] == pytest.approx(np.mean([f["el_3"] for f in expected]))
    assert 0 < found["forget_el_3"] < 1


# Texts of documents


def words_with_a_mark() -> Any:
    """Words that hold the blank before them, which is lost where a text begins (sentencepiece)."""
    core = Tokenizer(WordLevel({"<unk>": 0, **{f"▁{w}": i + 1 for i, w in enumerate(LINE)}}))
    core.pre_tokenizer = pre_tokenizers.Metaspace()
    core.decoder = decoders.Metaspace()
    return PreTrainedTokenizerFast(tokenizer_object=core, unk_token="<unk>")


@pytest.mark.parametrize("tokenizer", [words_with_a_mark(), byte_tokenizer()])
def test_a_documents_prompt_and_continuation_join_to_its_text(tokenizer: Any) -> None:
    encoder = Encoder(tokenizer, TemplateConfig(), DataConfig())
    options = EvalSetConfig("a", kind="document", prompt_tokens=3)
    text = " ".join(LINE)
    (item,) = make_prompt_items(encoder, "forget", options, [{"text": text}], [], set(), 200)
    assert item.prompt + item.reference == text
    assert item.followed_by(item.reference) == text
    new = tokenizer(text)["input_ids"][3:]
    assert item.prompt + decode_added_text(encoder, item.prompt_ids, new) == text


def test_a_character_cut_in_two_leaves_the_rest_as_it_can_be_read() -> None:
    encoder = Encoder(byte_tokenizer(), TemplateConfig(), DataConfig())
    ids = encoder.tokenise("né one").ids
    assert decode_added_text(encoder, ids[:2], ids[2:]) == encoder.decode(ids[2:])
    assert decode_added_text(encoder, ids[:3], ids[3:]) == " one"


def test_a_question_and_its_answer_are_two_words() -> None:
    assert PromptItem("forget", 0, "Who?", "Ann", [1]).followed_by("Ann.") == "Who? Ann."


def test_a_generation_keeps_the_blank_between_it_and_its_prompt() -> None:
    tokenizer = byte_tokenizer()
    model = random_llama(len(tokenizer))
    encoder = Encoder(tokenizer, TemplateConfig(), DataConfig())
    options = EvalSetConfig("a", kind="document", prompt_tokens=4, metrics=["rep_1"])
    config = EvalConfig(name="own", sets={"forget": options}, max_new_tokens=12)
    rows = [{"text": f"{' '.join(LINE[i:])} and on and on"} for i in range(6)]
    samples = evaluate_suite(model, Suite(config, encoder, {"forget": SetRows(rows)}), "it").samples
    for row, sample in zip(rows, samples, strict=True):
        start = encoder.tokenise(row["text"]).ids[:4]
        whole = encoder.decode(start + continued_greedily(model, start, 12, {2}))
        assert sample["prompt"] + sample["generation"] == whole
