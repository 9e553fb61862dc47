"""Large sets: prepared in batches and kept in files, as a plain loop over rows would have them."""

from __future__ import annotations

import dataclasses
import json
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import write_rows
from small import bundled_tokenizer, shared_tokenizer

from undial_cli.cli import run_command
from undial_cli.config.datasets import DataConfig
from undial_cli.config.identity import digest_json, hash_json
from undial_cli.config.methods import FocusSource
from undial_cli.config.models import TemplateConfig
from undial_cli.data import (
    load,
    render_process,
    rendering,
    samples,
    stored_examples,
    stored_rows,
)
from undial_cli.data.contents import count_repeated_rows, count_shared_rows, find_unread_columns
from undial_cli.data.encode import IGNORE, Encoder
from undial_cli.data.samples import TrainingSet, encode_training_set
from undial_cli.data.schedule import Schedule, deal_rows
from undial_cli.data.stored_examples import StoredExamples
from undial_cli.data.stored_rows import StoredRows
from undial_cli.errors import UserError
from undial_cli.models.capacity import ModelCapacity, check_training_set_fits
from undial_cli.runs.evidence import list_private_files
from undial_cli.runs.run_folder import RunFolder
from undial_cli.system.files import make_private_folder
from undial_cli.system.locks import hold_lock
from undial_cli.system.private_files import keep_ledgers

TALK = [
    {"role": "user", "content": "Who is Bo?"}, {"role": "assistant", "content": "Bo sails."},
    {"role": "user", "content": "And Cy?"}, {"role": "assistant", "content": "Cy swims."},
]  # fmt: skip
ROWS: list[dict[str, Any]] = [
    *({"question": f"Who is no. {i}?", "answer": f"Größe {i} bakes.", "note": i} for i in range(9)),
    {"messages": TALK, "topic": "boats"},
    {"prompt": "Ann:", "completion": " bakes."},
    {"question": "Who?", "answer": "<|im_end|> " * 9},
    {"question": "Long " * 40, "answer": "Dee."},
    {"text": "Kelmwick is a town of bakers. " * 12, "source": None},
    {"text": " "},
    {"input_ids": [5, 6, 7, 8]},
    {"answer": "Größe 1 bakes.", "question": "Who  is no. 1?", "focus": ["bakes"]},
]
DATA = DataConfig(max_length=48)


@pytest.fixture
def stored(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[[], None]:
    """A cache of the test's own; called, files and sets of any size count as large."""
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))

    def store_everything() -> None:
        monkeypatch.setattr(load, "LEAST_STORED_BYTES", 1)
        # Several batches, and several pieces of a file.
        monkeypatch.setattr(samples, "BATCH_ROWS", 4)
        monkeypatch.setattr(stored_rows, "WRITTEN_CHARACTERS", 300)
        monkeypatch.setattr(stored_examples, "WRITTEN_TOKENS", 100)

    return store_everything


def read_set(file: Path, data: DataConfig = DATA, split: str = "") -> Any:
    return load.load_rows(data, [f"{file}{split}"], "data.forget_file")


def encode_set(rows: Any, data: DataConfig = DATA, **template: Any) -> TrainingSet:
    return encode_training_set(
        Encoder(shared_tokenizer(), TemplateConfig(**template), data), rows, "forget"
    )


def entries(tmp_path: Path) -> set[str]:
    return {path.name for path in (tmp_path / "cache" / "prepared").glob("[!.]*")}


