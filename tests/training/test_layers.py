"""Losses of a layer's activations, and what is frozen for them or by a method's own choice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import refused
from model_families import tiny_config
from small import random_llama, small_model, without_float32
from steps import NeedingLoss, run_term
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from undial_cli.config.training import AdapterConfig
from undial_cli.data.collate import EMPTY_EXAMPLE, Batch, make_padded_batch
from undial_cli.data.encode import IGNORE, Example
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import TEACHER_LAYER, Method
from undial_cli.models.adapters import unwrap_adapter
from undial_cli.models.head import head_job, install_head
from undial_cli.models.lora import adapt_model
from undial_cli.training.layers import (
    capture_layer_states,
    choose_trained_parameters,
    find_decoder_layers,
)
from undial_cli.training.packing import PACKED_ATTENTION, pack_batch, switch_attention
from undial_cli.training.teacher import AdapterTeacher, Teacher
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import compute_term_sum

VOCABULARY = 48
LORA = AdapterConfig(name="lora", dropout=0.0)
LORA_ALL = AdapterConfig(name="lora", target_modules=["all-linear"])
PREFIX = list(range(1, 13))


def examples() -> list[Example]:
    """Three answers after a common beginning."""
    generator = torch.Generator().manual_seed(2)
    found = []
    for length in (5, 3, 7):
        ids = PREFIX + torch.randint(1, VOCABULARY, (length,), generator=generator).tolist()
        found.append(Example(ids, [IGNORE] * 14 + ids[14:], len(ids)))
    return found


EXAMPLES, ROWS = examples(), [0, -1, 1, 2]
CHOSEN = [EXAMPLES[i] if i >= 0 else EMPTY_EXAMPLE for i in ROWS]


def rmu(layer: int, **keys: Any) -> Method:
    return make_method(METHODS["rmu"].config(name="rmu", layer=layer, **keys))


def model_of(kind: str) -> Any:
    """A small float64 model, or one with a LoRA adapter that does something."""
    if kind == "lora":
        model: Any = adapt_model(
            random_llama(VOCABULARY, dtype=torch.float64), LORA, seed=0
        ).double()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    nn.init.normal_(parameter, std=0.3)
    elif kind == "untied":
        model = random_llama(VOCABULARY, False, torch.float64)
    else:
        model = small_model(kind, VOCABULARY, torch.float64)
    return without_float32(model.eval())


@torch.no_grad()
def plain_states(model: Any, layer: int) -> Tensor:
    """A layer's activations at the targets' own positions, row by row, by the model's own means."""
    found = []
    for example in EXAMPLES:
        hidden = model(
            input_ids=torch.tensor([example.input_ids]), output_hidden_states=True
        ).hidden_states  # fmt: skip
        places = [i for i, y in enumerate(example.labels) if i and y != IGNORE]
        found.append(hidden[layer + 1][0, places])
    return torch.cat(found)


def kept_states(model: Any, layer: int, batch: Batch) -> Tensor:
    """The same through `states`."""
    own = unwrap_adapter(model).config._attn_implementation
    name = PACKED_ATTENTION if "pack" in batch.layout else own
    with switch_attention(unwrap_adapter(model), name), capture_layer_states(model, layer) as found:
        with head_job(model, lambda hidden, head: hidden[:, :1]), torch.no_grad():
            model(input_ids=batch.input_ids, use_cache=False, **batch.layout)
        assert len(found) == 1
        return found.pop().flatten(0, 1)[batch.positions_N + 1]


@pytest.mark.parametrize("make", [make_padded_batch, pack_batch], ids=["padded", "packed"])
@pytest.mark.parametrize("kind", ["llama", "lora", "gpt2", "qwen2"])
def test_states_are_a_layers_own_output(kind: str, make: Any) -> None:
    model = model_of(kind)
    expected = plain_states(model, 0)
    hooks = [dict(layer._forward_hooks) for layer in find_decoder_layers(model)]
    found = kept_states(model, 0, make(CHOSEN, ROWS))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    with capture_layer_states(model, None) as none:
        model(input_ids=torch.tensor([PREFIX]))
    assert none == []
    assert [dict(layer._forward_hooks) for layer in find_decoder_layers(model)] == hooks


