"""Helper models' metrics against plain loops over single texts; the models are random."""

from __future__ import annotations

import math
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from small import bundled_tokenizer, byte_tokenizer, random_llama
from tokenizers import Tokenizer, pre_tokenizers, processors
from tokenizers.models import WordLevel
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    PreTrainedTokenizerFast,
)
from transformers.utils.logging import disable_progress_bar

from undial_cli.errors import UserError
from undial_cli.evaluation import helper_models, text_quality
from undial_cli.evaluation.helper_models import HelperModel

EXTRA = "pip install 'undial[quality]'"
TEXT = "the old river keeps its own slow counsel while bright kites turn over quiet hills"
WORDS = TEXT.split()
TEXTS = [" ".join(WORDS[(n * 5 + i * 3) % 15] for i in range(1 + n * 2)) for n in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A causal language model with its tokenizer, on disk."""
    place, tokenizer = tmp_path_factory.mktemp("oracle"), bundled_tokenizer()
    random_llama(vocab=len(tokenizer)).save_pretrained(place)
    tokenizer.save_pretrained(place)
    return str(place)


def helper(kind: str, path: Path | str, batch_size: int, most: int | None = None) -> HelperModel:
    """The helper model of a key, on the CPU."""
    return HelperModel(f"eval.{kind}_model", str(path), "cpu", batch_size, most)


def word_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, between [CLS] and [SEP]."""
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    core = Tokenizer(WordLevel({w: i for i, w in enumerate([*special, *WORDS])}, "[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]", model_max_length=64,
    )  # fmt: skip


def save_bert(kind: Any, place: Path) -> Any:
    """A tiny random encoder of a kind, on disk."""
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=4 + len(WORDS), hidden_size=24, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=48, max_position_embeddings=64, initializer_range=0.3,
    )  # fmt: skip
    model = kind(config).eval()
    model.save_pretrained(place)
    word_tokenizer().save_pretrained(place)
    return model


@torch.no_grad()
def plain_nll(model: Any, ids: list[int]) -> float:
    """One sequence, full logits, a loop over its tokens."""
    log_q = model(input_ids=torch.tensor([ids])).logits[0].double().log_softmax(-1)
    return -sum(float(log_q[t - 1, ids[t]]) for t in range(1, len(ids)))


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("batch_size", [1, 3, 64])
def test_perplexity_is_that_of_a_plain_loop(bos: bool, batch_size: int) -> None:
    tokenizer = byte_tokenizer(bos=bos)
    model = random_llama(vocab=len(tokenizer))
    nll, tokens = text_quality.measure_perplexity(TEXTS, model, tokenizer, batch_size)
    for text, value, count in zip(TEXTS, nll, tokens, strict=True):
        ids = tokenizer(text)["input_ids"]
        assert count == len(ids) - 1
        assert value == pytest.approx(plain_nll(model, ids), abs=1e-4, rel=1e-5)


def test_perplexity_of_texts_too_short_and_too_long() -> None:
    tokenizer = byte_tokenizer()
    model = random_llama(vocab=len(tokenizer))
    long = " ".join(TEXTS) * 4
    ids, size = tokenizer(long)["input_ids"], 128
    model.config.max_position_embeddings = size
    nll, tokens = text_quality.measure_perplexity(["", "z", long], model, tokenizer, 2)
    assert nll[:2].tolist() == tokens[:2].tolist() == [0, 0]
    pieces = [ids[i : i + size] for i in range(0, len(ids), size)]
    assert len(pieces) > 2
    assert tokens[2] == sum(len(piece) - 1 for piece in pieces)
    expected = sum(plain_nll(model, piece) for piece in pieces)
    assert nll[2] == pytest.approx(expected, rel=1e-5)
    assert [len(part) for part in text_quality.measure_perplexity([], model, tokenizer, 2)] == [
        0,
        0,
    ]


@pytest.mark.parametrize("bos", [True, False])
@pytest.mark.parametrize("most", [2, 9, 128, 200, 10**6])
def test_perplexity_counts_so_many_tokens_of_a_text(bos: bool, most: int) -> None:
    tokenizer = byte_tokenizer(bos=bos)
    model = random_llama(vocab=len(tokenizer))
    model.config.max_position_embeddings = 128
    texts = [*TEXTS, " ".join(TEXTS) * 2]
    nll, tokens = text_quality.measure_perplexity(texts, model, tokenizer, 3, max_tokens=most)
    for text, value, count in zip(texts, nll, tokens, strict=True):
        ids = tokenizer(text)["input_ids"][:most]
        if len(ids) <= 128:
            assert count == len(ids) - 1
            assert value == pytest.approx(plain_nll(model, ids), abs=1e-4, rel=1e-5)
    assert len(tokenizer(texts[-1])["input_ids"]) > 200
    if not bos and most == 200:
        assert tokens[-1] == 127 + 71  # two pieces, each begins with a token that nothing predicts


def test_a_language_model_is_loaded_by_path_with_the_keys_own_error(
    folder: str, tmp_path: Path
) -> None:
    model, tokenizer = helper_models.load_language_model(helper("oracle", folder, 4))
    nll, tokens = text_quality.measure_perplexity(TEXTS, model, tokenizer, 4)
    assert (nll[1:] > 0).all()
    assert (tokens[1:] > 0).all()
    with pytest.raises(UserError, match=r"eval.oracle_model=/no/model: no such file or folder"):
        helper_models.load_language_model(helper("oracle", "/no/model", 4))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match=r"^eval.oracle_model=.*causal language model"):
        helper_models.load_language_model(helper("oracle", tmp_path, 4))


