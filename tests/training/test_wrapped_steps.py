"""Sharpness-aware, smoothed and rectified forget gradients against plain loops; going on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from conftest import read_jsonl, write_qa
from run_helpers import assert_equal, fail_at_step, start, weights
from safetensors.torch import load_file
from small import without_float32
from torch import Tensor
from transformers import AutoModelForCausalLM

from undial_cli.config.training import AdapterConfig
from undial_cli.data.encode import Encoder
from undial_cli.data.load import load_rows
from undial_cli.errors import WorldError
from undial_cli.models.head import install_head
from undial_cli.models.load import load_tokenizer
from undial_cli.models.lora import adapt_model
from undial_cli.runs.compose import compose_run
from undial_cli.training.rectify import GradientRectifier
from undial_cli.training.sharpness import displace_weights, draw_moves, make_ascent

RATE, ALPHA, STEPS, SEED = 0.05, 0.5, 3, 4


def parts(*numbers: list[Any]) -> list[Tensor]:
    return [torch.tensor(part, dtype=torch.float64) for part in numbers]


def test_the_moves_of_sam_are_as_long_as_asked_and_go_up_the_slope() -> None:
    gradients = parts([3.0, 0.0], [[4.0]])
    moves = list(make_ascent([gradients[0], None, gradients[1]], 0.5))
    assert moves[1] is None
    torch.testing.assert_close(moves[0], gradients[0] * 0.1)
    torch.testing.assert_close(moves[2], gradients[1] * 0.1)
    (still,) = make_ascent([torch.zeros(3)], 0.5)
    assert still is not None
    assert not still.any()


def test_random_moves_are_those_of_seed_step_and_sample() -> None:
    weights = [torch.nn.Parameter(torch.zeros(200, 50)), torch.nn.Parameter(torch.zeros(7))]
    drawn = [list(draw_moves(weights, 0.1, *which)) for which in ((1, 2, 0), (1, 2, 0))]
    assert all(map(torch.equal, *drawn))
    assert float(drawn[0][0].std()) == pytest.approx(0.1, rel=0.05)
    for other in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not torch.equal(next(draw_moves(weights, 0.1, *other)), drawn[0][0])


def test_moved_weights_come_back_bit_for_bit_even_from_an_error() -> None:
    torch.manual_seed(0)
    parameters = [torch.nn.Parameter(torch.randn(5)) for _ in range(3)]
    before = [parameter.detach().clone() for parameter in parameters]
    moves = [torch.randn(5) * 1e6, None, torch.randn(5)]

    def fail_while_moved() -> None:
        with displace_weights(parameters, moves):
            assert torch.equal(parameters[1], before[1])
            torch.testing.assert_close(parameters[2], before[2] + moves[2])
            raise WorldError("lost")

    with pytest.raises(WorldError):
        fail_while_moved()
    assert all(map(torch.equal, parameters, before))


def test_a_gradient_against_the_retain_sets_is_projected_off_it_and_another_is_left() -> None:
    for forget, expected in (([-1.0, 2.0], [0.0, 2.0]), ([1.0, 2.0], [1.0, 2.0])):
        gradient = [*parts([forget[0]], [forget[1]]), None]
        GradientRectifier(1.0).rectify(gradient, [*parts([3.0], [0.0]), None])
        assert [float(g) for g in gradient[:2] if g is not None] == expected


def test_the_moving_average_is_saved_and_goes_on() -> None:
    torch.manual_seed(0)
    steps = [[torch.randn(4), torch.randn(2, 3)] for _ in range(4)]
    whole, first, second = (GradientRectifier(0.8) for _ in range(3))
    for rectifier, those in ((whole, steps), (first, steps[:2])):
        for retain in those:
            rectifier.average_retain(retain)
    second.load_tensors(first.list_tensors(["a", "b"]), ["a", "b"])
    for retain in steps[2:]:
        second.average_retain(retain)
    torch.testing.assert_close(second.mean, whole.mean, rtol=0, atol=0)
    average = torch.zeros(4)
    for retain in steps:
        average = 0.8 * retain[0] + 0.2 * average
    torch.testing.assert_close(whole.mean[0], average)
    assert GradientRectifier(0.8).list_tensors(["a"]) == {}


def log_likelihoods(model: Any, examples: list[Any]) -> Tensor:
    """Of every answer token of some examples, one after the other, from full logits."""
    found = []
    for example in examples:
        ids, labels = torch.tensor([example.input_ids]), torch.tensor(example.labels)
        logits = model(input_ids=ids).logits[0, :-1]
        chosen = labels[1:] >= 0
        found.append(-F.cross_entropy(logits[chosen], labels[1:][chosen], reduction="none"))
    return torch.cat(found)


class PlainLoop:
    """Gradient difference by SGD on whole batches, written out."""

    def __init__(self, model: Any, forget: list[Any], retain: list[Any]) -> None:
        self.model, self.forget, self.retain = model, forget, retain
        self.trained = [p for p in model.parameters() if p.requires_grad]
        self.mean: Tensor | None = None

    def gradient(self, of_retain: bool) -> Tensor:
        """Of one term at the weights as they are, as one vector."""
        loss = log_likelihoods(self.model, self.retain if of_retain else self.forget).mean()
        found = torch.autograd.grad(-loss if of_retain else loss, self.trained)
        return torch.cat([g.flatten() for g in found])

    @torch.no_grad()
    def move(self, vector: Tensor) -> None:
        sizes = [p.numel() for p in self.trained]
        for p, part in zip(self.trained, vector.split(sizes), strict=True):
            p += part.view_as(p)

    def plain(self, step: int) -> Tensor:
        return self.gradient(of_retain=False)

    def sam(self, step: int) -> Tensor:
        slope = self.gradient(of_retain=False)
        up = 2 * slope / slope.norm()
        self.move(up)
        found = self.gradient(of_retain=False)
        self.move(-up)
        return found

    def smooth(self, step: int) -> Tensor:
        found = []
        for sample in range(3):
            noise = torch.cat(
                [m.flatten() for m in draw_moves(self.trained, 0.05, SEED, step, sample)]
            )
            self.move(noise)
            found.append(self.gradient(of_retain=False))
            self.move(-noise)
        return torch.stack(found).mean(0)

    def run(self, forget_gradient: Callable[[int], Tensor], rectifies: bool, alpha: float) -> int:
        """All steps; in how many the two gradients were against each other."""
        against = 0
        for step in range(STEPS):
            forget, retain = forget_gradient(step), self.gradient(of_retain=True)
            if rectifies:
                self.mean = 0.8 * retain + (0 if self.mean is None else 0.2 * self.mean)
                if forget @ self.mean < 0:
                    forget -= (forget @ self.mean) / (self.mean @ self.mean) * self.mean
                    against += 1
            self.move(-RATE * (forget + alpha * retain))
        return against


WRAPPERS = {
    "sam": ["method.sharpness=sam", "method.sharpness_radius=2"],
    "smooth": ["method.sharpness=smooth", "method.sharpness_radius=0.05"],
    "plain": [],
}


@pytest.mark.slow
@pytest.mark.parametrize(
    "sharpness, rectifies, alpha, adapter",
    [("sam", False, ALPHA, "none"), ("plain", True, 0.0, "none"), ("sam", True, ALPHA, "lora"),
     ("smooth", False, ALPHA, "none")],
)  # fmt: skip
def test_wrapped_steps_are_those_of_a_plain_loop(
    sharpness: str, rectifies: bool, alpha: float, adapter: str, random_model: Path, tmp_path: Path
) -> None:
    files = {name: write_qa(tmp_path / f"{name}.jsonl", 5, first) for name, first in
             (("forget", 0), ("retain", 40))}  # fmt: skip
    words = ["data=jsonl", "method=grad_diff", f"method.alpha={alpha}", f"adapter={adapter}",
             "adapter.dropout=0", "model.dtype=float64", "train.optim=sgd", "eval=none",
             "train.batch_size=5", "hardware.micro_batch_size=2", "train.max_grad_norm=0",
             "train.weight_decay=0", "train.scheduler=constant", f"train.learning_rate={RATE}",
             "train.warmup_steps=0", f"train.max_steps={STEPS}", f"seed={SEED}",
             *WRAPPERS[sharpness], *(f"data.{name}_file={file}" for name, file in files.items()),
             *(["method.rectify=gru"] if rectifies else [])]  # fmt: skip
    found = weights(start(random_model, tmp_path, *words))

    run: Any = compose_run("unlearn", [*words, f"model.path={random_model}", "hardware=cpu"])
    encoder = Encoder(load_tokenizer(run.model, str(random_model)), run.model.template, run.data)
    sets = [
        encoder.encode(list(load_rows(run.data, [str(file)], "data"))) for file in files.values()
    ]
    base = AutoModelForCausalLM.from_pretrained(random_model, dtype=torch.float64)
    install_head(base)
    model = adapt_model(without_float32(base), AdapterConfig(name=adapter, dropout=0.0), SEED)
    plain = PlainLoop(model.eval(), *sets)
    against = plain.run(getattr(plain, sharpness), rectifies, alpha)
    assert not rectifies or against
    expected = {
        name.replace(".default", ""): p.detach() for name, p in model.named_parameters()
        if name.replace(".default", "") in found
    }  # fmt: skip
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        torch.testing.assert_close(found[name], value, rtol=1e-8, atol=1e-8)


@pytest.mark.slow
def test_a_wrapped_run_that_is_broken_off_goes_on_to_the_same_bits(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["method=grad_diff", "method.sharpness=smooth", "method.rectify=gru", "adapter=lora",
             "hardware.micro_batch_size=4", "eval=none", "train.max_steps=6",
             "train.save_steps=2"]  # fmt: skip
    undisturbed = start(random_model, tmp_path / "calm", *words)
    out = tmp_path / "disturbed"
    with monkeypatch.context() as patch:
        fail_at_step(patch, 5)
        with pytest.raises(AssertionError):
            start(random_model, out, *words)
    state = out / "unlearn" / "run" / "resume" / "checkpoint-4"
    assert load_file(state / "retain_gradient.safetensors")
    folder = start(random_model, out, *words)
    assert_equal(undisturbed, folder)
    losses = [[r["loss"] for r in read_jsonl(f / "metrics.jsonl")] for f in (undisturbed, folder)]
    assert losses[0] == losses[1]
    assert len(losses[0]) == 6
