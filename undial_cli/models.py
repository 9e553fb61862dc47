"""Load, adapt and save causal language models and their tokenizers (transformers and peft).

Knows nothing of data or methods.
"""

from __future__ import annotations

import contextlib
import hashlib
import inspect
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli import contrastive
from undial_cli.cache import cache_dir, hash_folder, locked
from undial_cli.errors import UserError, bad_value
from undial_cli.head import TargetHead, check_head, install_head
from undial_cli.schema import AdapterConfig, ModelConfig
from undial_cli.sources import Source, model_source


def base_of(model: Any) -> Any:
    """The model itself, without the adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def position_argument(model: Any, positions_BT: Tensor) -> dict[str, Tensor]:
    """The argument that gives positions, where a model takes one (ALiBi models do not)."""
    known = "position_ids" in inspect.signature(base_of(model).forward).parameters
    return {"position_ids": positions_BT} if known else {}


def dequantised_gguf(source: Source, config: ModelConfig, weights: bool = True) -> Source:
    """A GGUF file as an ordinary model folder in the cache, converted once (for `weights`)."""
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise UserError(
            "a .gguf model needs the Python package gguf: pip install 'undial[gguf]'"
        ) from error
    file = Path(source.path) / str(source.gguf_file)
    stamp = f"{file.stem}-{hash_folder(file.parent, (file.suffix,))[:12]}-{config.dtype}"
    folder = cache_dir() / "gguf" / stamp
    if not weights:
        return Source(str(folder)) if (folder / "config.json").is_file() else source
    with locked(folder):
        if not (folder / "config.json").is_file():
            from transformers import GgufConfig

            model = AutoModelForCausalLM.from_pretrained(
                source.path,
                gguf_file=source.gguf_file,
                dtype=getattr(torch, config.dtype),
                quantization_config=GgufConfig(dequantize=True),
            )
            tokenizer = AutoTokenizer.from_pretrained(source.path, gguf_file=source.gguf_file)
            unfinished = folder.with_name(f".{folder.name}.unfinished")
            shutil.rmtree(unfinished, ignore_errors=True)
            model.save_pretrained(unfinished)
            tokenizer.save_pretrained(unfinished)
            unfinished.rename(folder)
    return Source(str(folder))


def folder_source(
    path: str, config: ModelConfig, key: str = "model.path", weights: bool = True
) -> Source:
    """The place of a model, with a GGUF file replaced by its converted folder.

    Without `weights` no file is converted for it: a GGUF file may stay what it is.
    """
    source = model_source(path, key)
    return dequantised_gguf(source, config, weights) if source.gguf_file else source


def adapter_base(source: Source) -> tuple[str, str | None] | None:
    """If `source` is a PEFT adapter, the (path, revision) of its base model; else None."""
    if source.local and not (Path(source.path) / "adapter_config.json").is_file():
        return None
    try:
        from peft import PeftConfig

        config = PeftConfig.from_pretrained(source.path, revision=source.revision)
    except (ValueError, OSError):
        return None
    return str(config.base_model_name_or_path), config.revision


def is_adapter(config: ModelConfig, path: str) -> bool:
    """Whether a model path holds a PEFT adapter and not a whole model."""
    return adapter_base(folder_source(path, config)) is not None


def contrast_of(source: Source) -> tuple[str, str, float] | None:
    """If `source` is a contrasted model: the paths of target and memorised, the coefficient."""
    found = contrastive.stored(Path(source.path)) if source.local else None
    if found is None:
        return None
    target = str(found.target)
    if found.target is None:
        base = adapter_base(Source(str(found.memorised)))
        if base is None:
            raise UserError(f"model.path={source.path}: the target's weights are not there")
        target = base[0] if base[1] is None else f"{base[0]}@{base[1]}"
    return target, str(found.memorised), found.coefficient


def is_contrasted(config: ModelConfig, path: str) -> bool:
    """Whether a model path holds two models that are decoded together."""
    return contrast_of(folder_source(path, config, weights=False)) is not None


def load_tokenizer(config: ModelConfig, path: str, weights: bool = True) -> PreTrainedTokenizerBase:
    """The fast tokenizer of `model.tokenizer_path`, or the one beside the model.

    Args:
        weights: as in `folder_source`.

    Raises:
        UserError: there is none, or it has no character offsets (not a fast one).
    """
    key = "model.tokenizer_path" if config.tokenizer_path else "model.path"
    source = folder_source(config.tokenizer_path or path, config, key, weights)
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            source.path, trust_remote_code=config.trust_remote_code, **source.arguments
        )
    except (OSError, ValueError) as error:
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
    source = folder_source(path, config)
    contrast = contrast_of(source)
    if contrast is not None:
        target, memorised = (load_model(config, part, seed=seed) for part in contrast[:2])
        return contrastive.ContrastedModel(target, memorised, contrast[2])
    dtype = getattr(torch, config.dtype)
    common: dict[str, Any] = {
        "dtype": dtype,
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }
    base = adapter_base(source)
    try:
        if base is not None:
            from peft import PeftModel

            on = AutoModelForCausalLM.from_pretrained(base[0], revision=base[1] or "main", **common)
            adapted = PeftModel.from_pretrained(on, source.path, revision=source.revision)
            model = adapted.merge_and_unload()  # type: ignore[operator]
        elif config.from_scratch and path == config.base:
            torch.manual_seed(seed)
            shape = AutoConfig.from_pretrained(source.path)
            model = AutoModelForCausalLM.from_config(
                shape, dtype=dtype, attn_implementation=config.attn_implementation
            )
        else:
            if quantized:
                common["quantization_config"] = four_bit()
            model = AutoModelForCausalLM.from_pretrained(source.path, **source.arguments, **common)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise not_a_language_model(config, path, error) from error
    install_head(model)
    check_head(model.eval())
    return model


def check_model(
    config: ModelConfig,
    path: str,
    adapter: AdapterConfig | None = None,
    weights: bool = True,
    layer: int | None = None,
) -> None:
    """Find what is wrong with a model without loading its weights.

    Args:
        weights: they must be there.
        layer: it must have this one, counted from 0.

    Raises:
        UserError: it is no causal language model, holds no weights, or has no module that the
            adapter names, or no such layer.
    """
    source = folder_source(path, config, weights=weights)
    contrast = contrast_of(source)
    for part in contrast[:2] if contrast else ():
        check_model(config, part, adapter, weights, layer)
    if contrast:
        return None
    base = adapter_base(source)
    if base is not None:
        return check_model(config, base[0], adapter, weights, layer)
    found = [*Path(source.path).glob("*.safetensors"), *Path(source.path).glob("*.bin")]
    if weights and source.local and not found and not (config.from_scratch and path == config.base):
        raise UserError(f"model.path={path}: not a model (no weights there)")
    with torch.device("meta"):
        model = blank_model(config, path)
    layers = getattr(model.config.get_text_config(decoder=True), "num_hidden_layers", 0)
    if layer is not None and layer >= layers:
        raise UserError(
            f"method.layer={layer}: this model has {layers} layers; allowed is 0 to {layers - 1}"
        )
    modules = (adapter.target_modules if adapter and adapter.name != "none" else None) or []
    names = [name for name, _ in model.named_modules()]
    head = next(name for name, m in model.named_modules() if isinstance(m, TargetHead))
    for module in modules if modules != ["all-linear"] else []:
        if head == module or head.endswith(f".{module}"):
            raise UserError(f"adapter.target_modules={module}: the output head takes no adapter")
        if not any(name == module or name.endswith(f".{module}") for name in names):
            known = sorted({n.split(".")[-1] for n, m in model.named_modules() if is_linear(m)})
            raise bad_value("adapter.target_modules", module, [*known, "all-linear"])
    return None


def blank_model(config: ModelConfig, path: str) -> PreTrainedModel:
    """A model of the shape that a path holds, its weights neither read nor looked for.

    Raises:
        UserError: there is no shape of a causal language model.
    """
    source = folder_source(path, config, weights=False)
    whole = contrast_of(source) or adapter_base(source)
    if whole is not None:
        return blank_model(config, whole[0])
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
        raise not_a_language_model(config, path, error) from error
    install_head(model)
    return model


def is_linear(module: nn.Module) -> bool:
    """Whether an adapter can be put on a module."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


