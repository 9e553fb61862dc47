"""The frozen teacher's signal: the model at the start of the request, never a second full model.

`CachedTeacher` runs it once before the first step and keeps, per target position, the final hidden
state (plus one frozen head) or the activations of a layer, or per sequence one log-probability;
what it keeps lies in the user's cache folder for other runs on the same target and data.
`AdapterTeacher` switches the fresh adapter off. Knows what a loss needs, but no loss by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from undial_cli.config.schema import hash_json
from undial_cli.data.collate import EMPTY_EXAMPLE, Batch, order_by_length
from undial_cli.data.encode import Example
from undial_cli.errors import WorldError
from undial_cli.losses.chunked import Projection, head_compute_dtype
from undial_cli.losses.targets import Targets, TeacherSignal
from undial_cli.methods.base import REFERENCE_LOGPS, TEACHER_LAYER, TEACHER_LOGITS
from undial_cli.models.adapters import unwrap_adapter
from undial_cli.models.head import evaluation_mode, find_output_head, head_job
from undial_cli.system import processes
from undial_cli.training.layers import capture_layer_states
from undial_cli.training.rows import SampleRows

# Tokens of one teacher pass, which keeps no activations.
TEACHER_PASS_TOKENS = {"cpu": 2048, "cuda": 16384}

TeacherNeeds = frozenset[str]
CollateExamples = Callable[[list[Example], list[int]], Batch]


class Teacher(Protocol):
    """Gives the signal of one micro-batch of the set `name`."""

    def signal(
        self,
        model: nn.Module,
        name: str,
        batch: Batch,
        needs: TeacherNeeds,
        layer: int | None = None,
    ) -> TeacherSignal: ...


def forward_batch(model: nn.Module, batch: Batch) -> Tensor:
    """What the head's job returned for a batch."""
    return model(input_ids=batch.input_ids, use_cache=False, **batch.layout).logits


