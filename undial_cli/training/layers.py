"""One layer of a model: its activations in a forward pass, and what lies beyond it frozen."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn

from undial_cli.errors import UserError
from undial_cli.methods.base import Method
from undial_cli.models import base_of


def layers_of(model: Any) -> nn.ModuleList:
    """The decoder layers of a (wrapped, adapted) model."""
    count = base_of(getattr(model, "module", model)).config.num_hidden_layers
    lists = (m for m in model.modules() if isinstance(m, nn.ModuleList))
    return next(found for found in lists if len(found) == count)


@contextlib.contextmanager
def states(model: Any, layer: int | None) -> Iterator[list[Tensor]]:
    """While open, the activations [B, T, D] of a layer are put into a list by each forward pass.

    Nothing after the layer is given a gradient. Without a layer the list stays empty.
    """
    found: list[Tensor] = []
    if layer is None:
        yield found
        return

    def keep(module: nn.Module, inputs: Any, output: Any) -> Any:
        whole = isinstance(output, tuple)
        found.append(output[0] if whole else output)
        ends = found[-1].detach()
        return (ends, *output[1:]) if whole else ends

    handle = layers_of(model)[layer].register_forward_hook(keep)
    try:
        yield found
    finally:
        handle.remove()


def choose_parameters(model: Any, method: Method) -> None:
    """Freeze what a method does not train: by its regular expression, and what no gradient reaches.

    Raises:
        UserError: nothing is left.
    """
    if method.parameters is not None:
        for name, parameter in model.named_parameters():
            if parameter.requires_grad and not re.search(method.parameters, name):
                parameter.requires_grad_(False)
    depths = [term.layer for term in method.terms().values()]
    if depths and None not in depths:
        freeze_beyond(model, max(depth for depth in depths if depth is not None))
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(
            f"method.parameters={method.parameters}: no parameter that is trained matches; a name "
            f"is for instance {next(name for name, _ in model.named_parameters())}"
        )


def freeze_beyond(model: Any, layer: int) -> None:
    """Freeze the layers after one, and all that comes after the last layer."""
    layers = layers_of(model)
    reached = {id(p) for part in before(model, layers) for p in part.parameters()}
    reached |= {id(p) for part in layers[: layer + 1] for p in part.parameters()}
    for parameter in model.parameters():
        if id(parameter) not in reached:
            parameter.requires_grad_(False)


def before(model: Any, layers: nn.ModuleList) -> list[nn.Module]:
    """The modules beside the layers that a model's body has before them: embeddings."""
    for module in model.modules():
        children = list(module.children())
        if any(child is layers for child in children):
            return children[: next(i for i, c in enumerate(children) if c is layers)]
    return []
