"""Wrong input through the real entry: one clear line, exit code 2, nothing left behind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import HURRIED, refused, undial

from undial_cli.cli import run_command
from undial_cli.config.models import ModelConfig
from undial_cli.config.schema import Run
from undial_cli.methods import METHODS
from undial_cli.runs.checks import check_run_name
from undial_cli.runs.compose import compose_run
from undial_cli.runs.run_yaml import dump_run_yaml
from undial_cli.training.fit import check_untrained_base

TINY = "pkg://undial_cli/models/tiny"

Refuse = Callable[..., str]

without_gpu = pytest.mark.skipif(torch.cuda.device_count() > 0, reason="refused without a GPU only")


@pytest.fixture
def workdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def refuse(workdir: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command that must be refused; returns its one line after checking all promises."""

    def call(*words: str, code: int = 2) -> str:
        before = sorted(workdir.rglob("*"))
        capfd.readouterr()
        assert run_command(list(words)) == code
        out, err = capfd.readouterr()
        assert err.startswith("undial: ")
        assert err.count("\n") == 1, err
        assert err.endswith("\n")
        assert "Traceback" not in out + err
        assert "training" not in out
        if code == 2:
            assert sorted(workdir.rglob("*")) == before
        return err.removeprefix("undial: ").strip()

    return call


@pytest.fixture
def own_files(random_model: Path) -> list[str]:
    """A command on the user's own files, with a model that is one."""
    return ["unlearn", "data=jsonl", f"model.path={random_model}", "hardware=cpu"]


