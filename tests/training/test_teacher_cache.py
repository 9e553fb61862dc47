"""The frozen teacher's signal against dense passes of the model it stands for."""

from __future__ import annotations

import itertools
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from small import disturb_weights, random_llama
from steps import NeedingLoss
from torch import Tensor, nn

from undial_cli.config.training import AdapterConfig
from undial_cli.data.collate import EMPTY_EXAMPLE, Batch, make_padded_batch
from undial_cli.data.encode import IGNORE, Example
from undial_cli.errors import WorldError
from undial_cli.losses import select_targets, sequence_logps
from undial_cli.losses.targets import TeacherSignal
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LOGITS, Loss
from undial_cli.models.head import find_output_head
from undial_cli.models.lora import adapt_model
from undial_cli.system.locks import WorkLock
from undial_cli.training.packing import PACKED_ATTENTION, pack_batch, switch_attention
from undial_cli.training.teacher import AdapterTeacher
from undial_cli.training.teacher_cache import CachedTeacher
from undial_cli.training.teacher_pass import TEACHER_PASS_TOKENS, batch_by_tokens

VOCABULARY = 64
BOTH = NeedingLoss(TEACHER_LOGITS, REFERENCE_LOGPS)


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
EVERY = list(range(len(EXAMPLES)))


def batch_of(indices: list[int], chosen: list[Example] = EXAMPLES) -> Batch:
    return make_padded_batch([chosen[i] if i >= 0 else EMPTY_EXAMPLE for i in indices], indices)


@torch.no_grad()
def dense(
    model: nn.Module, indices: list[int], chosen: list[Example] = EXAMPLES
) -> tuple[Tensor, Tensor]:
    """Teacher logits at target positions [N, V] and log-probabilities [B], from full logits.

    One pass per row, without padding and with full logits.
    """
    rows, logps = [torch.empty(0, VOCABULARY, dtype=torch.float64)], []
    for i in indices:
        example = chosen[i] if i >= 0 else EMPTY_EXAMPLE
        labels = torch.tensor([example.labels])
        logits = model(input_ids=torch.tensor([example.input_ids])).logits
        rows.append(logits[select_targets(labels)[0]])
        logps.append(sequence_logps(logits, labels))
    return torch.cat(rows), torch.cat(logps)


def logits_of(signal: TeacherSignal, model: nn.Module) -> Tensor:
    """The teacher's logits that a loss makes of a signal."""
    assert signal.hidden_ND is not None
    return (signal.head or find_output_head(model).projection()).logits(signal.hidden_ND)


