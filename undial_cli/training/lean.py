"""What a model's own layers keep for the backward pass, made smaller without changing a result.

A gated MLP keeps its activation besides what that is made from, and an RMS norm its normalised
input; both are cheap to make again. A layer is changed only where the leaner way gives bit for bit
what its own gives. Knows no architecture by name.
"""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

# From an activation's output gradient and its input to its input gradient, by the module's name.
SLOPES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "SiLU": torch.ops.aten.silu_backward,
    "SiLUActivation": torch.ops.aten.silu_backward,
    "GELU": torch.ops.aten.gelu_backward,
    "GELUActivation": torch.ops.aten.gelu_backward,
    "GELUTanh": functools.partial(torch.ops.aten.gelu_backward, approximate="tanh"),
}


class Gated(torch.autograd.Function):
    """`act(gate) * up`, of which only `gate` and `up` are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate) * up

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        (grad,) = grad_outputs
        slope = SLOPES[type(ctx.act).__name__]
        return slope(grad * up, gate), grad * ctx.act(gate), None


class Normed(torch.autograd.Function):
    """`weight * x / rms(x)`, of which only `x` and its root mean square are kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        (grad,) = grad_outputs
        unit = x.to(scale.dtype) * scale
        grad_weight = None
        if ctx.needs_input_grad[1]:
            grad_weight = (grad * unit.to(x.dtype)).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None
        grad_unit = (grad * weight).to(scale.dtype)
        along = (grad_unit * unit).mean(-1, keepdim=True)
        grad_x = grad_unit.sub_(unit.mul_(along)).mul_(scale)
        return grad_x.to(x.dtype), grad_weight, None


def gated_mlp(self: Any, x: Tensor) -> Tensor:
    """`down(act(gate(x)) * up(x))`."""
    return self.down_proj(Gated.apply(self.gate_proj(x), self.up_proj(x), self.act_fn))


def rms_norm(self: Any, hidden_states: Tensor) -> Tensor:
    """Root-mean-square normalisation."""
    return Normed.apply(hidden_states, self.weight, self.variance_epsilon)  # type: ignore[no-any-return]


# The attributes that a layer must have, and its leaner forward.
LEANER: tuple[tuple[set[str], Callable[..., Tensor]], ...] = (
    ({"gate_proj", "up_proj", "down_proj", "act_fn"}, gated_mlp),
    ({"weight", "variance_epsilon"}, rms_norm),
)


def make_lean(model: nn.Module) -> nn.Module:
    """Give every layer of a known kind its leaner forward, in place.

    The first layer of each class is tried on random numbers; a class whose own forward gives
    anything else keeps it.
    """
    tried: dict[tuple[type, Any], bool] = {}
    for module in list(model.modules()):
        for needed, forward in LEANER:
            if not all(hasattr(module, name) for name in needed):
                continue
            key = type(module), forward
            if key not in tried:
                tried[key] = gives_the_same(module, forward)
            if tried[key]:
                module.forward = types.MethodType(forward, module)
    return model


@torch.no_grad()
def gives_the_same(module: Any, forward: Callable[..., Tensor]) -> bool:
    """Whether a forward gives, on random numbers, exactly what the module's own gives.

    In float64, to float32's rounding.
    """
    like = next(module.parameters())
    if not like.is_floating_point():  # quantised weights have another shape
        return False
    if forward is gated_mlp and type(module.act_fn).__name__ not in SLOPES:
        return False
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2, 3, like.shape[-1], generator=generator).to(like)
    try:
        own, leaner = module(x), forward(module, x)
        if x.dtype == torch.float64:  # some norms round to float32 on their way; this one does not
            return torch.allclose(own, leaner, rtol=1e-5, atol=1e-6)
        return torch.equal(own, leaner)
    except (AttributeError, RuntimeError, TypeError):
        return False
