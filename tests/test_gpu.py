"""What only a GPU shows: its kernels give what the CPU's give, and it is not kept waiting.

`make gpu` runs these; UNDIAL_TEST_DEVICE=cpu runs the same code on a CPU.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read_jsonl, write_qa
from device_watch import HostWatch, stand_in_meta
from small import random_llama

from undial_cli.cli import run_command
from undial_cli.data.collate import make_padded_batch
from undial_cli.data.example import Example
from undial_cli.evaluation.decoding import Decoding, decode_prompts
from undial_cli.evaluation.scoring import score_answers
from undial_cli.losses.undial import fused_undial_loss, undial_loss
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import Loss
from undial_cli.models import lean_forwards
from undial_cli.training import packing
from undial_cli.training.callbacks import MetricsLog
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import compute_term_sum

pytestmark = pytest.mark.gpu
CPU = torch.device("cpu")
EXAMPLES = [
    Example([1, *range(10, 20), *answer], [-100] * 11 + answer, 11 + len(answer), focus=(12,))
    for answer in ([3, 4, 5], [6, 7], [8, 9, 3, 4], [5, 6, 7, 8, 9, 10, 11, 12])
]
ROWS = list(range(len(EXAMPLES)))
WAYS: dict[str, tuple[Any, str]] = {
    "packed": (packing.pack_batch, packing.PACKED_ATTENTION),
    "padded": (make_padded_batch, "sdpa"),
}


@pytest.fixture
def device() -> torch.device:
    """The GPU, or what is asked for in its place."""
    name = os.environ.get("UNDIAL_TEST_DEVICE", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a GPU; UNDIAL_TEST_DEVICE=cpu rehearses it")
    return torch.device(name)


def list_losses() -> dict[str, Loss]:
    """The terms of all methods with a term on the retain set, by method and set."""
    losses = {}
    for name, entry in METHODS.items():
        config: Any = entry.config(name=name)
        changes = {"layer": 1} if hasattr(config, "layer") else {"retain": "klr"}
        terms = make_method(dataclasses.replace(config, **changes)).terms()
        losses |= {f"{name} {term}": loss for term, loss in terms.items()}
    return losses


def backward_terms(device: torch.device, way: str, folder: Path) -> dict[str, list[torch.Tensor]]:
    """Each loss on a small model on a device, and its gradients, on the CPU."""
    losses = list_losses()  # of its own: some keep something from one call to the next
    model = lean_forwards.make_lean(random_llama().to(device))
    teacher = CachedTeacher(model, folder, str(device), share_head=False)
    for name, loss in losses.items():
        if loss.needs:
            teacher.add(name, EXAMPLES, ROWS, loss)
    teacher.fill(model, make_padded_batch)
    model.train()
    make, attention = WAYS[way]
    batch, results = make(EXAMPLES, ROWS).to(device), {}
    with torch.no_grad():  # away from the teacher, where distances have no slope
        for parameter in model.parameters():
            parameter *= 1.05
    for name, loss in losses.items():
        model.zero_grad()
        with packing.switch_attention(model, attention):
            value = compute_term_sum(model, teacher, name, loss, batch)
            value.backward()
        gradients = [p.grad.cpu() for p in model.parameters() if p.grad is not None]
        results[name] = [value.detach().cpu(), *gradients]
    return results


@pytest.mark.parametrize("way", list(WAYS))
def test_every_loss_and_its_gradients_are_those_of_the_cpu(
    way: str, device: torch.device, tmp_path: Path
) -> None:
    expected = backward_terms(CPU, way, tmp_path / "cpu")
    measured = backward_terms(device, way, tmp_path / "device")
    for name, tensors in expected.items():
        assert len(tensors) == len(measured[name]) > 1
        for one, other in zip(tensors, measured[name], strict=True):
            torch.testing.assert_close(other, one, rtol=1e-3, atol=1e-4, msg=name)


@pytest.mark.parametrize("way", list(WAYS))
def test_a_step_waits_for_nothing(
    way: str, device: torch.device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if device.type == "cpu":
        device = stand_in_meta(monkeypatch)
    model = lean_forwards.make_lean(random_llama()).train().to(device)
    make, attention = WAYS[way]
    batch = make(EXAMPLES, ROWS).to(device)
    loss = make_method(METHODS["ga"].config(name="ga"))
    with packing.switch_attention(model, attention), HostWatch() as watch:
        compute_term_sum(model, None, "forget", loss, batch).backward()
    # transformers looks at a padded batch's positions once (masking_utils.py).
    asked = {name for name in watch.fetched if not name.startswith("masking_utils.py")}
    assert not asked
    assert not watch.made | watch.sent


def test_a_fused_loss_in_bf16_is_as_exact_as_a_dense_one(device: torch.device) -> None:
    torch.manual_seed(0)
    hidden = torch.randn(200, 64, device=device)
    weight = torch.randn(1000, 64, device=device) / 4
    teacher = hidden + 0.1 * torch.randn(200, 64, device=device)
    targets = torch.randint(0, 1000, (200,), device=device)
    labels = torch.cat([targets.new_full((1,), -100), targets])[None]

    def compute_gradients(dtype: torch.dtype, fused: bool) -> list[torch.Tensor]:
        leaves = [x.to(dtype).detach().requires_grad_() for x in (hidden, weight)]
        frozen = teacher.to(dtype)
        if fused:
            value = fused_undial_loss(*leaves, frozen, leaves[1].detach(), targets, 10.0)
        else:
            pairs = ((leaves[0], leaves[1]), (frozen, leaves[1].detach()))
            logits = [torch.cat([h @ w.T, h.new_zeros(1, len(w))])[None] for h, w in pairs]
            value = undial_loss(*logits, labels, 10.0)
        value.backward()
        return [value.detach().double(), *(x.grad.double() for x in leaves if x.grad is not None)]

    exact = compute_gradients(torch.float64, fused=False)
    fused, dense = (compute_gradients(torch.bfloat16, fused) for fused in (True, False))
    for ours, theirs, true in zip(fused, dense, exact, strict=True):
        assert (ours - true).norm() < 1.2 * (theirs - true).norm() + 1e-3 * true.norm()


def test_scores_and_answers_are_those_of_the_cpu(device: torch.device) -> None:
    results = []
    for place in (CPU, device):
        model = random_llama().to(place)
        answers: dict[int, list[int]] = {}
        prompts = {i: e.input_ids[:11] for i, e in enumerate(EXAMPLES)}
        decode_prompts(model, prompts, 2, Decoding(12, frozenset({2})), answers.__setitem__)
        scores = score_answers(model, [[e] for e in EXAMPLES], 2, 0)
        results.append((answers, [s[0].ce for s in scores]))
    assert results[0][0] == results[1][0]
    assert results[0][1] == pytest.approx(results[1][1], rel=1e-4)


def test_a_run_that_breaks_off_goes_on_as_if_undisturbed(
    device: torch.device,
    random_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    rows = write_qa(tmp_path / "forget.jsonl", 8)
    hardware = "single_gpu" if device.type == "cuda" else "cpu"
    words = ["unlearn", "data=jsonl", f"data.forget_file={rows}", f"model.path={random_model}",
             "adapter=lora", "adapter.dropout=0.5", "train.learning_rate=1e-2", "eval=none",
             "report=false", "train.batch_size=4", "train.max_steps=4", "train.save_steps=1",
             f"hardware={hardware}", f"output_dir={tmp_path}"]  # fmt: skip
    calm, disturbed = tmp_path / "unlearn" / "calm", tmp_path / "unlearn" / "disturbed"
    assert run_command([*words, "name=calm"]) == 0
    log_step = MetricsLog.on_log

    def log_and_break(self: MetricsLog, args: Any, state: Any, *rest: Any, **more: Any) -> None:
        log_step(self, args, state, *rest, **more)
        if state.global_step == 3:
            raise RuntimeError("the run breaks off")

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "on_log", log_and_break)
        assert run_command([*words, "name=disturbed"]) == 1
    capfd.readouterr()
    assert run_command([*words, "name=disturbed"]) == 0
    assert "resuming at step 2" in capfd.readouterr().out
    losses = [[row["loss"] for row in read_jsonl(f / "metrics.jsonl")] for f in (calm, disturbed)]
    assert len(set(losses[0])) == 4
    # A GPU adds in no fixed order.
    assert losses[1] == pytest.approx(losses[0], rel=1e-3 if device.type == "cuda" else 0)
