"""Layers that keep less for the backward pass give what they gave, and keep less."""

from __future__ import annotations

import copy
import functools
import types
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from small import random_llama, small_model
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.models.mamba2.modeling_mamba2 import MambaRMSNormGated
from transformers.models.olmo2.modeling_olmo2 import Olmo2RMSNorm
from transformers.models.seed_oss.modeling_seed_oss import SeedOssMLP
from transformers.models.zamba2.modeling_zamba2 import Zamba2RMSNormGated

from undial_cli.config.training import AdapterConfig
from undial_cli.models.lean_forwards import LeanGatedProduct, LeanRMSNorm, find_slope, make_lean
from undial_cli.models.lora import adapt_model

IDS = torch.tensor([[1, 5, 9, 30, 2, 7, 44, 3], [8, 5, 9, 30, 12, 7, 14, 3]])


def numbers(*shape: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, dtype=torch.float64, generator=generator, requires_grad=True)


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh"])
def test_a_gated_activation_agrees_with_finite_differences(name: str) -> None:
    act = ACT2FN[name]
    assert find_slope(act) is not None
    ins = numbers(3, 5), numbers(3, 5, seed=1)
    assert torch.equal(LeanGatedProduct.apply(*ins, act), act(ins[0]) * ins[1])
    assert torch.autograd.gradcheck(lambda gate, up: LeanGatedProduct.apply(gate, up, act), ins)


@pytest.mark.parametrize("late", [False, True])
def test_a_norm_agrees_with_finite_differences(late: bool) -> None:
    ins = numbers(2, 3, 5), numbers(5, seed=1)
    assert torch.autograd.gradcheck(lambda x, weight: LeanRMSNorm.apply(x, weight, 1e-5, late), ins)
    frozen = ins[1].detach()
    assert torch.autograd.gradcheck(lambda x: LeanRMSNorm.apply(x, frozen, 1e-5, late), ins[:1])


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
        base, lean = (
            adapt_model(m, AdapterConfig(name="lora", dropout=0.0), 0) for m in (base, lean)
        )
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


class Mlp(nn.Module):
    """The plain gated MLP in words of its own."""

    def __init__(self, act: nn.Module | None = None) -> None:
        super().__init__()
        self.gate_proj, self.up_proj = nn.Linear(4, 6), nn.Linear(4, 6)
        self.down_proj, self.act_fn = nn.Linear(6, 4), act or nn.SiLU()

    def forward(self, tokens: Tensor) -> Tensor:
        """With a docstring, annotations and a name for its result."""
        result = self.down_proj(self.act_fn(self.gate_proj(tokens)) * self.up_proj(tokens))
        return result


class Louder(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


class Clamped(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x).clamp(max=5)) * self.up_proj(x))


class Dropping(Mlp):
    def forward(self, x: Tensor) -> Tensor:
        y = self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))
        return nn.functional.dropout(y, 0.5, training=self.training)


class Optional(Mlp):
    def forward(self, x: Tensor, scale: float = 1.0) -> Tensor:
        return self.down_proj(self.act_fn(self.gate_proj(x)) * self.up_proj(x))


def doubled(forward: Any) -> Any:
    @functools.wraps(forward)
    def twice(self: Any, x: Tensor) -> Tensor:
        return 2 * forward(self, x)

    return twice


class Wrapped(Mlp):
    forward = doubled(Mlp.forward)


class OfItsOwn(Mlp):
    def __init__(self) -> None:
        super().__init__()
        self.forward = lambda x: -Mlp.forward(self, x)  # type: ignore[method-assign]


class Inherited(Mlp):
    pass


