"""Layers that keep less for the backward pass give what they gave, and keep less."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from small import random_llama, small_model
from torch import Tensor, nn
from transformers.activations import ACT2FN

from undial_cli.models import adapt
from undial_cli.schema import AdapterConfig
from undial_cli.training.lean import SLOPES, Gated, Normed, make_lean

IDS = torch.tensor([[1, 5, 9, 30, 2, 7, 44, 3], [8, 5, 9, 30, 12, 7, 14, 3]])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_a_gated_activation_agrees_with_finite_differences(name: str) -> None:
    act = ACT2FN[name]
    assert type(act).__name__ in SLOPES
    ins = numbers(3, 5), numbers(3, 5, seed=1)
    assert torch.equal(Gated.apply(*ins, act), act(ins[0]) * ins[1])
    assert torch.autograd.gradcheck(lambda gate, up: Gated.apply(gate, up, act), ins)


def test_a_norm_agrees_with_finite_differences() -> None:
    ins = numbers(2, 3, 5), numbers(5, seed=1)
    assert torch.autograd.gradcheck(lambda x, weight: Normed.apply(x, weight, 1e-5), ins)
    frozen = ins[1].detach()
    assert torch.autograd.gradcheck(lambda x: Normed.apply(x, frozen, 1e-5), ins[:1])


def gradients(model: nn.Module) -> dict[str, Tensor]:
    model.zero_grad()
    model(input_ids=IDS, labels=IDS).loss.backward()
    return {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}


def kept_bytes(model: nn.Module) -> int:
    """What a forward pass keeps for the backward one, parameters left out."""
    own = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        if tensor.untyped_storage().data_ptr() not in own:
            kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        model(input_ids=IDS)
    return sum(t.untyped_storage().nbytes() for t in kept.values())


@pytest.mark.parametrize("recomputed", [False, True])
@pytest.mark.parametrize("kind", ["llama", "qwen2", "lora", "bfloat16"])
def test_a_lean_model_gives_the_same_logits_and_gradients(kind: str, recomputed: bool) -> None:
    base: Any = random_llama() if kind in ("lora", "bfloat16") else small_model(kind, 64)
    if kind == "bfloat16":
        base = base.to(torch.bfloat16)
    lean = make_lean(copy.deepcopy(base))
    if kind == "lora":
        base, lean = (adapt(m, AdapterConfig(name="lora", dropout=0.0), 0) for m in (base, lean))
    if recomputed:
        for model in (base, lean):
            model.train()
            model.activation_checkpointing_enable()
    with torch.no_grad():
        assert torch.equal(lean(input_ids=IDS).logits, base(input_ids=IDS).logits)
    found, expected = gradients(lean), gradients(base)
    assert found.keys() == expected.keys()
    rounding = 2e-2 if kind == "bfloat16" else 1e-5
    for name, value in expected.items():
        assert float((found[name] - value).norm()) <= rounding * float(value.norm()), name
    if not recomputed:
        assert kept_bytes(lean) < 0.9 * kept_bytes(base)


def test_a_layer_whose_own_code_gives_something_else_keeps_it() -> None:
    class Louder(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj = nn.Linear(4, 6), nn.Linear(4, 6)
            self.down_proj, self.act_fn = nn.Linear(6, 4), nn.SiLU()

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.variance_epsilon = nn.Parameter(torch.ones(4)), 1e-6

        def forward(self, x: Tensor) -> Tensor:
            return (1 + self.weight) * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()

    own = nn.Sequential(Louder(), Shifted())
    x = torch.randn(2, 3, 4)
    expected = own(x)
    assert torch.equal(make_lean(own)(x), expected)
    assert not any("forward" in module.__dict__ for module in own.modules())
    odd: Any = random_llama()
    for layer in odd.model.layers:
        layer.mlp.act_fn = ACT2FN["quick_gelu"]
    assert not any("forward" in layer.mlp.__dict__ for layer in make_lean(odd).model.layers)
