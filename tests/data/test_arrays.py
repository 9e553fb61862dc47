"""Token ids in NumPy files and the folder of the public extraction challenge, texts in CSV."""

from __future__ import annotations

import csv
import json
import os
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import prepare, refused
from small import byte_tokenizer
from transformers import AutoModelForCausalLM

from undial_cli.cli import run_command
from undial_cli.config.datasets import DataConfig
from undial_cli.config.models import TemplateConfig
from undial_cli.data.encode import Encoder
from undial_cli.data.load import load_rows, load_split
from undial_cli.data.rows import find_row_kind
from undial_cli.errors import UserError
from undial_cli.runs.compose import compose_run

pytestmark = pytest.mark.usefixtures("datasets_cache")
FULL = np.random.default_rng(3).integers(3, 2900, (6, 200)).astype(np.uint16)
LOCAL = DataConfig(path=None)


@pytest.fixture
def challenge(tmp_path: Path) -> Path:
    """A folder in the challenge's layout: 100 + 50 + 50 ids a row."""
    folder = tmp_path / "challenge"
    folder.mkdir()
    for part, piece in {
        "preprefix": FULL[:, :100],
        "prefix": FULL[:, 100:150],
        "suffix": FULL[:, 150:],
    }.items():
        np.save(folder / f"train_{part}.npy", piece)
    return folder


def save_array(file: Path, array: Any, **options: Any) -> str:
    np.save(file, array, **options)
    return str(file)


@pytest.mark.parametrize("kind", ["uint16", "int64", ">u2", "int32"])
def test_an_array_gives_its_rows_as_they_are(tmp_path: Path, kind: str) -> None:
    file = save_array(tmp_path / "ids.npy", FULL.astype(kind))
    rows = load_rows(LOCAL, [file], "data.forget_file")
    assert rows == [{"input_ids": ids} for ids in FULL.tolist()]
    assert all(type(i) is int for i in rows[0]["input_ids"])
    assert find_row_kind(rows[0], LOCAL) == "ids"


@pytest.mark.parametrize(
    "piece, taken",
    [
        ("[:2]", slice(0, 2)),
        ("[1:4]", slice(1, 4)),
        ("[-2:]", slice(-2, None)),
        ("[:50%]", slice(0, 3)),
        ("[:99]", slice(0, None)),
        ("", slice(0, None)),
    ],
)
def test_a_slice_takes_those_rows_of_a_file_and_of_a_folder(
    tmp_path: Path, challenge: Path, piece: str, taken: slice
) -> None:
    file = save_array(tmp_path / "ids.npy", FULL)
    folder = DataConfig(path=str(challenge))
    for data, split in ((LOCAL, file), (folder, "train")):
        rows = load_split(data, split + piece, "data.forget_split")
        assert [row["input_ids"] for row in rows] == FULL[taken].tolist()


def test_a_folder_without_the_part_before_the_prefix_has_the_other_two(challenge: Path) -> None:
    os.remove(challenge / "train_preprefix.npy")
    rows = load_split(DataConfig(path=str(challenge)), "train", "data.forget_split")
    assert [row["input_ids"] for row in rows] == FULL[:, 100:].tolist()


@pytest.mark.parametrize(
    "array, found",
    [
        (FULL.astype(np.float32), "float32 in 2"),
        (FULL > 5, "bool in 2"),
        (FULL[0], "uint16 in 1"),
        (FULL[None], "uint16 in 3"),
        (np.array([["one", "two"]]), "U3 in 2"),
        (FULL.astype(complex), "complex128 in 2"),
    ],
)
def test_what_is_not_a_table_of_whole_numbers_is_refused(
    tmp_path: Path, array: Any, found: str
) -> None:
    file = save_array(tmp_path / "ids.npy", array)
    refused(
        lambda: load_split(LOCAL, file, "data.forget_file"),
        f"data.forget_file={file}", "whole numbers in 2 dimensions", found,
    )  # fmt: skip


