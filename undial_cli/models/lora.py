"""A fresh LoRA on a model: which modules get one, and random numbers that the seed alone fixes.

Knows no path and no stored adapter.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from undial_cli import ui
from undial_cli.config.training import AdapterConfig
from undial_cli.errors import UserError, bad_value
from undial_cli.models.adapters import flatten_error
from undial_cli.models.head import TargetHead
from undial_cli.models.text_part import find_parts_beside_text

# What a fresh LoRA is put on in a family that peft knows no modules for: the first that are there.
ATTENTION_MODULES = (
    ("q_proj", "v_proj"), ("qkv_proj",), ("query_key_value",), ("c_attn",), ("Wqkv",), ("wqkv",),
    ("in_proj",),
)  # fmt: skip


def adapt_model(
    model: PreTrainedModel, config: AdapterConfig, seed: int, revision: str | None = None
) -> nn.Module:
    """Add a fresh LoRA adapter, or return the model as it is for full fine-tuning.

    What no text passes through is frozen, and gets no adapter: it would have no gradient, for
    which processes that exchange them wait.

    Args:
        revision: of a model from the hub; the adapter lies on it alone.
    """
    if config.name == "none":
        model.requires_grad_(True)
        for part in find_parts_beside_text(model).values():
            part.requires_grad_(False)
        return model
    return add_lora(model, config, seed, revision)


def announce_modules(model: PreTrainedModel, config: AdapterConfig) -> None:
    """Say what an adapter is put on, where the config leaves it open."""
    if config.name != "none" and config.target_modules is None:
        modules = choose_lora_modules(model, config)
        ui.say(
            f"adapter: on {modules if isinstance(modules, str) else ', '.join(modules)} "
            "(adapter.target_modules names others)",
            "dim",
        )


def add_lora(
    model: PreTrainedModel, config: AdapterConfig, seed: int, revision: str | None = None
) -> Any:
    """A model with a fresh LoRA of random numbers that the seed alone fixes.

    Args:
        revision: of the model on the hub; the adapter remembers it.
    """
    from peft import LoraConfig, get_peft_model

    modules = choose_lora_modules(model, config)
    excluded = list(find_parts_beside_text(model))
    if modules == "all-linear":
        # Routers are linear layers by class that give something else than a product; peft would
        # adapt them as if they gave one.
        linear = [(name, m) for name, m in model.named_modules() if is_linear_layer(m)]
        excluded += [name for name, layer in linear if not is_plain_product(layer)]
    torch.manual_seed(seed)  # here: on every process, and whatever was drawn before
    try:
        return get_peft_model(
            model,
            LoraConfig(
                r=config.rank,
                lora_alpha=config.alpha,  # type: ignore[arg-type]
                lora_dropout=config.dropout,
                target_modules=modules,
                exclude_modules=excluded or None,
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


def choose_lora_modules(model: PreTrainedModel, config: AdapterConfig) -> list[str] | str:
    """What LoRA is put on: the config's modules, peft's for the family, or what its names tell.

    Raises:
        UserError: the head is named, or a module that is not there.
    """
    if config.target_modules == ["all-linear"]:
        return "all-linear"
    if config.target_modules is None:
        return choose_default_modules(model)
    modules = find_text_modules(model)
    head = next(name for name, m in modules.items() if isinstance(m, TargetHead))
    for module in config.target_modules:
        if is_named_module(head, module):  # its job projects with the weights as they are
            raise UserError(f"adapter.target_modules={module}: the output head takes no adapter")
        if not any(is_named_module(name, module) for name in modules):
            linear = {name.split(".")[-1] for name, m in modules.items() if is_linear_layer(m)}
            linear -= {head.split(".")[-1]}
            raise bad_value("adapter.target_modules", module, [*linear, "all-linear"])
    return config.target_modules


def choose_default_modules(model: Any) -> list[str] | str:
    """peft's modules for a family; else the inputs of its mixer by name; else `all-linear`."""
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as KNOWN

    linear = [name for name, module in find_text_modules(model).items() if is_linear_layer(module)]
    known = KNOWN.get(model.config.model_type)
    for modules in (*([tuple(known)] if isinstance(known, list) else []), *ATTENTION_MODULES):
        if all(any(is_named_module(name, module) for name in linear) for module in modules):
            return list(modules)
    return "all-linear"


def find_text_modules(model: PreTrainedModel) -> dict[str, nn.Module]:
    """The modules of a model by name, without those that no text passes through."""
    others = find_parts_beside_text(model)
    return {name: module for name, module in model.named_modules() if name not in others}


def is_named_module(name: str, module: str) -> bool:
    """Whether a module's full name is meant by a name of `adapter.target_modules`."""
    return name == module or name.endswith(f".{module}")


def is_linear_layer(module: nn.Module) -> bool:
    """Whether an adapter can be put on a module."""
    return isinstance(module, nn.Linear) or type(module).__name__ == "Conv1D"  # GPT-2's linear


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
