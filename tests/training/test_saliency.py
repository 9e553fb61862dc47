"""Which modules are trained by the forget set's gradient: against plain autograd, and in a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import refused
from run_helpers import assert_equal, fail_at_step, start, weights
from small import random_llama, without_float32

from undial_cli.config.training import AdapterConfig
from undial_cli.data.encode import IGNORE, Example
from undial_cli.models.head import install_head
from undial_cli.models.lora import adapt_model
from undial_cli.runs.compose import compose_run
from undial_cli.runs.wrapper_checks import check_wrappers
from undial_cli.training.saliency import (
    choose_salient_modules,
    measure_saliency,
    name_module,
    read_saliency,
)

EXAMPLES = [
    Example([1, 5, 9, 13, 7], [IGNORE, IGNORE, 9, 13, 7], 5),
    Example([2, 6, 3], [IGNORE, IGNORE, 3], 3),
    Example([4, 8, 11, 12], [IGNORE, 8, 11, 12], 4),
]


@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_a_modules_gradient_is_as_long_as_plain_autograd_has_it(adapter: str) -> None:
    base = random_llama(vocab=48).double()
    install_head(base)
    model: Any = adapt_model(without_float32(base), AdapterConfig(name=adapter, dropout=0.5), 0)
    if adapter == "lora":
        with torch.no_grad():  # a fresh adapter's A has no gradient
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_()
    found = measure_saliency(model, EXAMPLES, batch_size=2)
    assert not [p for p in model.parameters() if p.grad is not None]

    model.eval()
    losses = []
    for example in EXAMPLES:
        logits = model(input_ids=torch.tensor([example.input_ids])).logits[0, :-1]
        labels = torch.tensor(example.labels[1:])
        losses.append(F.cross_entropy(logits, labels, reduction="none", ignore_index=IGNORE))
    tokens = sum(1 for example in EXAMPLES for label in example.labels if label != IGNORE)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    gradients = torch.autograd.grad(torch.cat(losses).sum() / tokens, list(trained.values()))
    squares: dict[str, float] = {}
    for name, gradient in zip(trained, gradients, strict=True):
        module = name_module(name)
        squares[module] = squares.get(module, 0.0) + float(gradient.square().sum())
    assert found == pytest.approx({name: value**0.5 for name, value in squares.items()}, rel=1e-9)
    assert len(set(found.values())) > 3


def test_a_damaged_file_is_measured_anew_and_so_is_that_of_another_model(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, file = random_llama(vocab=48), tmp_path / "saliency.json"
    lengths = dict.fromkeys([name_module(name) for name, _ in model.named_parameters()], 0.5)
    assert read_saliency(file, model) is None
    assert not capsys.readouterr().out
    file.write_text(json.dumps(lengths))
    assert read_saliency(file, model) == lengths
    others = ({"model.norm": 1.0}, lengths | {"lm_head": None}, [*lengths])
    for damage in ("", json.dumps(lengths)[:-9], *map(json.dumps, others)):
        file.write_text(damage)
        assert read_saliency(file, model) is None
        assert "damaged: it is measured anew" in " ".join(capsys.readouterr().out.split())


def test_the_share_with_the_longest_gradients_is_chosen_and_one_at_least() -> None:
    lengths = {"a": 1.0, "b": 3.0, "c": 2.0, "d": 2.0}
    assert choose_salient_modules(lengths, 0.5) == ["b", "c"]
    assert choose_salient_modules(lengths, 0.01) == ["b"]
    assert choose_salient_modules(lengths, 1.0) == ["b", "c", "d", "a"]
    assert name_module("model.layers.0.q_proj.bias") == "model.layers.0.q_proj"
    assert name_module("base.layers.0.q_proj.lora_A.default.weight") == "base.layers.0.q_proj"


@pytest.mark.parametrize(
    "words, parts",
    [
        (["method=finetune"], ["forget term"]),
        (["hardware=fsdp"], ["hardware=fsdp", "ddp"]),
        (["hardware=deepspeed_zero2"], ["hardware=deepspeed_zero2", "ddp"]),
    ],
)
def test_what_has_no_such_gradient_is_refused(words: list[str], parts: list[str]) -> None:
    run: Any = compose_run("unlearn", ["method.saliency=0.1", *words])
    terms = ["retain"] if words == ["method=finetune"] else ["forget"]
    refused(lambda: check_wrappers(run, terms), "method.saliency=0.1", *parts)


@pytest.mark.slow
def test_a_run_trains_what_it_chose_and_goes_on_with_that(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["method=undial", "method.saliency=0.2", "adapter=none", "eval=none",
             "train.max_steps=6", "train.save_steps=2", "train.learning_rate=1e-2"]  # fmt: skip
    undisturbed = start(random_model, tmp_path / "calm", *words)
    out = tmp_path / "disturbed"
    with monkeypatch.context() as patch:
        fail_at_step(patch, 5)
        with pytest.raises(AssertionError):
            start(random_model, out, *words)
    lengths = json.loads((out / "unlearn/run/resume/saliency.json").read_text())
    assert_equal(undisturbed, start(random_model, out, *words))

    chosen = set(choose_salient_modules(lengths, 0.2))
    assert 1 < len(chosen) < len(lengths)
    before, after = weights_before(random_model), weights(undisturbed)
    changed = {name_module(name) for name, value in after.items()
               if not torch.equal(value, before[name])}  # fmt: skip
    assert changed == chosen


def weights_before(model: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(model / "model.safetensors")