def close(found: Tensor | None, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def cached(
    model: nn.Module,
    folder: Path,
    loss: Loss = BOTH,
    used: list[int] = EVERY,
    share_head: bool = False,
    in_memory: bool = True,
) -> CachedTeacher:
    """A teacher that knows EXAMPLES as the set `forget`, its cache filled."""
    teacher = CachedTeacher(model, folder, "fingerprint", share_head)
    teacher.in_memory = in_memory
    teacher.add("forget", EXAMPLES, used, loss)
    teacher.fill(model, make_padded_batch)
    return teacher


BATCHES = [[0, 1, 2], [7, -1, 3], [5], [8, 4, -1, -1], [6, 6]]


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("tokens, in_memory", [(1, True), (32, False), (2048, True)])
def test_the_cached_signal_is_that_of_the_model_before_training(
    tied: bool, tokens: int, in_memory: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TEACHER_PASS_TOKENS, "cpu", tokens)
    model = random_llama(VOCABULARY, tied, torch.float64)
    expected = [dense(model, indices) for indices in BATCHES]
    teacher = cached(model, tmp_path, in_memory=in_memory)
    disturb_weights(model, 0.3, seed=9)
    for indices, (logits, logps) in zip(BATCHES, expected, strict=True):
        signal = teacher.signal(model, "forget", batch_of(indices), BOTH)
        close(logits_of(signal, model), logits)
        close(signal.logps_B, logps)
        assert not torch.allclose(dense(model, indices)[1], logps, atol=1e-3) or not logps.any()


def test_the_cached_signal_includes_the_bias_of_the_head(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, False, torch.float64)
    model.lm_head.bias = nn.Parameter(torch.randn(VOCABULARY, dtype=torch.float64))
    logits, logps = dense(model, [0, 1, 2])
    teacher = cached(model, tmp_path)
    disturb_weights(model, 0.3, seed=9)
    signal = teacher.signal(model, "forget", batch_of([0, 1, 2]), BOTH)
    close(logits_of(signal, model), logits)
    close(signal.logps_B, logps)


def test_the_teacher_is_asked_without_dropout_and_the_mode_comes_back(tmp_path: Path) -> None:
    model: Any = random_llama(VOCABULARY, dtype=torch.float64)
    for layer in model.model.layers:
        layer.self_attn.attention_dropout = 0.5
    logits, _ = dense(model, [0, 1, 2])
    teacher = cached(model.train(), tmp_path)
    assert all(module.training for module in model.modules())
    signal = teacher.signal(model, "forget", batch_of([0, 1, 2]), BOTH)
    close(logits_of(signal, model), logits)


def test_only_what_a_loss_needs_is_given_and_kept(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY)
    for need, other, file in (
        (TEACHER_LOGITS, "logps_B", "hidden"),
        (REFERENCE_LOGPS, "hidden_ND", "logps"),
    ):
        folder, loss = tmp_path / file, NeedingLoss(need)
        signal = cached(model, folder, loss).signal(model, "forget", batch_of([0, 1]), loss)
        assert getattr(signal, other) is None
        assert {path.name for path in folder.rglob("*.*")} == {f"{file}.bin", f"{file}.sums"}


def test_a_batch_of_empty_rows_has_a_signal_of_no_positions(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY)
    signal = cached(model, tmp_path).signal(model, "forget", batch_of([-1, -1]), BOTH)
    assert logits_of(signal, model).shape == (0, VOCABULARY)
    assert signal.logps_B is not None
    assert signal.logps_B.tolist() == [0, 0]


def test_sets_of_one_run_are_kept_apart(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    teacher, swapped = CachedTeacher(model, tmp_path, "", False), EXAMPLES[::-1]
    for name, part in (("forget", EXAMPLES), ("retain", swapped)):
        teacher.add(name, part, [0, 1], BOTH)
    teacher.fill(model, make_padded_batch)
    signal = teacher.signal(model, "retain", batch_of([0, 1], swapped), BOTH)
    close(logits_of(signal, model), dense(model, [0, 1], swapped)[0])


def test_a_set_without_any_target_is_kept_as_well(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    teacher, bare = CachedTeacher(model, tmp_path, "", False), [EXAMPLES[8]] * 2
    teacher.add("forget", bare, [0, 1], BOTH)
    teacher.fill(model, make_padded_batch)
    signal = teacher.signal(model, "forget", batch_of([1, 0], bare), BOTH)
    assert logits_of(signal, model).shape == (0, VOCABULARY)
    close(signal.logps_B, torch.zeros(2, dtype=torch.float64))


@pytest.mark.parametrize("training", [True, False])
def test_the_adapter_teacher_is_the_base_model(training: bool) -> None:
    base = random_llama(VOCABULARY, dtype=torch.float64)
    expected = [dense(base, indices) for indices in BATCHES]
    model: Any = adapt_model(base, AdapterConfig(name="lora", dropout=0.3), seed=0)
    disturb_weights(model, 0.3, seed=9)
    trainable = [name for name, p in model.named_parameters() if p.requires_grad]
    model.eval()
    adapted = [dense(model, indices) for indices in BATCHES]
    model.train(training)
    for indices, (logits, logps) in zip(BATCHES, expected, strict=True):
        signal = AdapterTeacher().signal(model, "forget", batch_of(indices), BOTH)
        close(logits_of(signal, model), logits)
        close(signal.logps_B, logps)
        assert signal.hidden_ND is not None
        assert not signal.hidden_ND.requires_grad
    assert all(module.training is training for module in model.modules())
    assert [name for name, p in model.named_parameters() if p.requires_grad] == trainable
    model.eval()
    for indices, (logits, _) in zip(BATCHES, adapted, strict=True):
        assert torch.equal(dense(model, indices)[0], logits)
    assert not torch.allclose(adapted[0][0], expected[0][0], atol=1e-3)


def test_sharing_the_head_keeps_no_copy_of_it(tmp_path: Path) -> None:
    model: Any = random_llama(VOCABULARY, False, torch.float64)
    logits, _ = dense(model, [0, 1, 2])
    adapted = adapt_model(model, AdapterConfig(name="lora"), seed=0)
    teacher = cached(adapted, tmp_path, share_head=True)
    assert teacher.head is None
    disturb_weights(adapted, 0.3, seed=9)
    signal = teacher.signal(adapted, "forget", batch_of([0, 1, 2]), BOTH)
    assert signal.head is None
    close(logits_of(signal, adapted), logits)


def test_a_copy_of_the_head_is_in_the_precision_of_the_products(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, False)
    with torch.autocast("cpu", torch.bfloat16):
        teacher = cached(model, tmp_path)
    assert teacher.head is not None
    assert teacher.head.weight_VD.dtype == torch.bfloat16
    assert not teacher.head.weight_VD.requires_grad
    assert teacher.nbytes == sum(2 * 32 * e.num_targets + 8 for e in EXAMPLES)


class Counted:
    """A collate function that notes which samples the teacher is asked about."""

    def __init__(self) -> None:
        self.samples: list[int] = []

    def __call__(self, chosen: list[Example], indices: list[int]) -> Batch:
        self.samples += [i for i in indices if i >= 0]
        return make_padded_batch(chosen, indices)


def refilled(
    model: nn.Module, folder: Path, used: list[int] = EVERY, in_memory: bool = True
) -> tuple[CachedTeacher, list[int]]:
    """A new teacher on the same folder, and the samples that it had to compute."""
    teacher, collate = CachedTeacher(model, folder, "fingerprint", False), Counted()
    teacher.in_memory = in_memory
    teacher.add("forget", EXAMPLES, used, BOTH)
    advanced = []
    teacher.fill(model, collate, advanced.append)
    assert sum(advanced) == len(used)
    return teacher, sorted(collate.samples)


def signals(teacher: CachedTeacher, model: nn.Module) -> list[TeacherSignal]:
    return [teacher.signal(model, "forget", batch_of(indices), BOTH) for indices in BATCHES]


def same_bits(found: list[TeacherSignal], expected: list[TeacherSignal]) -> None:
    for ours, theirs in zip(found, expected, strict=True):
        for name in ("hidden_ND", "logps_B"):
            assert torch.equal(getattr(ours, name), getattr(theirs, name))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_a_second_run_computes_nothing_and_gets_the_same_bits(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    model = random_llama(VOCABULARY, dtype=dtype)
    first, computed = refilled(model, tmp_path)
    assert computed == EVERY
    for in_memory in (True, False):
        again, computed = refilled(model, tmp_path, in_memory=in_memory)
        assert computed == []
        same_bits(signals(again, model), signals(first, model))


def test_a_run_that_sees_more_samples_computes_those_alone(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    assert refilled(model, tmp_path, [0, 3, 7])[1] == [0, 3, 7]
    teacher, computed = refilled(model, tmp_path)
    assert computed == [i for i in EVERY if i not in (0, 3, 7)]
    for indices in BATCHES:
        signal = teacher.signal(model, "forget", batch_of(indices), BOTH)
        logits, logps = dense(model, indices)
        close(logits_of(signal, model), logits)
        close(signal.logps_B, logps)
    assert refilled(model, tmp_path, [1, 2])[1] == []


def rows_of(example: Example, hidden: bool) -> int:
    """Bytes that a float64 sample takes in a file."""
    return 8 * 32 * example.num_targets if hidden else 8


@pytest.mark.parametrize("name", ["hidden", "logps"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "forgotten"])
def test_damage_to_a_file_is_noticed_and_only_what_it_hit_computed_again(
    name: str, damage: str, tmp_path: Path
) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    first, _ = refilled(model, tmp_path)
    expected = signals(first, model)
    (file,) = tmp_path.rglob(f"{name}.bin")
    starts = [0]
    for example in EXAMPLES:
        starts.append(starts[-1] + rows_of(example, name == "hidden"))
    content = bytearray(file.read_bytes())
    assert len(content) == starts[-1]
    hit = [4]
    if damage == "truncated":
        file.write_bytes(content[: starts[5] + 3])
        cut = [content[a:b] for a, b in itertools.pairwise(starts)]
        hit = [i for i in EVERY if i > 4 and any(cut[i])]  # zeros come back as they were
    elif damage == "flipped":
        content[starts[4] + 5] ^= 16
        file.write_bytes(content)
    else:
        sums = file.with_suffix(".sums")
        noted = bytearray(sums.read_bytes())
        noted[8 * 4 : 8 * 5] = bytes(8)
        sums.write_bytes(noted)
    again, computed = refilled(model, tmp_path)
    assert computed == hit
    for ours, theirs in zip(signals(again, model), expected, strict=True):
        close(ours.hidden_ND, theirs.hidden_ND)
        close(ours.logps_B, theirs.logps_B)
    assert refilled(model, tmp_path)[1] == []


def test_a_killed_run_is_continued_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    seen: list[int] = []

    def killed(chosen: list[Example], indices: list[int]) -> Batch:
        if len(seen) >= 5:
            raise KeyboardInterrupt
        seen.extend(indices)
        return make_padded_batch(chosen, indices)

    teacher = CachedTeacher(model, tmp_path, "fingerprint", False)
    teacher.add("forget", EXAMPLES, EVERY, BOTH)
    monkeypatch.setitem(TEACHER_PASS_TOKENS, "cpu", 30)
    with pytest.raises(KeyboardInterrupt):
        teacher.fill(model, killed)
    assert 5 <= len(seen) < len(EVERY)
    assert refilled(model, tmp_path)[1] == [i for i in EVERY if i not in seen]


@pytest.mark.parametrize("change", ["weights", "data", "labels", "dtype"])
def test_another_model_or_other_data_share_nothing(change: str, tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    refilled(model, tmp_path)
    fingerprint, chosen = "fingerprint", list(EXAMPLES)
    first = EXAMPLES[0]
    if change == "weights":
        fingerprint = "another"
    elif change == "dtype":
        model = random_llama(VOCABULARY, dtype=torch.float32)
    elif change == "data":
        chosen[0] = Example([*first.input_ids[:-1], 5], [*first.labels[:-1], 5], first.answer_end)
    else:
        chosen[0] = Example(first.input_ids, [IGNORE, *first.labels[1:-1], 7], first.answer_end)
    teacher, collate = CachedTeacher(model, tmp_path, fingerprint, False), Counted()
    teacher.add("forget", chosen, EVERY, BOTH)
    teacher.fill(model, collate)
    assert sorted(collate.samples) == EVERY


def test_packed_passes_keep_what_padded_ones_keep(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    teacher = CachedTeacher(model, tmp_path, "fingerprint", False)
    teacher.add("forget", EXAMPLES, EVERY, BOTH)
    with switch_attention(model, PACKED_ATTENTION):
        teacher.fill(model, pack_batch)
    for indices in BATCHES:
        signal = teacher.signal(model, "forget", batch_of(indices), BOTH)
        logits, logps = dense(model, indices)
        close(logits_of(signal, model), logits)
        close(signal.logps_B, logps)


def test_the_signal_of_a_packed_batch_is_in_its_rows_order(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    teacher = cached(model, tmp_path)
    for indices in BATCHES:
        batch = pack_batch([EXAMPLES[i] if i >= 0 else EMPTY_EXAMPLE for i in indices], indices)
        signal = teacher.signal(model, "forget", batch, BOTH)
        logits, logps = dense(model, indices)
        close(logits_of(signal, model), logits)
        close(signal.logps_B, logps)


@pytest.mark.parametrize("tokens", [1, 14, 40, 10**6])
def test_batches_of_the_teacher_hold_each_sample_once_and_few_enough_tokens(tokens: int) -> None:
    batches = batch_by_tokens(EXAMPLES, [1, 3, 4, 5, 8], tokens)
    assert sorted(i for batch in batches for i in batch) == [1, 3, 4, 5, 8]
    for batch in batches:
        longest = max(len(EXAMPLES[i].input_ids) for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= tokens


def test_a_resumed_run_takes_what_is_kept_and_never_asks_the_trained_model(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    first, _ = refilled(model, tmp_path, [0, 1, 2])
    expected = first.signal(model, "forget", batch_of([0, 1, 2]), BOTH)
    disturb_weights(model, 0.3, seed=9)
    teacher = CachedTeacher(model, tmp_path, "fingerprint", False)
    teacher.add("forget", EXAMPLES, [0, 1, 2], BOTH)
    teacher.fill(model, make_padded_batch, resumed=True)
    same_bits([teacher.signal(model, "forget", batch_of([0, 1, 2]), BOTH)], [expected])
    teacher.add("forget", EXAMPLES, [0, 1, 2, 3], BOTH)
    with pytest.raises(WorldError, match=r"no longer holds.*resume=false"):
        teacher.fill(model, make_padded_batch, resumed=True)


def test_a_set_is_locked_while_it_is_filled_and_no_other(tmp_path: Path, cache: Path) -> None:
    """Another teacher's lock, or that of another set, is none of ours; our own set's is."""
    model = random_llama(VOCABULARY, dtype=torch.float64)
    free: dict[str, list[bool]] = {"own": [], "other": []}

    def held(folder: Path) -> bool:
        with ThreadPoolExecutor(1) as pool:
            return not pool.submit(acquired, folder).result()

    def collate(chosen: list[Example], indices: list[int]) -> Batch:
        for name, teacher in (("own", teacher_one), ("other", teacher_two)):
            free[name].append(not held(teacher.sets["forget"].folder))
        return make_padded_batch(chosen, indices)

    teacher_one = CachedTeacher(model, tmp_path, "fingerprint", False)
    teacher_two = CachedTeacher(model, tmp_path, "another", False)
    for teacher in (teacher_one, teacher_two):
        teacher.add("forget", EXAMPLES, EVERY, BOTH)
    teacher_one.fill(model, collate)
    assert free["own"]
    assert not any(free["own"])
    assert all(free["other"])
    assert not held(teacher_one.sets["forget"].folder)


def acquired(folder: Path) -> bool:
    """Whether the lock of a folder is free."""
    lock = WorkLock(folder)
    lock.patience = 0
    free = lock.try_acquire()
    if free:
        lock.release()
    return free


def test_a_run_keeps_what_it_sees_of_a_large_set(tmp_path: Path) -> None:
    model = random_llama(VOCABULARY, dtype=torch.float64)
    many = [EXAMPLES[i % 8] for i in range(4000)]
    teacher = CachedTeacher(model, tmp_path, "fingerprint", False)
    teacher.add("retain", many, [7, 2041], BOTH)
    seen = 32 * (many[7].num_targets + many[2041].num_targets) + 2
    assert teacher.nbytes == 8 * seen
    teacher.fill(model, make_padded_batch)
    for file in tmp_path.rglob("*.bin"):
        assert file.stat().st_blocks * 512 < 40_000
    signal = teacher.signal(model, "retain", batch_of([2041, 7], many), BOTH)
    close(logits_of(signal, model), dense(model, [2041, 7], many)[0])
