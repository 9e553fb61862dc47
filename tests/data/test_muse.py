"""A folder laid out like MUSE through the real loader, and the training examples made of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import datasets
import pytest
from conftest import prepare, write_muse
from small import BOS, byte_tokenizer

from undial_cli.config.datasets import DataConfig
from undial_cli.data.encode import Encoder
from undial_cli.data.example import Example
from undial_cli.data.load import load_rows, load_split
from undial_cli.errors import UserError
from undial_cli.runs.compose import compose_run

KEY = "data.forget_split"
FOLDS = [f"forget_{n}" for n in range(1, 5)]
PUBLISHED = {
    "knowmem": ["forget_qa", "forget_qa_icl", "retain_qa", "retain_qa_icl"],
    "privleak": ["forget", "holdout", "retain"],
    "raw": ["forget", "holdout", "retain1", "retain2"],
    "train": ["forget", "retain1", "retain2"],
    "verbmem": ["forget"],
}
COLUMNS = {"knowmem": ["question", "answer"], "verbmem": ["prompt", "gt"]}


def compose_data(path: Path, name: str = "muse_news") -> DataConfig:
    """The data config that `data=NAME data.path=PATH` composes."""
    return compose_run("unlearn", ["model=tiny", f"data={name}", f"data.path={path}"]).data


@pytest.mark.slow
@pytest.mark.parametrize("name", ["muse_news", pytest.param("muse_books", marks=pytest.mark.slow)])
def test_every_published_split_gives_its_rows(tmp_path: Path, name: str) -> None:
    written = write_muse(tmp_path / "muse", books=name == "muse_books")
    folds = {"scal": FOLDS, "sust": FOLDS} if name == "muse_news" else {}
    assert {c: sorted(splits) for c, splits in written.items()} == PUBLISHED | folds
    data = compose_data(tmp_path / "muse", name)
    for configuration, splits in written.items():
        for split, rows in splits.items():
            assert rows
            assert list(rows[0]) == COLUMNS.get(configuration, ["text"])
            assert load_split(data, f"{configuration}/{split}", KEY) == rows
            file = tmp_path / "muse" / configuration / f"{split}-00000-of-00001.parquet"
            assert file.is_file()
    for split in (data.forget_split, data.retain_split, *data.train_split, *data.reference_split):
        assert load_rows(data, [str(split)], KEY)


def test_a_second_run_writes_the_same_bytes(news: tuple[Path, Any], tmp_path: Path) -> None:
    write_muse(tmp_path)
    for file in news[0].rglob("*"):
        if file.is_file():
            assert (tmp_path / file.relative_to(news[0])).read_bytes() == file.read_bytes()


@pytest.mark.slow
def test_folds_grow_in_scal_and_follow_each_other_in_sust(news: tuple[Path, Any]) -> None:
    data = compose_data(news[0])
    scal, sust = ([load_split(data, f"{c}/{f}", KEY) for f in FOLDS] for c in ("scal", "sust"))
    for n in range(len(FOLDS)):
        assert scal[n] == [row for fold in sust[: n + 1] for row in fold]
    assert load_split(data, "raw/forget", KEY) == sust[0]
    assert load_split(data, "train/forget", KEY) == scal[-1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "split, taken",
    [
        ("raw/forget[:2]", slice(0, 2)),
        ("raw/forget[2:5]", slice(2, 5)),
        ("raw/forget[-3:]", slice(-3, None)),
        ("raw/forget[:50%]", slice(0, 6)),
        ("raw/forget[:999]", slice(0, None)),
        ("scal/forget_3[20:]", slice(20, None)),
    ],
)
def test_a_slice_of_a_configuration_takes_those_rows(
    news: tuple[Path, Any], split: str, taken: slice
) -> None:
    configuration, name = split.partition("[")[0].split("/")
    data = compose_data(news[0])
    assert load_split(data, split, KEY) == news[1][configuration][name][taken]
    composed = compose_run("unlearn", ["data=muse_news", f"data.forget_split={split}"]).data
    assert composed.forget_split == split


@pytest.mark.parametrize(
    "split, parts",
    [
        ("rwa/forget", ["rwa/forget", "knowmem, privleak, raw, scal", "did you mean 'raw'?"]),
        ("raw/forgett", ["raw/forgett", "raw/retain1", "did you mean 'raw/forget'?"]),
        ("sust/forget_5[:3]", ["sust/forget_5", "sust/forget_1", "did you mean 'sust/forget_"]),
        ("raw", ["raw/forget, raw/holdout, raw/retain1, raw/retain2"]),
        ("raw/forget[3:3]", ["raw/forget", "[3:3]", "takes none"]),
        ("raw/forget[:200%]", ["raw/forget"]),
    ],
)
def test_a_wrong_split_is_one_line_with_the_names_there_are(
    news: tuple[Path, Any], split: str, parts: list[str]
) -> None:
    with pytest.raises(UserError) as caught:
        load_split(compose_data(news[0]), split, KEY)
    line = str(caught.value)
    assert "\n" not in line
    for part in [f"{KEY}=", *parts]:
        assert part in line


def test_a_text_that_is_null_is_refused_and_an_empty_line_is_not(tmp_path: Path) -> None:
    rows = [{"text": "One."}, {"text": ""}, {"text": None}]
    (tmp_path / "raw").mkdir()
    datasets.Dataset.from_list(rows).to_parquet(tmp_path / "raw" / "forget-0.parquet")
    (tmp_path / "README.md").write_text(
        "---\nconfigs:\n- config_name: raw\n  data_files:\n  - split: forget\n"
        "    path: raw/forget-*\n---\n"
    )
    data = compose_data(tmp_path)
    assert len(load_rows(data, ["raw/forget[:2]"], KEY)) == 2
    with pytest.raises(UserError, match=r"column 'text' is empty in row 3"):
        load_rows(data, ["raw/forget"], KEY)


def cut_by_hand(tokenizer: Any, texts: list[str], size: int) -> list[list[int]]:
    """MUSE's chunks: one token stream, a begin token before every `size - 1` of it."""
    ids = tokenizer("\n\n".join(texts), add_special_tokens=False)["input_ids"]
    begin = tokenizer("x")["input_ids"][
        : -len(tokenizer("x", add_special_tokens=False)["input_ids"])
    ]
    step = size - len(begin)
    return [begin + ids[i : i + step] for i in range(0, len(ids), step)]


