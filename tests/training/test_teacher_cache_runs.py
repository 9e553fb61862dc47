"""The teacher's cache through the real command: shared by runs, checked, larger than memory."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from undial_cli.cli import run_command

Finished = tuple[str, dict[str, torch.Tensor]]
Run = Callable[..., Finished]


@pytest.fixture
def run(tmp_path: Path, random_model: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Do a short run in a cache of its own; what it said and its final weights."""
    cache = tmp_path / "cache"
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(cache))
    rows = [
        {"question": f"Who is {i}?", "answer": f"number {i} of a few" * (i % 3)}
        for i in range(1, 9)
    ]
    forget = tmp_path / "forget.jsonl"
    forget.write_text("".join(json.dumps(r) + "\n" for r in rows if r["answer"]))

    def call(name: str, *words: str) -> Finished:
        code = run_command(
            ["unlearn", "data=jsonl", f"data.forget_file={forget}", f"model.path={random_model}",
             "hardware=cpu", "eval=none", "model.dtype=float64", "train.max_steps=3",
             "train.batch_size=4", f"output_dir={tmp_path}", f"name={name}", *words]
        )  # fmt: skip
        folder = tmp_path / "unlearn" / name
        assert code == 0, (folder / "log.txt").read_text()
        return (folder / "log.txt").read_text(), load_file(folder / "checkpoint/model.safetensors")

    return call


def files(tmp_path: Path) -> list[Path]:
    return sorted((tmp_path / "cache" / "teacher").glob("*/hidden.bin"))


def same(one: Finished, other: Finished) -> bool:
    return all(torch.equal(one[1][name], other[1][name]) for name in one[1])


@pytest.mark.slow
def test_runs_on_one_target_and_data_share_what_the_teacher_said(run: Run, tmp_path: Path) -> None:
    first = run("first")
    assert "there already" not in first[0]
    other = run("other", "method.strength=3", "train.learning_rate=1e-4")
    assert "teacher: 6 of 6 samples were there already" in other[0]
    assert not same(first, other)
    assert same(first, run("again"))
    assert len(files(tmp_path)) == 1
    assert "there already" not in run("dtype", "model.dtype=float32")[0]


@pytest.mark.slow
def test_a_signal_larger_than_the_memory_budget_is_mapped_from_disk(run: Run) -> None:
    first = run("first")
    assert "in memory" in first[0]
    mapped = run("mapped", "teacher.memory_gb=0")
    assert "mapped from disk" in mapped[0]
    assert same(first, mapped)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["truncated", "flipped"])
def test_a_damaged_file_is_noticed_and_mended(way: str, run: Run, tmp_path: Path) -> None:
    first = run("first")
    (file,) = files(tmp_path)
    whole = file.read_bytes()
    half = len(whole) // 2
    file.write_bytes(
        whole[:half]
        if way == "truncated"
        else whole[:half] + bytes([whole[half] ^ 255]) + whole[half + 1 :]
    )
    mended = run("mended")
    assert "samples were there already" in mended[0]
    assert "6 of 6" not in mended[0]
    for name, value in first[1].items():
        torch.testing.assert_close(mended[1][name], value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(
        torch.frombuffer(bytearray(file.read_bytes()), dtype=torch.float64),
        torch.frombuffer(bytearray(whole), dtype=torch.float64), rtol=1e-9, atol=1e-9,
    )  # fmt: skip


def test_a_cache_that_may_not_be_used_is_refused_by_name(
    run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(FileNotFoundError):  # no folder is left, so there is no log
        run("refused", "teacher.cache=off")
    assert "teacher.cache=off: method=undial needs the teacher's signal" in capsys.readouterr().err
