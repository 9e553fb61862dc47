"""What a model's own layers keep for the backward pass, made smaller without changing a result.

A gated MLP keeps its activation besides what that is made from, and an RMS norm its normalised
input; both are cheap to make again. Only a layer whose own forward is, in its source, one of the
plain computations below is changed. Knows no architecture by name. Every tensor is [..., D] of any
leading shape, D the width that a layer sees; a norm's weight is [D].
"""

from __future__ import annotations

import ast
import functools
import inspect
import textwrap
import types
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.activations import GELUActivation, GELUTanh, SiLUActivation


def find_slope(act: nn.Module) -> Callable[[Tensor, Tensor], Tensor] | None:
    """Of a known activation: from its output gradient and its input to its input gradient."""
    if "forward" in vars(act):  # somebody gave this one another forward
        return None
    # By the very class: a subclass may compute anything.
    kind, function = type(act), getattr(act, "act", None)
    if kind is SiLUActivation or (kind is nn.SiLU and not act.inplace):
        return torch.ops.aten.silu_backward
    if kind is nn.GELU:
        return functools.partial(torch.ops.aten.gelu_backward, approximate=act.approximate)
    if kind is GELUActivation and function is F.gelu:
        return torch.ops.aten.gelu_backward
    if kind is GELUTanh and isinstance(function, functools.partial):
        return functools.partial(torch.ops.aten.gelu_backward, **function.keywords)
    return None


class LeanGatedProduct(torch.autograd.Function):
    """`act(gate) * up`, of which only `gate` and `up` are kept."""

    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, act: nn.Module) -> Tensor:
        ctx.save_for_backward(gate, up)
        ctx.act = act
        return act(gate) * up

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        gate, up = ctx.saved_tensors
        (grad,) = grad_outputs
        slope = find_slope(ctx.act)
        assert slope is not None
        # The kernel that autograd would call, on the activation made again: the same bits.
        return slope(grad * up, gate), grad * ctx.act(gate), None


class LeanRMSNorm(torch.autograd.Function):
    """`weight * x / rms(x)`, of which only `x` and its root mean square are kept.

    `late`: rounded to the dtype of `x` after the weight, not before it.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float, late: bool) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        scale = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
        ctx.save_for_backward(x, weight, scale)
        ctx.late = late
        if late:
            return (weight * (wide * scale)).to(x.dtype)
        return weight * (wide * scale).to(x.dtype)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, scale = ctx.saved_tensors
        (grad,) = grad_outputs
        unit = x.to(scale.dtype) * scale
        # Rounded where the forward rounded it, so that gradients are those of the layer's own code.
        grad_weight = None
        if ctx.needs_input_grad[1]:
            factor = unit if ctx.late else unit.to(x.dtype)
            grad_weight = (grad * factor).flatten(0, -2).sum(0).to(weight.dtype)
        if not ctx.needs_input_grad[0]:
            return None, grad_weight, None, None
        grad_unit = (grad.to(scale.dtype) if ctx.late else grad) * weight
        grad_unit = grad_unit.to(scale.dtype)
        # d(x / rms(x)): what points along x changes nothing, since its length is divided away.
        along = (grad_unit * unit).mean(-1, keepdim=True)
        grad_x = grad_unit.sub_(unit.mul_(along)).mul_(scale)
        return grad_x.to(x.dtype), grad_weight, None, None


GATED_MLP_SOURCE = """
def forward(self, x):
    return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
"""
RMS_NORM_SOURCE = """
def forward(self, hidden_states):
    input_dtype = hidden_states.dtype
    hidden_states = hidden_states.to(torch.float32)
    variance = hidden_states.pow(2).mean(-1, keepdim=True)
    hidden_states = hidden_states * torch.rsqrt(variance + self.variance_epsilon)
    return self.weight * hidden_states.to(input_dtype)
