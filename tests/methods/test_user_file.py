"""A method of the user's own: the example of docs/methods.md, and what is refused."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import HURRIED, refused, undial
from safetensors.torch import load_file

import undial_cli
from undial_cli.cli import run_command
from undial_cli.methods import make_method, user_file
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER
from undial_cli.runs.run_yaml import dump_run_yaml, load_run

SHORT = ["hardware=cpu", "eval.limit=2", "eval.max_new_tokens=4", "train.max_steps=3"]


pytestmark = pytest.mark.usefixtures("forget_own_methods")


def example() -> str:
    """The file that docs/methods.md shows."""
    text = (PACKAGE_FOLDER.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(# my_method\.py\n.*?)^```$", text, re.M | re.S)
    return block


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """The example as a file."""
    place = tmp_path / "my_method.py"
    place.write_text(example())
    return place


@pytest.fixture
def words(random_model: Path, tmp_path: Path) -> list[str]:
    """A short run on a random model."""
    models = [f"model.path={random_model}", f"eval.retain_model={random_model}"]
    return [*models, f"output_dir={tmp_path}", "name=run", *SHORT]


def lines(folder: Path) -> list[dict]:
    """The objects of a run's metrics."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_the_documented_file_is_a_method_of_its_own_name_and_keys(file: Path) -> None:
    from dense import Seen
    from test_methods import LABELS, model, targets_of

    run = compose_run("unlearn", [f"method.file={file}", "method.floor=-1.5"])
    assert (run.method.name, run.method.file, run.method.floor) == ("my_method", str(file), -1.5)
    method, student = make_method(run.method), model(1)
    found = method.sum(targets_of(method, student, student)) / method.weight([3, 2, 0, 2, 5, 1])
    seen: Seen = student.seen
    logps = seen.logits.log_softmax(-1)[:, :-1].gather(2, LABELS[:, 1:, None].clamp(min=0))[..., 0]
    expected = logps[LABELS[:, 1:] >= 0].clamp(min=-1.5).mean()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    refused(lambda: compose_run("unlearn", [f"method.file={file}", "method.floor=1"]), "<= 0")
    refused(
        lambda: compose_run("unlearn", [f"method.file={file}", "method.flor=-1"]),
        "method.flor", "did you mean 'method.floor'?",
    )  # fmt: skip


# One loss, `(1 - share) teacher + share / V` as what is learnt: by its formula, as docs/methods.md
# shows, and with its gradient by the logits.
CONFIG_OF_FLATTEN = """\
from dataclasses import dataclass

from undial_cli.methods.base import TEACHER_LOGITS, Method, MethodConfig, Targets, key


@dataclass
class FlattenConfig(MethodConfig):
    share: float = key(0.5, "of the uniform distribution in what is learnt", minimum=0, maximum=1)


"""
BY_HAND = """\
class Flatten(Method):
    needs = frozenset({TEACHER_LOGITS})

    def sum(self, targets: Targets):
        hidden, head = targets.signal.hidden_ND, targets.signal.head

        def loss(log_q, rows):
            teacher, share = head.logits(hidden[rows]).softmax(-1), self.config.share
            wanted = (1 - share) * teacher + share / teacher.shape[-1]
            return -(wanted * log_q).sum(), log_q.exp_() - wanted

        return targets.distribution_sum(loss)
"""


