"""What a model's layers give at chosen positions: read, replaced, or sent on to the head.

Knows neither rows nor attacks.

Shapes: B sequences, T tokens, N chosen positions of all sequences, D width.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from undial_cli.audit.attack import CannotServe
from undial_cli.errors import UserError
from undial_cli.losses.chunked import Projection
from undial_cli.models.adapters import unwrap_adapter
from undial_cli.models.head import find_output_head, head_job, relative_distance
from undial_cli.training.layers import find_decoder_layers

# Token ids that a model is tried with.
TRIAL_TOKENS = 8


def list_decoder_layers(model: Any) -> list[nn.Module]:
    """The layers of a model, in their order.

    Raises:
        CannotServe: they are not in one list (two models that answer as one, an encoder beside it).
    """
    try:
        return list(find_decoder_layers(model))
    except (AttributeError, UserError) as error:
        kind = getattr(getattr(model, "config", None), "model_type", type(model).__name__)
        raise CannotServe(f"a model of type '{kind}' has no one list of layers") from error


def read_layer_output(output: Any) -> Tensor:
    """The states [B, T, D] in what a layer gives; raises CannotServe where it gives others."""
    states = output[0] if isinstance(output, tuple) else output
    if not isinstance(states, Tensor) or states.ndim != 3:
        raise CannotServe("its layers give something else than one state for every token")
    return states


@contextlib.contextmanager
def collect_layer_states(layers: list[nn.Module], mask_BT: Tensor) -> Iterator[dict[int, Tensor]]:
    """While open, a forward pass notes what each layer gives at the chosen positions, [N, D]."""
    states: dict[int, Tensor] = {}

    def collect(number: int, output: Any) -> None:
        states[number] = read_layer_output(output)[mask_BT]

    handles = [
        layer.register_forward_hook(lambda _, __, output, n=n: collect(n, output))
        for n, layer in enumerate(layers)
    ]
    try:
        yield states
    finally:
        for handle in handles:
            handle.remove()


@contextlib.contextmanager
def replace_layer_states(layer: nn.Module, mask_BT: Tensor, states_ND: Tensor) -> Iterator[None]:
    """While open, a layer gives these states at the chosen positions, its own at all others."""

    def replace(module: nn.Module, inputs: Any, output: Any) -> Any:
        hidden_BTD = read_layer_output(output).clone()
        hidden_BTD[mask_BT] = states_ND.to(hidden_BTD)
        return (hidden_BTD, *output[1:]) if isinstance(output, tuple) else hidden_BTD

    handle = layer.register_forward_hook(replace)
    try:
        yield
    finally:
        handle.remove()


@torch.no_grad()
def find_final_modules(model: Any, layers: list[nn.Module]) -> nn.Sequential:
    """What lies between a model's last layer and its head: its final norm, as a rule.

    Not looked for by name: those modules that run in between on a few tokens, and they must turn
    what the last layer gives into what the head is given.

    Raises:
        CannotServe: something else happens in between.
    """
    called: list[nn.Module] = []
    given: list[Tensor] = []
    states: list[Tensor] = []
    base, head = unwrap_adapter(model), find_output_head(model)
    inside = {id(part) for layer in layers for part in layer.modules()} | {id(head)}

    def note(module: nn.Module, inputs: Any) -> None:
        # Modules within one that is noted run as a part of it.
        if states and not any(module is part for known in called for part in known.modules()):
            called.append(module)

    def look(hidden_BTD: Tensor, projection: Projection) -> Tensor:
        given.append(hidden_BTD)
        return hidden_BTD[:, :1, :1]

    outside = [module for module in base.modules() if id(module) not in inside]
    handles = [module.register_forward_pre_hook(note) for module in outside]
    handles.append(
        layers[-1].register_forward_hook(lambda _, __, out: states.append(read_layer_output(out)))
    )
    ids_BT = torch.arange(3, 3 + TRIAL_TOKENS, device=model.device)[None] % head.out_features
    try:
        with head_job(model, look):
            model(input_ids=ids_BT, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    final = nn.Sequential(*called)
    near = 1e-4 if model.dtype in (torch.float32, torch.float64) else 0.03
    # Any norm gives zeros for zeros, or its bias: only the real states tell.
    if not fits_in_between(final, states[-1], given[-1], near):
        kind = base.config.model_type
        raise CannotServe(
            f"a model of type '{kind}' does more than a norm between its last layer and its head"
        )
    return final


def fits_in_between(final: nn.Module, states_BTD: Tensor, given_BTD: Tensor, near: float) -> bool:
    """Whether modules turn the last layer's states into what the head was given."""
    try:
        result = final(states_BTD)
    except (TypeError, RuntimeError):  # they take more than states, or others
        return False
    return result.shape == given_BTD.shape and relative_distance(result, given_BTD) <= near