@torch.no_grad()
def is_product(module: Any) -> bool:
    """Whether a linear layer gives one product, as its class says; a family's router gives more."""
    special = type(module).__module__.startswith("transformers.models.")
    if not special or type(module).forward is nn.Linear.forward:
        return True
    try:
        output = module(module.weight.new_zeros(1, module.in_features))
    except (IndexError, RuntimeError, ValueError):
        return False
    return isinstance(output, Tensor) and output.shape == (1, module.out_features)


def not_a_language_model(config: ModelConfig, path: str, error: Exception) -> UserError:
    """The line for files that do not make a causal language model, or not with this attention."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    kind, _, reason = lines[0].partition(" does not support ")
    if reason.startswith(("an attention implementation", "Flash Attention", "flex")):
        return UserError(
            f"model.attn_implementation={config.attn_implementation}: {kind} has none of it; "
            "set model.attn_implementation=eager"
        )
    return UserError(
        f"model.path={path}: cannot be loaded as a causal language model ({lines[0][:160]})"
    )


def four_bit() -> Any:
    """NF4 quantisation with bf16 arithmetic, as in QLoRA."""
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
        bnb_4bit_use_double_quant=True,
    )


def adapt(model: PreTrainedModel, config: AdapterConfig, seed: int) -> nn.Module:
    """Add a fresh LoRA adapter, or return the model as it is for full fine-tuning."""
    if config.name == "none":
        return model.requires_grad_(True)
    from peft import LoraConfig, get_peft_model, prepare_model_for_kbit_training

    if config.name == "qlora":
        model = prepare_model_for_kbit_training(model)
    torch.manual_seed(seed)
    modules: Any = config.target_modules
    if modules is not None and len(modules) == 1:
        modules = modules[0] if modules[0] == "all-linear" else modules
    # Routers are linear layers by class that give something else than a product.
    special = [n for n, m in model.named_modules() if is_linear(m) and not is_product(m)]
    try:
        return get_peft_model(
            model,
            LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,  # type: ignore[arg-type]
                lora_dropout=config.dropout,
                target_modules=modules,
                exclude_modules=special if modules == "all-linear" and special else None,
                task_type="CAUSAL_LM",
            ),
        )
    except ValueError as error:
        reason = str(error).strip().splitlines()[0][:200]
        if "lora_dropout" in reason:
            raise UserError(
                f"adapter.dropout={config.dropout}: allowed is 0 on weights that experts share, "
                f"which adapter.target_modules={config.target_modules} names here"
            ) from error
        raise UserError(f"adapter.target_modules={config.target_modules}: {reason}") from error


def tokenizer_fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what a tokenizer does: its rules, chat template and special tokens."""
    core = tokenizer.backend_tokenizer.to_str()  # type: ignore[attr-defined]
    content = [
        core,
        tokenizer.chat_template,
        sorted(map(str, tokenizer.special_tokens_map.items())),
    ]
    return hashlib.blake2b(json.dumps(content).encode(), digest_size=16).hexdigest()


def weights_fingerprint(config: ModelConfig, path: str) -> str:
    """A hash of what a model path holds: file contents locally, the commit on the hub."""
    source = folder_source(path, config)
    if source.local:
        contrast, base = contrast_of(source), adapter_base(source)
        parts = contrast[:2] if contrast else base[:1] if base else ()
        inner = "".join(weights_fingerprint(config, part) for part in parts)
        return hash_folder(Path(source.path)) + inner
    from huggingface_hub import hf_hub_download

    for name in ("config.json", "adapter_config.json"):
        with contextlib.suppress(OSError):
            return Path(hf_hub_download(source.path, name, revision=source.revision)).parent.name
    return json.dumps([source.path, source.revision])