"""
RMS_NORM_LATE_SOURCE = RMS_NORM_SOURCE.replace(
    "self.weight * hidden_states.to(input_dtype)", "(self.weight * hidden_states).to(input_dtype)"
)
RMS_NORM_WIDE_SOURCE = RMS_NORM_LATE_SOURCE.replace(
    "self.weight *", "self.weight.to(torch.float32) *"
)


def normalise_forward(source: str) -> str | None:
    """A forward of one argument without its names, annotations and comments; None for another.

    A value that is returned from the next line under a name is returned as it is.
    """
    (function,) = ast.parse(textwrap.dedent(source)).body
    if not isinstance(function, ast.FunctionDef) or function.decorator_list:
        return None
    names = [argument.arg for argument in function.args.args]
    more = function.args
    if len(names) != 2 or more.posonlyargs or more.kwonlyargs or more.vararg or more.kwarg:
        return None
    body = function.body
    if isinstance(body[0], ast.Expr) and isinstance(body[0].value, ast.Constant):
        body = body[1:]
    match body[-2:]:
        case [ast.Assign([ast.Name(name)], value), ast.Return(ast.Name(returned))] if (
            name == returned
        ):
            body = [*body[:-2], ast.Return(value)]
    for node in ast.walk(function):
        if isinstance(node, ast.Name) and node.id in names:
            node.id = f"argument {names.index(node.id)}"
    return "\n".join(ast.dump(line) for line in body)


@functools.cache
def find_normal_form(code: types.CodeType) -> str | None:
    """The normal form of a forward's code; None where its source is not at hand."""
    try:
        return normalise_forward(inspect.getsource(code))
    except (OSError, TypeError, SyntaxError, ValueError):
        return None


def run_gated_mlp(self: Any, x: Tensor) -> Tensor:
    """`down(act(gate(x)) * up(x))`; its parts are called, so adapters on them hold."""
    return self.down_proj(LeanGatedProduct.apply(self.gate_proj(x), self.up_proj(x), self.act_fn))


def run_rms_norm(self: Any, hidden_states: Tensor) -> Tensor:
    """Root-mean-square normalisation, rounded before the weight."""
    return LeanRMSNorm.apply(hidden_states, self.weight, self.variance_epsilon, False)  # type: ignore[no-any-return]


def run_rms_norm_late(self: Any, hidden_states: Tensor) -> Tensor:
    """Root-mean-square normalisation, rounded after the weight."""
    return LeanRMSNorm.apply(hidden_states, self.weight, self.variance_epsilon, True)  # type: ignore[no-any-return]


# The leaner forward of a layer, by the normal form of the layer's own: code is compared, not names,
# so a family that computes anything more (a cap, a scale, another order) is left as it is.
LEAN_FORWARDS: dict[str | None, Callable[..., Tensor]] = {
    normalise_forward(GATED_MLP_SOURCE): run_gated_mlp,
    normalise_forward(RMS_NORM_SOURCE): run_rms_norm,
    normalise_forward(RMS_NORM_LATE_SOURCE): run_rms_norm_late,
    normalise_forward(RMS_NORM_WIDE_SOURCE): run_rms_norm_late,
}


def make_lean(model: nn.Module) -> nn.Module:
    """Give every layer of a plain form its leaner forward, in place."""
    for module in model.modules():
        code = getattr(type(module).forward, "__code__", None)  # of a wrapped one, the wrapper's
        leaner = None if code is None else LEAN_FORWARDS.get(find_normal_form(code))
        if leaner is not None and is_plain_layer(module, leaner):
            module.forward = types.MethodType(leaner, module)
    return model


def is_plain_layer(module: Any, leaner: Callable[..., Tensor]) -> bool:
    """Whether a layer of a plain form runs that form, and its parts are what the form takes."""
    if "forward" in vars(module):  # somebody gave this one another forward
        return False
    if leaner is run_gated_mlp:
        return find_slope(module.act_fn) is not None
    weight = module._parameters.get("weight")
    return weight is not None and weight.ndim == 1 and weight.is_floating_point()
