"""What the demo promises with default settings: it forgets, and it is not destroyed."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest

from undial_cli.cli import run_command
from undial_cli.config.schema import UnlearnRun
from undial_cli.runs.compose import compose_run

pytestmark = pytest.mark.slow

Results = dict[str, dict[str, float]]
SEEDS = [0, 1]  # the default, and one that it was not chosen by


@functools.cache
def unlearn(out: Path, *words: str) -> Results:
    """`metrics`, `target` and `reference` of a demo run with default settings."""
    code = run_command(["unlearn", "hardware=cpu", f"output_dir={out}", *words])
    assert code == 0
    folders = (out / "unlearn").iterdir()
    newest = max(folders, key=lambda f: (f / "status.json").stat().st_mtime_ns)
    return json.loads((newest / "evaluation" / "results.json").read_text())


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where this file's runs go."""
    return tmp_path_factory.mktemp("claims")


@pytest.mark.parametrize("seed", SEEDS)
def test_the_target_knows_what_the_retain_model_does_not(seed: int, out: Path) -> None:
    found = unlearn(out, f"seed={seed}")
    target, retain = found["target"], found["reference"]
    assert target["forget_rouge"] >= 0.8
    assert target["retain_rouge"] >= 0.8
    assert retain["retain_rouge"] >= 0.8
    assert retain["forget_rouge"] <= target["forget_rouge"] - 0.3


@pytest.mark.parametrize("seed", SEEDS)
def test_the_forget_set_is_forgotten_as_far_as_the_retain_model_and_no_further(
    seed: int, out: Path
) -> None:
    found = unlearn(out, f"seed={seed}")
    after, target, retain = found["metrics"], found["target"], found["reference"]
    most = max(0.5 * target["forget_rouge"], retain["forget_rouge"] + 0.1)
    assert after["forget_rouge"] <= most
    assert after["forget_rouge"] >= retain["forget_rouge"] - 0.15


@pytest.mark.parametrize("seed", SEEDS)
def test_the_retain_set_is_kept(seed: int, out: Path) -> None:
    found = unlearn(out, f"seed={seed}")
    assert found["metrics"]["retain_rouge"] >= 0.85 * found["target"]["retain_rouge"]


def three_times_longer(method: str) -> list[str]:
    """Overrides for three times the default steps of a method, at its default learning rate."""
    run = compose_run("unlearn", [f"method={method}"])
    assert isinstance(run, UnlearnRun)
    assert run.train.max_steps is None
    return [f"method={method}", f"train.epochs={3 * run.train.epochs}"]


def test_methods_share_learning_rate_batch_and_steps() -> None:
    runs = [compose_run("unlearn", [f"method={m}"]) for m in ("undial", "ga", "npo")]
    shared = {
        (r.train.learning_rate, r.train.batch_size, r.train.epochs, r.train.max_steps)
        for r in runs
        if isinstance(r, UnlearnRun)
    }
    assert len(shared) == 1


def test_gradient_ascent_destroys_the_model_when_trained_three_times_longer(out: Path) -> None:
    found = unlearn(out, *three_times_longer("ga"))
    assert found["metrics"]["retain_rouge"] < 0.2 * found["target"]["retain_rouge"]


def test_undial_keeps_the_model_when_trained_three_times_longer(out: Path) -> None:
    found = unlearn(out, *three_times_longer("undial"), "method.strength=10")
    assert found["metrics"]["retain_rouge"] >= 0.75 * found["target"]["retain_rouge"]
