"""Load and check causal language models and their tokenizers; what PEFT does is in `adapters`.

Knows nothing of data or methods.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.schema import AdapterConfig, ModelConfig
from undial_cli.errors import UserError
from undial_cli.models import contrastive
from undial_cli.models.adapters import (
    add_lora,
    attach_adapter,
    count_replaced_rows,
    merge_adapter,
    read_peft_config,
    resolve_adapter_base,
    unwrap_adapter,
)
from undial_cli.models.capacity import ModelCapacity, measure_capacity
from undial_cli.models.head import check_head, install_head
from undial_cli.system.files import cache_dir, hash_model_folder, hold_lock, whole_folder
from undial_cli.system.sources import CONFIG_FILES, ModelSource, resolve_model_path


def make_position_argument(model: Any, positions_BT: Tensor) -> dict[str, Tensor]:
    """The argument that gives positions, where a model takes one (ALiBi models do not)."""
    known = "position_ids" in inspect.signature(unwrap_adapter(model).forward).parameters
    return {"position_ids": positions_BT} if known else {}


def convert_gguf(source: ModelSource, config: ModelConfig, weights: bool = True) -> ModelSource:
    """A GGUF file as an ordinary model folder in the cache, converted once (for `weights`)."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            "a .gguf model needs the Python package gguf: pip install 'undial[gguf]'"
        ) from error
    file = Path(source.path) / str(source.gguf_file)
    stamp = f"{file.stem}-{hash_model_folder(file.parent, (file.suffix,))[:12]}-{config.dtype}"
    folder = cache_dir() / "gguf" / stamp
    if not weights:
        return ModelSource(str(folder)) if (folder / "config.json").is_file() else source
    with hold_lock(folder):
        if not (folder / "config.json").is_file():
            from transformers import GgufConfig

            model = AutoModelForCausalLM.from_pretrained(
                source.path,
                gguf_file=source.gguf_file,
                dtype=getattr(torch, config.dtype),
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf_file)
            with whole_folder(folder) as unfinished:
                model.save_pretrained(unfinished)
                tokenizer.save_pretrained(unfinished)
    return ModelSource(str(folder))


def resolve_model_folder(
    path: str, config: ModelConfig, key: str = "model.path", weights: bool = True
) -> ModelSource:
    """The place of a model, with a GGUF file replaced by its converted folder.

    Without `weights` no file is converted for it: a GGUF file may stay what it is.
    """
    source = resolve_model_path(path, key)
    return convert_gguf(source, config, weights) if source.gguf_file else source


def explain_merge(config: ModelConfig, path: str) -> str | None:
    """Why a fresh adapter on a model is saved merged into it, in words; None if it need not be."""
    if read_peft_config(resolve_model_folder(path, config)) is not None:
        return "the target is an adapter itself"
    if is_from_scratch(config, path):
        return "the base lies nowhere with weights"
    return None


def find_adapter_base(source: ModelSource, config: ModelConfig) -> str | None:
    """If `source` is a PEFT adapter, the model path of what it lies on; else None."""
    return resolve_adapter_base(source, config.adapter_base)


def read_contrast(source: ModelSource, config: ModelConfig) -> tuple[str, str, float] | None:
    """If `source` is a contrasted model: the paths of target and memorised, the coefficient."""
    stored = contrastive.read_contrast_folders(Path(source.path)) if source.local else None
    if stored is None:
        return None
    target: str | None = str(stored.target)
    if stored.target is None:
        target = find_adapter_base(ModelSource(str(stored.memorised)), config)
        if target is None:
            raise UserError(f"model.path={source.path}: the target's weights are not there")
    return str(target), str(stored.memorised), stored.coefficient


def is_contrasted_model(config: ModelConfig, path: str) -> bool:
    """Whether a model path holds two models that are decoded together."""
    return read_contrast(resolve_model_folder(path, config, weights=False), config) is not None


