"""PEFT adapters: a fresh LoRA on a model, a stored one on its base, and either merged into weights.

Knows what lies in an adapter's folder and what peft does with it, not how its base is loaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from undial_cli import ui
from undial_cli.config.schema import AdapterConfig
from undial_cli.errors import UserError, WorldError, bad_value
from undial_cli.models.head import TargetHead
from undial_cli.system.sources import ModelSource, is_local_path, resolve_model_path

# What a fresh LoRA is put on in a family that peft knows no modules for: the first that are there.
ATTENTION_MODULES = (
    ("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",), ("wqkv",),
    ("in_proj",),
)  # fmt: skip
# How far merging may move a logit, as a share of the largest one: rounding, with room to spare.
MERGE_TOLERANCE = {
    torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25,
}  # fmt: skip
# Token ids on which merged and unmerged logits are compared, spread over the vocabulary.
PROBE_TOKENS = 8


def unwrap_adapter(model: Any) -> Any:
    """The model itself, without the adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def flatten_error(error: Exception) -> str:
    """The first words of a library's error, on one line."""
    words = " ".join(str(error).split()) or type(error).__name__
    return words[:200]


def read_peft_config(source: ModelSource) -> Any | None:
    """The peft config of the adapter that a source is, or None if it is none.

    Raises:
        UserError: it is one of a kind that cannot become weights of its base.
    """
    if source.local and not (Path(source.path) / "adapter_config.json").is_file():
        return None
    from peft import PeftConfig

    try:
        config = PeftConfig.from_pretrained(source.path, revision=source.revision)
    except (ValueError, OSError, KeyError, TypeError) as error:
        if not source.local:
            return None
        raise UserError(
            f"adapter {source.path}: adapter_config.json cannot be read ({flatten_error(error)})"
        ) from error
    if config.is_prompt_learning or config.is_adaption_prompt:
        kind = str(config.peft_type).removeprefix("PeftType.")
        raise UserError(
            f"adapter {source.path}: {kind} adds no weights to its base, so that it cannot be "
            "merged into it; allowed are kinds that can (LORA, IA3, LOHA, OFT, ...)"
        )
    return config


def resolve_adapter_base(source: ModelSource, moved: str | None = None) -> str | None:
    """The model path (with @revision) of the base that an adapter lies on; None for no adapter.

    A relative folder is looked for from here, then from the adapter's folder.

    Args:
        moved: where the base lies if it is not where the adapter says.

    Raises:
        UserError, WorldError: the base is nowhere; the line names it and the remedy.
    """
    config = read_peft_config(source)
    if config is None:
        return None
    named = str(config.base_model_name_or_path or "")
    path = named if config.revision is None else f"{named}@{config.revision}"
    for folder in (Path(named).expanduser(), Path(source.path) / named):
        if named and folder.is_dir():
            return str(folder.resolve())
    if named and not is_local_path(named):
        try:
            resolve_model_path(path, "base_model_name_or_path")
            return path
        except (UserError, WorldError) as error:
            if moved is None:
                raise type(error)(
                    f"adapter {source.path}: {error}; {ADAPTER_BASE_REMEDY}"
                ) from error
    if moved is None:
        raise UserError(
            f"adapter {source.path}: its base '{named}' is not there; {ADAPTER_BASE_REMEDY}"
        )
    return moved


ADAPTER_BASE_REMEDY = "model.adapter_base=PATH says where the base lies"


def attach_adapter(base: Any, source: ModelSource, base_path: str) -> Any:
    """A stored adapter on its base, not merged; tokens that it adds get their rows.

    Raises:
        UserError: it does not fit.
    """
    from peft import PeftModel

    try:
        add_token_rows(base, source)
        return PeftModel.from_pretrained(base, source.path, revision=source.revision).eval()
    except (RuntimeError, ValueError, KeyError, IndexError, OSError) as error:
        raise UserError(
            f"adapter {source.path}: does not fit its base {base_path} ({flatten_error(error)})"
        ) from error


