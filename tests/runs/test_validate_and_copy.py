"""`undial copy` and `undial validate`: a file to edit, and its faults with their lines."""

from __future__ import annotations

from pathlib import Path

import pytest

from undial_cli.cli import run_command
from undial_cli.runs.commands.file_faults import ReadFile, read_config_file
from undial_cli.runs.commands.file_kinds import FILE_KINDS, recognise_file_kind
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import find_config_folder


@pytest.fixture
def validated(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """Exit code, faults and what else is said of a text in a file."""

    def validate(name: str, text: str, *words: str) -> tuple[int, list[str], str]:
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, "utf-8")
        code = run_command(["validate", str(file), *words])
        said = capsys.readouterr()
        lines = [line.replace(str(tmp_path), "").lstrip() for line in said.err.splitlines()]
        return code, lines, said.out

    return validate


def test_a_file_elsewhere_is_known_by_its_keys() -> None:
    known = {
        "model": "model/llama1b", "data": "data/tofu", "method": "method/npo", "eval": "eval/tofu",
        "attack": "attack/relearn", "experiment": "experiment/debug", "table": "table/demo_methods",
        "tune": "tune/npo", "audit": "audit/quick",
        "hardware": "hardware/fsdp",
    }  # fmt: skip
    for kind, name in known.items():
        read = read_config_file(find_config_folder() / f"{name}.yaml")
        assert isinstance(read, ReadFile)
        assert recognise_file_kind(read.content, read.text)[0] == FILE_KINDS[kind]


# A file, and of each of its faults the line and words of it.
FAULTY = {
    "method/a.yaml": (
        "defaults:\n  - undial_schema\nname: undial\nstrenght: 3\nalpha: -1\nbeta: 3\n"
        "gamma: lots\nretain: grd\n",
        [
            "a.yaml:4: method.strenght: no such key; did you mean 'strength'?",
            "a.yaml:5: method.alpha=-1.0: allowed is a number >= 0",
            "a.yaml:6: method.beta: method=undial has no such key",
            "a.yaml:7: method.gamma=lots: allowed is a number",
            "a.yaml:8: method.retain=grd: allowed is one of gdr, klr, none; did you mean 'gdr'?",
        ],
    ),
    "method/b.yaml": (
        "strength: 3\nname: undail\n",
        ["b.yaml:2: method.name=undail: allowed is one of"],
    ),
    "eval/v.yaml": (
        "name: v\nsets:\n  forget:\n    role: forgett\n    split: ${data.forget_split}\n"
        "    max_new_tokens: 1.5\n  retain: 3\n",
        [
            "v.yaml:4: eval.sets.forget.role=forgett: allowed is one of",
            "v.yaml:6: eval.sets.forget.max_new_tokens=1.5: allowed is an integer or null",
            "v.yaml:7: eval.sets.retain=3: a group of keys; allowed is one of split",
        ],
    ),
    "attack/r.yaml": (
        "kind: ask\nshots: -3\nbudgets:\n  quik: {rows: 8}\n  quick: {rwos: 8}\n",
        [
            "r.yaml:2: audit.attack.r.shots=-3: allowed is a number >= 0",
            "r.yaml:4: audit.attack.r.budgets=quik: allowed is one of full, quick, standard",
            "r.yaml:5: audit.attack.r.budgets.quick.rwos: no such key; did you mean 'rows'?",
        ],
    ),
    "table/t.yaml": (
        "columns:\n  - metric: [forget_rouge]\n    formt: .3f\nrows:\n  - a\nsedes: [0]\n",
        [
            "t.yaml:3: table.columns[0].formt: no such key; did you mean 'format'?",
            "t.yaml:5: table.rows[0]=a: a group of keys; allowed is one of label",
            "t.yaml:6: table.sedes: no such key; did you mean 'seeds'?",
        ],
    ),
    "experiment/e.yaml": (
        "# @package _global_\ndefaults:\n  - override /method: npo\nmethod:\n  beta: 0.2\n"
        "  strength: 3\ntrain:\n  epochs: many\n  lr: 3\nmodle: 3\n",
        [
            "e.yaml:6: method.strength: method=npo has no such key",
            "e.yaml:8: train.epochs=many: allowed is a number",
            "e.yaml:9: train.lr: no such key; here that is train.learning_rate",
            "e.yaml:10: modle: no such key; did you mean 'model'?",
        ],
    ),
    "experiment/late.yaml": (
        "# mine\n# @package _global_\nseed: 3\n",
        ["late.yaml:1: expected '# @package _global_' above all else"],
    ),
    "model/syntax.yaml": ("name: m\nbase: [\n", ["syntax.yaml:3: no YAML: expected the node"]),
    "model/twice.yaml": ("name: m\nname: n\n", ["twice.yaml:2: no YAML: found duplicate key name"]),
    "method/defaults.yaml": (
        "defaults: 3\nname: undial\n",
        ["defaults.yaml:1: defaults: expected a list"],
    ),
    "model/numbers.yaml": (
        "1: 2\ntargets: {1: 3}\n",
        ["numbers.yaml:1: model.1: no such key", "numbers.yaml:2: model.targets.1=3: a group of"],
    ),
    "attack/kind.yaml": ("kind: [a]\n", ["kind.yaml:1: audit.attack.kind.kind=['a']: allowed is"]),
    "model/zero.yaml": ("0\n", ["zero.yaml:1: expected keys and their values"]),
    "model/list.yaml": ("- a\n", ["list.yaml:1: expected keys and their values"]),
    "model/empty.yaml": ("", ["empty.yaml:1: expected keys and their values"]),
    "any.yaml": ("name: x\n", ["any.yaml: its kind cannot be told from its keys; say kind=NAME"]),
}  # fmt: skip
# What only composing says.
COMPOSED = {
    "method/c.yaml": (
        "defaults:\n  - undial_shema\nname: undial\n",
        ["c.yaml: defaults: method=undial_shema: allowed", "did you mean 'undial_schema'?"],
    ),
    "model/k.yaml": (
        "name: k\ntrust_remote_code: true\n",
        ["k.yaml:2: model.trust_remote_code=true: runs code", "not taken from a file"],
    ),
    "model/l.yaml": (
        "name: l\ntemplate: {prompt: hello}\n",
        ["l.yaml:2: model.template.prompt=hello: allowed is a text that holds {question}"],
    ),
    "experiment/f.yaml": (
        "# @package _global_\ndefaults:\n  - override /data: tofuu\nseed: 3\n",
        ["f.yaml: data=tofuu: allowed is one of", "did you mean 'tofu'?"],
    ),
    "table/u.yaml": ("title: t\nseeds: [0]\n", ["u.yaml: table: it needs columns, rows and seeds"]),
}