def write_jsonl(file: Path, *rows: dict) -> str:
    """A JSONL file; returns its name."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file.name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/../../b", "a//b", "a/", "/tmp/b", "a\\b", "a/."]
)
def test_a_name_is_a_folder_below_the_commands_own(name: str) -> None:
    refused(lambda: check_run_name(Run(name=name)), f"name={name}: ", "folder name")
    for fine in (None, "demo", "study/demo", "a.b/.c", "Café 1"):
        check_run_name(Run(name=fine))


def test_a_base_with_weights_is_not_passed_over(
    workdir: Path, random_model: Path, refuse: Refuse
) -> None:
    write_jsonl(workdir / "rows.jsonl", {"question": "Who?", "answer": "Ann"})
    for words in (
        ["finetune", "data=jsonl", "data.train_file=rows.jsonl"],
        ["unlearn", "data=demo"],
    ):
        line = refuse(*words, f"model.base={random_model}", "hardware=cpu", "eval=none")
        assert f"model.base={random_model}" in line
        assert "model.from_scratch=false" in line
    check_untrained_base(Run(model=ModelConfig(base=TINY, from_scratch=True)), TINY)
    check_untrained_base(Run(model=ModelConfig(base=str(random_model))), str(random_model))


@without_gpu
@pytest.mark.parametrize(
    "option", ["single_gpu", "ddp", "fsdp", "deepspeed_zero2", "deepspeed_zero3"]
)
def test_hardware_that_is_not_there_is_refused(option: str, refuse: Refuse) -> None:
    line = refuse("unlearn", f"hardware={option}")
    assert f"hardware={option}" in line
    assert "hardware=cpu" in line


def test_a_file_of_deepspeeds_settings_is_refused(refuse: Refuse) -> None:
    line = refuse("unlearn", "hardware=cpu", "hardware.args.deepspeed=ds.json")
    assert "hardware.args.deepspeed=ds.json" in line
    assert "deepspeed_zero3" in line


def test_modules_that_the_model_lacks_are_refused(refuse: Refuse) -> None:
    line = refuse("unlearn", *HURRIED, "eval=none", "adapter=lora", "adapter.target_modules=[nope]")
    assert "adapter.target_modules" in line
    assert "nope" in line


QA = {"question": "Who?", "answer": "Nobody."}


# What a method asks of the data, and what is said where the data has nothing of it.
NEEDS: dict[str, tuple[list[str], dict, list[str]]] = {
    "altpo": ([], QA, ["data.alternative_key=alternative_answers", "row 1", "question, answer"]),
    "altpo of another column": (
        ["data.alternative_key=others"],
        {**QA, "alternative_answers": ["Ann."]},
        ["data.alternative_key=others", "row 1"],
    ),
    "dpo": ([], {"text": "Nobody is there. " * 9}, ["method=dpo", "plain text", "questions"]),
    "fundial": ([], QA, ["data.focus_key=focus", "question, answer"]),
    "fundial on other words": (
        [], {**QA, "focus": ["Somebody"]}, ["data.focus_key=focus", "nothing to focus on"]
    ),
    "rmu": (["method.layer=2"], QA, ["method.layer=2", "0 to 1"]),
    "rmu on no parameter": (
        ["method.layer=1", "method.parameters=no_such"], QA, ["method.parameters=no_such"]
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", NEEDS)
def test_what_a_method_needs_and_the_data_or_model_lacks_is_named(
    case: str, workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    words, row, fragments = NEEDS[case]
    kept = {column: f"{value} Truly." for column, value in row.items()}
    files = [
        f"data.{name}_file={write_jsonl(workdir / f'{name}.jsonl', content)}"
        for name, content in (("forget", row), ("retain", kept))
    ]
    line = refuse(*own_files, f"method={case.split()[0]}", "eval=none", "name=a/b", *files, *words)
    for fragment in fragments:
        assert fragment in line


def test_texts_too_short_to_stop_by_are_refused(
    workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    name, texts = (
        write_jsonl(workdir / "f.jsonl", QA),
        write_jsonl(workdir / "t.jsonl", {"text": "Who?"}),
    )
    words = [
        f"data.forget_file={name}",
        "train.stop.perplexity_ratio=2",
        f"train.stop.split={texts}",
    ]
    line = refuse(*own_files, *words, "eval=none")
    assert "train.stop.split=t.jsonl: no text of 32 tokens" in line


def test_from_a_run_of_another_command_is_refused(workdir: Path, refuse: Refuse) -> None:
    (workdir / "run.yaml").write_text(dump_run_yaml(compose_run("finetune", [])))
    line = refuse("unlearn", "--from", "run.yaml")
    assert "--from run.yaml" in line
    assert "undial finetune" in line


def test_from_takes_single_keys_and_refuses_wrong_ones(workdir: Path, refuse: Refuse) -> None:
    (workdir / "run.yaml").write_text(dump_run_yaml(compose_run("unlearn", [])))
    assert "method=ga" in refuse("unlearn", "--from", "run.yaml", "method=ga")
    assert "'train.epochs'?" in refuse("unlearn", "--from", "run.yaml", "train.epoch=1")
    assert "seed=x" in refuse("unlearn", "--from", "run.yaml", "seed=x")
    assert "method.strength=-1" in refuse("unlearn", "--from=run.yaml", "method.strength=-1")


def test_a_folder_with_another_run_is_refused_and_left_alone(workdir: Path, refuse: Refuse) -> None:
    words = ["unlearn", "name=mine", "hardware=cpu"]
    folder = workdir / "outputs" / "unlearn" / "mine"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(dump_run_yaml(compose_run("unlearn", words[1:])))
    (folder / "status.json").write_text('{"status": "done"}\n')
    before = {p: p.read_bytes() for p in folder.iterdir()}
    line = refuse(*words, "train.learning_rate=1e-3", "method.strength=3")
    assert "name=mine" in line
    assert "(method.strength, train.learning_rate)" in line
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_a_hub_that_cannot_be_reached_is_the_worlds_fault(workdir: Path, refuse: Refuse) -> None:
    words = ["unlearn", "model.path=some/hub-id", "data=demo", "hardware=cpu", "name=far"]
    line = refuse(*words, code=1)
    assert "model.path=some/hub-id" in line
    assert "hub cannot be reached" in line
    folder = workdir / "outputs" / "unlearn" / "far"
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed"
    assert "some/hub-id" in status["reason"]
    assert "Traceback" in (folder / "log.txt").read_text()


def test_data_on_a_hub_that_cannot_be_reached_is_the_worlds_fault(refuse: Refuse) -> None:
    tiny = "model.path=pkg://undial_cli/models/tiny"
    line = refuse("unlearn", "data=tofu", tiny, "hardware=cpu", code=1)
    assert "data.path=locuslab/TOFU" in line


@pytest.mark.slow
def test_a_sweep_names_the_run_that_failed(
    workdir: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["unlearn", "--multirun", "data.forget_split=forget77,forget78", "hardware=cpu"]
    assert run_command(words) == 2
    out, err = capfd.readouterr()
    assert [line.split(":")[1].strip() for line in err.splitlines()] == [
        "data.forget_split=forget77", "data.forget_split=forget78"
    ]  # fmt: skip
    assert "Traceback" not in out + err
    assert not list(workdir.rglob("run.yaml"))


@pytest.mark.slow
def test_the_installed_command_says_one_line_and_exits_with_2(tmp_path: Path) -> None:
    done = undial("unlearn", "method=undail", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    allowed = f"allowed is one of {', '.join(sorted(METHODS))}; did you mean 'undial'?"
    assert done.stderr.splitlines() == [f"undial: method=undail: {allowed}"]
    done = undial("unlearn", "data.forget_split=forget77", "hardware=cpu", cwd=tmp_path)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not list(tmp_path.iterdir())
    script = Path(sys.executable).with_name("undial")
    if not script.is_file():
        pytest.skip("the console script is not installed beside this Python")
    done = subprocess.run(
        [str(script), "unlern"], cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert "did you mean 'unlearn'?" in done.stderr


def test_a_file_cannot_turn_on_code_that_comes_with_a_model(
    workdir: Path, refuse: Refuse, own_files: list[str]
) -> None:
    write_jsonl(workdir / "forget.jsonl", QA)
    words = [w for w in own_files if w != "unlearn"] + ["data.forget_file=forget.jsonl"]
    run = compose_run("unlearn", [*words, "model.trust_remote_code=true"])
    (workdir / "strange.yaml").write_text(dump_run_yaml(run))
    line = refuse("unlearn", "--from", "strange.yaml")
    assert "model.trust_remote_code=true" in line
