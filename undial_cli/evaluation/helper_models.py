"""Helper models behind metrics of generated texts: how they are named, loaded and fed.

Optional libraries (extra `quality`) are imported where they are used. Knows no metric.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.models import ModelConfig
from undial_cli.errors import UserError, first_line
from undial_cli.models.claims import refuse_broken_weights
from undial_cli.models.load import blame_key, load_model, load_tokenizer
from undial_cli.models.paths import check_weight_format
from undial_cli.system.faults import raise_fault
from undial_cli.system.source_paths import ModelSource, resolve_model_path

# Modules that a key's metric needs besides undial itself, and the packages they come in.
NEEDED_LIBRARIES = {
    "eval.similarity_model": ("sentence_transformers", "sentence-transformers"),
    "eval.coherence_model": ("sentence_transformers", "sentence-transformers"),
    "eval.mauve_model": ("mauve", "mauve-text"),
}


@dataclass(frozen=True)
class HelperModel:
    """A helper model, by the key and the path that name it, and how it is run.

    `path`: hub id, folder, .gguf file or pkg:// resource; `max_tokens`: of each text the first so
    many count, special tokens included; None: as many as the model can see.
    """

    key: str
    path: str
    device: torch.device | str = "cpu"
    batch_size: int = 32
    max_tokens: int | None = None
    seed: int = 0
    allow_pickle: bool = False

    def __str__(self) -> str:
        return f"{self.key}={self.path}"


def check_quality_libraries(key: str) -> None:
    """Raise UserError if the libraries behind a key are not installed; imports nothing."""
    module, package = NEEDED_LIBRARIES.get(key, ("", ""))
    if module and importlib.util.find_spec(module) is None:
        raise UserError(f"{key}: needs {package}: pip install 'undial[quality]'")


def load_language_model(helper: HelperModel) -> tuple[Any, PreTrainedTokenizerBase]:
    """A causal language model in eval mode and its tokenizer."""
    resolve_model_path(helper.path, helper.key)
    config = ModelConfig(dtype="float32", allow_pickle=helper.allow_pickle)
    with blame_key(helper.key, helps=True):
        model: Any = load_model(config, helper.path)
        tokenizer = load_tokenizer(config, helper.path)
    return model.to(helper.device), tokenizer


def measure_context(model: Any, most: int = 10**6) -> int:
    """Tokens that a model can see, at most `most`."""
    return min(getattr(model.config, "max_position_embeddings", None) or most, most)


def find_encoder_source(helper: HelperModel) -> ModelSource:
    """Where an encoder lies, which no GGUF file can hold, nor pickles unless they are allowed."""
    source = resolve_model_path(helper.path, helper.key)
    if source.gguf_file:
        raise UserError(f"{helper}: allowed is a hub id or a folder")
    with blame_key(helper.key, helps=True):
        check_weight_format(source, ModelConfig(allow_pickle=helper.allow_pickle), helper.path)
    return source


def load_encoder(
    kind: Any, source: ModelSource, helper: HelperModel, reason: str
) -> tuple[Any, list[str]]:
    """An encoder, and the names of its weights that its files lack. No code of its own is run.

    Raises:
        UserError: the files hold no such encoder; it begins with `reason`.
    """
    try:
        model, report = kind.from_pretrained(
            source.path,
            revision=source.revision or "main",
            output_loading_info=True,
            use_safetensors=None if helper.allow_pickle else True,
            trust_remote_code=False,
        )
    except Exception as error:  # whatever the files of somebody else are taken for
        raise_fault(error)
        raise UserError(f"{reason} ({first_line(error)})") from error
    refuse_broken_weights(model, str(helper))
    return model, list(report["missing_keys"])