class Trap:
    """What a pickle must not be able to do."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.place),)


def test_a_pickled_array_is_refused_and_not_opened(tmp_path: Path) -> None:
    array = np.empty((1, 1), dtype=object)
    array[0, 0] = Trap(tmp_path / "opened")
    file = save_array(tmp_path / "ids.npy", array, allow_pickle=True)
    refused(lambda: load_split(LOCAL, file, "data.forget_file"), f"data.forget_file={file}")
    assert not (tmp_path / "opened").exists()


@pytest.mark.parametrize(
    "shape", ["(10000000, 10000000)", f"({2**62}, 8)", f"({2**200}, 8)", "(-1, 5)", "(True, 5)",
              "(" * 3000 + ")" * 3000, "(" + "-" * 9000 + "1,)"],
    ids=["728 TiB", "2**65", "2**203", "negative", "true", "deep", "signs"],
)  # fmt: skip
def test_a_header_that_claims_what_the_file_has_not_takes_no_memory(
    tmp_path: Path, shape: str
) -> None:
    header = f"{{'descr': '<i8', 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    file = tmp_path / "ids.npy"
    file.write_bytes(b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(80))
    refused(lambda: load_split(LOCAL, str(file), "data.forget_file"), f"data.forget_file={file}")


def test_what_is_no_array_file_is_refused(tmp_path: Path) -> None:
    whole = save_array(tmp_path / "whole.npy", FULL)
    np.savez(tmp_path / "zipped.npz", ids=FULL)
    broken = {
        "text": b"1 2 3 and so on",
        "cut": Path(whole).read_bytes()[:500],
        "cut_header": Path(whole).read_bytes()[:20],
        "zipped": (tmp_path / "zipped.npz").read_bytes(),
        "half_zipped": (tmp_path / "zipped.npz").read_bytes()[:60],
        "nothing": b"",
    }
    for name, content in broken.items():
        file = tmp_path / f"{name}.npy"
        file.write_bytes(content)
        refused(
            lambda file=file: load_split(LOCAL, str(file), "data.forget_file"),
            f"data.forget_file={file}",
        )
    for array in (FULL[:0], FULL[:0, :0]):
        file = save_array(tmp_path / "empty.npy", array)
        refused(lambda file=file: load_split(LOCAL, file, "data.forget_file"), "the set is empty")


def test_a_missing_file_and_a_wrong_split_are_named_with_the_nearest(
    tmp_path: Path, challenge: Path
) -> None:
    save_array(tmp_path / "memorised.npy", FULL)
    refused(
        lambda: load_split(LOCAL, str(tmp_path / "memorized.npy"), "data.forget_file"),
        "data.forget_file=", "no such file", "did you mean 'memorised.npy'?",
    )  # fmt: skip
    data = DataConfig(path=str(challenge))
    refused(
        lambda: load_split(data, "trian[:2]", "data.forget_split"),
        "data.forget_split=trian", "allowed is one of train", "did you mean 'train'?",
    )  # fmt: skip
    refused(
        lambda: load_split(data, "train[:300%]", "data.forget_split"),
        "data.forget_split=train[:300%]",
    )  # fmt: skip


def test_a_folder_whose_parts_do_not_fit_is_refused(challenge: Path) -> None:
    data = DataConfig(path=str(challenge))
    save_array(challenge / "train_suffix.npy", FULL[:4, 150:])
    refused(lambda: load_split(data, "train", "data.forget_split"), "train", "6, 6, 4 rows")
    save_array(challenge / "train_suffix.npy", FULL[:, 150:].astype(float))
    refused(lambda: load_split(data, "train", "data.forget_split"), "train_suffix.npy", "float64")
    os.remove(challenge / "train_suffix.npy")
    refused(lambda: load_split(data, "train", "data.forget_split"), "train_suffix.npy: no such")


@pytest.mark.parametrize("closed", [False, True])
def test_ids_get_no_begin_and_no_end_token(closed: bool) -> None:
    tokenizer = byte_tokenizer(bos=True, closed=closed)
    rows = [{"input_ids": [9, 8, 7, 6, 5]}, {"input_ids": [1, 2, 1]}]
    for size, expected in (
        (16, [[9, 8, 7, 6, 5], [1, 2, 1]]),
        (3, [[9, 8, 7], [6, 5], [1, 2, 1]]),
    ):
        data = DataConfig(max_length=size, joined=True)
        examples = Encoder(tokenizer, TemplateConfig(), data).encode(rows)
        assert [e.input_ids for e in examples] == expected
        assert [e.labels for e in examples] == expected


@pytest.mark.parametrize(
    "stranger", [-1, *(pytest.param(n, marks=pytest.mark.slow) for n in (50256, 2**63))]
)
def test_ids_of_another_tokenizer_are_refused_before_the_run(
    random_model: Path, tmp_path: Path, stranger: int, capsys: pytest.CaptureFixture[str]
) -> None:
    kind = np.int64 if stranger < 0 else np.uint64
    file = save_array(tmp_path / "ids.npy", np.array([[5, 6, stranger, 7]], dtype=kind))
    words = ["data=extraction", f"data.forget_file={file}", f"model.path={random_model}"]
    for command, more in (("unlearn", ["eval=none"]), ("evaluate", [])):
        with pytest.raises(UserError, match=rf"^token id {stranger}: .* 0 to \d+$"):
            prepare(compose_run(command, [*words, *more]))
        out = tmp_path / "out"
        assert run_command([command, *words, *more, f"output_dir={out}", "hardware=cpu"]) == 2
        assert not out.exists()
    assert f"token id {stranger}" in capsys.readouterr().err


def test_a_run_takes_ids_from_the_folder_and_from_the_file(
    tmp_path: Path, challenge: Path, random_model: Path
) -> None:
    file = save_array(tmp_path / "ids.npy", FULL)
    for words in (
        [f"data.path={challenge}", "data.forget_split=train[1:3]"],
        [f"data.forget_file={file}[1:3]"],
    ):
        known = ["data=extraction", f"model.path={random_model}", *words]
        inputs = prepare(compose_run("unlearn", known))
        assert [e.input_ids for e in inputs.sets["forget"]] == FULL[1:3].tolist()
        items = inputs.suite.items["forget"]
        assert [item.document for item in items] == FULL[1:3].tolist()
        assert [item.prompt_ids for item in items] == FULL[1:3, :32].tolist()
        cut = prepare(compose_run("unlearn", [*known, "data.max_length=150"]))
        assert [len(e.input_ids) for e in cut.sets["forget"]] == [150, 50, 150, 50]


@torch.no_grad()
def predict_next(model: Any, ids: list[int]) -> list[int]:
    """The greedy next token after each true prefix, each from a pass of its own."""
    return [
        int(model(input_ids=torch.tensor([ids[:end]])).logits[0, -1].argmax())
        for end in range(1, len(ids))
    ]


@torch.no_grad()
def continue_greedily(model: Any, ids: list[int], length: int) -> list[int]:
    """The greedy continuation of a prefix to `length` tokens, without the prefix."""
    whole = list(ids)
    while len(whole) < length:
        whole.append(int(model(input_ids=torch.tensor([whole])).logits[0, -1].argmax()))
    return whole[len(ids) :]


def list_grams(ids: list[int], n: int) -> list[tuple[int, ...]]:
    return [tuple(ids[i : i + n]) for i in range(len(ids) - n + 1)]


def likelihoods(model: Any, ids: list[int], lengths: list[int]) -> list[float]:
    """EL_n of one document by Jang et al.: every prefix of 1 to T - n tokens."""
    made = {start: continue_greedily(model, ids[:start], len(ids)) for start in range(1, len(ids))}
    found = []
    for n in lengths:
        values = []
        for start in range(1, len(ids) - n + 1):
            true = list_grams(ids[start:], n)
            values.append(sum(gram in true for gram in list_grams(made[start], n)) / len(true))
        found.append(float(np.mean(values)))
    return found


def half_known(model: Any, length: int, seed: int) -> list[int]:
    """A document that a model continues by itself, but for a few places."""
    draws = np.random.default_rng(seed)
    ids = [int(i) for i in draws.integers(3, 2900, 3)]
    while len(ids) < length:
        ids = [*ids, *continue_greedily(model, ids, len(ids) + int(draws.integers(3, 9)))]
        ids[-1] = int(draws.integers(3, 2900))
    return ids[:length]


def evaluate_arrays(out: Path, random_model: Path, *words: str) -> dict[str, Any]:
    """results.json of `undial evaluate data=extraction`."""
    known = [
        "model=tiny", "data=extraction", f"model.path={random_model}", "hardware=cpu",
        f"output_dir={out}", "name=run", *words,
    ]  # fmt: skip
    assert run_command(["evaluate", *known]) == 0
    return json.loads((out / "evaluate" / "run" / "evaluation" / "results.json").read_text())


@pytest.mark.slow
def test_extraction_figures_are_those_of_a_plain_loop_and_the_rest_is_missing_with_reasons(
    random_model: Path, tmp_path: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(random_model).eval()
    documents = [half_known(model, 30, seed) for seed in (1, 2)]
    file = save_array(tmp_path / "ids.npy", np.array(documents, dtype=np.uint16))
    words = [f"data.forget_file={file}", "eval.sets.forget.metrics=[ma,el_3,el_10,similarity]"]
    content = evaluate_arrays(tmp_path, random_model, *words)
    accuracy = [
        np.mean([a == b for a, b in zip(predict_next(model, ids), ids[1:], strict=True)])
        for ids in documents
    ]
    assert min(accuracy) > 0.3
    assert content["metrics"]["forget_ma"] == pytest.approx(np.mean(accuracy))
    expected = np.mean([likelihoods(model, ids, [3, 10]) for ids in documents], axis=0)
    found = [content["metrics"][f"forget_el_{n}"] for n in (3, 10)]
    assert found == pytest.approx(list(expected))
    assert content["metrics"]["forget_el_3"] > 0.05
    assert set(content["metrics"]) == {"forget_ma", "forget_el_3", "forget_el_10"}
    missing = content["missing"]
    assert "eval.similarity_model=" in missing["forget_similarity"]
    for name, source in (("wikitext", "Salesforce/wikitext"), ("news", "vblagoje/cc_news")):
        assert source in missing[name]
        assert all("\n" not in reason for reason in missing.values())
        for metric in ("perplexity", "rep_3", "distinct_3", "mauve", "similarity", "coherence"):
            assert f"{name}_{metric}" in missing


@pytest.mark.slow
def test_unlearning_ids_of_the_challenge_is_evaluated_before_and_after(
    challenge: Path, random_model: Path, tmp_path: Path
) -> None:
    words = [
        "data=extraction", f"data.path={challenge}", "data.forget_split=train[:2]",
        f"model.path={random_model}", "eval.sets.forget.stride=40", "train.max_steps=2",
        f"output_dir={tmp_path}", "name=run", "hardware=cpu",
    ]  # fmt: skip
    assert run_command(["unlearn", *words]) == 0
    folder = tmp_path / "unlearn" / "run" / "evaluation"
    content = json.loads((folder / "results.json").read_text())
    names = {"forget_ma", "forget_el_3", "forget_el_5", "forget_el_10"}
    assert set(content["metrics"]) == set(content["target"]) == names
    samples = [json.loads(line) for line in (folder / "samples.jsonl").read_text().splitlines()]
    assert [sorted({"ma", "el_3", "target_generation"} - set(s)) for s in samples] == [[], []]


TEXTS = ['The tram, line of "Kelmwick"\nis closed.', "007", "Another one goes on and on."]


def write_csv(file: Path, column: str = "text") -> str:
    """A file with the columns of lm_extraction."""
    with open(file, "w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream)
        writer.writerow(["doc_id", "corpus", column])
        writer.writerows((f"{n:03}", "Pile-CC", text) for n, text in enumerate(TEXTS))
    return str(file)


def test_texts_of_a_csv_file_are_documents(tmp_path: Path, random_model: Path) -> None:
    file = write_csv(tmp_path / "lm_extraction.csv")
    rows = load_rows(LOCAL, [file], "data.forget_file")
    assert [row["text"] for row in rows] == TEXTS
    assert rows[0]["doc_id"] == "000"
    known = ["data=extraction", f"model.path={random_model}", f"data.forget_file={file}"]
    inputs = prepare(compose_run("unlearn", [*known, "data.max_length=8"]))
    tokenizer = inputs.encoder.tokenizer
    pieces = []
    for text in TEXTS:
        ids = tokenizer(text)["input_ids"]
        pieces += [ids[i : i + 8] for i in range(0, len(ids), 8)]
    assert [e.input_ids for e in inputs.sets["forget"]] == [p for p in pieces if len(p) > 1]
    documents = [item.document for item in inputs.suite.items["forget"]]
    assert documents == [tokenizer(text)["input_ids"][:200] for text in TEXTS]


def test_another_column_is_named_by_text_key(tmp_path: Path, random_model: Path) -> None:
    file = write_csv(tmp_path / "lm_extraction.csv", column="passage")
    known = ["data=extraction", f"model.path={random_model}", f"data.forget_file={file}"]
    refused(lambda: prepare(compose_run("unlearn", known)), "doc_id, corpus, passage", "'text'")
    inputs = prepare(compose_run("unlearn", [*known, "data.text_key=passage"]))
    assert len(inputs.suite.items["forget"]) == 3


def test_rows_of_questions_are_no_documents(tmp_path: Path, random_model: Path) -> None:
    file = tmp_path / "questions.jsonl"
    file.write_text('{"question": "Who?", "answer": "Ann."}\n')
    known = ["data=extraction", f"model.path={random_model}", f"data.forget_file={file}"]
    refused(lambda: prepare(compose_run("evaluate", known)), "eval.sets.forget", "'text'")
