"""Load causal language models and their tokenizers.

What a path holds is `paths`', what is wrong with it is found by `inspection`. Knows nothing of data
or methods.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.models import ModelConfig
from undial_cli.config.schema import Run, TrainingRun
from undial_cli.errors import UserError, WorldError
from undial_cli.models.adapters import (
    attach_adapter,
    find_adapter_base,
    flatten_error,
    merge_adapter,
)
from undial_cli.models.claims import check_loading_info, refuse_broken_weights
from undial_cli.models.contrastive import ContrastedModel
from undial_cli.models.head import check_head, install_head
from undial_cli.models.inspection import (
    check_weight_files,
    make_blank_model,
    model_load_error,
    shape_arguments,
)
from undial_cli.models.paths import is_from_scratch, read_contrast, resolve_model_folder
from undial_cli.models.quantise import Rounding, choose_rounding, round_model
from undial_cli.system.faults import raise_fault

# Or transformers asks a bot of the hub to convert weights that are refused here.
os.environ.setdefault("DISABLE_SAFETENSORS_CONVERSION", "1")


@contextlib.contextmanager
def blame_key(key: str, helps: bool = False) -> Iterator[None]:
    """While open, what is wrong with a model is said of the key that names it.

    Args:
        helps: it is a helper model, for which `eval.allow_pickle` counts.
    """
    try:
        yield
    except (UserError, WorldError) as error:
        line = str(error).replace("model.path=", f"{key}=", 1)
        if helps:
            line = line.replace("model.allow_pickle", "eval.allow_pickle")
        raise type(error)(line) from error


def load_tokenizer(config: ModelConfig, path: str, weights: bool = True) -> PreTrainedTokenizerBase:
    """The fast tokenizer of `model.tokenizer_path`, or the one beside the model.

    An adapter that has none beside it was trained with its base's.

    Args:
        weights: as in `resolve_model_folder`.

    Raises:
        UserError: there is none, or it has no character offsets (not a fast one).
    """
    key = "model.tokenizer_path" if config.tokenizer_path else "model.path"
    source = resolve_model_folder(config.tokenizer_path or path, config, key, weights)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, trust_remote_code=config.trust_remote_code, **source.arguments
        )
    except Exception as error:  # whatever the files of somebody else are taken for
        raise_fault(error)
        base = find_adapter_base(source, config)
        if base is not None and not (Path(source.path) / "tokenizer.json").exists():
            return load_tokenizer(dataclasses.replace(config, tokenizer_path=None), base, weights)
        raise UserError(
            f"{key}={config.tokenizer_path or path}: no tokenizer there that can be read "
            f"({flatten_error(error)[:120]})"
        ) from error
    if not tokenizer.is_fast:
        raise UserError(f"{key}={source.path}: this tokenizer is no fast one (no offsets)")
    return tokenizer


def load_model(
    config: ModelConfig, path: str, *, seed: int = 0, finite: bool = True
) -> PreTrainedModel:
    """Load a causal language model in eval mode, its head made a `TargetHead`.

    A PEFT adapter is loaded on its base and merged; a contrasted model is both of its models. With
    `config.from_scratch`, a folder that holds a config and no weights gives a model initialised
    from `seed`.

    Args:
        finite: one that holds NaN, or says it, is refused: nothing trains it. It can be evaluated.

    Raises:
        UserError: the files are there but do not make a causal language model.
    """
    source = resolve_model_folder(path, config)
    contrast = read_contrast(source, config)
    if contrast is not None:
        target, memorised = (
            load_model(config, part, seed=seed, finite=finite) for part in contrast[:2]
        )
        return ContrastedModel(target, memorised, contrast[2])
    base = find_adapter_base(source, config)
    model = load_whole_model(config, base or path, seed, finite)
    if base is not None:
        model = merge_adapter(attach_adapter(model, source, base, finite))
    install_head(model)
    try:
        check_head(model.eval(), finite)
    except UserError as error:
        raise UserError(f"model.path={path}: {error}") from error
    return model


def load_rounded_model(
    config: ModelConfig, path: str, rounding: Rounding, device: torch.device, finite: bool = True
) -> Any:
    """A model as it is trained on and answers with rounded layers, on its device.

    An adapter lies on the rounded layers of its base, as in training, and is not merged.
    """
    source = resolve_model_folder(path, config)
    base = find_adapter_base(source, config)
    model = round_model(load_model(config, base or path, finite=finite), rounding, device)
    return model if base is None else attach_adapter(model, source, base, finite)


def load_run_model(run: Run, path: str, device: torch.device, rounds: bool = True) -> Any:
    """A model of the run on this process's device.

    Args:
        rounds: with the rounded layers that the run trains on, where it does.
    """
    finite = isinstance(run, TrainingRun)
    rounding = choose_rounding(run) if rounds else None
    if rounding is not None:
        return load_rounded_model(run.model, path, rounding, device, finite)
    model: Any = load_model(run.model, path, seed=run.seed, finite=finite)
    return model if getattr(model, "is_quantized", False) else model.to(device)


def load_whole_model(
    config: ModelConfig, path: str, seed: int, finite: bool = True
) -> PreTrainedModel:
    """A model that is neither an adapter nor contrasted, as transformers has it."""
    if is_from_scratch(config, path):
        torch.manual_seed(seed)
        return make_blank_model(config, path)
    source = resolve_model_folder(path, config)
    is_checked = check_weight_files(config, path, source, fetch=True)
    try:
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            source.path,
            use_safetensors=None if config.allow_pickle else True,
            output_loading_info=True,
            **source.arguments,
            **shape_arguments(config),
        )
    except Exception as error:  # whatever the files of somebody else are taken for
        raise model_load_error(config, path, error) from error
    model, info = loaded
    if not is_checked:  # of the hub, pickled, or quantised
        check_loading_info(info, model, f"model.path={path}")
    if finite:
        refuse_broken_weights(model, f"model.path={path}")
    return model
