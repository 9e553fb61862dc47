"""Whether the weights of a model's files are those that its config asks for, and numbers at all.

Found before any is loaded where that can be: transformers' own loader is given tensors without
content, of the shapes that the files' headers claim. Knows no path's kind and no training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from undial_cli import ui
from undial_cli.errors import UserError, bad_value
from undial_cli.system.faults import raise_fault, spell_size
from undial_cli.system.model_files import read_claims, read_model_json

# Names of tensors that a line says.
NAMES_SAID = 3
# Modules of a model: the largest that are known have 120,000, by an expert to a module.
MOST_MODULES = 200_000
# Bytes of tables that a model computes by itself; the largest known are 200 MB, masks of GPT-Neo.
LARGEST_TABLES = 4 * 10**9
# How safetensors calls them; of others the shape alone is of interest.
CLAIMED_DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


def check_claimed_weights(model: Any, folder: Path, setting: str) -> bool:
    """Find what a folder's headers lack of a model, or hold in other shapes, without its weights.

    Args:
        model: of the folder's config, on the meta device.
        setting: the key and the value that name the folder.

    Returns:
        whether there was anything to compare: not of pickled or quantised weights.

    Raises:
        UserError: the weights are not those of the config.
    """
    claims = read_claims(folder, setting)
    if not claims or getattr(model.config, "quantization_config", None) is not None:
        return False
    weights = {
        name: torch.empty(shape, dtype=CLAIMED_DTYPES.get(dtype, torch.float32), device="meta")
        for name, (shape, dtype) in claims.items()
    }
    _, info = type(model).from_pretrained(
        None, config=model.config, state_dict=weights, dtype=model.dtype,
        device_map={"": "meta"}, ignore_mismatched_sizes=True, output_loading_info=True,
    )  # fmt: skip
    check_loading_info(info, model, setting)
    check_number_formats(model, claims, setting)
    return True


def check_loading_info(info: dict[str, Any], model: nn.Module, setting: str) -> None:
    """Raise UserError for weights that were not all loaded, by what transformers says of a loading.

    It counts none that are tied to others; buffers, which a family computes, are left to it. What a
    model has no place for, as heads for further tokens or images, is said and left out.
    """
    kind = type(model).__name__
    weights = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    missing = sorted(weights.intersection(info["missing_keys"]))
    if missing:
        raise UserError(
            f"{setting}: its weights lack {count_tensors(missing)} of the {kind} that its "
            f"config.json describes ({list_first(missing)}), which would be random; the files are "
            "not whole, or config.json is another model's"
        )
    wrong = sorted(info["mismatched_keys"])
    if wrong:
        name, held, asked = wrong[0]
        raise UserError(
            f"{setting}: {count_tensors(wrong)} of its weights have another shape than its "
            f"config.json asks for ({name}: {list(held)} in place of {list(asked)}"
            f"{', ...' if wrong[1:] else ''}); config.json is another model's"
        )
    if info["error_msgs"]:
        reason = " ".join(str(info["error_msgs"][0]).split())[:160]
        raise UserError(f"{setting}: its weights do not fit its config.json ({reason})")
    unread = sorted(info["unexpected_keys"])
    if unread:
        ui.say(
            f"{setting}: {count_tensors(unread)} of its weights have no place in the {kind} that "
            f"its config.json describes, and are left out ({list_first(unread)})",
            "yellow",
        )


def check_number_formats(
    model: Any, claims: dict[str, tuple[tuple[int, ...], str]], setting: str
) -> None:
    """Raise UserError for integers where a model has real numbers: quantised, and not said so."""
    real = {name for name, p in model.named_parameters() if p.is_floating_point()}
    whole = sorted(n for n in real & claims.keys() if claims[n][1][0] not in "FB")
    if whole:
        raise UserError(
            f"{setting}: {count_tensors(whole)} of its weights are integers where the model has "
            f"real numbers ({list_first(whole)}); a quantised model says so in config.json "
            "(quantization_config)"
        )


def check_model_size(model: nn.Module, setting: str) -> None:
    """Raise UserError for a config by which a model would take memory beside its weights."""
    tables = sum(buffer.nbytes for buffer in model.buffers())
    if tables > LARGEST_TABLES:
        raise UserError(
            f"{setting}: by its config.json the model holds tables of {spell_size(tables)} besides "
            "its weights (max_position_embeddings?)"
        )


@contextlib.contextmanager
def bound_modules(setting: str, most: int = MOST_MODULES) -> Iterator[None]:
    """While open, a model of more modules than `most` is refused as it is made."""
    count = 0

    def count_module(*_: Any) -> None:
        nonlocal count
        count += 1
        if count > most:
            raise UserError(
                f"{setting}: by its config.json the model has more than {most:,} modules "
                "(num_hidden_layers?)"
            )

    handle = nn.modules.module.register_module_module_registration_hook(count_module)
    try:
        yield
    finally:
        handle.remove()


def check_side_files(folder: Path, setting: str) -> None:
    """Raise UserError for quantisation that nobody knows, and a wrong generation_config.json."""
    from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING

    config = read_model_json(folder / "config.json", setting)
    quantised = config.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        known = {str(name).partition("_")[0] if "bitsandbytes" in str(name) else str(name)
                 for name in AUTO_QUANTIZATION_CONFIG_MAPPING}  # fmt: skip
        if method is not None and method not in known:
            raise bad_value(f"{setting}: config.json: quant_method", method, known)
    if (folder / "generation_config.json").exists():
        try:
            GenerationConfig.from_pretrained(folder)
        except Exception as error:  # whatever its values are taken for
            raise_fault(error)
            reason = " ".join(str(error).split())[:160]
            raise UserError(
                f"{setting}: generation_config.json cannot be used ({reason})"
            ) from error


def refuse_broken_weights(model: nn.Module, setting: str) -> None:
    """Raise UserError where weights are no numbers, or infinite: no training mends them.

    A sum tells of each of them, at the speed of memory; what is finite may sum up to infinity.
    """
    wrong = [
        name
        for name, weight in model.named_parameters()
        if weight.is_floating_point() and weight.device.type != "meta" and weight.element_size() > 1
        and not torch.isfinite(weight.sum()) and not torch.isfinite(weight).all()
    ]  # fmt: skip
    if wrong:
        raise UserError(
            f"{setting}: its weights hold NaN or infinity, in {count_tensors(wrong)} "
            f"({list_first(wrong)}); the file is damaged, or the model was saved after it diverged"
        )


def count_tensors(names: list[Any]) -> str:
    return f"{len(names):,} tensor{'s' if names[1:] else ''}"


def list_first(names: list[str]) -> str:
    return ", ".join(names[:NAMES_SAID]) + (", ..." if names[NAMES_SAID:] else "")