@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_the_teachers_activations_are_those_before_training(kind: str, tmp_path: Path) -> None:
    model, loss = model_of(kind), NeedingLoss(TEACHER_LAYER, layer=0)
    if kind == "lora":
        with model.disable_adapter():
            expected = plain_states(model, 0)
        teacher: Teacher = AdapterTeacher()
    else:
        expected = plain_states(model, 0)
        cached = CachedTeacher(model, tmp_path, "", share_head=False)
        cached.add("retain", EXAMPLES, [0, 1, 2], loss)
        cached.fill(model, make_padded_batch)
        assert cached.head is None
        assert cached.nbytes == expected.numel() * 8
        with torch.no_grad():
            for parameter in model.parameters():
                parameter += 0.1
        teacher = cached
    batch = make_padded_batch(CHOSEN, ROWS)
    signal = teacher.signal(model, "retain", batch, loss)
    torch.testing.assert_close(signal.layer_ND, expected, rtol=1e-9, atol=1e-9)
    assert (signal.hidden_ND, signal.logps_B) == (None, None)
    assert not torch.allclose(expected, plain_states(model, 0), atol=1e-3)


def teacher_of(kind: str, folder: Path) -> Teacher:
    """A teacher that differs from the model."""
    if kind == "lora":
        return AdapterTeacher()
    other = model_of(kind)
    with torch.no_grad():
        other.model.embed_tokens.weight += 0.3 * other.model.embed_tokens.weight.flip(0)
    teacher = CachedTeacher(other, folder, "", share_head=False)
    for name in ("forget", "retain"):
        teacher.add(name, EXAMPLES, [0, 1, 2], NeedingLoss(TEACHER_LAYER, layer=0))
    teacher.fill(other, make_padded_batch)
    return teacher


@pytest.mark.parametrize("term", ["forget", "retain"])
@pytest.mark.parametrize("kind", ["llama", "lora"])
def test_packing_and_recomputed_activations_leave_a_layers_loss_as_it_is(
    kind: str, term: str, tmp_path: Path
) -> None:
    model, loss, teacher = model_of(kind), rmu(0).terms()[term], teacher_of(kind, tmp_path)
    expected = run_term(model, teacher, loss, make_padded_batch(CHOSEN, ROWS))
    assert float(expected[0]) > 0.01
    assert any(gradient.any() for gradient in expected[1].values())
    model.gradient_checkpointing_enable()
    if kind == "lora":
        model.enable_input_require_grads()
    for training in (False, True):
        model.train(training)
        found = run_term(model, teacher, loss, pack_batch(CHOSEN, ROWS))
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def trained(model: Any) -> set[str]:
    return {name for name, p in model.named_parameters() if p.requires_grad}


@pytest.mark.parametrize("kind", ["llama", "untied", "gpt2", "lora"])
def test_what_lies_beyond_the_deepest_layer_is_frozen_and_keeps_its_bits(kind: str) -> None:
    model, method = model_of(kind), rmu(0)
    before = trained(model)
    choose_trained_parameters(model, method)
    layers = find_decoder_layers(model)
    beyond = {id(p) for p in layers[1].parameters()}
    after_layers = ("norm.weight", "ln_f.weight", "ln_f.bias", "lm_head.weight")
    tied = unwrap_adapter(model).config.tie_word_embeddings
    expected = {
        name
        for name, p in model.named_parameters()
        if name in before
        and id(p) not in beyond
        and not (name.endswith(after_layers) and "layers" not in name and ".h." not in name)
    }
    assert trained(model) == expected
    assert expected < before
    assert any("layers.0" in name or ".h.0." in name for name in expected)
    if kind != "lora":
        assert any("embed" in name or "wte" in name for name in expected)
        assert tied == (kind != "untied")
    kept = {n: p.detach().clone() for n, p in model.named_parameters()}
    optimiser = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], 0.1)
    compute_term_sum(model, None, "forget", method, make_padded_batch(CHOSEN, ROWS)).backward()
    for name, parameter in model.named_parameters():
        if name in expected:  # without this, several processes would wait for its gradient
            assert parameter.grad is not None, name
        else:
            assert parameter.grad is None, name
    optimiser.step()
    changed = {n for n, p in model.named_parameters() if not torch.equal(p, kept[n])}
    assert changed <= expected
    assert changed >= {n for n in expected if "lora_A" not in n and "wpe" not in n}


def test_a_method_that_looks_at_logits_freezes_nothing() -> None:
    for name in ("undial", "npo"):
        model = model_of("untied")
        before = trained(model)
        choose_trained_parameters(model, make_method(METHODS[name].config(name=name, retain="gdr")))
        assert trained(model) == before
    mixed = rmu(0)
    mixed.retain = lambda: make_method(METHODS["ga"].config(name="ga"))  # type: ignore[method-assign]
    choose_trained_parameters(model, mixed)
    assert trained(model) == before


