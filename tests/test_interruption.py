"""Real signals to real commands: how they end, what they leave, and that they go on."""

from __future__ import annotations

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
from conftest import HURRIED, read_jsonl, refused, undial, write_rows
from run_helpers import SHORT, assert_equal, interrupt_run, kill_once, start

from undial_cli.cli import run_command
from undial_cli.data.load import LEAST_STORED_BYTES
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_folder import RunFolder, check_run_folder, locate_run_folder
from undial_cli.training.states import list_states

CODES = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGUSR1": 138}
GOES_ON = "the same command goes on"
# Figures are logged every fourth step only: those summed up meanwhile belong to a state too.
LONG = ["adapter=lora", "eval=none", "train.max_steps=32", "train.logging_steps=4"]


def read_status(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "status.json").read_text())


def list_figures(folder: Path) -> list[dict[str, Any]]:
    """What was logged, but for times and memory."""
    apart = ("tokens_per_second", "peak_memory_bytes")
    rows = read_jsonl(folder / "metrics.jsonl")
    return [{k: v for k, v in row.items() if k not in apart} for row in rows]


def count_lines(file: Path) -> int:
    return len(file.read_text().splitlines()) if file.is_file() else 0


@pytest.mark.slow
@pytest.mark.parametrize("processes, names", [(1, ["SIGTERM", "SIGINT"]), (2, ["SIGUSR1"])])
def test_a_training_that_is_interrupted_ends_as_if_undisturbed(
    processes: int, names: list[str], random_model: Path, tmp_path: Path
) -> None:
    words = [*LONG, f"hardware.num_processes={processes}"]
    undisturbed = start(random_model, tmp_path / "calm", *words)
    out = tmp_path / "disturbed"
    known = [f"model.path={random_model}", f"eval.retain_model={random_model}"]
    command = ["unlearn", *known, f"output_dir={out}", "name=run", *SHORT, *words]
    folder = out / "unlearn" / "run"
    before = 0
    for name in names:
        logged = count_lines(folder / "metrics.jsonl") + 1
        done = interrupt_run(
            command, signal.Signals[name], tmp_path,
            lambda logged=logged: count_lines(folder / "metrics.jsonl") > logged,
        )  # fmt: skip
        assert done.returncode == CODES[name], done.stderr
        (line,) = done.stderr.splitlines()
        status = read_status(folder)
        assert status["status"] == "interrupted"
        step = list_states(folder / "resume")[0][0]
        assert status["reason"] == f"{name} after step {step}, whose state is saved"
        assert line == f"undial: interrupted by {status['reason']}; {GOES_ON}"
        assert step > before
        before = step
        assert "Traceback" not in (folder / "log.txt").read_text()
    assert run_command(command) == 0
    assert_equal(undisturbed, folder)
    assert list_figures(folder) == list_figures(undisturbed)
    assert not (folder / "resume").exists()


