"""Method objects against the public losses, on a whole batch and on its micro-batches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from dense import CASES, LAYER, PAIRS, Case, Seen
from small import random_llama
from torch import Tensor

from undial_cli.data.collate import EMPTY_EXAMPLE, Batch, make_padded_batch, pad_examples
from undial_cli.data.encode import IGNORE, Example
from undial_cli.losses import select_targets, sequence_logps
from undial_cli.losses.activations import target_token_mask
from undial_cli.losses.chunked import Projection
from undial_cli.losses.targets import Targets, TeacherSignal
from undial_cli.methods import METHODS, make_method
from undial_cli.methods.base import REFERENCE_LOGPS, RETAIN_TERMS, TEACHER_LOGITS, Loss
from undial_cli.runs.hydra_configs import find_config_folder
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.trainer import compute_term_sum

X = IGNORE
LABELS = torch.tensor(
    [
        [X, X, 3, 4, 5, X],
        [X, 2, 6, X, X, X],
        [X, X, X, X, X, X],
        [0, X, X, X, 1, 1],
        [X, 7, 7, 7, 7, 7],
        [X, X, X, 2, X, X],
    ]
)
FOCUS = torch.tensor([[0, 0, 1, 0, 1, 0], [0, 0, 1, 0, 0, 0], *[[0] * 6] * 2, [1] * 6, [0] * 6]) > 0
VOCABULARY, WIDTH = 8, 5
SPLITS = [[6], [1, 1, 1, 1, 1, 1], [2, 4], [1, 5], [3, 1, 1, 1]]
PAIR_SPLITS = [[6], [2, 2, 2], [4, 2]]


@dataclass
class Model:
    """Hidden states [B, T, D] and the head [V, D] that makes logits of them."""

    hidden: Tensor
    head: Tensor

    @property
    def seen(self) -> Seen:
        return Seen(self.hidden @ self.head.T, self.hidden)

    def of(self, rows: slice) -> Model:
        return Model(self.hidden[rows], self.head)


def model(seed: int, differentiable: bool = False) -> Model:
    generator = torch.Generator().manual_seed(seed)
    hidden, head = (
        torch.randn(*shape, WIDTH, dtype=torch.float64, generator=generator)
        for shape in (LABELS.shape, (VOCABULARY,))
    )
    return Model(hidden.requires_grad_(differentiable), head.requires_grad_(differentiable))


def counts_of(labels: Tensor) -> list[int]:
    """Target tokens of each row."""
    return [sum(int(y) != X for y in row[1:]) for row in labels]


def targets_of(
    loss: Loss,
    student: Model,
    teacher: Model,
    rows: slice = slice(None),
    labels: Tensor = LABELS,
) -> Targets:
    """What the trainer hands to a loss: target positions, and the teacher's signal if needed."""
    labels, student, teacher = labels[rows], student.of(rows), teacher.of(rows)
    mask, targets_N, sequence_N = select_targets(labels)
    signal = TeacherSignal()
    if TEACHER_LOGITS in loss.needs:
        signal = TeacherSignal(teacher.hidden[mask], Projection(teacher.head))
    if REFERENCE_LOGPS in loss.needs:
        signal.logps_B = sequence_logps(teacher.seen.logits, labels)
    if loss.layer is not None:
        signal.layer_ND, mask = teacher.hidden[target_token_mask(labels)], target_token_mask(labels)
    focus_N = FOCUS[rows][:, 1:][select_targets(labels)[0][:, :-1]]
    return Targets(
        student.hidden[mask], Projection(student.head), targets_N, sequence_N, counts_of(labels),
        focus_N, signal,
    )  # fmt: skip


def dense(case: Case, student: Model, teacher: Model) -> Tensor:
    """The public loss of the whole batch."""
    return case.dense(student.seen, teacher.seen, LABELS, FOCUS)


def gradients(total: Tensor, student: Model) -> list[Tensor]:
    """By hidden states and head; a loss of activations does not see the head."""
    leaves = (student.hidden, student.head)
    found = torch.autograd.grad(total, leaves, allow_unused=True, materialize_grads=True)
    return list(found)


def agree(found: list[Tensor], expected: list[Tensor]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)


def test_every_method_and_retain_term_is_tested_here_or_in_a_file_of_its_own() -> None:
    names = {label.split()[0] for label in CASES}
    files = {file.stem.removeprefix("test_") for file in Path(__file__).parent.glob("test_*.py")}
    assert {*METHODS, *RETAIN_TERMS, "mse"} - files - {"finetune"} <= names
    assert names <= {*METHODS, *RETAIN_TERMS, "mse"}


def test_every_method_has_a_yaml_file() -> None:
    assert {file.stem for file in (find_config_folder() / "method").glob("*.yaml")} == set(METHODS)


@pytest.mark.parametrize("name", CASES)
def test_sum_over_weight_is_the_public_loss(name: str) -> None:
    case = CASES[name]
    loss, student, teacher = case.loss(), model(1, differentiable=True), model(2)
    targets = targets_of(loss, student, teacher)
    found = loss.sum(targets) / loss.weight(targets.counts)
    expected = dense(case, student, teacher)
    agree([found], [expected])
    agree(gradients(found, student), gradients(expected, student))


