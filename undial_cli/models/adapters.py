"""Stored PEFT adapters: what lies in their folders, on which base, and merging them into weights.

Knows what peft does with an adapter, not how its base is loaded; a fresh one is `lora`'s.
"""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from undial_cli.config.models import ModelConfig
from undial_cli.errors import UserError, WorldError
from undial_cli.models.claims import count_tensors, list_first, refuse_broken_weights
from undial_cli.system.faults import raise_fault
from undial_cli.system.files import write_whole_text
from undial_cli.system.model_files import read_claims
from undial_cli.system.source_paths import ModelSource, is_local_path, resolve_model_path

# How far merging may move a logit, as a share of the largest one: rounding, with room to spare.
MERGE_TOLERANCE = {
    torch.float64: 1e-4, torch.float32: 1e-3, torch.float16: 0.1, torch.bfloat16: 0.25,
}  # fmt: skip
# Token ids on which merged and unmerged logits are compared, spread over the vocabulary.
PROBE_TOKENS = 8
# A rank up to this one takes no memory to speak of, whatever an adapter's tensors are.
LEAST_RANK_BOUND = 1024


def unwrap_adapter(model: Any) -> Any:
    """The model itself, without the adapter around it."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def make_position_argument(model: Any, positions_BT: Tensor) -> dict[str, Tensor]:
    """The argument that gives positions, where a model takes one (ALiBi models do not)."""
    takes_positions = "position_ids" in inspect.signature(unwrap_adapter(model).forward).parameters
    return {"position_ids": positions_BT} if takes_positions else {}


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
    except (ValueError, OSError, KeyError, TypeError, AttributeError) as error:
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


def order_adapter_modules(folder: Path) -> None:
    """Have a saved adapter name its modules in order: peft keeps sets, in an order of chance.

    Two runs of one config would differ in a file, and with it in all that is found by its content.
    """
    file = folder / "adapter_config.json"
    if not file.is_file():
        return
    config = json.loads(file.read_text(encoding="utf-8"))
    for key in ("target_modules", "exclude_modules"):
        if isinstance(config.get(key), list):
            config[key] = sorted(config[key])
    write_whole_text(file, json.dumps(config, indent=2, sort_keys=True))


def find_adapter_base(source: ModelSource, config: ModelConfig) -> str | None:
    """The model path (with @revision) of the base that an adapter lies on; None for no adapter.

    A relative folder is looked for from here, then from the adapter's folder; what is nowhere, at
    `model.adapter_base`.

    Raises:
        UserError, WorldError: the base is nowhere; the line names it and the remedy.
    """
    peft_config = read_peft_config(source)
    if peft_config is None:
        return None
    named = str(peft_config.base_model_name_or_path or "")
    path = named if peft_config.revision is None else f"{named}@{peft_config.revision}"
    for folder in (Path(named).expanduser(), Path(source.path) / named):
        if named and folder.is_dir():
            return check_adapter_base(folder.resolve(), source)
    reason: Exception = UserError(f"its base '{named}' is not there")
    if named and not is_local_path(named):
        try:
            resolve_model_path(path, "base_model_name_or_path")
            return path
        except (UserError, WorldError) as error:
            reason = error
    if config.adapter_base is None:
        remedy = "model.adapter_base=PATH says where the base lies"
        raise type(reason)(f"adapter {source.path}: {reason}; {remedy}") from reason
    return config.adapter_base


def check_adapter_base(folder: Path, source: ModelSource) -> str:
    """The path of an adapter's base, unless it is an adapter itself, or even this one."""
    if read_peft_config(resolve_model_path(str(folder), f"adapter {source.path}: base")) is None:
        return str(folder)
    raise UserError(
        f"adapter {source.path}: its base {folder} is an adapter itself; allowed is a base of "
        "whole weights, as adapter.merge=true leaves them"
    )


def check_adapter_rank(source: ModelSource) -> None:
    """Raise UserError for a rank that the adapter's tensors do not have: it would take memory."""
    config = read_peft_config(source)
    claims = read_claims(Path(source.path), f"model.path={source.path}") if source.local else {}
    ranks = [getattr(config, "r", None), *(getattr(config, "rank_pattern", None) or {}).values()]
    largest = max((size for shape, _ in claims.values() for size in shape), default=0)
    for rank in ranks if claims else ():
        if isinstance(rank, int) and rank > max(largest, LEAST_RANK_BOUND):
            raise UserError(
                f"adapter {source.path}: adapter_config.json names a rank of {rank}, and no "
                f"dimension of its tensors is larger than {largest}"
            )


def attach_adapter(base: Any, source: ModelSource, base_path: str, finite: bool = True) -> Any:
    """A stored adapter on its base, not merged; tokens that it adds get their rows.

    Raises:
        UserError: it does not fit.
    """
    from peft import PeftModel

    try:
        add_token_rows(base, source)
        model = PeftModel.from_pretrained(base, source.path, revision=source.revision).eval()
        missing = sorted(find_missing_tensors(model, source))
    except Exception as error:  # whatever the files of somebody else are taken for
        raise_fault(error)
        raise UserError(
            f"adapter {source.path}: does not fit its base {base_path} ({flatten_error(error)})"
        ) from error
    if missing:
        raise UserError(
            f"adapter {source.path}: its weights lack {count_tensors(missing)} that its "
            f"adapter_config.json describes on this base ({list_first(missing)})"
        )
    if finite:
        refuse_broken_weights(model, f"adapter {source.path}")
    return model


def find_missing_tensors(model: Any, source: ModelSource) -> set[str]:
    """The tensors of an adapter's modules that its file does not hold; peft only warns of them."""
    from peft import get_peft_model_state_dict

    if not source.local:
        return set()
    stored = read_claims(Path(source.path), f"adapter {source.path}")
    asked = get_peft_model_state_dict(model, save_embedding_layers=False)
    return asked.keys() - stored.keys() if stored else set()


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
    replaced = count_replaced_rows(base, source)
    rows = max(replaced.values(), default=0)
    if rows <= len(embedding.weight):
        return
    tied = getattr(read_peft_config(source), "ensure_weight_tying", False)
    if id(embedding) not in replaced or (id(head) not in replaced and not tied):
        raise ValueError(
            f"it adds tokens ({rows} rows) and holds no rows of both the embedding and the head; "
            "modules_to_save needs both"
        )
    base.resize_token_embeddings(rows, mean_resizing=False)  # the adapter replaces them all


def load_adapter_weights(model: Any, folder: Path) -> None:
    """Put saved weights of the same adapter in place of a model's own."""
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    set_peft_model_state_dict(model, load_file(folder / "adapter_model.safetensors"))


@torch.no_grad()
def merge_adapter(model: Any) -> Any:
    """The base model with the adapter merged into its weights, in eval mode.

    Weights that embedding and head share stay apart where the adapter changes one of them only.

    Raises:
        UserError: its kind cannot be merged.
        WorldError: the merged model says something else.
    """
    model.eval()
    before = compute_probe_logits(model)  # a wrong merge is silent: peft compares nothing
    if has_tied_head(model) and has_adapter_on_head(model):
        untie_head(model.get_base_model())
    try:
        merged = model.merge_and_unload().eval()
    except (NotImplementedError, AttributeError) as error:
        reason = flatten_error(error)
        raise UserError(f"an adapter of this kind cannot be merged ({reason})") from error
    embedding = merged.get_input_embeddings().weight
    if has_tied_head(merged) and embedding is not get_head_weight(merged):
        untie_head(merged)
    change = (compute_probe_logits(merged) - before).abs().max()
    gap = float(change / before.abs().max().clamp(min=1e-6))
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