def test_similarity_is_the_cosine_of_a_plain_loop(tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason=EXTRA)
    model = save_bert(BertModel, tmp_path / "bert")
    place = tmp_path / "embedder"
    library.SentenceTransformer(str(tmp_path / "bert"), device="cpu").save(str(place))
    others = [*TEXTS[1:], ""]
    found = text_quality.measure_similarity(TEXTS, others, helper("similarity", place, 3))
    tokenizer = word_tokenizer()

    @torch.no_grad()
    def embed(text: str) -> torch.Tensor:
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        return model(input_ids=ids).last_hidden_state[0].mean(0)

    expected = [float(torch.cosine_similarity(embed(a), embed(b), dim=0)) for a, b in
                zip(TEXTS, others, strict=True)]  # fmt: skip
    assert found == pytest.approx(np.array(expected), abs=1e-5)
    assert len(set(np.round(found, 3))) > 3
    norms = np.linalg.norm(
        text_quality.embed_sentences(TEXTS, helper("similarity", place, 2)), axis=1
    )
    assert norms == pytest.approx(np.ones(len(TEXTS)), abs=1e-5)
    assert text_quality.measure_similarity(
        TEXTS, TEXTS, helper("similarity", place, 8)
    ) == pytest.approx(1, abs=1e-5)
    assert len(text_quality.measure_similarity([], [], helper("similarity", place, 8))) == 0


def test_a_plain_encoder_gives_its_pooler_output(tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason=EXTRA)
    model = save_bert(BertModel, tmp_path)
    found = text_quality.embed_sentences(TEXTS, helper("coherence", tmp_path, 3))
    tokenizer = word_tokenizer()
    for text, row in zip(TEXTS, found, strict=True):
        with torch.no_grad():
            pooled = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).pooler_output[0]
        assert row == pytest.approx((pooled / pooled.norm()).numpy(), abs=1e-5)


@pytest.mark.parametrize("most", [3, 6, 64])
def test_an_encoder_sees_so_many_tokens_of_a_text(most: int, tmp_path: Path) -> None:
    library = pytest.importorskip("sentence_transformers", reason=EXTRA)
    model, tokenizer = save_bert(BertModel, tmp_path / "bert"), word_tokenizer()
    library.SentenceTransformer(str(tmp_path / "bert"), device="cpu").save(str(tmp_path / "st"))
    pooled, whole = (
        text_quality.embed_sentences(TEXTS, helper("similarity", tmp_path / name, 3, most))
        for name in ("bert", "st")
    )
    for i, text in enumerate(TEXTS):
        ids = tokenizer(text, truncation=True, max_length=most)["input_ids"]
        with torch.no_grad():
            states = model(input_ids=torch.tensor([ids]))
        for found, expected in (
            (pooled[i], states.pooler_output[0]),
            (whole[i], states.last_hidden_state[0].mean(0)),
        ):
            assert found == pytest.approx((expected / expected.norm()).numpy(), abs=1e-5)


