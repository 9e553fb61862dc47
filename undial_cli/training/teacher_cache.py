"""The teacher's signal computed once, before the first step, and kept for every later epoch.

Per target position the final hidden state (plus one frozen head), a layer's activations or the
token's log-probability under other questions, per sequence one log-probability; in the user's cache
folder, where other runs on the same target and data find it. Knows what a loss can need, and no
loss by name.

Shapes: B sequences, N target positions of all B, V vocabulary, D width.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from undial_cli import ui
from undial_cli.config.identity import hash_json
from undial_cli.data.collate import EMPTY_EXAMPLE, Batch
from undial_cli.data.example import Example
from undial_cli.data.other_questions import exchange_question
from undial_cli.data.stored_examples import StoredExamples, count_each_targets
from undial_cli.errors import WorldError
from undial_cli.losses.chunked import Projection, head_compute_dtype
from undial_cli.losses.targets import TeacherSignal
from undial_cli.methods.base import (
    PRIOR_LOGPS,
    REFERENCE_LOGPS,
    TEACHER_LAYER,
    TEACHER_LOGITS,
    Loss,
)
from undial_cli.models.adapters import unwrap_adapter
from undial_cli.models.head import find_output_head
from undial_cli.system import processes
from undial_cli.system.supervision import give_beat
from undial_cli.training.sample_rows import SampleRows
from undial_cli.training.teacher_pass import (
    TEACHER_PASS_TOKENS,
    batch_by_tokens,
    compute_target_logps,
    run_teacher,
)

CollateExamples = Callable[[list[Example], list[int]], Batch]


@dataclass
class CachedSet:
    """One set of a run: its examples, those of them the run sees, and what is cached of them.

    `loss`: the one that asks; `rows`: by what it needs; `questions`: of each example the examples
    whose questions are put before its answer.
    """

    folder: Path
    examples: Sequence[Example]
    used: list[int]
    loss: Loss
    rows: dict[str, SampleRows]
    questions: Sequence[tuple[int, ...]] = ()


class CachedTeacher:
    """The teacher's signal computed once, held in a file by set and sample.

    Args:
        model: the teacher, as it is before training.
        folder: where the files lie; `fingerprint` is all that the signal depends on but the data.
        share_head: the model's head is not trained, so it is the teacher's as well.
        max_length: tokens of the longest sequence that it is asked other questions in.

    `in_memory`: hold the signal in memory, not mapped from the file.
    """

    in_memory = True

    def __init__(
        self,
        model: nn.Module,
        folder: Path,
        fingerprint: str,
        share_head: bool,
        max_length: int = sys.maxsize,
    ) -> None:
        head = find_output_head(model)
        no_hidden = head.weight.new_empty(0, head.in_features)
        self.dtype = head_compute_dtype(no_hidden, head.projection())
        self.layer_dtype = head.weight.dtype
        self.width = head.in_features
        shape = unwrap_adapter(model).config.get_text_config(decoder=True)
        self.layer_width = getattr(shape, "hidden_size", self.width)
        # Of a trained head a copy is made (in `add`), but only for a loss that asks for logits.
        self.trained_head = None if share_head else head.projection()
        self.head: Projection | None = None
        self.folder, self.fingerprint, self.max_length = folder, fingerprint, max_length
        self.sets: dict[str, CachedSet] = {}

    def add(
        self,
        name: str,
        examples: Sequence[Example],
        used: list[int],
        loss: Loss,
        questions: Sequence[tuple[int, ...]] = (),
    ) -> None:
        """A set that the run will ask for, and the loss on it.

        Args:
            questions: of each example the examples that ask, for a loss that needs PRIOR_LOGPS.
        """
        # All examples are hashed and have room in the files, not the used ones: runs that see other
        # parts of the same set share its files.
        content: Any = examples
        if not isinstance(examples, StoredExamples):
            content = [[e.input_ids, e.labels] for e in examples]
        folder = self.folder / hash_json([self.fingerprint, str(self.dtype), content])
        counts = count_each_targets(examples)
        rows = {}
        if TEACHER_LOGITS in loss.needs:
            if self.trained_head is not None and self.head is None:
                self.head = self.trained_head.detach().to(self.dtype, copy=True)
            rows[TEACHER_LOGITS] = SampleRows(
                folder / "hidden.bin", counts, self.width, self.dtype, used
            )
        if REFERENCE_LOGPS in loss.needs:
            ones = np.ones(len(examples), np.int64)
            rows[REFERENCE_LOGPS] = SampleRows(folder / "logps.bin", ones, 1, torch.float64, used)
        if TEACHER_LAYER in loss.needs:
            file = folder / f"layer{loss.layer}.bin"
            rows[TEACHER_LAYER] = SampleRows(file, counts, self.layer_width, self.layer_dtype, used)
        if PRIOR_LOGPS in loss.needs:
            # Whatever is done with it: runs of other bounds or steps share it.
            file = folder / f"prior{hash_json([questions, self.max_length])}.bin"
            rows[PRIOR_LOGPS] = SampleRows(file, counts, 1, torch.float64, used)
        self.sets[name] = CachedSet(folder, examples, used, loss, rows, questions)

    @property
    def nbytes(self) -> int:
        """Size of all that the run needs."""
        return sum(rows.nbytes for cached in self.sets.values() for rows in cached.rows.values())

    @property
    def samples(self) -> int:
        """How many samples the run asks about."""
        return sum(len(cached.used) for cached in self.sets.values())

    def fill(
        self,
        model: nn.Module,
        collate: CollateExamples,
        advance: Callable[[int], None] = lambda n: None,
        resumed: bool = False,
    ) -> int:
        """Run the teacher over what is missing, in batches of similar length, shared out.

        A set is locked while it is filled, so that only runs on the same teacher and the same set
        wait for each other.

        Args:
            resumed: the model has been trained already: nothing may be missing.

        Returns:
            How many samples were missing.

        Raises:
            WorldError: something is, or the processes do not see the same cache folder.
        """
        device = next(model.parameters()).device
        self.head = None if self.head is None else self.head.to(device)
        total = 0
        for cached in self.sets.values():
            with processes.hold_lock_on_main(cached.folder):
                absent = open_set_rows(cached)
                unasked = absent.pop(PRIOR_LOGPS, [])
                unseen = sorted(set().union(*absent.values()))
                missing = {*unseen, *unasked}
                if missing and resumed:
                    raise WorldError(
                        f"teacher cache: {self.folder} no longer holds what this run began with; "
                        "resume=false starts it again"
                    )
                total += len(missing)
                advance(len(cached.used) - len(missing))
                # A sample is done with the last pass over it.
                seen = advance if not unasked else lambda n: None
                self.compute(model, cached, unseen, collate, seen, device)
                if unasked:
                    advance(len(missing) - len(unasked))
                    self.compute_prior(model, cached, unasked, collate, advance, device)
            # Each process reads what the others wrote: on a folder of one machine's own, it cannot.
            if any(rows.missing(cached.used) for rows in cached.rows.values()):
                raise WorldError(
                    f"teacher cache: not every process sees {self.folder}; UNDIAL_CACHE_DIR must "
                    "be a folder that all of them share"
                )
            if self.in_memory:
                for rows in cached.rows.values():
                    rows.load()
        return total

    def compute(
        self,
        model: nn.Module,
        cached: CachedSet,
        missing: list[int],
        collate: CollateExamples,
        advance: Callable[[int], None],
        device: torch.device,
    ) -> None:
        """Run the teacher over samples of a set, in this process over its share of the batches."""
        for _, samples in deal_batches(cached, missing, advance, device, "teacher pass"):
            # Without a batch left, an empty one: the layers of a sharded model are gathered in all
            # processes' forwards together, and one that stayed away would stop the others.
            examples = [cached.examples[i] for i in samples] or [EMPTY_EXAMPLE]
            batch = collate(examples, samples or [-1]).to(device)
            signal = run_teacher(model, batch, cached.loss)
            for need, rows in cached.rows.items():
                if need == PRIOR_LOGPS:
                    continue
                if need == REFERENCE_LOGPS:
                    assert signal.logps_B is not None
                    parts = signal.logps_B[:, None].cpu().split(1)
                else:
                    states_ND = signal.hidden_ND if need == TEACHER_LOGITS else signal.layer_ND
                    assert states_ND is not None
                    parts = states_ND.cpu().split(batch.counts)
                for i, part in zip(samples, parts, strict=False):
                    rows.put(i, part)

    def compute_prior(
        self,
        model: nn.Module,
        cached: CachedSet,
        missing: list[int],
        collate: CollateExamples,
        advance: Callable[[int], None],
        device: torch.device,
    ) -> None:
        """Ask the teacher other questions before samples' answers, as `compute` shares them out.

        Kept is each target's mean log-probability: the geometric mean of its probabilities.
        """
        title = "teacher's other questions"
        for turn, samples in deal_batches(cached, missing, advance, device, title):
            # A pass for each question: the batch's answers to it stand behind one prompt.
            asked = [sorted({q for i in batch for q in cached.questions[i]}) for batch in turn]
            questions = asked[turn.index(samples)] if samples else []
            sums: dict[int, Tensor] = {}
            for number in range(max(map(len, asked))):  # as often in every process, see `compute`
                question = questions[number] if number < len(questions) else None
                answered = [i for i in samples if question in cached.questions[i]]
                examples = [self.ask(cached, i, question) for i in answered] or [EMPTY_EXAMPLE]
                batch = collate(examples, answered or [-1]).to(device)
                logps_N = compute_target_logps(model, batch).double().cpu()
                for i, part in zip(answered, logps_N.split(batch.counts), strict=False):
                    sums[i] = sums[i] + part if i in sums else part
            for i, total_N in sums.items():
                mean_N = total_N / len(cached.questions[i])
                cached.rows[PRIOR_LOGPS].put(i, mean_N[:, None])

    def ask(self, cached: CachedSet, sample: int, question: int | None) -> Example:
        """A sample's answer behind the question of another one."""
        assert question is not None
        examples = cached.examples
        return exchange_question(examples[sample], examples[question], self.max_length)

    def signal(self, model: nn.Module, name: str, batch: Batch, loss: Loss) -> TeacherSignal:
        del model
        rows, device = self.sets[name].rows, batch.input_ids.device

        def read_rows(need: str) -> Tensor:
            none = torch.empty(0, rows[need].width, dtype=rows[need].dtype)
            parts = [rows[need].get(i) for i in batch.index if i >= 0]
            return torch.cat([none, *parts]).to(device)

        signal = TeacherSignal(head=self.head)
        if TEACHER_LOGITS in loss.needs:
            signal.hidden_ND = read_rows(TEACHER_LOGITS)
        if TEACHER_LAYER in loss.needs:
            signal.layer_ND = read_rows(TEACHER_LAYER)
        if PRIOR_LOGPS in loss.needs:
            signal.prior_N = read_rows(PRIOR_LOGPS)[:, 0]
        if REFERENCE_LOGPS in loss.needs:
            # One per row of the batch, those that are empty included (-1).
            zero = torch.zeros(1, 1, dtype=torch.float64)
            values = [rows[REFERENCE_LOGPS].get(i) if i >= 0 else zero for i in batch.index]
            signal.logps_B = torch.cat(values)[:, 0].to(device)
        return signal


