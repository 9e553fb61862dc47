"""How good generated texts are, in the eyes of helper models: an oracle, an embedder, a classifier.

A helper that cannot be had does not end an evaluation: its metric is missing, with the reason.
Knows no sets and no files.

Shapes: N texts, B of them in a batch, T tokens, D the width of an embedding.
"""

from __future__ import annotations

import contextlib
import math
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, AutoTokenizer
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.config.suites import EvalConfig
from undial_cli.data.collate import choose_pad_id, pad_examples
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.errors import UserError, first_line
from undial_cli.evaluation.helper_models import (
    HelperModel,
    check_quality_libraries,
    find_encoder_source,
    load_encoder,
    load_language_model,
    measure_context,
)
from undial_cli.evaluation.scoring import score_answers
from undial_cli.evaluation.sharding import map_by_length
from undial_cli.losses.chunked import Projection
from undial_cli.models.claims import list_first
from undial_cli.models.head import head_job
from undial_cli.system import processes
from undial_cli.system.source_paths import ModelSource

# Tokens of a text that MAUVE's features see (the default of its authors' package).
MAUVE_TOKENS = 1024
# What an encoder sees of a text where its config does not say.
ENCODER_TOKENS = 512


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
    groups, pad_id = [[piece] for _, piece in pieces], choose_pad_id(tokenizer)
    scores = score_answers(model, groups, batch_size, pad_id, name="oracle")
    nll, tokens = np.zeros(len(texts)), np.zeros(len(texts), dtype=np.int64)
    for (n, _), (score,) in zip(pieces, scores, strict=True):
        nll[n] += math.fsum(score.token_ce)  # exact, in whatever order an engine gave them
        tokens[n] += score.tokens
    return nll, tokens


def cut_pieces(pieces: list[Example], max_tokens: int | None) -> list[Example]:
    """The pieces of a text up to so many of its tokens."""
    cut, spare = [], max_tokens or math.inf
    for piece in pieces:
        size = int(min(spare, len(piece.input_ids)))
        ids = piece.input_ids[:size]
        cut += [Example(ids, list(ids), size)] if size > 1 else []
        spare -= size
    return cut


def measure_similarity(
    a_texts: Sequence[str], b_texts: Sequence[str], helper: HelperModel
) -> NDArray[np.float32]:
    """Cosine of the embeddings of each pair of texts: [N] in [-1, 1]. Empty texts are allowed."""
    if len(a_texts) != len(b_texts):
        raise ValueError(f"{len(a_texts)} and {len(b_texts)} texts do not make pairs")
    both_ND = embed_sentences([*a_texts, *b_texts], helper)
    return (both_ND[: len(a_texts)] * both_ND[len(a_texts) :]).sum(axis=1)


def embed_sentences(texts: Sequence[str], helper: HelperModel) -> NDArray[np.float32]:
    """Embeddings of unit norm, [N, D].

    A sentence-transformers model is used as it says of itself. Any other encoder gives its pooler
    output, which is what SimCSE's supervised models are trained for.

    Raises:
        UserError: sentence-transformers is missing, or the model is no sentence encoder.
    """
    check_quality_libraries(helper.key)
    source = find_encoder_source(helper)
    if not texts:
        return np.zeros((0, 0), dtype=np.float32)
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import is_sentence_transformer_model

    if not is_sentence_transformer_model(source.path, revision=source.revision):
        model, untrained = load_encoder(AutoModel, source, helper, f"{helper}: no sentence encoder")
        if getattr(model, "pooler", None) is None or any("pooler" in name for name in untrained):
            raise UserError(
                f"{helper}: no sentence encoder (no modules.json, and no trained pooler)"
            )
        pooled_ND = run_encoder(texts, model, source, helper, lambda output: output.pooler_output)
        return F.normalize(pooled_ND, dim=-1).numpy()
    try:
        model = SentenceTransformer(
            source.path,
            revision=source.revision,
            device=str(helper.device),
            model_kwargs={"use_safetensors": None if helper.allow_pickle else True},
        )
    except (OSError, ValueError, KeyError) as error:
        raise UserError(f"{helper}: no sentence encoder ({first_line(error)})") from error
    if helper.max_tokens is not None:
        model.max_seq_length = min(helper.max_tokens, model.max_seq_length or helper.max_tokens)
    embeddings_ND = model.encode(
        list(texts),
        batch_size=helper.batch_size,
        normalize_embeddings=True,
        show_progress_bar=False,
    )
    return np.asarray(embeddings_ND, dtype=np.float32)


def classify_texts(texts: Sequence[str], helper: HelperModel) -> NDArray[np.float32]:
    """Probability that a text classifier gives its first class: [N]."""
    source = find_encoder_source(helper)
    reason = f"{helper}: no text classifier"
    model, missing = load_encoder(AutoModelForSequenceClassification, source, helper, reason)
    if missing:
        raise UserError(f"{reason} (its weights lack {list_first(missing)})")
    logits = run_encoder(texts, model, source, helper, lambda output: output.logits)
    return logits.softmax(-1)[:, 0].numpy()