def load_tokenizer(config: ModelConfig, path: str, weights: bool = True) -> PreTrainedTokenizerBase:
    """The fast tokenizer of `model.tokenizer_path`, or the one beside the model.

    An adapter that has none beside it was trained with its base's.

    Args:
        weights: as in `folder_source`.

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
        base = find_adapter_base(source, config)
        if base is not None:
            return load_tokenizer(dataclasses.replace(config, tokenizer_path=None), base, weights)
        raise UserError(f"{key}={source.path}: no tokenizer there") from error
    if not tokenizer.is_fast:
        raise UserError(f"{key}={source.path}: this tokenizer is no fast one (no offsets)")
    return tokenizer


def load_model(
    config: ModelConfig,
    path: str,
    *,
    seed: int = 0,
    quantized: bool = False,
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
        return contrastive.ContrastedModel(target, memorised, contrast[2])
    base = find_adapter_base(source, config)
    if base is None:
        model = load_whole_model(config, path, seed, quantized)
    else:
        model = merge_adapter(attach_adapter(load_whole_model(config, base, seed), source, base))
    install_head(model)
    check_head(model.eval())
    return model


def load_whole_model(
    config: ModelConfig, path: str, seed: int, quantized: bool = False
) -> PreTrainedModel:
    """A model that is neither an adapter nor contrasted, as transformers has it."""
    source = resolve_model_folder(path, config)
    dtype = getattr(torch, config.dtype)
    common: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }
    try:
        if is_from_scratch(config, path):
            torch.manual_seed(seed)
            shape = AutoConfig.from_pretrained(source.path)
            return AutoModelForCausalLM.from_config(
                shape, dtype=dtype, attn_implementation=config.attn_implementation
            )
        if quantized:
            common["quantization_config"] = make_four_bit_config()
        return AutoModelForCausalLM.from_pretrained(source.path, **source.arguments, **common)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise model_load_error(config, path, error) from error


def is_from_scratch(config: ModelConfig, path: str) -> bool:
    """Whether a path holds no weights and is initialised from the seed."""
    return config.from_scratch and path == config.base


def check_model(
    config: ModelConfig,
    path: str,
    adapter: AdapterConfig | None = None,
    weights: bool = True,
    layer: int | None = None,
) -> ModelCapacity:
    """Find what is wrong with a model without loading its weights.

    Args:
        weights: they must be there.
        layer: it must have this one, counted from 0.

    Returns:
        What the model holds.

    Raises:
        UserError: it is no causal language model, holds no weights, or has no module that the
            adapter names, or no such layer.
    """
    source = resolve_model_folder(path, config, weights=weights)
    contrast = read_contrast(source, config)
    if contrast:
        held = [check_model(config, part, adapter, weights, layer) for part in contrast[:2]]
        return held[0]
    base = find_adapter_base(source, config)
    if base is not None:
        held = check_model(config, base, adapter, weights, layer)
        with torch.device("meta"):
            added = count_replaced_rows(make_blank_model(config, base), source)
        return dataclasses.replace(held, rows=max([held.rows, *added.values()]))
    found = [*Path(source.path).glob("*.safetensors"), *Path(source.path).glob("*.bin")]
    if weights and source.local and not found and not is_from_scratch(config, path):
        raise UserError(f"model.path={path}: not a model (no weights there)")
    with torch.device("meta"):
        model = make_blank_model(config, path)
    held = measure_capacity(model)
    layers = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layer is not None and layer >= layers:
        raise UserError(
            f"method.layer={layer}: this model has {layers} layers; allowed is 0 to {layers - 1}"
        )
    if adapter is not None and adapter.name != "none":
        with torch.device("meta"):
            add_lora(model, adapter, seed=0)
    return held


def make_blank_model(config: ModelConfig, path: str) -> PreTrainedModel:
    """A model of the shape that a path holds, its weights neither read nor looked for.

    Raises:
        UserError: there is no shape of a causal language model.
    """
    source = resolve_model_folder(path, config, weights=False)
    contrast = read_contrast(source, config)
    whole = contrast[0] if contrast else find_adapter_base(source, config)
    if whole is not None:
        return make_blank_model(config, whole)
    trust = config.trust_remote_code
    try:
        shape = AutoConfig.from_pretrained(source.path, trust_remote_code=trust, **source.arguments)
        model = AutoModelForCausalLM.from_config(
            shape,
            dtype=getattr(torch, config.dtype),
            attn_implementation=config.attn_implementation,
            trust_remote_code=trust,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ImportError) as error:
        raise model_load_error(config, path, error) from error
    install_head(model)
    return model


def model_load_error(config: ModelConfig, path: str, error: Exception) -> UserError:
    """The line for files that do not make a causal language model, or not with this attention."""
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


def adapt_model(
    model: PreTrainedModel, config: AdapterConfig, seed: int, revision: str | None = None
) -> nn.Module:
    """Add a fresh LoRA adapter, or return the model as it is for full fine-tuning.

    Args:
        revision: of a model from the hub; the adapter lies on it alone.
    """
    if config.name == "none":
        return model.requires_grad_(True)
    if config.name == "qlora":
        from peft import prepare_model_for_kbit_training

        model = prepare_model_for_kbit_training(model)
    return add_lora(model, config, seed, revision)


def fingerprint_tokenizer(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer does: its rules, chat template and special tokens."""
    core = tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    content = [
        core,
        tokenizer.chat_template,
        sorted(map(str, tokenizer.special_tokens_map.items())),
    ]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def fingerprint_weights(config: ModelConfig, path: str, seed: int | None = None) -> str:
    """A hash of what a model path holds: file contents locally, the commit on the hub.

    An adapter's is that of its base too, at the revision it lies on.

    Args:
        seed: what a model from scratch is initialised from; None: known by other means.
    """
    source = resolve_model_folder(path, config)
    contrast, base = read_contrast(source, config), find_adapter_base(source, config)
    parts = contrast[:2] if contrast else [base] if base else []
    inner = "".join(fingerprint_weights(config, part, seed) for part in parts)
    if source.local:
        fresh = f"seed {seed}" if seed is not None and is_from_scratch(config, path) else ""
        return hash_model_folder(Path(source.path)) + inner + fresh
    return find_hub_commit(source) + inner


def find_adapter_revision(config: ModelConfig, path: str) -> str | None:
    """What an adapter on a model remembers: the revision asked for, else the commit of today."""
    source = resolve_model_folder(path, config)
    return None if source.local else source.revision or find_hub_commit(source)


def find_hub_commit(source: ModelSource) -> str:
    """The commit of a hub repository that its files are taken from."""
    from huggingface_hub import hf_hub_download

    for name in CONFIG_FILES:
        with contextlib.suppress(OSError):
            return Path(hf_hub_download(source.path, name, revision=source.revision)).parent.name
    return json.dumps([source.path, source.revision])