@pytest.mark.slow
def test_a_run_on_a_mapped_set_that_is_killed_ends_as_if_undisturbed(
    random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Killed while the set is prepared, and in training; then what was prepared is damaged."""
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    towns = [{"text": f"Town {i} is a town of bakers. " * 100} for i in range(1500)]
    file = Path(write_rows(tmp_path / "towns.jsonl", towns))
    assert file.stat().st_size > LEAST_STORED_BYTES
    words = ["data=jsonl", f"data.forget_file={file}", "data.retain_file=null", "adapter=lora",
             "data.max_length=32", "train.batch_size=4", "eval=none", "train.save_steps=1",
             "train.max_steps=8"]  # fmt: skip
    known = [f"model.path={random_model}", f"eval.retain_model={random_model}"]
    command = ["unlearn", *known, f"output_dir={tmp_path}", "name=run", *SHORT, *words]
    folder, prepared = tmp_path / "unlearn" / "run", tmp_path / "cache" / "prepared"

    kill_once(command, tmp_path, lambda _: list(prepared.glob(".*.unfinished/examples.arrow")))
    assert len(list(prepared.glob("[!.]*"))) == 1  # the rows

    mapped = set[str]()

    def has_saved(process: int) -> bool:
        maps = psutil.Process(process).memory_maps() if list_states(folder / "resume") else []
        mapped.update(part.path for part in maps if part.path.startswith(str(prepared)))
        return bool(mapped)

    kill_once(command, tmp_path, has_saved)
    (examples,) = prepared.glob("[!.]*/examples.arrow")
    assert str(examples) in mapped
    assert not list(prepared.glob(".*.unfinished"))

    stamp = examples.stat().st_mtime_ns
    undisturbed = start(random_model, tmp_path / "calm", *words)
    assert examples.stat().st_mtime_ns == stamp  # another process's, and used as it is

    content = examples.read_bytes()
    examples.write_bytes(content[:-100] + bytes(100))
    capfd.readouterr()
    assert run_command(command) == 0
    out = capfd.readouterr().out
    assert "are damaged: they are made anew" in out
    assert "resuming at step" in out
    assert examples.read_bytes() == content
    assert_equal(undisturbed, folder)
    assert list_figures(folder) == list_figures(undisturbed)


@pytest.mark.slow
def test_an_evaluation_that_is_interrupted_keeps_what_it_scored(
    random_model: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    words = ["evaluate", f"model.path={random_model}", f"eval.retain_model={random_model}",
             "eval.max_new_tokens=16", "eval.limit=20", "eval.batch_size=1", "report=false",
             "hardware=cpu", f"output_dir={tmp_path}", "name=run"]  # fmt: skip
    environment = {"UNDIAL_CACHE_DIR": str(cache)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("UNDIAL_CACHE_DIR", str(cache))
        done = interrupt_run(words, signal.SIGHUP, tmp_path, lambda: has_journal(cache))
    assert done.returncode == 129
    assert done.stderr == f"undial: interrupted by SIGHUP; {GOES_ON}\n"
    assert read_status(tmp_path / "evaluate" / "run") == {
        "status": "interrupted", "reason": "SIGHUP"
    }  # fmt: skip
    journals = {file: file.read_bytes() for file in cache.rglob("*.partial/*.jsonl")}
    assert b"".join(journals.values()).strip()
    again = undial(*words, cwd=tmp_path, **environment)
    assert again.returncode == 0, again.stderr
    assert read_status(tmp_path / "evaluate" / "run")["status"] == "done"


@pytest.mark.slow
def test_before_the_run_has_a_folder_nothing_is_left_but_a_line(tmp_path: Path) -> None:
    for seconds in (0.3, 1.5):
        end = time.monotonic() + seconds
        words = ["unlearn", *HURRIED]
        done = interrupt_run(words, signal.SIGTERM, tmp_path, lambda end=end: is_past(end))
        assert done.returncode == 143
        # A fast machine may have begun by then.
        begun = r"( after step \d+, whose state is saved)?"
        line = rf"undial: interrupted by SIGTERM{begun}; {GOES_ON}\n"
        assert re.fullmatch(line, done.stderr), done.stderr
        statuses = [json.loads(f.read_text()) for f in tmp_path.rglob("status.json")]
        assert all(status["status"] == "interrupted" for status in statuses)


def has_journal(cache: Path) -> bool:
    """Whether an evaluation has written down what it did."""
    try:
        return any(file.stat().st_size for file in cache.rglob("*.partial/*.jsonl"))
    except FileNotFoundError:  # a folder that was renamed meanwhile
        return False


def is_past(end: float) -> bool:
    return time.monotonic() > end


@pytest.mark.slow
def test_a_sweep_that_is_ended_lets_its_runs_save(tmp_path: Path) -> None:
    words = ["unlearn", "--multirun", "seed=0,1", "train.max_steps=4000", *HURRIED, "eval=none"]

    def list_steps() -> list[int]:
        return [count_lines(f) for f in tmp_path.glob("outputs/unlearn/*/metrics.jsonl")]

    done = interrupt_run(words, signal.SIGTERM, tmp_path, lambda: sum(list_steps()) > 2)
    assert done.returncode == 143
    assert done.stderr == f"undial: interrupted by SIGTERM; {GOES_ON}\n"
    (folder,) = [f.parent for f in tmp_path.glob("outputs/unlearn/*/metrics.jsonl")]
    status = read_status(folder)
    assert status["status"] == "interrupted"
    assert "whose state is saved" in status["reason"]


@pytest.mark.slow
def test_a_state_that_is_damaged_gives_way_to_the_one_before(
    random_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = [*LONG, "train.save_steps=2"]
    undisturbed = start(random_model, tmp_path / "calm", *words)
    out = tmp_path / "disturbed"
    known = [f"model.path={random_model}", f"eval.retain_model={random_model}"]
    command = ["unlearn", *known, f"output_dir={out}", "name=run", *SHORT, *words]
    folder = out / "unlearn" / "run"
    interrupt_run(
        command, signal.SIGTERM, tmp_path, lambda: len(list_states(folder / "resume")) == 2
    )
    (newest, path), (before, _) = list_states(folder / "resume")
    optimizer = path / "optimizer.pt"
    os.truncate(optimizer, optimizer.stat().st_size // 2)
    (folder / "status.json").write_text('["interrupted"]')
    (folder / "inputs.json").write_text('"hashes"')
    capfd.readouterr()
    assert run_command(command) == 0
    out = capfd.readouterr().out
    assert f"the saved state of step {newest} is left out: optimizer.pt has" in out
    assert f"resuming at step {before} of 32" in out
    assert_equal(undisturbed, folder)
    assert list_figures(folder) == list_figures(undisturbed)


@pytest.mark.slow
def test_a_finished_run_is_believed_while_it_is_what_it_was(
    random_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["adapter=lora", "seed=8"]
    folder = start(random_model, tmp_path, *words)
    command = ["unlearn", f"model.path={random_model}", f"eval.retain_model={random_model}",
               f"output_dir={tmp_path}", "name=run", *SHORT, *words]  # fmt: skip
    results, weights = folder / "evaluation" / "results.json", next(
        (folder / "checkpoint").glob("*.safetensors")
    )  # fmt: skip
    os.utime(weights)  # as a copy has it
    (folder / "resume" / "checkpoint-3").mkdir(parents=True)  # whose removal was interrupted
    assert run_command(command) == 0
    assert "already done" in capfd.readouterr().out
    assert not (folder / "resume").exists()
    content = results.read_bytes()
    results.write_bytes(content.replace(b"0.", b"1.", 1))
    assert run_command(command) == 1
    assert "evaluation/results.json was changed" in capfd.readouterr().err
    results.write_bytes(content)
    weights.rename(weights.with_suffix(".away"))
    assert run_command(command) == 1
    err = capfd.readouterr().err
    assert f"checkpoint/{weights.name} is gone" in err
    assert "overwrite=true" in err
    assert read_status(folder)["status"] == "done"
    assert run_command([*command, "overwrite=true"]) == 0
    assert weights.is_file()


@pytest.mark.slow
def test_a_model_of_the_cache_that_was_changed_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    words = ["unlearn", "experiment=debug", "hardware=cpu", f"output_dir={tmp_path}", "eval=none"]
    assert run_command([*words, "name=first"]) == 0
    models = tmp_path / "cache" / "models"
    (weights,) = models.glob("*/*/checkpoint/model.safetensors")
    content = weights.read_bytes()
    weights.write_bytes(content[:-4] + b"\0\0\0\0")
    assert run_command([*words, "name=second"]) == 0
    assert "checkpoint/model.safetensors was changed" in capfd.readouterr().out
    assert weights.read_bytes() == content
    assert sorted(f.name for f in weights.parents[2].iterdir()) == [weights.parents[1].name]


def test_a_folder_that_was_left_before_its_run_yaml_is_taken(tmp_path: Path) -> None:
    run = compose_run("unlearn", [f"output_dir={tmp_path}", "name=run", "hardware=cpu"])
    folder = locate_run_folder(run)
    folder.path.mkdir(parents=True)
    for name in (folder.ledger.name, ".run.yaml.0-1.unfinished"):
        (folder.path / name).write_text("")
    check_run_folder(run, folder)
    (folder.path / "thesis.tex").write_text("precious")
    refused(lambda: check_run_folder(run, folder), "holds no run.yaml")


@pytest.mark.slow
def test_an_empty_checkpoint_folder_is_no_checkpoint(random_model: Path, tmp_path: Path) -> None:
    folder = start(random_model, tmp_path, "eval=none")
    whole = sorted(f.name for f in (folder / "checkpoint").iterdir())
    (folder / "status.json").write_text("{}")
    for file in (folder / "checkpoint").iterdir():
        file.unlink()
    assert start(random_model, tmp_path, "eval=none") == folder
    assert sorted(f.name for f in (folder / "checkpoint").iterdir()) == whole
    (folder / "checkpoint" / "model.safetensors").unlink()
    with pytest.raises(Exception, match="holds no weights"):
        RunFolder(folder).has_checkpoint()
