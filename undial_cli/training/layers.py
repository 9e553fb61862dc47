"""One layer of a model: its activations in a forward pass, and what lies beyond it frozen.

Shapes: B sequences, T tokens, D width.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from undial_cli.errors import UserError
from undial_cli.methods.base import Method
from undial_cli.models.adapters import unwrap_adapter
from undial_cli.models.head import head_job


def find_decoder_layers(model: Any) -> nn.ModuleList:
    """The decoder layers of a (wrapped, adapted) model; of one that sees images, those of its text.

    Raises:
        UserError: they are not in one list, or not known among others.
    """
    base = unwrap_adapter(getattr(model, "module", model))
    count = getattr(base.config.get_text_config(decoder=True), "num_hidden_layers", None)
    lists = [
        (name.count("."), module)
        for part in (base.get_decoder(), base)
        if isinstance(part, nn.Module)
        for name, module in part.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == count
    ]
    # A layer may hold lists as long as the model's own (of experts, say).
    outermost = {id(m): m for depth, m in lists if depth == min(d for d, _ in lists)}
    if len(outermost) != 1:
        raise UserError(
            f"method.layer, train.layers: a model of type '{base.config.model_type}' has no one "
            "list of layers"
        )
    return next(iter(outermost.values()))


@contextlib.contextmanager
def capture_layer_states(model: Any, layer: int | None) -> Iterator[list[Tensor]]:
    """While open, the activations [B, T, D] of a layer are put into a list by each forward pass.

    Nothing after the layer is given a gradient. Without a layer the list stays empty.
    """
    states: list[Tensor] = []
    if layer is None:
        yield states
        return

    def capture(module: nn.Module, inputs: Any, output: Any) -> Any:
        is_tuple = isinstance(output, tuple)
        states.append(output[0] if is_tuple else output)
        # The layers above run, as the head must be reached, but keep no activations.
        without_graph = states[-1].detach()
        return (without_graph, *output[1:]) if is_tuple else without_graph

    handle = find_decoder_layers(model)[layer].register_forward_hook(capture)
    try:
        yield states
    finally:
        handle.remove()


def choose_trained_parameters(model: Any, method: Method, layers: Sequence[int] = ()) -> None:
    """Freeze what is not to be trained: what the run leaves out, and what no gradient reaches.

    Raises:
        UserError: nothing is left.
    """
    with refuse_frozen(model, method.parameters, layers):
        freeze_unchosen(model, method.parameters, layers)
        depths = [term.layer for term in method.terms().values()]
        if depths and None not in depths:
            freeze_beyond_layer(model, max(depth for depth in depths if depth is not None))


def freeze_unchosen(model: Any, expression: str | None, layers: Sequence[int]) -> None:
    """Freeze what lies outside these layers, where there are some, or does not match.

    Raises:
        UserError: the model has no such layer.
    """
    decoder = find_decoder_layers(model) if layers else []
    if layers and max(layers) >= len(decoder):
        raise UserError(
            f"train.layers={spell_list(layers)}: this model has {len(decoder)} layers; allowed is "
            f"0 to {len(decoder) - 1}"
        )
    inside = {id(p) for layer in layers for p in decoder[layer].parameters()}
    for name, parameter in model.named_parameters():
        is_outside = bool(layers) and id(parameter) not in inside
        if is_outside or not (expression is None or re.search(expression, name)):
            parameter.requires_grad_(False)


@contextlib.contextmanager
def refuse_frozen(model: Any, expression: str | None, layers: Sequence[int]) -> Iterator[None]:
    """Raise UserError if what was trained before is all frozen afterwards."""
    trained = [name for name, p in model.named_parameters() if p.requires_grad]
    yield
    if not any(p.requires_grad for p in model.parameters()):
        keys = [f"train.layers={spell_list(layers)}"] if layers else []
        keys += [] if expression is None else [f"method.parameters={expression}"]
        raise UserError(
            f"{' '.join(keys)}: no parameter that is trained matches; a name is for instance "
            f"{trained[0]}"
        )


def spell_list(numbers: Sequence[int]) -> str:
    """A list as a command line has it."""
    return f"[{','.join(map(str, numbers))}]"


def freeze_beyond_layer(model: Any, layer: int) -> None:
    """Freeze the layers after one, and what else its activations do not depend on."""
    layers = find_decoder_layers(model)
    # Embeddings are outside the layers and reached; a final norm or the head is not.
    inside = {id(p) for part in layers for p in part.parameters()}
    up_to = {id(p) for part in layers[: layer + 1] for p in part.parameters()}
    outside = [p for p in model.parameters() if p.requires_grad and id(p) not in inside]
    beyond = [p for p in layers.parameters() if id(p) not in up_to]
    for parameter in [*beyond, *find_unreached_parameters(model, layer, outside)]:
        parameter.requires_grad_(False)


def find_unreached_parameters(
    model: Any, layer: int, parameters: list[nn.Parameter]
) -> list[nn.Parameter]:
    """Those parameters that a layer's activations do not depend on, found on two tokens.

    Raises:
        UserError: the layer gives something else than activations [B, T, D].
    """
    ids_BT = torch.tensor([[3, 4]], device=next(model.parameters()).device)
    job = head_job(model, lambda hidden_BTD, head: hidden_BTD[:, :1])
    with torch.enable_grad(), capture_layer_states(model, layer) as states, job:
        model(input_ids=ids_BT, use_cache=False)
    hidden_BTD = states.pop()
    if hidden_BTD.ndim != 3 or hidden_BTD.shape[:2] != ids_BT.shape:
        kind = unwrap_adapter(model).config.model_type
        raise UserError(
            f"method.layer={layer}: a layer of a model of type '{kind}' gives activations of shape "
            f"{list(hidden_BTD.shape)} for two tokens, which no method here can use"
        )
    if not parameters or not hidden_BTD.requires_grad:
        return parameters
    gradients = torch.autograd.grad(hidden_BTD.sum(), parameters, allow_unused=True)
    return [p for p, grad in zip(parameters, gradients, strict=True) if grad is None]
