"""The best of a training's weights on the disk, and the record of what they were chosen by.

They outlast a kill: of every state that the run may go on from, the weights that were the best
until then are kept. Knows what a choice is made by only through `Selection`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState

from undial_cli import ui
from undial_cli.errors import WorldError
from undial_cli.evaluation.selection_rule import SELECT_KEY
from undial_cli.system import processes
from undial_cli.system.files import parse_json, remove_folder, whole_folder, write_whole_text
from undial_cli.training.callbacks import Watcher, is_last_step
from undial_cli.training.selection import Selection, StepRow
from undial_cli.training.states import SEAL_FILE, find_damage, list_states, seal_state

# In a run's `resume/`: the rows so far, and the weights that may be chosen. In a checkpoint: the
# record. In a run's own folder: all weights that were evaluated, with train.keep=all.
SELECTION_FILE, SELECTED_FOLDER, CHECKPOINTS_FOLDER = "selection.json", "selected", "checkpoints"
STEP_PREFIX = "step-"
BEST, LAST, ALL = "best", "last", "all"


class BestWeights(Watcher):
    """Evaluates every N steps and at the last one, and keeps the weights that are the best so far.

    Args:
        run_folder: where weights are kept, and the states that the run goes on from.
        model: the model in training, without its adapter.
        complete: puts beside weights what else a checkpoint needs.
        ask: gives the figures of a step, and its row.

    `rows`: of the steps evaluated so far.
    """

    def __init__(
        self, every: int, selection: Selection, run_folder: Path, model: Any,
        complete: Callable[[Path], None], ask: Callable[[int], Any],
    ) -> None:  # fmt: skip
        super().__init__(ask)
        self.every, self.selection, self.complete, self.model = every, selection, complete, model
        self.use_cache = getattr(model.config, "use_cache", None)
        self.resume = run_folder / "resume"
        keeps_all = selection.keep == ALL
        self.weights = (
            run_folder / CHECKPOINTS_FOLDER if keeps_all else self.resume / SELECTED_FOLDER
        )
        self.rows: list[StepRow] = []

    def on_train_begin(self, args: Any, state: TrainerState, control: Any, **_: Any) -> None:
        """Take up what was measured until the step that the run goes on from."""
        done = state.global_step
        self.rows = processes.run_on_main(lambda: self.restore_rows(done))
        start = self.selection.measure_target() if done == 0 else None
        if start is not None:
            self.log(start[0])
            self.rows = [start[1]]

    def on_step_end(
        self, args: Any, state: TrainerState, control: TrainerControl, **_: Any
    ) -> None:
        step, keep = state.global_step, self.selection.keep
        if step % self.every and not is_last_step(state, control):
            return
        figures, row = self.ask(step)
        self.log_figures(control, figures)
        # The main process's for all: who saves must not depend on how a machine rounds.
        row = processes.run_on_main(lambda: row)
        self.rows.append(row)
        is_wanted = row.figure is not None if keep == ALL else self.choose() == row
        if is_wanted and keep != LAST:
            self.save_weights(step)
        processes.run_on_main(self.write_rows)

    def choose(self, until: int | None = None) -> StepRow | None:
        """The best row, of those until a step."""
        return self.selection.choose(r for r in self.rows if until is None or r.step <= until)

    def locate_weights(self, step: int) -> Path:
        """Where the weights of a step are kept."""
        return self.weights / f"{STEP_PREFIX}{step}"

    def list_weights(self) -> Iterator[tuple[int, Path]]:
        """Steps and folders of the weights that are kept."""
        for folder in self.weights.glob(f"{STEP_PREFIX}*"):
            if folder.name.removeprefix(STEP_PREFIX).isdecimal():
                yield int(folder.name.removeprefix(STEP_PREFIX)), folder

    def save_weights(self, step: int) -> None:
        """Write the weights as they are, whole or not at all; each process may hold a part."""
        folder = self.locate_weights(step)
        processes.run_on_main(lambda: remove_folder(folder))
        with whole_folder(folder, processes.run_on_main) as unfinished:
            with self.restore_cache_flag():
                self.save_model(str(unfinished))
            processes.wait_for_all()

            def complete() -> None:
                self.complete(unfinished)
                seal_state(unfinished)

            processes.run_on_main(complete)

    @contextlib.contextmanager
    def restore_cache_flag(self) -> Iterator[None]:
        """While open, the config is as it was loaded: the Trainer switches the cache off."""
        config = self.model.config
        before = getattr(config, "use_cache", None)
        config.use_cache = self.use_cache
        try:
            yield
        finally:
            config.use_cache = before

    def write_rows(self) -> None:
        """Write the rows, and remove the weights that no step to go on from may need (main)."""
        rows = [dataclasses.asdict(row) for row in self.rows]
        write_whole_text(self.resume / SELECTION_FILE, json.dumps(rows) + "\n")
        if self.selection.keep != BEST:
            return
        ends = [*(step for step, _ in list_states(self.resume)), self.rows[-1].step]
        needed = {best.step for end in ends if (best := self.choose(end)) is not None}
        for step, folder in self.list_weights():
            if step not in needed:
                remove_folder(folder)

    def restore_rows(self, done: int) -> list[StepRow]:
        """The rows until a step; what came after it is removed, it is measured again (main)."""
        for step, folder in self.list_weights():
            if step > done:
                remove_folder(folder)
        self.rows = [row for row in read_rows(self.resume) if row.step <= done] if done else []
        while self.selection.keep != LAST and (best := self.choose()) is not None:
            damage = find_damage(self.locate_weights(best.step))
            if not damage:
                break
            ui.say(
                f"{SELECT_KEY}: the weights of step {best.step} are left out: {damage}", "yellow"
            )
            lost = dataclasses.replace(best, figure=None, missing=f"its weights: {damage}")
            self.rows = [lost if row == best else row for row in self.rows]
        return self.rows

    def find_chosen_weights(self) -> Path | None:
        """The folder of the weights that are the checkpoint; None: those in memory.

        Raises:
            WorldError: they were damaged.
        """
        best = self.choose()
        if self.selection.keep == LAST or best is None or best.step == self.rows[-1].step:
            return None
        folder = self.locate_weights(best.step)
        damage = processes.run_on_main(lambda: find_damage(folder))
        if damage:
            raise WorldError(f"{folder}: {damage}; resume=false starts the run again")
        return folder

    def make_record(self) -> dict[str, Any]:
        """What was chosen and by what, as results.json holds it."""
        selection, best = self.selection, self.choose()
        last = self.rows[-1].step if self.rows else 0
        is_chosen = best is not None and selection.keep != LAST
        return {
            "select": selection.rule.text,
            "direction": selection.rule.direction,
            "keep": selection.keep,
            "step": best.step if best else None,
            "figure": best.figure if best else None,
            "saved_step": best.step if best and is_chosen else last,
            "last_step": last,
            **(
                {
                    "utility": best.utility if best else None,
                    "least_utility": selection.utility,
                    "keeps_utility": best is not None and selection.keeps_utility(best),
                }
                if selection.rule.keeps_utility
                else {}
            ),
            "steps": [dataclasses.asdict(row) for row in self.rows],
            "rows": selection.rows,
        }


def read_rows(folder: Path) -> list[StepRow]:
    """The rows of the steps that were evaluated; from a folder that has none, none."""
    try:
        content = parse_json((folder / SELECTION_FILE).read_text(encoding="utf-8"))
        return [StepRow(**row) for row in content]
    except (OSError, ValueError, TypeError):
        return []


def read_selection(checkpoint: Path) -> dict[str, Any]:
    """The record beside a checkpoint; empty where nothing was chosen."""
    try:
        return dict(parse_json((checkpoint / SELECTION_FILE).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return {}


def write_selection(checkpoint: Path, record: dict[str, Any]) -> None:
    """Write the record beside a checkpoint."""
    write_whole_text(checkpoint / SELECTION_FILE, json.dumps(record, indent=2) + "\n")


def copy_weights(folder: Path, checkpoint: Path) -> None:
    """Kept weights as a checkpoint; where the disk can, they take no second room."""

    def link_or_copy(source: str, target: str) -> None:
        if source.endswith(".safetensors"):
            with contextlib.suppress(OSError):  # a file system without such links
                os.link(source, target)
                return
        shutil.copyfile(source, target)

    ignored = shutil.ignore_patterns(SEAL_FILE)
    shutil.copytree(folder, checkpoint, ignore=ignored, copy_function=link_or_copy)
