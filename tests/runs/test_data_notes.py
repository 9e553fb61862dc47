"""What is found of a run's rows before anything is computed: overlap, files, unread columns."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from conftest import prepare, refused

from undial_cli.cli import run_command
from undial_cli.config.schema import UnlearnRun
from undial_cli.data.rows import Row
from undial_cli.errors import UserError
from undial_cli.runs.compose import compose_run
from undial_cli.runs.inputs import RunInputs
from undial_cli.runs.requests import build_request_runs
from undial_cli.runs.run_yaml import dump_run_yaml, load_run

FORGET = [{"question": f"Who is {i}?", "answer": f"Ann {i}."} for i in range(4)]
RETAIN = [{"question": f"Where is {i}?", "answer": f"Here {i}."} for i in range(6)]


@pytest.fixture
def write(tmp_path: Path) -> Any:
    def write_rows(name: str, rows: list[Row]) -> str:
        file = tmp_path / name
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return str(file)

    return write_rows


def prepare_run(model: Path, *words: str, command: str = "unlearn") -> RunInputs:
    return prepare(compose_run(command, ["data=jsonl", f"model.path={model}", *words]))


def test_forget_rows_that_are_retained_are_counted_and_refused_when_all_are(
    random_model: Path, write: Any
) -> None:
    forget = f"data.forget_file={write('forget.jsonl', FORGET)}"
    as_messages = [
        {"messages": [{"role": "user", "content": f" {row['question']}"},
                      {"role": "assistant", "content": row["answer"]}]}
        for row in FORGET
    ]  # fmt: skip
    some = f"data.retain_file={write('some.jsonl', RETAIN + as_messages[:3])}"
    everything = f"data.retain_file={write('all.jsonl', as_messages + RETAIN)}"
    with_retain = [forget, "method.retain=gdr"]
    line = f"{some}: holds 3 of the 4 rows of the forget set ({forget}), whose two terms cancel"
    assert line in prepare_run(random_model, *with_retain, some).notes
    refused(
        lambda: prepare_run(random_model, *with_retain, everything),
        everything, "4 of the 4 rows", forget,
    )  # fmt: skip
    # Rows that are not trained on cancel nothing.
    prepare_run(random_model, forget, everything)
    limited = prepare_run(random_model, *with_retain, some, "data.limit=2")
    assert not any("cancel" in note for note in limited.notes)


def test_of_the_demo_the_whole_set_as_retain_set_is_refused() -> None:
    for split in ("full", "forget10"):
        run = compose_run("unlearn", ["method.retain=gdr", f"data.retain_split={split}"])
        refused(lambda run=run: prepare(run), f"data.retain_split={split}", "20 of the 20 rows")


def test_several_files_are_one_set_in_training_and_evaluation(
    random_model: Path, write: Any
) -> None:
    files = [write("a.jsonl", FORGET[:1]), write("b.jsonl", FORGET[1:])]
    one = prepare_run(random_model, f"data.forget_file={write('one.jsonl', FORGET)}")
    several = prepare_run(random_model, f"data.forget_file=[{','.join(files)}]")
    assert several.sets == one.sets
    assert several.suite.rows["forget"].rows == FORGET
    assert several.fingerprint == one.fingerprint
    bad = write("bad.jsonl", [FORGET[0], {"question": "Who?", "answer": ""}])
    refused(lambda: prepare_run(random_model, f"data.forget_file=[{files[0]},{bad}]"), bad, "row 2")
    retain = prepare_run(random_model, f"data.forget_file={files[0]}", "method.retain=gdr",
                      f"data.retain_file=[{files[1]},{write('c.jsonl', RETAIN)}]")  # fmt: skip
    assert retain.counts["retain"].read == 9
    assert len(retain.suite.rows["retain"].rows) == 9


def test_a_list_of_files_goes_through_run_yaml_requests_and_a_sweep(tmp_path: Path) -> None:
    words = ["data=jsonl", "model.path=a/model", "data.forget_file=[a.jsonl,b.jsonl]"]
    run = compose_run("unlearn", words)
    (tmp_path / "run.yaml").write_text(dump_run_yaml(run))
    assert load_run(tmp_path / "run.yaml") == run
    assert isinstance(run, UnlearnRun)
    assert run.eval.sets["forget"].split == run.data.forget_file == ["a.jsonl", "b.jsonl"]
    first, second = build_request_runs(
        compose_run("unlearn", [*words, "data.requests=[c.jsonl,d.jsonl]"])
    )
    assert first.eval.sets["forget"].split == second.eval.sets["request_1"].split == "c.jsonl"


def test_files_with_commas_between_them_are_refused_with_what_is_meant() -> None:
    words = ["data=jsonl", "model.path=a", "data.forget_file=a.csv,b.csv"]
    refused(
        lambda: compose_run("unlearn", words),
        "a.csv,b.csv",
        "data.forget_file=[a.csv,b.csv]",
        "--multirun",
    )


@pytest.mark.parametrize("value", ["[]", "7", "[a.jsonl,7]", "{a: b}", "''"])
def test_what_is_no_file_and_no_list_of_files_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"data\.forget_file=.*a text, or a list of texts"):
        compose_run("unlearn", ["data=jsonl", "model.path=a", f"data.forget_file={value}"])


@pytest.mark.parametrize(
    "words, parts",
    [
        (["data=demo", "data.forget_file=a.jsonl"], ("data.forget_file=a.jsonl", "data=jsonl")),
        (["data=demo", "data.retain_file=[a,b]"], ("data.retain_file=a,b", "data.retain_split")),
        (["data=jsonl", "data.forget_split=forget10"], ("data.forget_split=forget10", "data.path")),
        (["data=jsonl", "data.retain_split=full"], ("data.retain_split=full", "data.retain_file")),
    ],
)  # fmt: skip
def test_a_set_that_is_named_and_would_not_be_read_is_refused(
    words: list[str], parts: tuple[str, ...]
) -> None:
    run = compose_run("unlearn", ["model.path=a/model", *words])
    refused(lambda: prepare(run), *parts)


def test_columns_that_nothing_reads_are_named_once_with_their_sets(
    random_model: Path, write: Any
) -> None:
    rows = [{"text": "Who is Ann?", "labels": "A baker.", "id": str(i)} for i in range(3)]
    file = f"data.forget_file={write('rows.jsonl', rows)}"
    (line,) = [n for n in prepare_run(random_model, file).notes if n.startswith("columns")]
    assert "labels (forget, eval.sets.forget); id (forget, eval.sets.forget)" in line
    assert "data.question_key=text data.answer_key=labels" in line
    keys = ["data.question_key=text", "data.answer_key=labels"]
    (line,) = [n for n in prepare_run(random_model, file, *keys).notes if n.startswith("columns")]
    assert line == "columns that nothing reads: id (forget, eval.sets.forget)"


@pytest.mark.slow
def test_columns_that_come_with_the_data_make_no_noise(tmp_path: Path, data_root: Path) -> None:
    model = "model.path=pkg://undial_cli/models/tiny"
    for words in (["data=demo"], ["data=tofu", f"data.path={data_root / 'TOFU'}"]):
        run = compose_run("evaluate", [*words, model, "eval.limit=2", "eval.retain_model=none"])
        assert prepare(run, weights=False).notes == []


SETS = """
name: mine
sets:
  forget:
    split: {split}
    kind: {kind}
    metrics: []
    exclude: {exclude}
    min_tokens: {tokens}