@pytest.mark.parametrize("name", FAULTY)
def test_each_fault_is_a_line_that_says_where(validated, name: str) -> None:
    text, expected = FAULTY[name]
    code, lines, _ = validated(name, text)
    assert code == 2
    assert len(lines) == len(expected), lines
    for line, part in zip(lines, expected, strict=True):
        assert part in line


@pytest.mark.parametrize("name", COMPOSED)
def test_a_file_of_sound_keys_is_composed(validated, name: str) -> None:
    text, parts = COMPOSED[name]
    code, lines, _ = validated(name, text)
    assert code == 2
    assert len(lines) == 1
    assert all(part in lines[0] for part in parts), lines


def test_a_sound_file_is_named_with_its_command(validated, tmp_path: Path) -> None:
    text = (find_config_folder() / "method" / "undial.yaml").read_text("utf-8")
    code, lines, said = validated("method/mine.yaml", text)
    assert (code, lines) == (0, [])
    assert "a method, as it lies in a folder method: nothing is wrong" in said
    assert f"undial unlearn --config-dir {tmp_path} method=mine" in said
    code, lines, said = validated("elsewhere.yaml", text, "kind=method")
    assert (code, lines) == (0, [])
    assert "a method, as kind= says" in said
    code, lines, _ = validated("method/my method.yaml", text)
    assert code == 2
    assert "my method.yaml: a config file is called NAME.yaml" in lines[0]


def test_a_copy_stands_for_the_shipped_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "my" / "configs"
    assert run_command(["copy", "method/undial", str(folder)]) == 0
    assert f"undial unlearn --config-dir {folder} method=undial" in capsys.readouterr().out
    file = folder / "method" / "undial.yaml"
    assert file.read_bytes() == (find_config_folder() / "method" / "undial.yaml").read_bytes()
    file.write_text(file.read_text("utf-8").replace("strength: 10", "strength: 7"), "utf-8")
    assert compose_run("unlearn", ["method=undial"], str(folder)).method.strength == 7  # type: ignore[attr-defined]
    assert run_command(["copy", "method=undial", str(folder)]) == 2
    assert "is there already and stays as it is" in capsys.readouterr().err
    assert "strength: 7" in file.read_text("utf-8")
    assert run_command(["copy", "recipe/method/npo_muse_news", str(folder), "name=npo_tofu"]) == 0
    assert "method=npo data=tofu" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["copy", "method/undail", "x"], ["method=undail", "'undial'"]),
        (["copy", "methd/undial", "x"], ["group=methd", "'method'"]),
        (["copy", "undial", "x"], ["expected GROUP/NAME"]),
        (["copy", "method/undial"], ["expected GROUP/NAME and a folder"]),
        (["copy", "method/undial", "x", "name=a/b"], ["name=a/b", "one word"]),
        (["copy", "method/../../pyproject", "x"], ["group=method/../.."]),
        (["copy", "method/undial", "file"], ["file", "not a folder"]),
        (["validate"], ["expected a file"]),
        (["validate", "nosuch.yaml"], ["nosuch.yaml", "no such file"]),
        (["validate", "file", "kind=methd"], ["kind=methd", "'method'"]),
        (["validate", "--strict"], ["--strict", "kind=NAME"]),
        (["validate", "empty"], ["empty", ".yaml"]),
    ],
)
def test_wrong_words_are_refused_in_one_line(
    words: list[str], says: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("name: x", "utf-8")
    monkeypatch.chdir(tmp_path)
    assert run_command(words) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert all(part in said for part in says), said
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "file"]