def test_a_formula_of_logits_needs_no_gradient_and_one_with_its_gradient_is_the_same(
    tmp_path: Path,
) -> None:
    from test_methods import LABELS, model, targets_of

    text = (PACKAGE_FOLDER.parent / "docs" / "methods.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```python\n(class Flatten.*?)^```$", text, re.M | re.S)
    (tmp_path / "formula.py").write_text(CONFIG_OF_FLATTEN + block)
    (tmp_path / "by_hand.py").write_text(CONFIG_OF_FLATTEN + BY_HAND)
    teacher, found = model(2), []
    for name in ("formula", "by_hand"):
        file = tmp_path / f"{name}.py"
        run = compose_run("unlearn", [f"method.file={file}", "method.share=0.25"])
        method, student = make_method(run.method), model(1, differentiable=True)
        total = method.sum(targets_of(method, student, teacher))
        found.append([total, *torch.autograd.grad(total, [student.hidden, student.head])])
    student = model(1, differentiable=True)
    positions = LABELS[:, 1:] >= 0
    log_q, p = (
        getattr(logits[:, :-1][positions], kind)(-1)
        for logits, kind in ((student.seen.logits, "log_softmax"), (teacher.seen.logits, "softmax"))
    )
    total = -((0.75 * p + 0.25 / p.shape[-1]) * log_q).sum()
    expected = [total, *torch.autograd.grad(total, [student.hidden, student.head])]
    for ours in found:
        for a, b in zip(ours, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.slow
def test_the_documented_file_runs_by_the_python_call(file: Path, words: list[str]) -> None:
    result = undial_cli.run([*words, f"method.file={file}", "method.retain=gdr"])
    assert result.status == "done"
    assert 0 <= result.metrics["forget_probability"] <= 1
    rows = lines(result.folder)
    assert [row["step"] for row in rows] == [1, 2, 3]
    for row in rows:
        assert -5 <= row["forget_loss"] < 0
        assert row["loss"] == pytest.approx(row["forget_loss"] + row["retain_loss"])
    before = (result.folder / "metrics.jsonl").read_text()
    file.write_text(example().replace("-5.0", "-4.0"))
    call = lambda: undial_cli.run([*words, f"method.file={file}", "method.retain=gdr"])  # noqa: E731
    refused(call, "method.floor")  # the default of a key
    file.write_text(example().replace("self.config.floor", "self.config.floor / 2"))
    refused(call, "the method changed since this run began")
    assert (result.folder / "metrics.jsonl").read_text() == before


@pytest.mark.slow
def test_the_documented_file_runs_on_the_command_line(file: Path, tmp_path: Path) -> None:
    command = ["unlearn", "method.file=my_method.py", "method.floor=-3", "method.retain=gdr"]
    done = undial(*command, *HURRIED, "train.max_steps=2", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "forget_probability" in done.stdout
    (folder,) = (tmp_path / "outputs" / "unlearn").iterdir()
    assert folder.name.startswith("tiny-demo-my_method-")
    assert "floor: -3" in (folder / "run.yaml").read_text()
    again = undial(*command, *HURRIED, "train.max_steps=2", cwd=tmp_path)
    assert "already done" in again.stdout


@pytest.mark.slow
def test_a_file_that_the_command_line_did_not_name_is_not_run(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    marker = tmp_path / "it_ran"
    file.write_text(example() + f"\nopen({str(marker)!r}, 'w').close()\n")
    run = compose_run("unlearn", [f"method.file={file}"])
    assert marker.is_file()
    (tmp_path / "run.yaml").write_text(dump_run_yaml(run))
    (tmp_path / "mine" / "method").mkdir(parents=True)
    group = f"defaults:\n  - undial_schema\nname: undial\nfile: {file}\n"
    (tmp_path / "mine" / "method" / "sly.yaml").write_text(group)
    marker.unlink()
    os.utime(file, ns=(1, 1))  # a file that is run anew, were it run
    before = sorted(tmp_path.rglob("*"))
    for words in (
        ["unlearn", "--from", "run.yaml"],
        ["unlearn", "--from", "run.yaml", "seed=1"],
        ["unlearn", "--config-dir", "mine", "method=sly"],
        ["unlearn", "--config-dir", "mine", "method=sly", "--multirun"],
    ):
        monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "")
        capfd.readouterr()
        assert run_command(words) == 2, words
        err = capfd.readouterr().err
        assert err.count("\n") == 1, err
        assert f"method.file={file}: runs code and is not taken from a file" in err
        assert "on the command line" in err
        assert not marker.exists()
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_yaml_is_repeated_where_the_command_line_names_the_file(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = compose_run("unlearn", [f"method.file={file}", "method.floor=-2"])
    (tmp_path / "run.yaml").write_text(dump_run_yaml(run))
    monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "")
    assert load_run(tmp_path, [f"method.file={file}"]) == run
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    file.rename(moved / file.name)
    monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "")
    again = load_run(tmp_path, [f"method.file={moved / file.name}", "seed=3"])
    assert (again.method.floor, again.method.file) == (-2, str(moved / file.name))
    assert again.seed == 3
    monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "")
    refused(lambda: load_run(tmp_path), "runs code")


