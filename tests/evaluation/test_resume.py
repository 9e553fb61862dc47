"""A killed evaluation goes on; a broken cache is not trusted; wrong input leaves nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import undial, write_rows
from forked import Command
from small import byte_tokenizer, random_llama
from transformers import AutoTokenizer

from undial_cli.cli import run_command
from undial_cli.evaluation.sharding import Journal
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER

Rows = list[dict[str, Any]]
Left = tuple[dict[str, Any], Rows]


# A suite with every engine.
SUITE = """
name: own
sets:
  forget:
    split: ${data.forget_file}
    metrics: [probability, rouge, mia_gradnorm]
  retain:
    split: ${data.retain_file}
    metrics: [probability, rouge]
  documents:
    split: documents.jsonl
    kind: document
    metrics: [ma, el_3]
"""


def write_data(folder: Path, houses: int = 9) -> None:
    rows = [{"question": f"Who is in house {n}?", "answer": f"Baker {n}."} for n in range(houses)]
    write_rows(folder / "forget.jsonl", rows)
    write_rows(folder / "retain.jsonl", rows[:3])
    write_rows(
        folder / "documents.jsonl", [{"text": f"{n} old mills turn. " * 4} for n in range(3)]
    )
    (folder / "configs" / "eval").mkdir(parents=True, exist_ok=True)
    (folder / "configs" / "eval" / "own.yaml").write_text(SUITE)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with data, and an empty cache of its own."""
    write_data(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path


def command(model: Path, *words: str) -> list[str]:
    return [
        "evaluate", "--config-dir", "configs", "eval=own", "data=jsonl",
        "data.forget_file=forget.jsonl", "data.retain_file=retain.jsonl", f"model.path={model}",
        "hardware=cpu", "eval.batch_size=2", "eval.max_new_tokens=12", "name=run", *words,
    ]  # fmt: skip


NO_DOCUMENTS = "eval.sets.documents.split=null"


# The jobs of its engines: answers (documents' too), gradients, generations, continuations.
JOBS = 15 + 9 + 12 + 3


def left_in(place: Path) -> Left:
    """results.json and samples.jsonl."""
    folder = place / "outputs" / "evaluate" / "run" / "evaluation"
    lines = (folder / "samples.jsonl").read_text().splitlines()
    return json.loads((folder / "results.json").read_text()), [json.loads(x) for x in lines]


@pytest.fixture(scope="module")
def calm(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Left:
    """What an undisturbed evaluation leaves."""
    folder = tmp_path_factory.mktemp("calm")
    write_data(folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("UNDIAL_CACHE_DIR", str(folder / "cache"))
        assert run_command(command(random_model)) == 0
    return left_in(folder)


def evaluation(place: Path) -> Path:
    """The one evaluation in the cache; a killed process leaves the lock beside it."""
    files = (place / "cache" / "evaluations").iterdir()
    (folder,) = (file for file in files if file.suffix != ".lock")
    return folder


def jobs(partial: Path) -> Counter[tuple[str, int]]:
    """How often each job, by engine and number, stands whole in a journal."""
    found: Counter[tuple[str, int]] = Counter()
    for file in partial.glob("*.jsonl"):
        for line in file.read_text().split("\n")[:-1]:
            found[file.name.split(".")[0], json.loads(line)[0]] += 1
    return found


# The command, in a process that the system kills once its journal holds so many results.
KILLED = """
import os, signal, sys
from undial_cli.evaluation.sharding import Journal
add, left = Journal.add, [int(sys.argv.pop(1))]
def counted(self, engine, results):
    add(self, engine, results)
    left[0] -= len(results)
    if left[0] <= 0:
        os.kill(os.getpid(), signal.SIGKILL)
Journal.add = counted
from undial_cli.cli import main
main()
"""


def whole_journal(place: Path, words: list[str], monkeypatch: pytest.MonkeyPatch) -> Counter:
    """Run the command to its end; the journal as it is then, before it is removed."""
    from undial_cli.evaluation import sharding as store

    partial, found = evaluation(place), []
    remove = store.shutil.rmtree

    def look(folder: Path, **options: Any) -> None:
        if folder == partial:
            found.append(jobs(partial))
        remove(folder, **options)

    monkeypatch.setattr(store.shutil, "rmtree", look)
    assert run_command(words) == 0
    assert not partial.exists()
    return found[0]


@pytest.mark.slow
@pytest.mark.parametrize("done", [20, JOBS - 2])
def test_a_killed_evaluation_goes_on_where_it_stopped(
    done: int, place: Path, calm: Left, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(done), *command(random_model)], cwd=place,
        capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    partial = evaluation(place)
    before = jobs(partial)
    assert partial.suffix == ".partial"
    assert before.total() == done
    status = json.loads((place / "outputs" / "evaluate" / "run" / "status.json").read_text())
    assert status == {"status": "running"}
    last = max(partial.glob("*.jsonl"), key=lambda file: file.stat().st_mtime_ns)
    with open(last, "a") as file:
        file.write('[0, [{"token_')  # what a kill in the middle of a write leaves
    after = whole_journal(place, command(random_model), monkeypatch)
    assert set(after.values()) == {1}
    assert len(after) == JOBS
    assert before.keys() <= after.keys()
    assert left_in(place) == calm


def wait_for(condition: Callable[[], Any], process: Command) -> None:
    limit = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < limit
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    found = subprocess.run(["ps", "-o", "stat=", "-p", str(pid)], capture_output=True, text=True)
    return found.stdout.strip()[:1] not in ("", "Z")


@pytest.mark.slow
def test_what_killed_processes_did_is_used_by_one(
    place: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_data(place, houses=200)
    words = command(random_model, NO_DOCUMENTS)
    process = Command([*words, "hardware.num_processes=2"], place)
    evaluations = place / "cache" / "evaluations"

    def workers() -> list[int]:
        files = evaluations.glob("*.partial/gradients-forget.*.jsonl")
        return [int(file.name.split("-")[-1].split(".")[0]) for file in files]

    try:
        wait_for(lambda: len(workers()) == 2, process)
    finally:
        process.kill()
        process.wait(30)
    limit, started = time.monotonic() + 20, workers()
    while any(map(alive, started)):
        assert time.monotonic() < limit, "workers outlive the command"
        time.sleep(0.1)
    partial = evaluation(place)
    assert partial.suffix == ".partial", "its workers went on"
    before = jobs(partial)
    assert sum(engine == "scores-forget" for engine, _ in before) == 200
    after = whole_journal(place, words, monkeypatch)
    assert set(after.values()) == {1}
    assert before.keys() < after.keys()
    resumed = left_in(place)
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(place / "calm"))
    assert run_command(words) == 0
    figures, samples = left_in(place)
    assert resumed[0]["metrics"] == figures["metrics"]
    assert [s["generation"] for s in resumed[1]] == [s["generation"] for s in samples]


def damage(folder: Path, file: str, how: str) -> None:
    path = folder / file
    content = path.read_bytes()
    if how == "cut":
        path.write_bytes(content[: len(content) // 2])
    elif how == "a line less":
        path.write_bytes(b"".join(content.splitlines(keepends=True)[:-1]))
    elif how == "noise":
        path.write_bytes(b"\x00\xff\xfe" * 40)
    elif how == "other JSON":
        path.write_text("[1, 2]\n")
    elif how == "empty":
        path.write_bytes(b"")
    else:
        path.unlink()


def name_set_of(part: Path) -> str:
    """Whose answers a part of an evaluation holds: the forget set alone has gradient norms."""
    return "forget" if "mia_gradnorm" in (part / "samples.jsonl").read_text() else "retain"


DAMAGES = ("cut", "a line less", "noise", "other JSON", "empty", "gone")


@pytest.mark.slow
@pytest.mark.parametrize("file", ["results.json", "samples.jsonl"])
def test_a_broken_cached_evaluation_is_made_again(
    file: str, place: Path, calm: Left, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undial_cli.runs import evaluations as stages

    made, evaluate = [], stages.evaluate_parts

    def counted(*args: Any) -> Any:
        made.append(args)
        return evaluate(*args)

    monkeypatch.setattr(stages, "evaluate_parts", counted)
    quick = command(random_model, NO_DOCUMENTS, "eval.limit=2")

    def asked() -> list[list[str]]:
        return [args[2] for args in made]

    assert run_command(quick) == 0
    expected = left_in(place)
    assert run_command(quick) == 0
    assert asked() == [["forget", "retain"]]  # what is whole is not asked again
    for number, how in enumerate(DAMAGES, 2):
        (folder, *_) = sorted((place / "cache" / "evaluations").iterdir())
        name = name_set_of(folder)
        damage(folder, file, how)
        assert run_command(quick) == 0
        assert len(made) == number, how
        assert asked()[-1] == [name], how
        assert left_in(place) == expected, how
    assert run_command(quick) == 0
    assert len(made) == len(DAMAGES) + 1


NOISE = ("", "null", '"text"', "[1]", '["one", 2]', '[null, {"token_ce": []}]', "\x00\x00", "[0, [")


@pytest.mark.slow
def test_noise_in_a_journal_is_no_result(
    place: Path, calm: Left, random_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from undial_cli.evaluation import results as store

    found = []
    monkeypatch.setattr(store, "Journal", lambda folder: found.append(folder) or Journal(folder))
    assert run_command(command(random_model, NO_DOCUMENTS)) == 0
    expected = left_in(place)
    (partial,) = found
    for part in (place / "cache" / "evaluations").iterdir():
        (part / "results.json").unlink()
    partial.mkdir()
    for engine in ("scores-forget", "scores-retain", "gradients-forget"):
        (partial / f"{engine}.0-1.jsonl").write_text("\n".join(NOISE))
    assert run_command(command(random_model, NO_DOCUMENTS)) == 0
    assert left_in(place) == expected


def demo(place: Path, model: Path, name: str, *words: str) -> Rows:
    """Samples of an evaluation on a local folder with the demo's data."""
    known = ["evaluate", f"data.path={place / 'people'}", f"model.path={model}", "hardware=cpu"]
    assert run_command([*known, "eval.max_new_tokens=6", f"name={name}", *words]) == 0
    file = place / "outputs" / "evaluate" / name / "evaluation" / "samples.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.mark.slow
def test_a_folder_whose_rows_changed_is_read_anew(place: Path, random_model: Path) -> None:
    shutil.copytree(PACKAGE_FOLDER / "data" / "demo", place / "people")
    words = ["eval.retain_model=none", "eval.limit=2"]
    before = demo(place, random_model, "before", *words)
    file = place / "people" / "facts.json"
    rows = file.read_text().splitlines(keepends=True)
    file.write_text("".join(rows[5:]))
    after = demo(place, random_model, "after", *words)
    asked = [[s["prompt"] for s in part if s["set"] == "facts"] for part in (before, after)]
    assert asked == [
        [json.loads(row)["question"] for row in part] for part in (rows[:2], rows[5:7])
    ]


@pytest.mark.slow
def test_given_results_are_set_beside_the_same_questions(place: Path, random_model: Path) -> None:
    shutil.copytree(PACKAGE_FOLDER / "data" / "demo", place / "people")
    given = demo(place, random_model, "given", "eval.retain_model=none", "eval.limit=4")
    answers = {(s["set"], s["prompt"]): s["generation"] for s in given}
    assert len(set(answers.values())) > 8
    file = place / "outputs" / "evaluate" / "given" / "evaluation" / "results.json"
    words = [f"eval.retain_model={file}", "eval.limit=4"]
    found = demo(place, random_model, "beside", *words)
    assert [s["retain_generation"] for s in found] == [
        answers[s["set"], s["prompt"]] for s in found
    ]
    silent = demo(place, random_model, "silent", *words, "eval.store_text=none")
    assert not [key for s in silent for key in s if "generation" in key or key == "prompt"]


@pytest.mark.slow
def test_sets_of_any_name_and_number_keep_their_results_apart(
    place: Path, random_model: Path
) -> None:
    asked = {"metrics": ["probability", "rouge"]}
    sets: dict[str, dict[str, Any]] = {
        "a.b": {"split": "forget.jsonl[4:]", "metrics": ["probability"]},
        "a": {"split": "forget.jsonl", **asked},
        "b": {"split": "forget.jsonl[2:]", **asked},
        "a-b": {"split": "forget.jsonl[3:]", "max_new_tokens": 3, **asked},
    }
    for n in range(8):
        name = f"a_set_with_a_name_of_some_length_{n}"
        sets[name] = {"split": "forget.jsonl", "max_new_tokens": 2, **asked}
    suite = json.dumps({"name": "own", "sets": sets})
    (place / "configs" / "eval" / "own.yaml").write_text(suite)
    assert run_command(command(random_model, "eval.limit=4")) == 0
    _, samples = left_in(place)
    assert len(samples) == 4 * len(sets)
    known = {s["prompt"]: s for s in samples if s["set"] in ("a", "b")}
    for sample in samples:
        other = known.get(sample["prompt"], sample)
        assert sample["answer_ce"] == pytest.approx(other["answer_ce"], abs=1e-4), sample["set"]
        whole = other.get("generation", "")
        assert whole.startswith(sample.get("generation", "")), sample["set"]


Refuse = Callable[..., str]


@pytest.fixture
def refuse(place: Path, capfd: pytest.CaptureFixture[str]) -> Refuse:
    """Run a command that must be refused; returns its one line."""

    def call(*words: str) -> str:
        def names() -> list[Path]:
            return sorted(p for p in place.rglob("*") if p.suffix != ".lock" and p.is_file())

        before = names()
        capfd.readouterr()
        assert run_command([*words]) == 2
        _, err = capfd.readouterr()
        assert err.startswith("undial: ")
        assert err.count("\n") == 1, err
        assert "Traceback" not in err
        assert names() == before
        assert not (place / "outputs").exists()
        return err

    return call


def test_a_retain_model_of_another_tokenizer_is_refused(
    place: Path, refuse: Refuse, random_model: Path
) -> None:
    other = byte_tokenizer(bos=True)
    random_llama(vocab=len(other)).save_pretrained(place / "other")
    other.save_pretrained(place / "other")
    line = refuse(*command(random_model, "eval.retain_model=other"))
    assert "eval.retain_model=other" in line
    assert "tokenizer" in line


@pytest.mark.slow
def test_a_retain_model_of_the_same_tokens_is_taken(place: Path, random_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(random_model)
    random_llama(vocab=len(tokenizer)).save_pretrained(place / "smaller")
    tokenizer.chat_template = None
    tokenizer.save_pretrained(place / "smaller")
    words = ["eval.retain_model=smaller", "eval.limit=2", NO_DOCUMENTS]
    assert run_command(command(random_model, *words)) == 0
    assert left_in(place)[0]["reference"]["forget_probability"] > 0


BAD = {
    "empty file": (
        ["data.forget_file=empty.jsonl"], ["data.forget_file=empty.jsonl", "is empty"]
    ),
    "empty slice": (["eval.sets.forget.split=forget.jsonl[5:5]"], ["eval.sets.forget.split"]),
    "slice beyond the end": (["data.retain_file=retain.jsonl[50:60]"], ["retain.jsonl", "[50:60]"]),
    "suite of other data": (["eval=muse", "data=tofu"], ["eval=muse", "muse_news", "data=tofu"]),
    "unknown metric of a set": (
        ["eval.sets.forget.metrics=[probabilty]"],
        ["eval.sets.forget.metrics=probabilty", "did you mean 'probability'?"],
    ),
    "metric without its number": (
        ["eval.sets.retain.metrics=[el_x]"], ["eval.sets.retain.metrics=el_x", "el_N"]
    ),
    "unknown joint metric": (
        ["eval.metrics=[forget_qualty]"],
        ["eval.metrics=forget_qualty", "did you mean 'forget_quality'?"],
    ),
    "metric of one set among the joint ones": (
        ["eval.metrics=[rouge]"], ["eval.metrics=rouge", "model_utility"]
    ),
    "unknown set in utility": (["eval.utility=[forgot]"], ["eval.utility=forgot", "'forget'?"]),
    "no retain results": (
        ["eval.retain_model=missing.json"], ["eval.retain_model=missing.json", "no such file"]
    ),
    "retain results cut short": (
        ["eval.retain_model=cut.json"], ["eval.retain_model=cut.json", "not a whole JSON file"]
    ),
    "retain results that are binary": (
        ["eval.retain_model=noise.json"], ["eval.retain_model=noise.json"]
    ),
    "retain results that are a folder": (
        ["eval.retain_model=folder.json"], ["eval.retain_model=folder.json"]
    ),
    "retain results of something else": (
        ["eval.retain_model=other.json"], ["eval.retain_model=other.json", "TOFU_EVAL.json"]
    ),
    "documents without text": (
        ["eval.sets.forget.kind=document"], ["eval.sets.forget.split", "'text'"]
    ),
    "unknown kind": (["eval.sets.forget.kind=questions"], ["eval.sets.forget.kind", "question"]),
    "unknown column": (["eval.sets.forget.question_key=ask"], ["ask", "question, answer"]),
    "top_p above 1": (["eval.sets.forget.top_p=1.5"], ["eval.sets.forget.top_p=1.5"]),
    "no rows": (["eval.limit=0"], ["eval.limit=0"]),
    "unknown key of a set": (["eval.sets.forget.spilt=x"], ["spilt"]),
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("case", BAD)
def test_a_wrong_evaluation_is_refused_in_one_line(
    case: str, place: Path, refuse: Refuse, random_model: Path
) -> None:
    (place / "empty.jsonl").write_text("")
    (place / "cut.json").write_text('{"metrics": {"forget_prob')
    (place / "noise.json").write_bytes(b"\xff\xfe\x00\x81")
    (place / "other.json").write_text('{"model_type": "llama"}')
    (place / "folder.json").mkdir()
    words, fragments = BAD[case]
    line = refuse(
        "evaluate", "data=jsonl", "data.forget_file=forget.jsonl", "data.retain_file=retain.jsonl",
        f"model.path={random_model}", "hardware=cpu", *words,
    )  # fmt: skip
    for fragment in fragments:
        assert fragment in line


ABSENT = ("peft", "deepspeed", "bitsandbytes", "lm_eval", "mauve", "sentence_transformers", "vllm")
BLOCKED = f"""
from importlib.machinery import PathFinder
find_spec = PathFinder.find_spec
def find(name, path=None, target=None):
    return None if name.split(".")[0] in {ABSENT} else find_spec(name, path, target)
PathFinder.find_spec = staticmethod(find)
"""


@pytest.mark.slow
def test_without_optional_packages_a_published_checkpoint_is_evaluated(
    place: Path, random_model: Path
) -> None:
    (place / "site").mkdir()
    (place / "site" / "sitecustomize.py").write_text(BLOCKED)
    path = os.pathsep.join([str(place / "site"), *filter(None, [os.environ.get("PYTHONPATH")])])
    tried = subprocess.run(
        [sys.executable, "-c", "import peft"], capture_output=True, text=True, timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    assert "No module named 'peft'" in tried.stderr
    names = {file.name for file in random_model.iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= names
    done = undial(*command(random_model, "eval.limit=2"), cwd=place, PYTHONPATH=path)
    assert (done.returncode, done.stderr) == (0, "")
    results, samples = left_in(place)
    assert results["missing"] == {}
    assert len(samples) == 6
    assert (place / "outputs" / "evaluate" / "run" / "report" / "summary.md").is_file()