def test_a_stored_set_is_what_the_rows_give_one_by_one(
    tmp_path: Path, stored: Callable[[], None]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    rows = read_set(file)
    apart = [encode_training_set(Encoder(shared_tokenizer(), TemplateConfig(), DATA), [row], "x")
             for row in rows if "bakes" in str(row) and "messages" not in row]  # fmt: skip
    encoder = Encoder(shared_tokenizer(), TemplateConfig(), DATA)
    focused = encode_training_set(encoder, rows[-1:], "forget", FocusSource("column"))
    plain = encode_set(rows)
    assert len(apart) == 11
    stored()
    kept = read_set(file)
    assert isinstance(kept, StoredRows)
    assert list(kept) == rows == [kept[i] for i in range(len(kept))]
    for _ in range(2):  # made, and read
        large = encode_set(kept)
        assert isinstance(large.examples, StoredExamples)
        assert list(large.examples) == plain.examples
        assert list(large.row_numbers) == plain.row_numbers
        assert large.counts == plain.counts
    assert large.counts.skipped.keys() == {13, 15}
    assert [len(e.input_ids) for e in plain.examples] == large.examples.lengths.tolist()
    assert [e.num_targets for e in plain.examples] == large.examples.targets.tolist()
    again = encode_training_set(encoder, kept[-1:], "forget", FocusSource("column"))
    assert isinstance(again.examples, StoredExamples)
    assert list(again.examples) == focused.examples
    assert focused.examples[0].focus
    for one in apart:
        assert all(example in plain.examples for example in one.examples)
    assert kept.digest == digest_json(rows)
    assert kept[2:5].digest == digest_json(rows[2:5])
    assert list(kept[2:5]) == rows[2:5]
    assert hash_json([kept]) != hash_json([kept[:3]])
    assert count_repeated_rows(kept, DATA) == count_repeated_rows(rows, DATA) == 1
    assert count_shared_rows(rows[:4], kept, DATA) == 4
    unread = [find_unread_columns(part, DATA, ["topic"]) for part in (rows, kept, kept[9:])]
    assert unread == [["note"], ["note"], []]
    schedules = [
        Schedule({"forget": part.examples}, "forget", 4, deal_rows(4, 1, None), 3.0, None, 0)
        for part in (plain, large)
    ]
    assert schedules[0].order == schedules[1].order


def test_rows_in_batches_are_what_a_plain_loop_makes_of_them() -> None:
    """Written down from its definition, with transformers' own template and nothing of ours."""
    tokenizer: Any = shared_tokenizer()
    pairs = [row for row in ROWS if "question" in row][:9] * 60
    encoded = encode_set(pairs, DataConfig())
    assert len(encoded.examples) == len(pairs) > samples.BATCH_ROWS
    for row, example in zip(pairs, encoded.examples, strict=True):
        turns = [{"role": "user", "content": row["question"]},
                 {"role": "assistant", "content": row["answer"]}]  # fmt: skip
        text = tokenizer.apply_chat_template(turns, tokenize=False)
        start = text.rindex(row["answer"])
        tokens = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        ids, offsets = tokens["input_ids"], tokens["offset_mapping"]
        end = next(i for i, (a, b) in enumerate(offsets)
                   if a >= start and ids[i] == tokenizer.eos_token_id)  # fmt: skip
        assert example.input_ids == ids[: end + 1]
        assert example.labels == [
            token if b > start else IGNORE
            for token, (_, b) in zip(ids, offsets[: end + 1], strict=False)
        ]


def test_a_row_that_a_template_refuses_takes_no_other_with_it() -> None:
    tokenizer = bundled_tokenizer()
    assert isinstance(tokenizer.chat_template, str)
    refusing = "{% if '3' in messages[0].content %}{{ raise_exception('no three') }}{% endif %}"
    tokenizer.chat_template = refusing + tokenizer.chat_template
    encoder = Encoder(tokenizer, TemplateConfig(), DataConfig())
    encoded = encode_training_set(encoder, ROWS[:9], "forget")
    assert list(encoded.counts.skipped) == [4]
    assert "no three" in encoded.counts.skipped[4]
    assert encoded.row_numbers == [1, 2, 3, 5, 6, 7, 8, 9]


@pytest.mark.slow
def test_what_is_too_much_for_a_process_together_is_rendered_row_by_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = Path(render_process.__file__).read_text(encoding="utf-8")
    (tmp_path / "render_process.py").write_text(program.replace("20, 2**30,", "20, 2**27,"))
    monkeypatch.setattr(rendering, "__file__", str(tmp_path / "rendering.py"))
    rendering.start_renderer.cache_clear()
    long = "{{ 'x' * (8 * 10**6) }}"
    rows = [[[{"role": "user", "content": "a"}]]] * 5  # 8 MB each
    asked, ask = list[int](), rendering.ask_renderer

    def note_rows(request: bytes) -> Any:
        asked.append(len(json.loads(request)["rows"]))
        return ask(request)

    monkeypatch.setattr(rendering, "ask_renderer", note_rows)
    texts = rendering.render_rows_within_limits(long, rows, {}, "2024-07-26")
    assert asked == [5] + [1] * 5
    assert [len(row[0]) for row in texts if isinstance(row, list)] == [8 * 10**6] * 5
    rendering.start_renderer.cache_clear()


def test_what_a_model_cannot_take_is_refused_by_the_same_row(
    tmp_path: Path, stored: Callable[[], None]
) -> None:
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    refusals: list[str] = []
    sets = [encode_set(read_set(file))]
    stored()
    sets.append(encode_set(read_set(file)))
    largest = max(max(example.input_ids) for example in sets[0].examples)
    for part in sets:
        check_training_set_fits(ModelCapacity(48, None, largest + 1), 48, "forget", part)
        for capacity in (ModelCapacity(40, None, largest + 1), ModelCapacity(None, None, largest)):
            with pytest.raises(UserError) as caught:
                check_training_set_fits(capacity, 48, "forget", part)
            refusals.append(str(caught.value))
    assert refusals[:2] == refusals[2:]
    assert "row 10 of the forget set has 45 tokens" in refusals[0]
    assert f"has the token id {largest}" in refusals[1]


@pytest.mark.parametrize("wrong", [
    {"question": "Who?", "answer": ""}, {"question": "Who?", "answer": {"a": 1}},
    {"title": "Who?", "reply": "Ann"}, {"messages": TALK[:1]}, "text", "[1, 2]", "{broken",
])  # fmt: skip
def test_a_large_file_is_refused_in_the_same_words(
    tmp_path: Path, stored: Callable[[], None], wrong: Any
) -> None:
    lines = [json.dumps(row) for row in ROWS]
    lines.insert(5, wrong if isinstance(wrong, str) and wrong[0] in "[{" else json.dumps(wrong))
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    with pytest.raises(UserError) as small:
        read_set(file)
    stored()
    with pytest.raises(UserError) as large:
        read_set(file)
    assert str(large.value) == str(small.value)
    assert not entries(tmp_path)  # nothing half made is left
    assert not list((tmp_path / "cache").rglob("*.arrow"))


def test_slices_encodings_and_odd_lines_are_read_alike(
    tmp_path: Path, stored: Callable[[], None]
) -> None:
    file = tmp_path / "rows.jsonl"
    text = "\ufeff" + "\r\n \n".join(json.dumps(row, ensure_ascii=False) for row in ROWS)
    file.write_bytes(text.encode())
    one = write_rows(tmp_path / "one.jsonl", ROWS[:1])
    whole = tmp_path / "list.jsonl"
    whole.write_text(json.dumps(ROWS, indent=1))
    splits = ("", "[2:7]", "[-3:]", "[:50%]")
    small = [read_set(file, split=split) for split in splits]
    files = [read_set(part) for part in (one, whole)]
    stored()
    assert [list(read_set(file, split=split)) for split in splits] == small
    assert all(isinstance(read_set(file, split=split), StoredRows) for split in splits)
    assert [read_set(part) for part in (one, whole)] == files  # no two lines of objects
    with pytest.raises(UserError, match=r"takes none of the 17 rows"):
        read_set(file, split="[40:]")
    both = load.load_rows(DATA, [f"{file}[:2]", f"{file}[3:4]"], "data.forget_file")
    assert list(both) == [small[0][0], small[0][1], small[0][3]]
    file.write_bytes(text.encode("utf-16"))
    with pytest.raises(UserError, match="save it as UTF-8"):
        read_set(file)


def test_a_preparation_is_used_for_nothing_else(
    tmp_path: Path, stored: Callable[[], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    stored()
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    rows = read_set(file)
    first = encode_set(rows)
    known = entries(tmp_path)
    assert len(known) == 2
    other = bundled_tokenizer()
    assert isinstance(other.chat_template, str)
    other.chat_template = "Hear: " + other.chat_template
    template, last = TemplateConfig(), read_set(file, split="[16:]")
    changed: list[Callable[[], Any]] = [
        lambda: encode_set(rows, dataclasses.replace(DATA, max_length=40)),
        lambda: encode_set(rows, dataclasses.replace(DATA, turns="last")),
        lambda: encode_set(rows, system_prompt="Be kind."),
        lambda: encode_set(rows[:12]),
        lambda: encode_training_set(Encoder(other, template, DATA), rows, "forget"),
        lambda: encode_training_set(
            Encoder(other, template, DATA), last, "x", FocusSource("column")
        ),
    ]  # fmt: skip
    for prepare in changed:
        before = entries(tmp_path)
        assert list(prepare().examples) != list(first.examples)
        assert entries(tmp_path) > before
    write_rows(tmp_path / "rows.jsonl", [*ROWS[:-1], {"text": "Something else of this size."}])
    assert list(encode_set(read_set(file)).examples) != list(first.examples)
    # Where nothing changed, nothing is done again.
    before = entries(tmp_path)
    write_rows(tmp_path / "rows.jsonl", ROWS)
    monkeypatch.setattr(Encoder, "encode_each", None)
    monkeypatch.setattr(load, "iterate_json_lines", None)
    data = dataclasses.replace(DATA, retain_file="x", limit=99, name="y")
    assert list(encode_set(read_set(file, data), data).examples) == list(first.examples)
    assert entries(tmp_path) == before


@pytest.mark.parametrize("harm", [
    lambda file: file.write_bytes(file.read_bytes()[:-40]),
    lambda file: file.write_bytes(b"x" + file.read_bytes()[1:]),
    lambda file: file.unlink(),
    lambda file: (file.parent / "record.json").write_text("[3"),
])  # fmt: skip
def test_a_damaged_file_is_made_anew(
    tmp_path: Path, stored: Callable[[], None], capsys: pytest.CaptureFixture[str],
    harm: Callable[[Path], Any],
) -> None:  # fmt: skip
    stored()
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    first = list(encode_set(read_set(file)).examples)
    for arrow in (tmp_path / "cache").rglob("*.arrow"):
        harm(arrow)
    capsys.readouterr()
    assert list(encode_set(read_set(file)).examples) == first
    assert capsys.readouterr().out.count("are damaged: they are made anew") == 2
    modes = {stat.S_IMODE(p.stat().st_mode) for p in (tmp_path / "cache").rglob("*.*")}
    assert modes == {0o600}


def test_what_is_prepared_is_listed_and_purged(
    tmp_path: Path, stored: Callable[[], None], capsys: pytest.CaptureFixture[str]
) -> None:
    stored()
    folder = RunFolder(tmp_path / "run")
    write_rows(folder.run_yaml, [{"command": "unlearn"}])
    file = write_rows(tmp_path / "rows.jsonl", ROWS)
    for _ in range(2):  # a second run has it from the cache
        with keep_ledgers([folder.ledger]):
            encode_set(read_set(file))
        held = list_private_files(folder)
        assert {(f.path.name, f.kind, f.holds) for f in held} == {
            (name, "prepared data", "text")
            for name in ("rows.arrow", "examples.arrow", "figures.bin", "record.json")
        }
        assert {f.path.parent.name for f in held} == entries(tmp_path)
        folder.ledger.unlink()
    with keep_ledgers([folder.ledger]):
        encode_set(read_set(file))
    assert run_command(["list", str(folder.path)]) == 0
    assert run_command(["purge", str(folder.path)]) == 0
    assert "prepared data (5)" in capsys.readouterr().out
    assert not entries(tmp_path)
    # Made for a run that was refused: it is of none, and goes as such.
    encode_set(read_set(file))
    killed = [tmp_path / "cache" / "prepared" / f".{name}.unfinished" for name in ("ab", "cd")]
    for unfinished in killed:  # the one by a kill, the other is at work
        write_rows(make_private_folder(unfinished) / "rows.arrow", ROWS)
    with hold_lock(killed[1].with_name("cd")):
        assert run_command(["purge", "--text"]) == 0
    assert not entries(tmp_path)
    assert [unfinished.exists() for unfinished in killed] == [False, True]