def open_set_rows(cached: CachedSet) -> dict[str, list[int]]:
    """Open the files of a set; by need the samples still missing in them, on every process."""
    # Checksums read every byte: each process looks at its share.
    share = cached.used[processes.get_process_rank() :: processes.get_process_count()]
    missing: dict[str, list[int]] = {}
    damaged: set[int] = set()
    for need, rows in cached.rows.items():
        processes.run_on_main(rows.prepare)
        rows.open()
        absent = rows.missing(share)
        missing[need] = sorted(processes.gather_items(absent))
        damaged.update(rows.damaged(absent))
    count = sum(processes.gather_items([len(damaged)]))
    if count:
        ui.say(f"teacher: {count} samples of {cached.folder} are damaged, made anew", "yellow")
    return missing


def deal_batches(
    cached: CachedSet,
    missing: list[int],
    advance: Callable[[int], None],
    device: torch.device,
    title: str,
) -> Iterator[tuple[list[list[int]], list[int]]]:
    """Batches of samples in turns, one for each process: all of a turn, and this process's.

    A process without a batch left takes part in the turn with an empty one. Ends when all have.

    Args:
        advance: told how many samples are done.
        title: of the beats that are given.
    """
    tokens = TEACHER_PASS_TOKENS.get(device.type, TEACHER_PASS_TOKENS["cuda"])
    batches = batch_by_tokens(cached.examples, missing, tokens)
    rank, world = processes.get_process_rank(), processes.get_process_count()
    for number, start in enumerate(range(0, len(batches), world), 1):
        turn = batches[start : start + world]
        yield turn, turn[rank] if rank < len(turn) else []
        advance(sum(map(len, turn)))
        give_beat(title, number)
    processes.wait_for_all()