@pytest.mark.parametrize(
    "name, sizes",
    [(n, s) for n in CASES for s in (PAIR_SPLITS if n in PAIRS else SPLITS)],
    ids=str,
)
def test_micro_batches_add_up_to_the_whole_batch(name: str, sizes: list[int]) -> None:
    case = CASES[name]
    loss, student, teacher = case.loss(), model(3, differentiable=True), model(4)
    starts = [sum(sizes[:i]) for i in range(len(sizes))]
    parts = [slice(a, a + n) for a, n in zip(starts, sizes, strict=True)]
    weight = sum(loss.weight(counts_of(LABELS[part])) for part in parts)
    sums = [loss.sum(targets_of(loss, student, teacher, part)) for part in parts]
    found = [gradients(total / weight, student) for total in sums]
    whole = model(3, differentiable=True)
    expected = dense(case, whole, teacher)
    agree([torch.stack(sums).sum() / weight], [expected])
    agree([sum(g[1:], g[0]) for g in zip(*found, strict=True)], gradients(expected, whole))


@pytest.mark.parametrize("name", ["undial", "fundial soft", "klr"])
def test_a_signal_without_a_head_is_projected_by_the_students(name: str) -> None:
    case = CASES[name]
    loss, student, teacher = case.loss(), model(7, differentiable=True), model(8)
    shared = Model(teacher.hidden, student.head)
    targets = targets_of(loss, student, shared)
    targets.signal.head = None
    total = loss.sum(targets) / loss.weight(targets.counts)
    expected = dense(case, student, Model(teacher.hidden, student.head.detach()))
    agree([total], [expected])
    agree(gradients(total, student), gradients(expected, student))


@pytest.mark.parametrize("name", CASES)
def test_weight_counts_tokens_or_sequences_or_pairs_that_have_one(name: str) -> None:
    sequences = dict.fromkeys(("npo", "simnpo", "rmu", "adaptive_rmu", "mse"), 5)
    # Of pairs: the tokens of the second sequences, and those of the first that have a second.
    tokens = {"ceu": 13 - 5, "idknll": 5, "jensun": 8}
    expected = {**sequences, **dict.fromkeys(PAIRS, 3), **tokens}.get(name, 13)
    weight = CASES[name].loss().weight(counts_of(LABELS))
    assert weight == expected
    assert isinstance(weight, int)


@pytest.mark.parametrize(
    "counts, pairs", [([3, 0], 1), ([0, 2], 1), ([0, 0], 0), ([0, 0, 1, 4], 1)]
)
def test_a_pair_counts_if_either_answer_has_a_target(counts: list[int], pairs: int) -> None:
    assert CASES["dpo"].loss().weight(counts) == pairs


@pytest.mark.parametrize("name", CASES)
def test_an_empty_micro_batch_gives_zero_with_its_graph(name: str) -> None:
    loss, student = CASES[name].loss(), model(5, differentiable=True)
    targets = targets_of(loss, student, model(6), slice(0, 2), LABELS[2:3].expand(6, -1))
    total = loss.sum(targets)
    total.backward()
    assert loss.weight(targets.counts) == 0
    assert float(total.detach()) == 0
    for leaf in (student.hidden, *([student.head] if loss.layer is None else [])):
        assert leaf.grad is not None
        assert not leaf.grad.any()


def examples() -> list[Example]:
    """Answers of several lengths, one of a single token and one of none; focus on some tokens."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for length, prompt, focus in (
        (9, 2, (3, 4, 7)),
        (5, 2, ()),
        (12, 4, (4,)),
        (7, 6, (6,)),
        (6, 6, ()),
    ):
        ids = torch.randint(1, 48, (length,), generator=generator).tolist()
        found.append(Example(ids, [IGNORE] * prompt + ids[prompt:], length, focus))
    return found


# In pairs: answers that have targets, twice; one of two has; an empty one.
ROWS = [0, 1, 2, 3, 4, 0, -1, -1]


def seen(network: Any, batch: dict[str, Tensor]) -> Seen:
    """Full logits and the activations at LAYER, by the model's own forward."""
    found = network(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"],
        output_hidden_states=True,
    )  # fmt: skip
    return Seen(found.logits, found.hidden_states[LAYER + 1])


@pytest.mark.parametrize("name", CASES)
def test_on_a_real_model_a_term_is_the_public_loss_of_its_full_logits(
    name: str, tmp_path: Path
) -> None:
    case, chosen = CASES[name], examples()
    loss, network = case.loss(), random_llama(48, dtype=torch.float64)
    rows = [chosen[i] if i >= 0 else EMPTY_EXAMPLE for i in ROWS]
    dense_rows = pad_examples(rows, 0)
    focus = torch.zeros_like(dense_rows["labels"], dtype=torch.bool)
    for row, example in enumerate(rows):
        focus[row, list(example.focus)] = True
    teacher = CachedTeacher(network, tmp_path, "", share_head=False)
    if loss.needs:
        teacher.add("forget", chosen, list(range(len(chosen))), loss)
        teacher.fill(network, make_padded_batch)
    with torch.no_grad():
        before = seen(network, dense_rows)
        torch.manual_seed(3)
        for parameter in network.parameters():
            parameter += 0.05 * torch.randn_like(parameter)
    batch: Batch = make_padded_batch(rows, ROWS)
    found = compute_term_sum(network, teacher, "forget", loss, batch) / loss.weight(batch.counts)
    expected = case.dense(seen(network, dense_rows), before, dense_rows["labels"], focus)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    every = dict(network.named_parameters())
    ours, theirs = (
        torch.autograd.grad(total, list(every.values()), allow_unused=True, materialize_grads=True)
        for total in (found, expected)
    )
    for parameter, a, b in zip(every, ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9, msg=parameter)
    assert any(gradient.any() for gradient in theirs)


def test_the_control_vector_follows_the_activations_to_their_device() -> None:
    method: Any = make_method(METHODS["rmu"].config(name="rmu"), seed=3)
    first = method.control(torch.zeros(2, 8))
    assert method.control(torch.zeros(5, 8)) is first
    assert method.control(torch.zeros(2, 8, device="meta")).device.type == "meta"
    assert torch.equal(method.control(torch.zeros(2, 8)), first)
