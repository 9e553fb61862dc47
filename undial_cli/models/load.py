"""Load causal language models and their tokenizers, or find what is wrong with one without weights.

What a path holds is `paths`'. Knows nothing of data or methods.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.schema import AdapterConfig, ModelConfig
from undial_cli.errors import UserError
from undial_cli.models.adapters import (
    attach_adapter,
    count_replaced_rows,
    find_adapter_base,
    merge_adapter,
)
from undial_cli.models.capacity import ModelCapacity, measure_capacity
from undial_cli.models.contrastive import ContrastedModel
from undial_cli.models.head import check_head, install_head
from undial_cli.models.lora import add_lora
from undial_cli.models.paths import (
    find_part_paths,
    is_from_scratch,
    read_contrast,
    resolve_model_folder,
)
from undial_cli.system.faults import raise_fault


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
    except (OSError, ValueError) as error:
        raise_fault(error)
        base = find_adapter_base(source, config)
        if base is not None:
            return load_tokenizer(dataclasses.replace(config, tokenizer_path=None), base, weights)
        raise UserError(f"{key}={source.path}: no tokenizer there") from error
    if not tokenizer.is_fast:
        raise UserError(f"{key}={source.path}: this tokenizer is no fast one (no offsets)")
    return tokenizer


def load_model(
    config: ModelConfig, path: str, *, seed: int = 0, quantized: bool = False
) -> PreTrainedModel:
    """Load a causal language model in eval mode, its head made a `TargetHead`.

    A PEFT adapter is loaded on its base and merged; a contrasted model is both of its models. With
    `config.from_scratch`, a folder that holds a config and no weights gives a model initialised
    from `seed`.

    Raises:
        UserError: the files are there but do not make a causal language model.
    """
    source = resolve_model_folder(path, config)
    contrast = read_contrast(source, config)
    if contrast is not None:
        target, memorised = (load_model(config, part, seed=seed) for part in contrast[:2])
        return ContrastedModel(target, memorised, contrast[2])
    base = find_adapter_base(source, config)
    if base is None:
        model = load_whole_model(config, path, seed, quantized)
    else:  # never quantised: four bits hold no merged adapter
        model = merge_adapter(attach_adapter(load_whole_model(config, base, seed), source, base))
    install_head(model)
    check_head(model.eval())
    return model


def load_whole_model(
    config: ModelConfig, path: str, seed: int, quantized: bool = False
) -> PreTrainedModel:
    """A model that is neither an adapter nor contrasted, as transformers has it."""
    if is_from_scratch(config, path):
        torch.manual_seed(seed)
        return make_blank_model(config, path)
    source = resolve_model_folder(path, config)
    more = {"quantization_config": make_four_bit_config()} if quantized else {}
    try:
        return AutoModelForCausalLM.from_pretrained(
            source.path, **source.arguments, **shape_arguments(config), **more
        )
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise model_load_error(config, path, error) from error


def check_model(
    config: ModelConfig,
    path: str,
    adapter: AdapterConfig | None = None,
    weights: bool = True,
    layer: int | None = None,
) -> ModelCapacity:
    """Find what is wrong with a model without loading its weights; what it holds.

    Args:
        weights: they must be there.
        adapter: it must have the modules that this one names.
        layer: it must have this one, counted from 0.
    """
    source = resolve_model_folder(path, config, weights=weights)
    contrast = read_contrast(source, config)
    if contrast:
        capacities = [check_model(config, part, adapter, weights, layer) for part in contrast[:2]]
        return capacities[0]
    base = find_adapter_base(source, config)
    if base is not None:
        capacity = check_model(config, base, adapter, weights, layer)
        with torch.device("meta"):
            rows = count_replaced_rows(make_blank_model(config, base), source)
        return dataclasses.replace(capacity, rows=max([capacity.rows, *rows.values()]))
    files = [*Path(source.path).glob("*.safetensors"), *Path(source.path).glob("*.bin")]
    if weights and source.local and not files and not is_from_scratch(config, path):
        raise UserError(f"model.path={path}: not a model (no weights there)")
    with torch.device("meta"):  # a shape of any size costs no memory there
        model = make_blank_model(config, path)
    capacity = measure_capacity(model)  # before an adapter adds modules of its own
    layers = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layer is not None and layer >= layers:
        raise UserError(
            f"method.layer={layer}: this model has {layers} layers; allowed is 0 to {layers - 1}"
        )
    if adapter is not None and adapter.name != "none":
        with torch.device("meta"):
            adapted = add_lora(model, adapter, seed=0)
        trained = sum(p.nbytes for p in adapted.parameters() if p.requires_grad)
        capacity = dataclasses.replace(capacity, adapter_bytes=trained)
    return capacity


def make_blank_model(config: ModelConfig, path: str) -> PreTrainedModel:
    """A model of the shape that a path holds, of random weights; none are read or looked for.

    Raises:
        UserError: there is no shape of a causal language model.
    """
    source = resolve_model_folder(path, config, weights=False)
    parts = find_part_paths(source, config)
    if parts:
        return make_blank_model(config, parts[0])  # a contrasted model's two have one shape
    try:
        shape = AutoConfig.from_pretrained(
            source.path, trust_remote_code=config.trust_remote_code, **source.arguments
        )
        model = AutoModelForCausalLM.from_config(shape, **shape_arguments(config))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise model_load_error(config, path, error) from error
    install_head(model)
    return model


def shape_arguments(config: ModelConfig) -> dict[str, Any]:
    """What transformers is told of a model besides its path or shape."""
    return {
        "dtype": getattr(torch, config.dtype),
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }


def model_load_error(config: ModelConfig, path: str, error: Exception) -> UserError:
    """The line for files that do not make a causal language model, or not with this attention."""
    raise_fault(error)
    # transformers names the attention that a model lacks in words alone: the classes of its errors
    # are those of any wrong file.
    line = (str(error).strip().splitlines() or [type(error).__name__])[0]
    kind, _, reason = line.partition(" does not support ")
    if reason.startswith(("an attention implementation", "Flash Attention", "flex")):
        return UserError(
            f"model.attn_implementation={config.attn_implementation}: {kind} has none of it; "
            "set model.attn_implementation=eager"
        )
    if "has been toggled on, but" in line:  # a kernel whose package or device is not there
        return UserError(
            f"model.attn_implementation={config.attn_implementation}: it cannot be used here "
            f"({line.partition('error: ')[2][:160]}); allowed everywhere is eager"
        )
    return UserError(
        f"model.path={path}: cannot be loaded as a causal language model ({line[:160]})"
    )


def make_four_bit_config() -> Any:
    """NF4 quantisation with bf16 arithmetic, as in QLoRA."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )
