"""What a model is, and whether its files hold it, without its weights.

A model of its shape takes no memory on the meta device; the files are read as far as their headers.
What a path holds is `paths`', the loading is `load`'s. Knows nothing of data or methods.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel

from undial_cli import ui
from undial_cli.config.models import ModelConfig
from undial_cli.config.training import AdapterConfig
from undial_cli.errors import UserError
from undial_cli.models.adapters import (
    check_adapter_rank,
    count_replaced_rows,
    find_adapter_base,
    flatten_error,
)
from undial_cli.models.capacity import ModelCapacity, measure_capacity
from undial_cli.models.claims import (
    bound_modules,
    check_claimed_weights,
    check_model_size,
    check_side_files,
)
from undial_cli.models.head import install_head
from undial_cli.models.lora import add_lora
from undial_cli.models.paths import (
    PICKLE_WAYS,
    check_weight_format,
    find_part_paths,
    is_from_scratch,
    read_contrast,
    resolve_model_folder,
)
from undial_cli.system.faults import raise_fault
from undial_cli.system.files import hash_folder_state
from undial_cli.system.model_files import read_claims, read_model_json
from undial_cli.system.source_paths import ModelSource, fetch_hub_weights


def check_weight_files(
    config: ModelConfig, path: str, source: ModelSource, fetch: bool = False
) -> bool:
    """Whether a model's weights are known to be those of its config; none of them is read.

    Args:
        fetch: those of the hub are downloaded for it; else they are not looked at.

    Raises:
        UserError: they are not.
    """
    check_weight_format(source, config, path)
    folder = Path(source.path) if source.local else None
    if fetch and not source.local:
        folder = fetch_hub_weights(source, f"model.path={path}")
    if folder is None or not (folder / "config.json").exists():
        return False
    state = hash_folder_state(folder)
    return check_folder_weights(config.trust_remote_code, path, str(folder), state)


@functools.lru_cache(maxsize=64)
def check_folder_weights(trust_remote_code: bool, path: str, folder: str, state: str) -> bool:
    """As `check_weight_files`, once for a folder in the `state` that it is in."""
    config = ModelConfig(trust_remote_code=trust_remote_code, attn_implementation="eager")
    check_side_files(Path(folder), f"model.path={path}")
    claimed = len(read_claims(Path(folder), f"model.path={path}"))
    bounded = bound_modules(f"model.path={path}", 5_000 + 20 * claimed)
    with bounded if claimed else contextlib.nullcontext(), torch.device("meta"):
        model = make_blank_model(config, path)
    check_model_size(model, f"model.path={path}")
    try:
        return check_claimed_weights(model, Path(folder), f"model.path={path}")
    except UserError:
        raise
    except Exception as error:
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
    note_remote_code(config, path, source)
    base = find_adapter_base(source, config)
    if base is not None:
        ui.say(f"adapter {path}: on the base {base}", "dim")
        check_weight_format(source, config, path)
        check_adapter_rank(source)
        capacity = check_model(config, base, adapter, weights, layer)
        with torch.device("meta"):
            rows = count_replaced_rows(make_blank_model(config, base), source)
        return dataclasses.replace(capacity, rows=max([capacity.rows, *rows.values()]))
    files = [*Path(source.path).glob("*.safetensors"), *Path(source.path).glob("*.bin")]
    if weights and source.local and not files and not is_from_scratch(config, path):
        raise UserError(f"model.path={path}: not a model (no weights there)")
    if weights and files:
        check_weight_files(config, path, source)
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
        with bound_modules(f"model.path={path}"):
            shape = AutoConfig.from_pretrained(
                source.path, trust_remote_code=config.trust_remote_code, **source.arguments
            )
            model = AutoModelForCausalLM.from_config(shape, **shape_arguments(config))
    except UserError:
        raise
    except Exception as error:  # whatever the numbers of somebody else make of a model's code
        raise model_load_error(config, path, error) from error
    install_head(model)
    return model


def note_remote_code(config: ModelConfig, path: str, source: ModelSource) -> None:
    """Say that code which comes with a model is not run."""
    if config.trust_remote_code or not source.local or source.gguf_file:
        return
    for file in (Path(source.path) / name for name in ("config.json", "tokenizer_config.json")):
        if file.exists() and read_model_json(file, f"model.path={path}").get("auto_map"):
            ui.say(
                f"model.path={path}: {file.name} names code that comes with the model (auto_map); "
                "it is not run, and transformers' own is in its place",
                "yellow",
            )


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
    line = flatten_error(error)
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
    if "trust_remote_code" in str(error):
        return UserError(
            f"model.path={path}: needs code that comes with the model, which is not run; "
            "model.trust_remote_code=true on the command line runs it"
        )
    if "use_safetensors" in str(error):
        return UserError(f"model.path={path}: {PICKLE_WAYS}")
    if not isinstance(error, OSError | ValueError):  # whose words need their kind
        line = f"{type(error).__name__}: {line}"
    return UserError(
        f"model.path={path}: cannot be loaded as a causal language model ({line[:200]})"
    )