@torch.no_grad()
def run_encoder(
    texts: Sequence[str],
    model: Any,
    source: ModelSource,
    helper: HelperModel,
    read_output: Callable[[Any], Tensor],
) -> Tensor:
    """What an encoder says of each text, in float32 on the CPU: [N, ...]."""
    model = model.to(helper.device).eval()
    tokenizer: Any = AutoTokenizer.from_pretrained(
        source.path, trust_remote_code=False, **source.arguments
    )
    seen = measure_context(model, helper.max_tokens or ENCODER_TOKENS)
    size = min(seen, tokenizer.model_max_length)

    def run(chosen: list[int]) -> Tensor:
        batch = tokenizer(
            [texts[i] for i in chosen],
            padding=True, truncation=True, max_length=size, return_tensors="pt",
        )  # fmt: skip
        return read_output(model(**batch.to(helper.device))).float().cpu()

    rows = map_by_length([len(text) for text in texts], helper.batch_size, run)
    return torch.stack(rows) if rows else torch.zeros(0, 1)


def measure_mauve(
    reference_texts: Sequence[str], generated_texts: Sequence[str], helper: HelperModel
) -> float:
    """MAUVE (Pillutla et al., NeurIPS 2021; arXiv 2102.01454) in (0, 1]; 1: as if drawn alike.

    Its authors' package, on our features. Texts without a token are left out, as there; NaN if
    none is left on a side.

    Raises:
        UserError: mauve-text is missing, or the path holds no causal language model.
    """
    check_quality_libraries(helper.key)
    model, tokenizer = load_language_model(helper)
    p, q = (
        compute_mauve_features(texts, model, tokenizer, helper.batch_size)
        for texts in (reference_texts, generated_texts)
    )
    if not len(p) or not len(q):
        return math.nan
    from mauve import compute_mauve

    with silence_stderr():
        settings = {"seed": helper.seed, "verbose": False}
        return float(compute_mauve(p_features=p, q_features=q, **settings).mauve)


@torch.no_grad()
def compute_mauve_features(
    texts: Sequence[str], model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int
) -> NDArray[np.float32]:
    """The last hidden state at the last token of every text that has a token: [N, D]."""
    size = measure_context(model, MAUVE_TOKENS)
    ids = [tokenizer(text, truncation=True, max_length=size)["input_ids"] for text in texts]
    examples = [Example(list(i), list(i), len(i)) for i in ids if i]  # type: ignore[arg-type]

    def run(chosen: list[int]) -> NDArray[np.float32]:
        batch = pad_examples([examples[i] for i in chosen], choose_pad_id(tokenizer))
        return compute_last_hidden(model, batch["input_ids"], batch["attention_mask"])

    lengths = [len(example.input_ids) for example in examples]
    return np.array(map_by_length(lengths, batch_size, run), dtype=np.float32)


def compute_last_hidden(model: Any, ids_BT: Tensor, mask_BT: Tensor) -> NDArray[np.float32]:
    """What the output head is given at each row's last token: [B, D]."""
    last_B = mask_BT.sum(1).to(model.device) - 1

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        return hidden_BTD[torch.arange(len(last_B), device=last_B.device), last_B]

    # As MAUVE's authors take it: after the final norm, which is what the head sees.
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
    # By file descriptor: contextlib.redirect_stderr reaches Python's own writing only.
    sys.stderr.flush()
    screen, nowhere = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 2)
    try:
        yield
    finally:
        os.dup2(screen, 2)
        os.close(screen)
        os.close(nowhere)


@dataclass(frozen=True)
class GeneratedTexts:
    """What was generated for the prompts of one set, in their order.

    `continuations`, `true_continuations`: each prompt with what was generated, or is true, after.
    """

    prompts: list[str]
    references: list[str]
    generations: list[str]
    continuations: list[str]
    true_continuations: list[str]


def score_perplexity(texts: GeneratedTexts, helper: HelperModel) -> list[float | None]:
    """Mean cross entropy of prompt and continuation together, under the oracle model."""
    model, tokenizer = load_language_model(helper)
    nll, tokens = measure_perplexity(
        texts.continuations, model, tokenizer, helper.batch_size, helper.max_tokens
    )
    return [float(sum_ / n) if n else None for sum_, n in zip(nll, tokens, strict=True)]


# Keys of helpers that speak; the others are encoders.
LANGUAGE_MODELS = ("oracle_model", "mauve_model")
# What gives the figures of generations, by the key that names its model and that a metric needs.
HELPER_MODELS: dict[str, Callable[[GeneratedTexts, HelperModel], Any]] = {
    "oracle_model": score_perplexity,
    "similarity_model": lambda texts, helper: measure_similarity(
        texts.generations, texts.references, helper
    ).tolist(),
    "coherence_model": lambda texts, helper: measure_similarity(
        texts.prompts, texts.generations, helper
    ).tolist(),
    "mauve_model": lambda texts, helper: (  # one figure for the set
        [measure_mauve(texts.true_continuations, texts.continuations, helper)] * len(texts.prompts)
    ),
    "gibberish_model": lambda texts, helper: classify_texts(texts.generations, helper).tolist(),
}


def run_helper_model(
    key: str, texts: GeneratedTexts, config: EvalConfig, device: torch.device, seed: int
) -> list[float | None]:
    """The figures that a helper model gives of generations, on every process.

    Raises:
        UserError, WorldError: it cannot be had.
    """
    path = getattr(config, key)
    if path is None:
        raise UserError(f"eval.{key} is not set")
    max_tokens = getattr(config, key.replace("_model", "_tokens"), None)
    size, pickle = config.batch_size, config.allow_pickle
    helper = HelperModel(f"eval.{key}", path, device, size, max_tokens, seed, pickle)
    if key == "oracle_model":  # its engine deals texts out to the processes by itself
        return score_perplexity(texts, helper)
    return processes.run_on_main(lambda: HELPER_MODELS[key](texts, helper))
