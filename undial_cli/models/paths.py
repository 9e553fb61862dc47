"""What a model path holds: whole weights, a shape alone, an adapter, two contrasted models, GGUF.

Loads nothing, but a GGUF file's weights to write them as an ordinary folder.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from undial_cli import ui
from undial_cli.config.models import ModelConfig
from undial_cli.errors import UserError
from undial_cli.models.adapters import find_adapter_base, flatten_error, read_peft_config
from undial_cli.models.claims import check_loading_info, refuse_broken_weights
from undial_cli.models.contrastive import MEMORISED_FOLDER, TARGET_FOLDER, read_contrast_coefficient
from undial_cli.system.faults import raise_fault
from undial_cli.system.files import hash_model_folder, locate_in_cache, whole_folder
from undial_cli.system.locks import hold_lock
from undial_cli.system.model_files import find_pickled_weights
from undial_cli.system.source_paths import ModelSource, resolve_model_path


def resolve_model_folder(
    path: str, config: ModelConfig, key: str = "model.path", weights: bool = True
) -> ModelSource:
    """Where a model lies, a GGUF file replaced by the folder that it is converted to.

    Without `weights` no file is converted for it: a GGUF file may stay what it is.
    """
    source = resolve_model_path(path, key)
    return convert_gguf(source, config, weights) if source.gguf_file else source


# What is said of pickled weights: Python's pickle may name code that is run as it is read.
PICKLE_WAYS = (
    "its weights are pickled, and no safetensors are there; save them as such (save_pretrained "
    "does), or have them read without running code: model.allow_pickle=true on the command line"
)


def check_weight_format(source: ModelSource, config: ModelConfig, path: str) -> None:
    """Raise UserError for a folder of pickled weights alone, unless the user allows them."""
    pickled = find_pickled_weights(Path(source.path)) if source.local else None
    if pickled is not None and not config.allow_pickle:
        raise UserError(f"model.path={path}: {pickled}: {PICKLE_WAYS}")


def convert_gguf(source: ModelSource, config: ModelConfig, weights: bool = True) -> ModelSource:
    """A GGUF file as an ordinary model folder in the cache, converted once (for `weights`)."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            "a .gguf model needs the Python package gguf: pip install 'undial[gguf]'"
        ) from error
    file = Path(source.path) / str(source.gguf_file)
    # By content and dtype: another file of the same name is converted anew.
    stamp = f"{file.stem}-{hash_model_folder(file.parent, (file.suffix,))[:12]}-{config.dtype}"
    folder = locate_in_cache("gguf", stamp)
    if not weights:
        return ModelSource(str(folder)) if (folder / "config.json").is_file() else source
    with hold_lock(folder):  # several runs of a sweep may want it at once
        if not is_whole_model(folder):
            if folder.exists():
                ui.say(f"the converted model {folder} is damaged: it is made anew", "yellow")
                shutil.rmtree(folder)
            model, tokenizer = load_gguf(source, config)
            with whole_folder(folder) as unfinished:
                model.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    return ModelSource(str(folder))


def load_gguf(source: ModelSource, config: ModelConfig, shape: Any = None) -> tuple[Any, Any]:
    """The model of a GGUF file, in ordinary weights, and its tokenizer.

    Args:
        shape: the transformers config to load it with; None: what the file says of it.

    Raises:
        UserError: they are not in it.
    """
    from transformers import GgufConfig

    file = Path(source.path) / str(source.gguf_file)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path,
            gguf_file=source.gguf_file,
            dtype=getattr(torch, config.dtype),
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
            **({} if shape is None else {"config": shape}),
        )
        tokenizer = AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf_file)
    except Exception as error:  # whatever the file of somebody else is taken for
        raise_fault(error)
        raise UserError(
            f"model.path={file}: cannot be converted to an ordinary model ({flatten_error(error)})"
        ) from error
    model, info = loaded
    check_loading_info(info, model, f"model.path={file}")
    refuse_broken_weights(model, f"model.path={file}")
    return model, tokenizer


def is_whole_model(folder: Path) -> bool:
    """Whether a folder holds a model's config and weights, no file of them cut short.

    Content is not compared: a flipped bit of a weight is not seen.
    """
    weights = list(folder.glob("*.safetensors"))
    try:
        json.loads((folder / "config.json").read_text(encoding="utf-8"))
        for file in weights:
            with safe_open(file, "pt"):  # its header says how long it is
                pass
    except (OSError, ValueError, SafetensorError):
        return False
    return bool(weights)


def read_contrast(source: ModelSource, config: ModelConfig) -> tuple[str, str, float] | None:
    """If `source` is a contrasted model: the paths of target and memorised, the coefficient."""
    folder = Path(source.path)
    coefficient = read_contrast_coefficient(folder) if source.local else None
    if coefficient is None:
        return None
    target: str | None = str(folder / TARGET_FOLDER)
    memorised = str(folder / MEMORISED_FOLDER)
    if not (folder / TARGET_FOLDER).is_dir():
        target = find_adapter_base(ModelSource(memorised), config)
    if target is None:
        raise UserError(f"model.path={source.path}: the target's weights are not there")
    return target, memorised, coefficient


def find_part_paths(source: ModelSource, config: ModelConfig) -> list[str]:
    """The paths of the models that one is made of: contrasted ones, an adapter's base, or none."""
    contrast, base = read_contrast(source, config), find_adapter_base(source, config)
    return list(contrast[:2]) if contrast else [base] if base else []


def is_contrasted_model(config: ModelConfig, path: str) -> bool:
    """Whether a model path holds two models that are decoded together."""
    return read_contrast(resolve_model_folder(path, config, weights=False), config) is not None


def is_from_scratch(config: ModelConfig, path: str) -> bool:
    """Whether a path holds no weights and is initialised from the seed."""
    return config.from_scratch and path == config.base


def explain_merge(config: ModelConfig, path: str) -> str | None:
    """Why a fresh adapter on a model is saved merged into it, in words; None if it need not be."""
    if read_peft_config(resolve_model_folder(path, config)) is not None:
        return "the target is an adapter itself"
    if is_from_scratch(config, path):
        return "the base lies nowhere with weights"
    return None