def count_replaced_rows(base: Any, source: ModelSource) -> dict[int, int]:
    """Rows of the whole matrices that an adapter holds in place of embedding and head, by id."""
    from peft.utils.save_and_load import load_peft_weights

    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    names = {name: m for name, m in base.named_modules() if m is embedding or m is head}
    return {
        id(module): len(weight)
        for key, weight in load_peft_weights(source.path, "cpu", revision=source.revision).items()
        for name, module in names.items()
        if f".{name}." in key and "lora_" not in key and weight.shape[1:] == module.weight.shape[1:]
    }


def add_token_rows(base: Any, source: ModelSource) -> None:
    """Give embedding and head as many rows as an adapter holds of them."""
    embedding, head = base.get_input_embeddings(), base.get_output_embeddings()
    held = count_replaced_rows(base, source)
    rows = max(held.values(), default=0)
    if rows <= len(embedding.weight):
        return
    config = read_peft_config(source)
    tied = getattr(config, "ensure_weight_tying", False)
    if id(embedding) not in held or (id(head) not in held and not tied):
        raise ValueError(
            f"it adds tokens ({rows} rows) and holds no rows of both the embedding and the head; "
            "modules_to_save needs both"
        )
    base.resize_token_embeddings(rows, mean_resizing=False)


def choose_lora_modules(model: nn.Module, config: AdapterConfig) -> list[str] | str:
    """What LoRA is put on: the config's modules, peft's for the family, or what its names tell.

    Raises:
        UserError: the head is named, or a module that is not there.
    """
    names = [name for name, _ in model.named_modules()]
    if config.target_modules == ["all-linear"]:
        return "all-linear"
    if config.target_modules is None:
        return choose_default_modules(model)
    head = next(name for name, m in model.named_modules() if isinstance(m, TargetHead))
    for module in config.target_modules:
        if is_named_module(head, module):
            raise UserError(f"adapter.target_modules={module}: the output head takes no adapter")
        if not any(is_named_module(name, module) for name in names):
            linear = {n.split(".")[-1] for n, m in model.named_modules() if is_linear_layer(m)}
            linear -= {head.split(".")[-1]}
            raise bad_value("adapter.target_modules", module, [*linear, "all-linear"])
    return config.target_modules


def choose_default_modules(model: Any) -> list[str] | str:
    """peft's modules for a family; else the inputs of its mixer by name; else `all-linear`."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    linear = [name for name, module in model.named_modules() if is_linear_layer(module)]
    known = KNOWN.get(model.config.model_type)
    for modules in (*([tuple(known)] if isinstance(known, list) else []), *ATTENTION_MODULES):
        if all(any(is_named_module(name, module) for name in linear) for module in modules):
            return list(modules)
    return "all-linear"


def is_named_module(name: str, module: str) -> bool:
    """Whether a module's full name is meant by a name of `adapter.target_modules`."""
    return name == module or name.endswith(f".{module}")


def is_linear_layer(module: nn.Module) -> bool:
    """Whether an adapter can be put on a module."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"


@torch.no_grad()
def is_plain_product(module: Any) -> bool:
    """Whether a linear layer gives one product, as its class says; a family's router gives more."""
    special = type(module).__module__.startswith("transformers.models.")
    if not special or type(module).forward is nn.Linear.forward:
        return True
    try:
        output = module(module.weight.new_zeros(1, module.in_features))
    except (IndexError, RuntimeError, ValueError):
        return False
    return isinstance(output, Tensor) and output.shape == (1, module.out_features)