def test_a_classifier_sees_so_many_tokens_of_a_text(tmp_path: Path) -> None:
    model, tokenizer = save_bert(BertForSequenceClassification, tmp_path), word_tokenizer()
    found = text_quality.classify_texts(TEXTS, helper("gibberish", tmp_path, 3, 5))
    for text, value in zip(TEXTS, found, strict=True):
        ids = tokenizer(text, truncation=True, max_length=5)["input_ids"]
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids])).logits[0]
        assert value == pytest.approx(float(logits.softmax(0)[0]), abs=1e-5)


def test_what_is_no_sentence_encoder_is_said_in_one_line(folder: str, tmp_path: Path) -> None:
    pytest.importorskip("sentence_transformers", reason=EXTRA)
    with pytest.raises(UserError, match=r"eval.similarity_model=.*no sentence encoder"):
        text_quality.embed_sentences(TEXTS, helper("similarity", folder, 2))
    (tmp_path / "model.gguf").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    with pytest.raises(UserError, match=r"\.gguf: allowed is a hub id or a folder"):
        text_quality.embed_sentences(TEXTS, helper("similarity", tmp_path / "model.gguf", 2))


def test_a_classifier_gives_the_probability_of_its_first_class(tmp_path: Path) -> None:
    model = save_bert(BertForSequenceClassification, tmp_path)
    found = text_quality.classify_texts([*TEXTS, ""], helper("gibberish", tmp_path, 3))
    tokenizer = word_tokenizer()
    for text, value in zip([*TEXTS, ""], found, strict=True):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([tokenizer(text)["input_ids"]])).logits[0]
        assert value == pytest.approx(float(logits.softmax(0)[0]), abs=1e-5)


def test_features_are_the_last_hidden_states_of_a_plain_loop() -> None:
    tokenizer = byte_tokenizer()
    model = random_llama(vocab=len(tokenizer))
    found = text_quality.compute_mauve_features(["", *TEXTS], model, tokenizer, 3)
    texts = [text for text in TEXTS if text]
    assert found.shape == (len(texts), 32)
    for text, row in zip(texts, found, strict=True):
        ids = torch.tensor([tokenizer(text)["input_ids"]])
        with torch.no_grad():
            states = model.model(input_ids=ids).last_hidden_state[0, -1]
        assert row == pytest.approx(states.numpy(), abs=1e-5)
    model.config.max_position_embeddings = 5
    cut = text_quality.compute_mauve_features(texts, model, tokenizer, 3)
    begun = tokenizer(texts[-1])["input_ids"][:5]
    with torch.no_grad():
        states = model.model(input_ids=torch.tensor([begun])).last_hidden_state[0, -1]
    assert cut[-1] == pytest.approx(states.numpy(), abs=1e-5)


def test_mauve_is_near_one_for_the_same_texts_and_lower_for_others(
    folder: str, capfd: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mauve", reason=EXTRA)
    texts = [f"{n} {WORDS[n % 15]} {WORDS[n % 7]} quiet hills" for n in range(40)]
    others = [f"{n}{n} x{n}! Zzz {n * n} !?" for n in range(40)]
    disable_progress_bar()  # as every command does
    before = (torch.get_rng_state(), np.random.get_state()[1].tolist())
    capfd.readouterr()
    same = text_quality.measure_mauve(texts, texts, helper("mauve", folder, 16))
    different = text_quality.measure_mauve(texts, others, helper("mauve", folder, 16))
    assert tuple(capfd.readouterr()) == ("", "")
    assert same > 0.99
    assert 0 < different < 0.6
    assert text_quality.measure_mauve(texts, others, helper("mauve", folder, 5)) == pytest.approx(
        different, abs=1e-6
    )
    assert math.isnan(text_quality.measure_mauve(texts, ["", ""], helper("mauve", folder, 16)))
    after = (torch.get_rng_state(), np.random.get_state()[1].tolist())
    assert torch.equal(before[0], after[0])
    assert before[1] == after[1]


def test_missing_libraries_are_one_line(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(helper_models.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"needs mauve-text: pip install 'undial\[quality\]'"):
        text_quality.measure_mauve(TEXTS, TEXTS, helper("mauve", folder, 2))
    with pytest.raises(UserError, match=r"eval.similarity_model: needs sentence-transformers: "):
        text_quality.measure_similarity(TEXTS, TEXTS, helper("similarity", folder, 2))
    with pytest.raises(UserError, match=r"eval.coherence_model: needs sentence-transformers"):
        text_quality.embed_sentences(TEXTS, helper("coherence", folder, 2))
    helper_models.check_quality_libraries("eval.oracle_model")
