"""How good generated texts are, in the eyes of helper models: an oracle, an embedder, a classifier.

Optional libraries (extra `quality`) are imported where they are used. `perplexity` is shared over
the processes of a run; everything else runs on the process that calls it. Knows no suite.
"""

from __future__ import annotations

import contextlib
import importlib.util
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.schema import DataConfig, ModelConfig, TemplateConfig
from undial_cli.data.collate import choose_pad_id, pad_examples
from undial_cli.data.encode import Encoder, Example
from undial_cli.errors import UserError, first_line
from undial_cli.evaluation.scoring import score_answers
from undial_cli.evaluation.sharding import batch_by_length
from undial_cli.losses.chunked import Projection
from undial_cli.models.head import head_job
from undial_cli.models.load import load_model, load_tokenizer
from undial_cli.system.sources import ModelSource, resolve_model_path

# What a key's metric needs beside undial itself: modules, and the packages they come in.
NEEDED_LIBRARIES = {
    "eval.similarity_model": {"sentence_transformers": "sentence-transformers"},
    "eval.coherence_model": {"sentence_transformers": "sentence-transformers"},
    "eval.mauve_model": {"mauve": "mauve-text"},
}
# Tokens of a text that MAUVE's features see (the default of its authors' package).
MAUVE_TOKENS = 1024


def check_quality_libraries(key: str) -> None:
    """Find out, without importing anything, whether the libraries behind a key are there.

    Raises:
        UserError: one is not.
    """
    for module, package in NEEDED_LIBRARIES.get(key, {}).items():
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{key}: needs {package}: pip install 'undial[quality]'")