def test_only_parameters_that_match_are_trained() -> None:
    model = model_of("llama")
    choose_trained_parameters(model, rmu(1, parameters=r"layers\.[01]\.mlp\.down_proj"))
    assert trained(model) == {f"model.layers.{i}.mlp.down_proj.weight" for i in (0, 1)}
    model = model_of("llama")
    choose_trained_parameters(model, rmu(0, parameters=r"layers\.[01]\.mlp\.down_proj"))
    assert trained(model) == {"model.layers.0.mlp.down_proj.weight"}


def test_only_the_layers_of_train_layers_are_trained() -> None:
    method = make_method(METHODS["ga"].config(name="ga", parameters="down_proj|norm"))
    model = model_of("llama")
    choose_trained_parameters(model, method, [1])
    inside = {name for name, _ in model.named_parameters() if "layers.1." in name}
    assert trained(model) == {n for n in inside if "down_proj" in n or "norm" in n}
    model = model_of("lora")
    before = trained(model)
    choose_trained_parameters(model, make_method(METHODS["ga"].config(name="ga")), [0])
    assert trained(model) == {name for name in before if "layers.0." in name} < before
    call = lambda: choose_trained_parameters(model, method, [0, 2])  # noqa: E731
    refused(call, "train.layers=[0,2]", "2 layers", "0 to 1")


@pytest.mark.parametrize("parameters", ["nothing_like_it", r"layers\.1\."])
def test_an_expression_that_leaves_nothing_is_refused(parameters: str) -> None:
    model = model_of("llama")
    call = lambda: choose_trained_parameters(model, rmu(0, parameters=parameters))  # noqa: E731
    refused(call, f"method.parameters={parameters}", "model.embed_tokens.weight")


def family_model(family: str, **fields: Any) -> Any:
    """A tiny float64 model of a family."""
    config = tiny_config(family)
    for name, value in fields.items():
        setattr(config, name, value)
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager").double().eval()
    install_head(model)
    return model


@pytest.mark.parametrize(
    "family, name",
    [("gemma3", "model.language_model.layers"), ("git", "git.encoder.layer"),
     ("gpt2", "transformer.h"), ("opt", "model.decoder.layers")],
)  # fmt: skip
def test_the_layers_are_those_of_the_text(family: str, name: str) -> None:
    model = family_model(family)
    assert find_decoder_layers(model) is model.get_submodule(name)
    assert find_decoder_layers(adapt_model(model, LORA_ALL, seed=0)) is model.get_submodule(name)


@pytest.mark.parametrize("family", ["xlm", "longcat_flash"])
def test_a_model_without_one_list_of_layers_is_refused(family: str) -> None:
    refused(lambda: find_decoder_layers(family_model(family)), "method.layer", f"'{family}'")


def test_activations_may_be_wider_than_what_the_head_sees(tmp_path: Path) -> None:
    """OPT with projections: rmu's retain term begins at 0, and what is reached is trained."""
    model = family_model("opt", word_embed_proj_dim=16)
    method = rmu(0, retain="mse")
    choose_trained_parameters(model, method)
    names = {name for name, p in model.named_parameters() if p.requires_grad}
    assert any("project_in" in name for name in names)
    assert not any("project_out" in name for name in names)
    cached = CachedTeacher(model, tmp_path, "", share_head=False)
    cached.add("retain", EXAMPLES, [0, 1, 2], NeedingLoss(TEACHER_LAYER, layer=0))
    cached.fill(model, make_padded_batch)
    batch = make_padded_batch(CHOSEN, ROWS)
    assert float(compute_term_sum(model, cached, "retain", method.terms()["retain"], batch)) < 1e-20
    hidden = plain_states(model, 0)
    control = method.control(hidden).double()  # type: ignore[attr-defined]
    apart = (hidden - control).square().mean(1)
    counts = [sum(y != IGNORE for y in e.labels[1:]) for e in EXAMPLES]
    expected = sum(float(part.mean()) for part in apart.split(counts))
    found = compute_term_sum(model, None, "forget", method, batch)
    assert float(found.detach()) == pytest.approx(expected, rel=1e-9)
    found.backward()
    assert {n for n, p in model.named_parameters() if p.grad is not None} == names