"""


def write_suite(
    folder: Path, split: str, kind: str, exclude: str = "null", tokens: str = "null"
) -> None:
    (folder / "eval").mkdir(exist_ok=True)
    (folder / "eval" / "mine.yaml").write_text(
        SETS.format(split=split, kind=kind, exclude=exclude, tokens=tokens)
    )


@pytest.mark.parametrize(
    "kind, row, parts",
    [
        ("few_shot", {"text": "Ann."}, ("few_shot", "'question'", "row 2")),
        ("continuation", {"prompt": "Who?", "completion": "Ann."}, ("continuation", "row 2")),
        ("question", {"text": "Ann."}, ("question", "row 2")),
        ("document", FORGET[1], ("document", "'text'", "row 2")),
    ],
)
def test_a_row_that_its_set_cannot_ask_is_refused(
    random_model: Path, tmp_path: Path, write: Any, kind: str, row: Row, parts: tuple[str, ...]
) -> None:
    first = {"text": "Bo is a cook."} if kind == "document" else FORGET[0]
    write_suite(tmp_path, write("rows.jsonl", [first, row]), kind)
    run = compose_run("evaluate", ["data=jsonl", f"model.path={random_model}", "eval=mine"],
                      str(tmp_path))  # fmt: skip
    refused(lambda: prepare(run), "eval.sets.forget.split=", *parts)


def test_rows_of_a_set_are_counted_with_what_became_of_them(
    random_model: Path, tmp_path: Path, write: Any
) -> None:
    texts = ["a = b", "short", *[f"{i} " + "Ann bakes bread. " * 9 for i in range(5)], "= short"]
    write_suite(
        tmp_path, write("rows.jsonl", [{"text": t} for t in texts]), "document", '"="', "20"
    )
    words = ["data=jsonl", f"model.path={random_model}", "eval=mine", "eval.limit=3"]
    run = compose_run("evaluate", [*words, "eval.retain_model=none"], str(tmp_path))
    rows = prepare(run).suite.rows["forget"]
    assert rows.counts == {
        "held": 8, "with '='": 2, "shorter than 20 tokens": 1, "beyond eval.limit=3": 2
    }  # fmt: skip
    assert len(rows.rows) == 3 == 8 - sum(n for name, n in rows.counts.items() if name != "held")


@pytest.mark.slow
def test_the_command_reads_several_files_and_says_the_overlap(
    random_model: Path, tmp_path: Path, write: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    files = [write("a.jsonl", FORGET[:2]), write("b.jsonl", FORGET[2:])]
    retain = write("retain.jsonl", RETAIN + FORGET[:1])
    words = ["unlearn", "data=jsonl", f"data.forget_file=[{','.join(files)}]", "method.retain=gdr",
             f"data.retain_file={retain}", f"model.path={random_model}", "hardware=cpu",
             "train.max_steps=1", "eval.max_new_tokens=2", "eval.retain_model=none",
             "report=false", f"output_dir={tmp_path}"]  # fmt: skip
    assert run_command([*words, "name=several"]) == 0
    text = capsys.readouterr().out
    assert f"data.retain_file={retain}: holds 1 of the 4 rows" in text
    assert "forget: 4 rows read, 4 trained" in text
    assert "retain: 7 rows read, 7 trained" in text
    assert run_command([*words, "name=limited", "data.limit=6", "eval=none"]) == 0
    assert "1 not read (beyond data.limit=6)" in capsys.readouterr().out
    write("retain.jsonl", RETAIN + FORGET)
    assert run_command([*words, "name=refused"]) == 2
    shown = capsys.readouterr()
    assert (shown.out, shown.err.count("\n")) == ("", 1)
    assert not (tmp_path / "unlearn" / "refused").exists()
