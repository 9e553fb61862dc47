"""Which teacher a run gets, and where its signal lives."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from small import random_llama
from steps import compose_cpu_run

from undial_cli.config.training import TeacherConfig
from undial_cli.data.encode import IGNORE, Example
from undial_cli.errors import WorldError
from undial_cli.methods import make_method
from undial_cli.models.lora import adapt_model
from undial_cli.system.files import cache_dir
from undial_cli.training.loop import make_schedule
from undial_cli.training.packing import pack_batch
from undial_cli.training.teacher import (
    AdapterTeacher,
    choose_teacher_cache,
    fill_teacher,
    make_teacher,
    measure_teacher_room,
)
from undial_cli.training.teacher_cache import CachedTeacher

MB, HUGE = 10**6, 10**18


# cache, budget in MB, bytes, adapted, worth it: where, and a part of why.
@pytest.mark.parametrize(
    "cache, budget, nbytes, adapted, worth, place, why",
    [
        ("auto", 10, 3 * MB, False, True, "memory", "3.0 MB kept, in memory"),
        ("auto", 10, 3 * MB, False, False, "memory", "3.0 MB kept, in memory"),
        ("auto", 10, 10 * MB, False, True, "memory", "10.0 MB kept, in memory"),
        ("auto", 2, 3 * MB, False, True, "disk", "mapped from disk (memory budget: 2.0 MB)"),
        ("auto", 0, 3 * MB, False, False, "disk", "mapped from disk (memory budget: 0.0 MB)"),
        ("auto", 10, 3 * MB, True, True, "memory", "3.0 MB kept, in memory"),
        ("auto", 10, 3 * MB, True, False, "off", "the adapter is switched off at every step"),
        ("auto", 2, 3 * MB, True, True, "disk", "mapped from disk"),
        ("auto", 2, 3 * MB, True, False, "off", "the adapter is switched off at every step"),
        ("auto", 2, HUGE, True, True, "off", "would not fit"),
        ("memory", 2, 3 * MB, False, True, "memory", "in memory"),
        ("memory", 2, 3 * MB, True, False, "memory", "in memory"),
        ("disk", 10, 3 * MB, False, True, "disk", "mapped from disk"),
        ("disk", 10, 3 * MB, True, False, "disk", "mapped from disk"),
        ("off", 10, 3 * MB, True, True, "off", "the adapter is switched off at every step"),
        ("off", 10, 3 * MB, True, False, "off", "the adapter is switched off at every step"),
    ],
)
def test_where_the_signal_lives_follows_from_what_is_asked_and_what_fits(
    cache: str, budget: float, nbytes: int, adapted: bool, worth: bool, place: str, why: str
) -> None:
    found = choose_teacher_cache(TeacherConfig(cache, budget / 1e3), nbytes, adapted, worth)
    assert found[0] == place
    assert why in found[1]


def test_a_signal_that_fits_nowhere_is_one_line_that_says_what_helps() -> None:
    with pytest.raises(WorldError) as caught:
        choose_teacher_cache(TeacherConfig("auto", 0.002), HUGE, adapted=False, is_asked_again=True)
    line = str(caught.value)
    assert "\n" not in line
    for part in ("2.0 MB", str(cache_dir()), "UNDIAL_CACHE_DIR", "adapter=lora"):
        assert part in line


def test_room_is_known_before_the_cache_folder_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory, disk = measure_teacher_room(TeacherConfig())
    assert memory > 0
    assert disk > 0
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "not" / "yet"))
    assert measure_teacher_room(TeacherConfig(memory_gb=0.5))[0] == 0.5e9
    assert measure_teacher_room(TeacherConfig())[1] > 0
    assert not (tmp_path / "not").exists()


EXAMPLES = [Example([1, 5, 9 + i, 7], [IGNORE, IGNORE, 9 + i, 7], 4) for i in range(6)]


@pytest.mark.parametrize("precision, dtype", [("no", torch.float32), ("bf16", torch.bfloat16)])
def test_the_signal_is_kept_in_the_precision_that_training_computes_in(
    precision: str, dtype: torch.dtype, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path))
    run = compose_cpu_run(f"hardware.precision={precision}", "train.batch_size=2", "train.epochs=2")
    model, terms = random_llama(), make_method(run.method).terms()
    schedule = make_schedule(run, {"forget": EXAMPLES}, {}, "forget", packs=False)
    teacher = make_teacher(run, run.teacher, model, terms, schedule, "weights")
    assert isinstance(teacher, CachedTeacher)
    fill_teacher(run, teacher, model, schedule)
    assert teacher.dtype == dtype
    (file,) = (tmp_path / "teacher").rglob("hidden.bin")
    assert file.stat().st_size == 6 * 2 * 32 * dtype.itemsize == teacher.nbytes


def test_a_fresh_adapter_has_its_teacher_kept_only_where_samples_come_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path))
    for epochs, kind in ((1, AdapterTeacher), (2, CachedTeacher)):
        run = compose_cpu_run("adapter=lora", "train.batch_size=2", f"train.epochs={epochs}")
        model = adapt_model(random_llama(), run.adapter, 0)
        schedule = make_schedule(run, {"forget": EXAMPLES}, {}, "forget", packs=True)
        assert schedule.make_batch is pack_batch
        terms = make_method(run.method).terms()
        teacher = make_teacher(run, run.teacher, model, terms, schedule, "weights")
        assert type(teacher) is kind
        if isinstance(teacher, CachedTeacher):
            assert teacher.head is None


def test_a_loss_without_a_teacher_has_none() -> None:
    run = compose_cpu_run("method=ga")
    schedule = make_schedule(run, {"forget": EXAMPLES}, {}, "forget", packs=False)
    terms = make_method(run.method).terms()
    assert make_teacher(run, run.teacher, random_llama(), terms, schedule, "weights") is None
