"""The frozen teacher's signal against dense passes of the model it stands for."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from small import random_llama
from torch import Tensor, nn

from undial_cli.data.collate import EMPTY, pad
from undial_cli.data.encode import IGNORE, Example
from undial_cli.losses import select_targets, sequence_logps
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LOGITS
from undial_cli.models import adapt
from undial_cli.schema import AdapterConfig
from undial_cli.training.teacher import AdapterTeacher, CachedTeacher

VOCABULARY = 64
BOTH = frozenset({TEACHER_LOGITS, REFERENCE_LOGPS})


def examples() -> list[Example]:
    """Nine examples of different lengths; the last one has no target token."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for i in range(9):
        ids = torch.randint(0, VOCABULARY, (4 + (i * 5) % 11,), generator=generator).tolist()
        prompt = len(ids) if i == 8 else 2 + i % 2
        found.append(Example(ids, [IGNORE] * prompt + ids[prompt:], len(ids)))
    return found


EXAMPLES = examples()


def batch_of(indices: list[int]) -> dict[str, Tensor]:
    return pad([EXAMPLES[i] if i >= 0 else EMPTY for i in indices], 0, indices)


@torch.no_grad()
def dense(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Teacher logits at target positions [N, V] and log-probabilities [B], from full logits."""
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    mask, _, _ = select_targets(batch["labels"])
    return logits[mask], sequence_logps(logits, batch["labels"])


def disturb(model: nn.Module) -> None:
    """Change every trainable weight, as training does."""
    torch.manual_seed(9)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter += 0.3 * torch.randn_like(parameter)


def cached(model: nn.Module, needs: frozenset[str], batch_size: int = 4) -> CachedTeacher:
    teacher = CachedTeacher(model)
    used = list(range(len(EXAMPLES)))
    teacher.remember(model, "forget", EXAMPLES, used, needs, batch_size, pad_id=0)
    return teacher


BATCHES = [[0, 1, 2], [7, -1, 3], [5], [8, 4, -1, -1], [6, 6]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_the_cached_signal_is_that_of_the_model_before_training(
    tied: bool, batch_size: int
) -> None:
    model = random_llama(VOCABULARY, tied, torch.float64)
    expected = [dense(model, batch_of(indices)) for indices in BATCHES]
    teacher = cached(model, BOTH, batch_size)
    disturb(model)
    for indices, (logits, logps) in zip(BATCHES, expected, strict=True):
        batch = batch_of(indices)
        signal = teacher.signal(model, "forget", batch, BOTH)
        assert signal.logits_NV is not None
        assert signal.logps_B is not None
        torch.testing.assert_close(signal.logits_NV, logits, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(signal.logps_B, logps, rtol=1e-9, atol=1e-9)
        assert not torch.allclose(dense(model, batch)[1], logps, atol=1e-3) or not logps.any()


def test_the_cached_signal_includes_the_bias_of_the_head() -> None:
    model = random_llama(VOCABULARY, False, torch.float64)
    model.lm_head.bias = nn.Parameter(torch.randn(VOCABULARY, dtype=torch.float64))
    batch = batch_of([0, 1, 2])
    logits, logps = dense(model, batch)
    teacher = cached(model, BOTH)
    disturb(model)
    signal = teacher.signal(model, "forget", batch, BOTH)
    torch.testing.assert_close(signal.logits_NV, logits, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(signal.logps_B, logps, rtol=1e-9, atol=1e-9)


def test_the_teacher_is_asked_without_dropout_and_the_mode_comes_back() -> None:
    model: Any = random_llama(VOCABULARY, dtype=torch.float64)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    batch = batch_of([0, 1, 2])
    logits, _ = dense(model, batch)
    teacher = cached(model.train(), BOTH)
    assert all(module.training for module in model.modules())
    signal = teacher.signal(model, "forget", batch, BOTH)
    torch.testing.assert_close(signal.logits_NV, logits, rtol=1e-9, atol=1e-9)


def test_only_what_a_loss_needs_is_given() -> None:
    model = random_llama(VOCABULARY)
    for need, other in ((TEACHER_LOGITS, "logps_B"), (REFERENCE_LOGPS, "logits_NV")):
        signal = cached(model, frozenset({need})).signal(
            model, "forget", batch_of([0, 1]), frozenset({need})
        )
        assert getattr(signal, other) is None


def test_a_batch_of_empty_rows_has_a_signal_of_no_positions() -> None:
    model = random_llama(VOCABULARY)
    signal = cached(model, BOTH).signal(model, "forget", batch_of([-1, -1]), BOTH)
    assert signal.logits_NV is not None
    assert signal.logits_NV.shape == (0, VOCABULARY)
    assert signal.logps_B is not None
    assert signal.logps_B.tolist() == [0, 0]


def test_sets_of_one_run_are_kept_apart() -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    teacher, swapped = CachedTeacher(model), EXAMPLES[::-1]
    for name, part in (("forget", EXAMPLES), ("retain", swapped)):
        teacher.remember(model, name, part, [0, 1], BOTH, 2, pad_id=0)
    batch = pad(swapped[:2], 0, [0, 1])
    signal = teacher.signal(model, "retain", batch, BOTH)
    torch.testing.assert_close(signal.logits_NV, dense(model, batch)[0], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("training", [True, False])
def test_the_adapter_teacher_is_the_base_model(training: bool) -> None:
    base = random_llama(VOCABULARY, dtype=torch.float64)
    expected = [dense(base, batch_of(indices)) for indices in BATCHES]
    model: Any = adapt(base, AdapterConfig(name="lora", dropout=0.3), seed=0)
    disturb(model)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    model.eval()
    adapted = [dense(model, batch_of(indices)) for indices in BATCHES]
    model.train(training)
    for indices, (logits, logps) in zip(BATCHES, expected, strict=True):
        signal = AdapterTeacher().signal(model, "forget", batch_of(indices), BOTH)
        torch.testing.assert_close(signal.logits_NV, logits, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(signal.logps_B, logps, rtol=1e-9, atol=1e-9)
        assert signal.logits_NV is not None
        assert not signal.logits_NV.requires_grad
    assert all(module.training is training for module in model.modules())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trainable
    model.eval()
    for indices, (logits, _) in zip(BATCHES, adapted, strict=True):
        assert torch.equal(dense(model, batch_of(indices))[0], logits)
    assert not torch.allclose(adapted[0][0], expected[0][0], atol=1e-3)
