"""`train.report_to` for real, without a network: what loggers hold of a run that was broken off.

TensorBoard is among the packages of `dev`; Trackio and Weights & Biases are tried where they are.
"""

from __future__ import annotations

import importlib.util
import json
import sqlite3
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from conftest import read_jsonl
from run_helpers import start

from undial_cli.errors import WorldError
from undial_cli.training.trainer import UnlearningTrainer

pytestmark = pytest.mark.slow
HERE = [n for n in ("tensorboard", "trackio", "wandb") if importlib.util.find_spec(n) is not None]
STEPS = 6
FIGURES = ("loss", "forget_loss", "retain_loss", "grad_norm", "tokens_per_second")


class Reported(NamedTuple):
    """A run that failed at its fifth step, went on from the fourth, and where its loggers wrote."""

    run: Path
    home: Path


@pytest.fixture(scope="module")
def reported(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Reported:
    """One run for all loggers that are installed."""
    if not HERE:
        pytest.skip("neither tensorboard nor another of these loggers is installed")
    out, home = tmp_path_factory.mktemp("out"), tmp_path_factory.mktemp("home")
    words = [f"train.report_to=[{','.join(HERE)}]", "eval=none", f"train.max_steps={STEPS}",
             "train.save_steps=2", "method.retain=gdr"]  # fmt: skip
    check = UnlearningTrainer.check_step

    def fail_at_step_5(trainer: UnlearningTrainer, norm: Any) -> tuple[bool, float]:
        if trainer.state.global_step == 5:
            raise WorldError("lost")
        return check(trainer, norm)

    with pytest.MonkeyPatch.context() as patch:
        for name in ("TRACKIO_DIR", "WANDB_DIR"):
            patch.setenv(name, str(home))
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_SILENT", "true")
        with patch.context() as broken:
            broken.setattr(UnlearningTrainer, "check_step", fail_at_step_5)
            with pytest.raises(AssertionError):
                start(random_model, out, *words)
        return Reported(start(random_model, out, *words), home)


def need_logger(name: str) -> None:
    """Skip where a logger's package is not installed."""
    if name not in HERE:
        pytest.skip(f"{name} is not installed")


def read_expected(run: Path) -> dict[str, dict[int, float]]:
    """The figures of each step, as metrics.jsonl has them."""
    rows = [row for row in read_jsonl(run / "metrics.jsonl") if "loss" in row]
    assert [row["step"] for row in rows] == list(range(1, STEPS + 1))
    return {name: {row["step"]: row[name] for row in rows} for name in FIGURES}


def test_tensorboard_shows_every_step_once_and_stays_when_the_run_is_done(
    reported: Reported,
) -> None:
    need_logger("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    assert not (reported.run / "resume").exists()
    events = EventAccumulator(str(reported.run / "tensorboard")).Reload()
    for name, figures in read_expected(reported.run).items():
        shown = [(event.step, event.value) for event in events.Scalars(f"train/{name}")]
        assert [step for step, _ in shown] == list(figures)
        assert [value for _, value in shown] == pytest.approx(list(figures.values()), rel=1e-6)


def test_trackio_goes_on_in_the_run_that_was_begun(reported: Reported) -> None:
    need_logger("trackio")
    (file,) = reported.home.glob("*.db")
    with sqlite3.connect(file) as database:
        rows = database.execute("select run_name, metrics from metrics").fetchall()
    (name,) = {name for name, _ in rows}
    assert name.startswith("run-")
    logged = [json.loads(content) for _, content in rows]
    for figure, figures in read_expected(reported.run).items():
        pairs = [(row["train/global_step"], row.get(f"train/{figure}")) for row in logged]
        shown = {step: value for step, value in pairs if value is not None}  # the later of two
        assert shown == pytest.approx(figures)


def test_weights_and_biases_is_given_one_id_for_both_starts(reported: Reported) -> None:
    need_logger("wandb")
    folders = sorted((reported.home / "wandb").glob("offline-run-*"))
    assert len(folders) == 2
    assert len({folder.name.rpartition("-")[2] for folder in folders}) == 1
    assert all(list(folder.glob("run-*.wandb")) for folder in folders)