def assert_chunks(examples: list[Example], chunks: list[list[int]]) -> None:
    """The examples are those chunks, and every token but a chunk's first is a target."""
    assert [e.input_ids for e in examples] == [chunk for chunk in chunks if len(chunk) > 1]
    for example in examples:
        assert example.labels == example.input_ids
        assert example.num_targets == len(example.input_ids) - 1


@pytest.mark.slow
@pytest.mark.parametrize("bos", [False, True])
@pytest.mark.parametrize("size", [2, 37, 64, 2048, 100_000])
def test_a_set_is_one_text_cut_into_chunks(news: tuple[Path, Any], bos: bool, size: int) -> None:
    run = compose_run(
        "unlearn", ["data=muse_news", f"data.path={news[0]}", f"data.max_length={size}"]
    )
    tokenizer = byte_tokenizer(bos=bos)
    rows = load_rows(run.data, ["raw/forget"], KEY)
    examples = Encoder(tokenizer, run.model.template, run.data).encode(rows)
    chunks = cut_by_hand(tokenizer, [row["text"] for row in rows], size)
    assert all((chunk[0] == tokenizer.convert_tokens_to_ids(BOS)) == bos for chunk in chunks)
    assert len(chunks) > 1 or size == 100_000
    assert_chunks(examples, chunks)


def test_a_run_trains_on_the_chunks_of_the_chosen_fold(
    news: tuple[Path, Any], random_model: Path
) -> None:
    words = [
        "data=muse_news", f"data.path={news[0]}", f"model.path={random_model}", "eval=none",
        "data.forget_split=sust/forget_2", "data.max_length=64", "method.retain=gdr",
    ]  # fmt: skip
    inputs = prepare(compose_run("unlearn", words))
    assert set(inputs.sets) == {"forget", "retain"}
    for name, (configuration, split) in {
        "forget": ("sust", "forget_2"),
        "retain": ("raw", "retain1"),
    }.items():
        texts = [row["text"] for row in news[1][configuration][split]]
        assert_chunks(inputs.sets[name], cut_by_hand(inputs.encoder.tokenizer, texts, 64))


def test_limit_counts_texts_before_they_are_joined(
    news: tuple[Path, Any], random_model: Path
) -> None:
    words = [
        "data=muse_news", f"data.path={news[0]}", f"model.path={random_model}", "eval=none",
        "data.max_length=64", "data.limit=2",
    ]  # fmt: skip
    inputs = prepare(compose_run("unlearn", words))
    texts = [row["text"] for row in news[1]["raw"]["forget"][:2]]
    assert_chunks(inputs.sets["forget"], cut_by_hand(inputs.encoder.tokenizer, texts, 64))