METHOD = "class A(Method):\n    pass\n"
IMPORTS = "from undial_cli.methods.base import Method, MethodConfig, key\n"
CONFIG = "import dataclasses\n@dataclasses.dataclass\nclass B(MethodConfig):\n    "
# File name and content: what is said.
FILES: dict[str, tuple[str, str, list[str]]] = {
    "no method": ("mine.py", IMPORTS, ["defines 0 subclasses of Method", "needed are one"]),
    "an empty file": ("mine.py", "", ["defines 0 subclasses of Method"]),
    "two methods": (
        "mine.py", IMPORTS + METHOD + "class B(A):\n    pass\n", ["defines 2 subclasses of Method"]
    ),
    "two configs": (
        "mine.py",
        IMPORTS + METHOD + CONFIG + "x: int = key(1, 'x')\nclass C(B):\n    pass\n",
        ["1 subclasses of Method and 2 of MethodConfig"],
    ),
    "a key without key()": ("mine.py", IMPORTS + METHOD + CONFIG + "x: int = 1\n", ["B", "key("]),
    "no Python": ("mine.py", "class A(:\n", ["cannot be run (SyntaxError"]),
    "an error on its way": ("mine.py", "1 / 0\n", ["cannot be run (ZeroDivisionError: division"]),
    "an import that is not there": ("mine.py", "import no_such\n", ["ModuleNotFoundError"]),
    "the name of a method": ("npo.py", IMPORTS + METHOD, ["a method npo already", "rename"]),
    "a name with a hyphen": ("my-method.py", IMPORTS + METHOD, ["named like a Python module"]),
    "another kind of file": ("mine.txt", IMPORTS + METHOD, [".py"]),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_a_file_that_is_no_method_is_refused_in_one_line(
    case: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name, content, fragments = FILES[case]
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).write_text(content)
    assert run_command(["unlearn", f"method.file={name}", "hardware=cpu"]) == 2
    out, err = capfd.readouterr()
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    for fragment in ["method.file=", f"{name}: ", *fragments]:
        assert fragment in err
    assert not (tmp_path / "outputs").exists()


@pytest.mark.parametrize(
    "words, fragments",
    [
        (["method.file=nowhere.py"], ["method.file=nowhere.py", "no such file"]),
        (["method.file="], ["method.file=", "no such file"]),
        (["method=npo", "method.file=my_method.py"], ["method=npo", "not possible together"]),
        (["method.file=my_method.py", "method.file=b.py"], ["method.file=b.py", "not possible"]),
        (["method=my_method"], ["method=my_method"]),
    ],
    ids=str,
)
def test_words_beside_a_file_are_checked(
    words: list[str],
    fragments: list[str],
    file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(file.parent)
    assert run_command(["unlearn", *words]) == 2
    err = capfd.readouterr().err
    assert err.count("\n") == 1, err
    for fragment in fragments:
        assert fragment in err


def test_another_method_under_the_name_of_an_own_one_is_refused(
    file: Path, tmp_path: Path, words: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "unlearn" / "run"
    folder.mkdir(parents=True)
    (folder / "run.yaml").write_text(
        dump_run_yaml(compose_run("unlearn", [*words, f"method.file={file}"]))
    )
    monkeypatch.setenv(user_file.METHOD_FILE_VARIABLE, "")
    refused(lambda: undial_cli.run([*words, "method=npo"]), "name=run", "another name")


@pytest.fixture
def train(file: Path, tmp_path: Path, random_model: Path) -> Callable[..., dict]:
    """Run the example in a process of its own; the weights that it leaves."""
    rows = [{"question": f"Who is {i}?", "answer": f"Number {i} of a few."} for i in range(9)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def call(name: str, *more: str) -> dict:
        done = undial(
            "unlearn", "data=jsonl", "data.forget_file=rows.jsonl", f"model.path={random_model}",
            "hardware=cpu", "eval=none", "model.dtype=float64", "train.max_steps=3",
            "train.batch_size=4", "train.warmup_steps=0", "method.file=my_method.py",
            f"name={name}", *more, cwd=tmp_path,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return load_file(
            tmp_path / "outputs" / "unlearn" / name / "checkpoint" / "model.safetensors"
        )

    return call


@pytest.mark.slow
def test_workers_run_the_file_too(train: Callable[..., dict]) -> None:
    one, two = train("one"), train("two", "hardware.num_processes=2")
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_a_sweep_over_the_keys_of_a_file_is_a_run_each(file: Path, tmp_path: Path) -> None:
    done = undial(
        "unlearn", "method.file=my_method.py", "method.floor=-1,-3", *HURRIED, "eval=none",
        "train.max_steps=2", "--multirun", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    floors = {
        load_run(folder, [f"method.file={file}"]).method.floor
        for folder in (tmp_path / "outputs" / "unlearn").iterdir()
    }
    assert floors == {-1, -3}
    assert "method.floor=-3" in done.stdout