def load_language_model(
    path: str, key: str, device: torch.device | str, dtype: str = "float32"
) -> tuple[Any, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer.

    Args:
        path: hub id, folder, .gguf file or pkg:// resource.
        key: the config key that names it, for errors.
    """
    resolve_model_path(path, key)
    config = ModelConfig(dtype=dtype)
    try:
        model: Any = load_model(config, path)
        tokenizer = load_tokenizer(config, path)
    except UserError as error:
        raise UserError(str(error).replace("model.path=", f"{key}=", 1)) from error
    return model.to(device), tokenizer


def measure_context(model: Any, most: int = 10**6) -> int:
    """Tokens that a model can see, at most `most`."""
    return min(getattr(model.config, "max_position_embeddings", None) or most, most)


def measure_perplexity(
    texts: Sequence[str],
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    batch_size: int,
    max_tokens: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """What an oracle language model says of each text; its perplexity is `exp(nll / tokens)`.

    Every token is predicted that has one before it, begin token included; a text longer than the
    model's context is cut into pieces. To be called on every process of a run; each text is
    computed on one of them.

    Args:
        max_tokens: of each text the first so many count, begin token included; None: all.

    Returns:
        summed negative log-likelihood in nats [N] and number of predicted tokens [N]; both 0 for
        texts of fewer than two tokens.
    """
    config = DataConfig(max_length=measure_context(model))
    encoder = Encoder(tokenizer, TemplateConfig(), config)
    pieces = [
        (n, piece)
        for n, text in enumerate(texts)
        for piece in cut_pieces(encoder.encode_document({config.text_key: text}), max_tokens)
    ]
    scores = score_answers(
        model,
        [[piece] for _, piece in pieces],
        batch_size,
        choose_pad_id(tokenizer),
        name="oracle",
    )
    nll, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    for (n, _), (found,) in zip(pieces, scores, strict=True):
        nll[n] += math.fsum(found.token_ce)
        tokens[n] += found.tokens
    return nll, tokens


def cut_pieces(pieces: list[Example], max_tokens: int | None) -> list[Example]:
    """The pieces of a text up to so many of its tokens."""
    kept, spare = [], max_tokens or math.inf
    for piece in pieces:
        size = int(min(spare, len(piece.input_ids)))
        ids = piece.input_ids[:size]
        kept += [Example(ids, list(ids), size)] if size > 1 else []
        spare -= size
    return kept


def measure_similarity(
    a_texts: Sequence[str],
    b_texts: Sequence[str],
    path: str,
    device: torch.device | str,
    batch_size: int,
    key: str = "eval.similarity_model",
    max_tokens: int | None = None,
) -> NDArray[np.float32]:
    """Cosine of the embeddings of each pair of texts: [N] in [-1, 1]. Empty texts are allowed.

    `max_tokens` as in `sentence_embeddings`.
    """
    if len(a_texts) != len(b_texts):
        raise ValueError(f"{len(a_texts)} and {len(b_texts)} texts do not make pairs")
    both = embed_sentences([*a_texts, *b_texts], path, device, batch_size, key, max_tokens)
    a_ND, b_ND = both[: len(a_texts)], both[len(a_texts) :]
    return (a_ND * b_ND).sum(axis=1)


def embed_sentences(
    texts: Sequence[str],
    path: str,
    device: torch.device | str,
    batch_size: int,
    key: str = "eval.similarity_model",
    max_tokens: int | None = None,
) -> NDArray[np.float32]:
    """Embeddings of unit norm, [N, D].

    A sentence-transformers model is used as it says of itself. Any other encoder gives its pooler
    output, which is what SimCSE's supervised models are trained for.

    Args:
        max_tokens: of each text the first so many count, special tokens included; None: as many
            as the model can see.

    Raises:
        UserError: sentence-transformers is missing, or the model is no sentence encoder.
    """
    check_quality_libraries(key)
    source = find_encoder_source(path, key)
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    if not is_sentence_transformer_model(source.path, revision=source.revision):
        return embed_with_pooler(texts, source, device, batch_size, f"{key}={path}", max_tokens)
    try:
        model = SentenceTransformer(source.path, revision=source.revision, device=str(device))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{key}={path}: no sentence encoder ({first_line(error)})") from error
    if max_tokens is not None:
        model.max_seq_length = min(max_tokens, model.max_seq_length or max_tokens)
    found = model.encode(
        list(texts), batch_size=batch_size, normalize_embeddings=True, show_progress_bar=False
    )
    return np.asarray(found, dtype=np.float32)


def embed_with_pooler(
    texts: Sequence[str],
    source: ModelSource,
    device: torch.device | str,
    batch_size: int,
    what: str,
    max_tokens: int | None = None,
) -> NDArray[np.float32]:
    """Pooler outputs of a plain encoder, made unit norm: [N, D]."""
    model, untrained = load_encoder(AutoModel, source, f"{what}: no sentence encoder")
    if getattr(model, "pooler", None) is None or any("pooler" in name for name in untrained):
        raise UserError(f"{what}: no sentence encoder (no modules.json, and no trained pooler)")
    found = run_encoder(
        texts, model, source, device, batch_size, lambda out: out.pooler_output, max_tokens
    )
    return F.normalize(found, dim=-1).numpy()


def classify_texts(
    texts: Sequence[str],
    path: str,
    device: torch.device | str,
    batch_size: int,
    key: str = "eval.gibberish_model",
    max_tokens: int | None = None,
) -> NDArray[np.float32]:
    """Probability that a text classifier gives its first class: [N].

    `max_tokens` as in `sentence_embeddings`.
    """
    source, what = find_encoder_source(path, key), f"{key}={path}: no text classifier"
    model, _ = load_encoder(AutoModelForSequenceClassification, source, what)
    found = run_encoder(
        texts, model, source, device, batch_size, lambda out: out.logits, max_tokens
    )
    return found.softmax(-1)[:, 0].numpy()


def find_encoder_source(path: str, key: str) -> ModelSource:
    """The place of an encoder, which no GGUF file can hold."""
    source = resolve_model_path(path, key)
    if source.gguf_file:
        raise UserError(f"{key}={path}: allowed is a hub id or a folder")
    return source


def load_encoder(kind: Any, source: ModelSource, what: str) -> tuple[Any, list[str]]:
    """An encoder, and the names of its weights that its files lack; UserError says `what`."""
    try:
        model, report = kind.from_pretrained(
            source.path, revision=source.revision or "main", output_loading_info=True
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{what} ({first_line(error)})") from error
    return model, list(report["missing_keys"])


@torch.no_grad()
def run_encoder(
    texts: Sequence[str],
    model: Any,
    source: ModelSource,
    device: torch.device | str,
    batch_size: int,
    result: Callable[[Any], Tensor],
    max_tokens: int | None = None,
) -> Tensor:
    """What an encoder says of each text, in float32 on the CPU: [N, ...]."""
    model = model.to(device).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(source.path, **source.arguments)
    size = min(measure_context(model, max_tokens or 512), tokenizer.model_max_length)
    found: list[Tensor] = [torch.empty(0)] * len(texts)
    for chosen in batch_by_length([len(text) for text in texts], batch_size):
        batch = tokenizer(
            [texts[i] for i in chosen],
            padding=True, truncation=True, max_length=size, return_tensors="pt",
        )  # fmt: skip
        rows = result(model(**batch.to(device))).float().cpu()
        for i, row in zip(chosen, rows, strict=True):
            found[i] = row
    return torch.stack(found) if found else torch.zeros(0, 1)


def measure_mauve(
    reference_texts: Sequence[str],
    generated_texts: Sequence[str],
    path: str,
    device: torch.device | str,
    batch_size: int,
    seed: int,
    key: str = "eval.mauve_model",
) -> float:
    """MAUVE (Pillutla et al., NeurIPS 2021; arXiv 2102.01454) in (0, 1]; 1: as if drawn alike.

    Its authors' package, on our features. Texts without a token are left out, as there; NaN if
    none is left on a side.

    Raises:
        UserError: mauve-text is missing, or `path` holds no causal language model.
    """
    check_quality_libraries(key)
    model, tokenizer = load_language_model(path, key, device)
    p, q = (
        compute_mauve_features(t, model, tokenizer, batch_size)
        for t in (reference_texts, generated_texts)
    )
    if not len(p) or not len(q):
        return math.nan
    from mauve import compute_mauve

    with silence_stderr():
        return float(compute_mauve(p_features=p, q_features=q, seed=seed, verbose=False).mauve)


@torch.no_grad()
def compute_mauve_features(
    texts: Sequence[str], model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> NDArray[np.float32]:
    """The last hidden state at the last token of every text that has a token: [N, D]."""
    size = measure_context(model, MAUVE_TOKENS)
    ids = [tokenizer(text, truncation=True, max_length=size)["input_ids"] for text in texts]
    examples = [Example(list(i), list(i), len(i)) for i in ids if i]  # type: ignore[arg-type]
    found: list[Any] = [None] * len(examples)
    for chosen in batch_by_length([len(e.input_ids) for e in examples], batch_size):
        batch = pad_examples([examples[i] for i in chosen], choose_pad_id(tokenizer))
        rows = compute_last_hidden(model, batch["input_ids"], batch["attention_mask"])
        for i, row in zip(chosen, rows, strict=True):
            found[i] = row
    return np.array(found, dtype=np.float32)


def compute_last_hidden(model: Any, ids_BT: Tensor, mask_BT: Tensor) -> NDArray[np.float32]:
    """What the output head is given at each row's last token: [B, D]."""
    last_B = mask_BT.sum(1).to(model.device) - 1

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        return hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B]

    with head_job(model, job):
        hidden_BD = model(
            input_ids=ids_BT.to(model.device),
            attention_mask=mask_BT.to(model.device),
            use_cache=False,
        ).logits
    return hidden_BD.float().cpu().numpy()


@contextlib.contextmanager
def silence_stderr() -> Iterator[None]:
    """Drop what compiled code writes to stderr (faiss, of cluster sizes that MAUVE chose)."""
    sys.stderr.flush()
    kept, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nowhere)