def add_lora(
    model: PreTrainedModel, config: AdapterConfig, seed: int, revision: str | None = None
) -> Any:
    """A model with a fresh LoRA of random numbers that the seed alone fixes.

    Args:
        revision: of the model on the hub; the adapter remembers it.

    Raises:
        UserError: peft cannot put one there.
    """
    from peft import LoraConfig, get_peft_model

    modules = choose_lora_modules(model, config)
    # Routers are linear layers by class that give something else than a product.
    special = [
        n for n, m in model.named_modules() if is_linear_layer(m) and not is_plain_product(m)
    ]
    torch.manual_seed(seed)
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
                revision=revision,
            ),
        )
    except ValueError as error:
        given = "null" if config.target_modules is None else ",".join(config.target_modules)
        if "lora_dropout" in str(error):
            raise UserError(
                f"adapter.dropout={config.dropout}: allowed is 0 on weights that experts share, "
                f"which adapter.target_modules={given} names here"
            ) from error
        raise UserError(f"adapter.target_modules={given}: {flatten_error(error)}") from error


def announce_modules(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Say what an adapter is put on, where the config leaves it open."""
    if config.name != "none" and config.target_modules is None:
        modules = choose_lora_modules(model, config)
        ui.say(
            f"adapter: on {modules if isinstance(modules, str) else ', '.join(modules)} "
            "(adapter.target_modules names others)",
            "dim",
        )


@torch.no_grad()
def merge_adapter(model: Any) -> Any:
    """The base model with the adapter merged into its weights, in eval mode.

    Weights that embedding and head share stay apart where the adapter changes one of them only.

    Raises:
        UserError: its kind cannot be merged.
        WorldError: the merged model says something else.
    """
    model.eval()
    before = compute_probe_logits(model)
    if has_tied_head(model) and has_adapter_on_head(model):
        untie_head(model.get_base_model())
    try:
        merged = model.merge_and_unload().eval()
    except (NotImplementedError, AttributeError) as error:
        raise UserError(
            f"an adapter of this kind cannot be merged ({flatten_error(error)})"
        ) from error
    if has_tied_head(merged) and merged.get_input_embeddings().weight is not get_head_weight(
        merged
    ):
        untie_head(merged)
    gap = float(
        (compute_probe_logits(merged) - before).abs().max() / before.abs().max().clamp(min=1e-6)
    )
    allowed = MERGE_TOLERANCE[merged.dtype]
    if not gap <= allowed:
        raise WorldError(
            f"the adapter cannot be merged into its base: the logits move by {gap:.1%} of the "
            f"largest (rounding allows {allowed:.1%})"
        )
    return merged


def compute_probe_logits(model: Any) -> Tensor:
    """Logits after a few tokens from all over the vocabulary, in float32 at least."""
    rows, device = len(get_head_weight(model)), next(model.parameters()).device
    ids_1T = torch.linspace(0, rows - 1, PROBE_TOKENS).long()[None].to(device)
    logits = model(input_ids=ids_1T, use_cache=False).logits
    return logits.to(torch.promote_types(logits.dtype, torch.float32))


def unwrap_layer(module: Any) -> Any:
    """A module of the base below what peft put around it."""
    if hasattr(module, "get_base_layer"):
        return module.get_base_layer()
    return getattr(module, "original_module", module)


def get_head_weight(model: Any) -> Tensor:
    """The weight [V, D] of a (perhaps adapted) model's head."""
    return unwrap_layer(unwrap_adapter(model).get_output_embeddings()).weight


def has_tied_head(model: Any) -> bool:
    """Whether embedding and head are to share their weights."""
    return bool(model.config.get_text_config().tie_word_embeddings)


def has_adapter_on_head(model: Any) -> bool:
    """Whether an adapter has a layer of its own on the weights of the head."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    weight = get_head_weight(model)
    layers = (m.get_base_layer() for m in model.modules() if isinstance(m, BaseTunerLayer))
    return any(getattr(layer, "weight", None) is weight for layer in layers)


def untie_head(model: Any) -> None:
    """Give the head weights of its own, and have the config say so."""
    head = unwrap_layer(model.get_output_embeddings())
    head.weight = nn.Parameter(head.weight.detach().clone())
    for config in (model.config, model.config.get_text_config()):
        config.tie_word_embeddings = False
    model.all_tied_weights_keys = {}