def select_predicting_states(hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """The hidden states that predict a target, [N, D]."""
    return hidden_BTD.flatten(0, 1).index_select(0, batch.positions_N)


def select_target_states(hidden_BTD: Tensor, batch: Batch) -> Tensor:
    """The hidden states of the targets themselves, [N, D]."""
    return hidden_BTD.flatten(0, 1).index_select(0, batch.positions_N + 1)


def make_targets(
    hidden_ND: Tensor, head: Projection, batch: Batch, signal: TeacherSignal
) -> Targets:
    """A batch's target positions, with the student's hidden states and what the teacher says."""
    return Targets(
        hidden_ND, head, batch.targets_N, batch.sequence_N, batch.counts, batch.focus_N, signal
    )


def run_teacher(
    model: nn.Module, batch: Batch, needs: TeacherNeeds, layer: int | None = None
) -> TeacherSignal:
    """What a model says of a batch; the hidden states are of as low a precision as the head's."""
    signal = TeacherSignal()

    def job(hidden_BTD: Tensor, head: Projection) -> Tensor:
        hidden_ND = select_predicting_states(hidden_BTD, batch)
        if REFERENCE_LOGPS in needs:
            signal.logps_B = make_targets(hidden_ND, head, batch, signal).sequence_logps()
        if TEACHER_LAYER in needs:
            signal.layer_ND = select_target_states(found.pop(), batch).to(head.weight_VD.dtype)
        return hidden_ND.to(head_compute_dtype(hidden_ND, head))

    with evaluation_mode(model), capture_layer_states(model, layer) as found, head_job(model, job):
        hidden_ND = forward_batch(model, batch)
    signal.hidden_ND = hidden_ND if TEACHER_LOGITS in needs else None
    return signal


class AdapterTeacher:
    """The model with its fresh adapter switched off, asked again for every micro-batch."""

    def signal(
        self,
        model: nn.Module,
        name: str,
        batch: Batch,
        needs: TeacherNeeds,
        layer: int | None = None,
    ) -> TeacherSignal:
        del name
        inner: Any = getattr(model, "module", model)
        with inner.disable_adapter():
            return run_teacher(inner, batch, needs, layer)


@dataclass
class CachedSet:
    """One set of a run: its examples, those of them the run sees, and what is kept of them.

    `folder`: where it is kept. `layer`: whose activations are kept, if any are.
    """

    folder: Path
    examples: list[Example]
    used: list[int]
    rows: dict[str, SampleRows]
    layer: int | None = None

    @property
    def needs(self) -> TeacherNeeds:
        """What is kept."""
        return frozenset(self.rows)


class CachedTeacher:
    """The teacher's signal computed once, held in a file by set and sample.

    Args:
        model: the teacher, as it is before training.
        folder: where the files lie; `fingerprint` is all that the signal depends on but the data.
        share_head: the model's head is not trained, so it is the teacher's as well.

    `in_memory`: hold the signal in memory, not mapped from the file.
    """

    in_memory = True

    def __init__(self, model: nn.Module, folder: Path, fingerprint: str, share_head: bool) -> None:
        head = find_output_head(model)
        hidden = head.weight.new_empty(0, head.in_features)
        self.dtype, self.layer_dtype = (
            head_compute_dtype(hidden, head.projection()),
            head.weight.dtype,
        )
        self.width = head.in_features
        shape = unwrap_adapter(model).config.get_text_config(decoder=True)
        self.layer_width = getattr(shape, "hidden_size", self.width)
        self.own = None if share_head else head.projection()
        self.head: Projection | None = None
        self.folder, self.fingerprint = folder, fingerprint
        self.sets: dict[str, CachedSet] = {}

    def add(
        self,
        name: str,
        examples: list[Example],
        used: list[int],
        needs: TeacherNeeds,
        layer: int | None = None,
    ) -> None:
        """A set that the run will ask for."""
        content = [[e.input_ids, e.labels] for e in examples]
        folder = self.folder / hash_json([self.fingerprint, str(self.dtype), content])
        counts = [e.num_targets for e in examples]
        rows = {}
        if TEACHER_LOGITS in needs:
            if self.own is not None and self.head is None:
                self.head = clone_frozen_head(self.own, self.dtype)
            rows[TEACHER_LOGITS] = SampleRows(
                folder / "hidden.bin", counts, self.width, self.dtype, used
            )
        if REFERENCE_LOGPS in needs:
            ones = [1] * len(examples)
            rows[REFERENCE_LOGPS] = SampleRows(folder / "logps.bin", ones, 1, torch.float64, used)
        if TEACHER_LAYER in needs:
            file = folder / f"layer{layer}.bin"
            rows[TEACHER_LAYER] = SampleRows(file, counts, self.layer_width, self.layer_dtype, used)
        self.sets[name] = CachedSet(folder, examples, used, rows, layer)

    @property
    def nbytes(self) -> int:
        """Size of all that the run keeps."""
        return sum(rows.nbytes for kept in self.sets.values() for rows in kept.rows.values())

    @property
    def samples(self) -> int:
        """How many samples the run asks about."""
        return sum(len(kept.used) for kept in self.sets.values())

    def fill(
        self,
        model: nn.Module,
        collate: CollateExamples,
        advance: Callable[[int], None] = lambda n: None,
        resumed: bool = False,
    ) -> int:
        """Run the teacher over what is missing, in batches of similar length, shared out.

        Every process runs as many batches, so that sharded models keep step. A set is locked while
        it is filled, so that only runs on the same teacher and the same set wait for each other.

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
        for kept in self.sets.values():
            with processes.hold_lock_on_main(kept.folder):
                missing = open_set_rows(kept)
                if missing and resumed:
                    raise WorldError(
                        f"teacher cache: {self.folder} no longer holds what this run began with; "
                        "resume=false starts it again"
                    )
                total += len(missing)
                advance(len(kept.used) - len(missing))
                self.compute(model, kept, missing, collate, advance, device)
            if any(rows.missing(kept.used) for rows in kept.rows.values()):
                raise WorldError(
                    f"teacher cache: not every process sees {self.folder}; UNDIAL_CACHE_DIR must "
                    "be a folder that all of them share"
                )
            if self.in_memory:
                for rows in kept.rows.values():
                    rows.load()
        return total

    def compute(
        self,
        model: nn.Module,
        kept: CachedSet,
        missing: list[int],
        collate: CollateExamples,
        advance: Callable[[int], None],
        device: torch.device,
    ) -> None:
        """Ask the teacher about samples of a set, this process about its share of the batches.

        What it says is kept.
        """
        batches = batch_by_tokens(
            kept.examples,
            missing,
            TEACHER_PASS_TOKENS.get(device.type, TEACHER_PASS_TOKENS["cuda"]),
        )
        world = processes.get_process_count()
        for turn in range(0, len(batches), world):
            turns = batches[turn : turn + world]
            chosen = (
                turns[processes.get_process_rank()]
                if processes.get_process_rank() < len(turns)
                else []
            )
            examples = [kept.examples[i] for i in chosen] or [EMPTY_EXAMPLE]
            batch = collate(examples, chosen or [-1]).to(device)
            signal = run_teacher(model, batch, kept.needs, kept.layer)
            by_need: dict[str, tuple[Tensor, ...]] = {}
            if signal.hidden_ND is not None:
                by_need[TEACHER_LOGITS] = signal.hidden_ND.cpu().split(batch.counts)
            if signal.layer_ND is not None:
                by_need[TEACHER_LAYER] = signal.layer_ND.cpu().split(batch.counts)
            if signal.logps_B is not None:
                by_need[REFERENCE_LOGPS] = signal.logps_B.cpu()[:, None, None].unbind()
            for need, parts in by_need.items():
                for i, part in zip(chosen, parts, strict=False):
                    kept.rows[need].put(i, part)
            advance(sum(map(len, turns)))
        processes.wait_for_all()

    def signal(
        self,
        model: nn.Module,
        name: str,
        batch: Batch,
        needs: TeacherNeeds,
        layer: int | None = None,
    ) -> TeacherSignal:
        del model, layer
        rows, device = self.sets[name].rows, batch.input_ids.device

        def kept(need: str) -> Tensor:
            none = torch.empty(0, rows[need].width, dtype=rows[need].dtype)
            parts = [rows[need].get(i) for i in batch.index if i >= 0]
            return torch.cat([none, *parts]).to(device)

        signal = TeacherSignal(head=self.head)
        if TEACHER_LOGITS in needs:
            signal.hidden_ND = kept(TEACHER_LOGITS)
        if TEACHER_LAYER in needs:
            signal.layer_ND = kept(TEACHER_LAYER)
        if REFERENCE_LOGPS in needs:
            zero = torch.zeros(1, 1, dtype=torch.float64)
            values = [rows[REFERENCE_LOGPS].get(i) if i >= 0 else zero for i in batch.index]
            signal.logps_B = torch.cat(values)[:, 0].to(device)
        return signal


def open_set_rows(kept: CachedSet) -> list[int]:
    """Open the files of a set; the samples that are still missing in them, on every process."""
    share = kept.used[processes.get_process_rank() :: processes.get_process_count()]
    for rows in kept.rows.values():
        processes.run_on_main(rows.prepare)
        rows.open()
    missing = {i for rows in kept.rows.values() for i in rows.missing(share)}
    return sorted(processes.gather_items(sorted(missing)))


def clone_frozen_head(head: Projection, dtype: torch.dtype) -> Projection:
    """A frozen copy of a head."""
    bias_V = None if head.bias_V is None else head.bias_V.detach().to(dtype, copy=True)
    weight_VD = head.weight_VD.detach().to(dtype, copy=True)
    return Projection(weight_VD, bias_V, head.scale, head.cap)


def batch_by_tokens(examples: list[Example], samples: list[int], tokens: int) -> list[list[int]]:
    """Samples in batches of similar length and at most `tokens` tokens, padding counted."""
    batches: list[list[int]] = []
    lengths = [len(examples[i].input_ids) for i in samples]
    longest = tokens + 1
    for place in order_by_length(lengths):
        if batches and (len(batches[-1]) + 1) * longest <= tokens:
            batches[-1].append(samples[place])
        else:
            batches.append([samples[place]])
            longest = lengths[place]
    return batches