class Shifted(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = nn.Parameter(torch.ones(4)), 1e-6

    def forward(self, x: Tensor) -> Tensor:
        return (1 + self.weight) * x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt()


def is_lean(module: nn.Module) -> bool:
    return isinstance(vars(module).get("forward"), types.MethodType)


@pytest.mark.parametrize("kind", [Louder, Clamped, Dropping, Optional, Wrapped, OfItsOwn, Shifted])
def test_a_layer_that_does_more_than_the_plain_computation_keeps_its_own(kind: Any) -> None:
    own = kind()
    lean = make_lean(copy.deepcopy(own) if kind is not OfItsOwn else own)
    assert not is_lean(lean)
    x = 9 * torch.randn(2, 3, 4)
    outs = []
    for layer in (own, lean):
        torch.manual_seed(0)
        outs.append(layer.train()(x))
    assert torch.equal(*outs)


@pytest.mark.parametrize("kind", [Mlp, Inherited])
def test_the_plain_computation_is_known_in_other_words(kind: Any) -> None:
    own = kind()
    lean = make_lean(copy.deepcopy(own))
    assert is_lean(lean)
    assert torch.equal(lean(IDS.float()[:, :4]), own(IDS.float()[:, :4]))


def test_every_instance_is_looked_at() -> None:
    layers = nn.ModuleList([Mlp(), Mlp(nn.Tanh()), Mlp(nn.SiLU(inplace=True)), Mlp()])
    layers[3].forward = layers[3].up_proj.forward
    assert [is_lean(layer) for layer in make_lean(layers)[:3]] == [True, False, False]  # type: ignore[index]
    assert layers[3].forward == layers[3].up_proj.forward


@pytest.mark.parametrize("act", [nn.GELU(), nn.GELU(approximate="tanh"), ACT2FN["gelu_python"]])
def test_gradients_of_activations_are_those_of_the_form_they_have(act: nn.Module) -> None:
    own = Mlp(act).double()
    lean = make_lean(copy.deepcopy(own))
    found = []
    for layer in (own, lean):
        x = numbers(2, 3, 4)
        layer(x).square().sum().backward()
        found.append(x.grad)
    torch.testing.assert_close(*found, rtol=1e-12, atol=1e-12)


def family_layer(name: str) -> tuple[nn.Module, tuple[Tensor, ...]]:
    """A layer that does more than it seems to in eval mode, and what it takes."""
    wide, x = (
        SimpleNamespace(hidden_size=32, intermediate_size=16, mlp_bias=False),
        numbers(2, 3, 32),
    )
    wide.hidden_act, wide.residual_dropout, x = "silu", 0.3, numbers(2, 3, 32)
    if name == "seed_oss":
        return SeedOssMLP(wide), (x,)
    gated = {"mamba2": MambaRMSNormGated, "zamba2": Zamba2RMSNormGated}[name]
    return gated(32, 32), (x.float(), numbers(2, 3, 32, seed=1).float())


@pytest.mark.parametrize("name", ["seed_oss", "mamba2", "zamba2"])
def test_families_layers_that_drop_out_or_take_a_gate_are_what_they_were(name: str) -> None:
    own, ins = family_layer(name)
    own, lean = own.to(ins[0].dtype), make_lean(copy.deepcopy(own).to(ins[0].dtype))
    outs = []
    for layer in (own.train(), lean.train()):
        torch.manual_seed(0)
        outs.append(layer(*ins))
    assert torch.equal(*outs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_a_norm_that_rounds_after_its_weight_still_does(dtype: torch.dtype) -> None:
    own = Olmo2RMSNorm(64).to(dtype)
    nn.init.normal_(own.weight)
    lean, x = make_lean(copy.deepcopy(own)), numbers(4, 64).to(dtype)
    assert is_lean(lean)
    assert torch.equal(lean(x), own(x))
    found = []
    for layer in (own, lean):
        leaf = x.detach().requires_grad_()
        layer(leaf).square().sum().backward()
        found.append((leaf.grad, layer.weight.grad))
    rounding = 2e-2 if dtype == torch.bfloat16 else 1e-5
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(other, one, rtol=rounding, atol=rounding)


def test_an_activation_that_is_not_known_stays() -> None:
    odd: Any = random_llama()
    for layer in odd.model.layers:
        layer.mlp.act_fn = ACT2FN["quick_gelu"]
    assert not any("forward" in layer.mlp.__dict__ for layer in make_lean(odd).model.layers)
