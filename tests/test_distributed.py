"""The same run on one process or several, whole batches or accumulated ones, is the same run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from conftest import HURRIED, undial
from safetensors.torch import load_file
from two_processes import PROCESSES, ProcessPair

from undial_cli.cli import run_command
from undial_cli.methods import METHODS

TEXT = "the old river keeps its own slow counsel while bright kites turn over quiet hills"
WORDS = TEXT.split()
BATCH, ROWS = 8, 19
LAYOUTS = {
    "1 x 1": ["hardware.num_processes=1"],
    "1 x 4": ["hardware.num_processes=1", "hardware.micro_batch_size=2"],
    "2 x 2": ["hardware.micro_batch_size=2", "hardware.timeout=60"],  # two that are there already
}
# Two that the run starts itself.
STARTED = {"2 x 2 started": [f"hardware.num_processes={PROCESSES}", "hardware.micro_batch_size=2"]}


def make_answer(number: int) -> str:
    """Answers of 1 to 60 words, long and short ones mixed."""
    length = 1 if number % 3 == 0 else 60 if number % 7 == 0 else 3 + (number * 11) % 29
    return " ".join(WORDS[(number * 5 + i * (1 + number % 4)) % len(WORDS)] for i in range(length))


def write_answers(file: Path, rows: range) -> str:
    """Question and answer pairs as JSONL, with words to focus on and one to three other answers."""
    lines = [
        {
            "question": f"What does {WORDS[i % 15]} {i} say?",
            "answer": make_answer(i),
            "focus": make_answer(i).split()[: i % 3],
            "alternative_answers": [make_answer(i + 7 * n) for n in range(1, 2 + i % 3)],
        }
        for i in rows
    ]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return str(file)


Finished = tuple[list[dict], dict[str, torch.Tensor]]
Train = Callable[..., Finished]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessPair]:
    """Two processes for the runs of this file that join others."""
    pair = ProcessPair(tmp_path_factory.mktemp("pair") / "log.txt")
    yield pair
    pair.end()


@pytest.fixture
def train(tmp_path: Path, random_model: Path, pair: ProcessPair) -> Train:
    """Run one layout of a run; its metrics and final weights."""
    forget = write_answers(tmp_path / "forget.jsonl", range(ROWS))
    retain = write_answers(tmp_path / "retain.jsonl", range(100, 123))

    def call(layout: str, *words: str) -> Finished:
        out = tmp_path / layout.replace(" ", "")
        words = (
            "unlearn", "data=jsonl", f"data.forget_file={forget}", f"data.retain_file={retain}",
            f"model.path={random_model}", "hardware=cpu", "eval=none", "train.max_steps=5",
            "train.warmup_steps=0", f"train.batch_size={BATCH}", "adapter.dropout=0",
            f"output_dir={out}", "name=run",
            *(LAYOUTS | STARTED)[layout], *words,
        )  # fmt: skip
        folder = out / "unlearn" / "run"
        if layout == "2 x 2":
            pair.run([*words])
        else:
            assert run_command([*words]) == 0, (folder / "log.txt").read_text()
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        (weights,) = (folder / "checkpoint").glob("*.safetensors")
        environment = json.loads((folder / "environment.json").read_text())
        assert environment["processes"] == int(layout[0])
        return [json.loads(line) for line in lines], load_file(weights)

    return call


def assert_same_run(one: Finished, other: Finished, losses: float, weights: float | None) -> None:
    """Figures of every step (and weights) are within a tolerance, and training did something."""
    others = ("grad_norm", "multiplier") if weights is not None else ()
    names = [n for n in one[0][0] if n.endswith("loss") or n in others]
    assert [row["step"] for row in one[0]] == [row["step"] for row in other[0]] == [1, 2, 3, 4, 5]
    for a, b in zip(one[0], other[0], strict=True):
        for name in names:
            assert abs(a[name] - b[name]) <= losses * max(1.0, abs(a[name])), (a["step"], name)
        assert a["lr"] == b["lr"]
        assert a["epoch"] == pytest.approx(b["epoch"])
    assert len({row["loss"] for row in one[0]}) == 5
    assert one[1].keys() == other[1].keys()
    if weights is not None:
        worst = max(float((one[1][k] - other[1][k]).abs().max()) for k in one[1])
        assert worst <= weights


DOUBLE = "model.dtype=float64"
LEAN = ["train.packing=on", "train.activation_checkpointing=true", "teacher.cache=disk"]


@pytest.mark.slow
def test_undial_on_two_processes_is_undial_on_one(train: Train) -> None:
    assert_same_run(train("1 x 1", DOUBLE), train("2 x 2 started", DOUBLE), 1e-9, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("words", [["method.retain=gdr"], ["method=npo", "adapter=lora"]], ids=str)
def test_accumulated_batches_are_whole_batches(words: list[str], train: Train) -> None:
    assert_same_run(train("1 x 1", DOUBLE, *words), train("1 x 4", DOUBLE, *words), 1e-9, 1e-9)


CASES = [
    ["method=undial"],
    ["method=npo"],
    ["method=ga"],
    ["method=undial", "method.strength=auto", "method.auto_questions=3"],
    ["method=undial", "method.retain=gdr", "method.alpha=0.5"],
    # At the first step KL's gradient is rounding alone, which Adam would blow up to full size.
    ["method=undial", "method.retain=klr", "method.gamma=0.7", "train.optim=sgd"],
    ["method=npo", "method.retain=klr", "adapter=lora"],
    ["method=undial", "adapter=lora"],
    ["method=grad_diff", "method.alpha=3", "data.anchor=retain"],
    ["method=fundial"],
    ["method=fundial", "method.focus_mode=hard", "method.retain=gdr"],
    ["method=simnpo"],
    ["method=dpo"],
    ["method=idkdpo", "method.retain=klr", "train.optim=sgd", "adapter=lora"],
    ["method=altpo"],
    ["method=wga"],
    ["method=satimp", "method.beta1=0.5"],
    ["method=ceu"],
    ["method=unilogit"],
    ["method=rmu", "method.layer=0"],
    ["method=rmu", "method.layer=1", r"method.parameters='down_proj|q_proj'", "train.packing=off"],
    ["method=adaptive_rmu", "method.layer=0"],
    ["method=atwu", "method.every=1", "method.scorer_learning_rate=1"],
    ["method=pdu", "method.dual_warmup_epochs=0.5", "method.alpha=2"],
    ["method=task_arithmetic"],
    ["method=finetune"],
]
# Moves that are large beside the weights, so that none goes unseen.
WRAPPED = [
    ["method=grad_diff", "method.sharpness=sam", "method.sharpness_radius=2", "method.rectify=gru"],
    [
        "method=ga",
        "method.sharpness=smooth",
        "method.sharpness_radius=0.05",
        "method.saliency=0.5",
        "adapter=lora",
        "train.layers=[1]",
    ],
]
CASES += WRAPPED
NAMED = {word.removeprefix("method=") for words in CASES for word in words}
# It trains what task_arithmetic trains, and leaves two models.
CASES += [[f"method={name}"] for name in METHODS if name not in {*NAMED, "contrastive_decoding"}]


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_recomputed_activations_and_packing_leave_rmu_as_it_is(adapter: str, train: Train) -> None:
    words = [DOUBLE, "method=rmu", "method.layer=0", f"adapter={adapter}", "train.optim=sgd"]
    lean = train("1 x 1", *words, *LEAN)
    assert_same_run(lean, train("1 x 4", *words, "train.packing=off"), 1e-9, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES, ids=" ".join)
def test_float64_runs_of_two_processes_that_accumulate_agree_to_1e_9(
    words: list[str], train: Train
) -> None:
    whole = train("1 x 1", DOUBLE, *words)
    assert_same_run(whole, train("2 x 2", DOUBLE, *words), 1e-9, 1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("words", CASES[:3], ids=" ".join)
def test_float32_losses_agree_to_1e_5_on_every_layout(words: list[str], train: Train) -> None:
    whole = train("1 x 1", *words)
    for layout in ("1 x 4", "2 x 2"):
        assert_same_run(whole, train(layout, *words), 1e-5, None)


@pytest.mark.slow
def test_a_batch_that_does_not_divide_by_the_processes_is_the_same_run(train: Train) -> None:
    odd = [DOUBLE, "train.batch_size=7"]
    assert_same_run(train("1 x 1", *odd), train("2 x 2", *odd), 1e-9, 1e-9)


@pytest.mark.slow
def test_an_early_stop_sees_the_same_figures_on_every_layout(train: Train, tmp_path: Path) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": make_answer(i)}) + "\n" for i in range(7, 21, 7)))
    words = ["method=ga", "train.stop.forget_probability=0", "train.stop.perplexity_ratio=1e9",
             "train.stop.every=2", f"train.stop.split={texts}", "train.stop.tokens=8"]  # fmt: skip
    whole, *others = (train(layout, DOUBLE, *words)[0] for layout in LAYOUTS)
    names = ("validation_perplexity", "forget_probability")
    seen = [[(row["step"], *(row[n] for n in names)) for row in rows if names[0] in row]
            for rows in (whole, *others)]  # fmt: skip
    assert [step for step, *_ in seen[0]] == [0, 4]  # an epoch is three steps
    assert seen[0][0] != pytest.approx(seen[0][1])
    for found in seen[1:]:
        for one, other in zip(found, seen[0], strict=True):
            assert one == pytest.approx(other, rel=1e-9)


@pytest.mark.slow
def test_multirun_with_two_processes_each_leaves_two_complete_folders(tmp_path: Path) -> None:
    words = [*HURRIED, "train.max_steps=2", "hardware.num_processes=2", "method=undial,npo"]
    done = undial("unlearn", "--multirun", *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folders = sorted((tmp_path / "outputs" / "unlearn").glob("tiny-*"))
    assert [f.name.split("-")[2] for f in folders] == ["npo", "undial"]
    for folder in folders:
        assert json.loads((folder / "status.json").read_text())["status"] == "done"
        assert json.loads((folder / "environment.json").read_text())["processes"] == 2
        assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
        for name in ("checkpoint/model.safetensors", "evaluation/results.json", "run.yaml",
                     "evaluation/samples.jsonl", "log.txt", "report/summary.md"):  # fmt: skip
            assert (folder / name).stat().st_size > 0
    assert "method=npo" in done.stdout
    assert "method=undial" in done.stdout


def torchrun(*words: str, cwd: Path) -> subprocess.CompletedProcess:
    """`torchrun --nproc_per_node 2 -m undial_cli.cli WORDS`."""
    return subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2",
         "-m", "undial_cli.cli", *words],
        cwd=cwd, capture_output=True, text=True, timeout=300, env={**os.environ},
    )  # fmt: skip


@pytest.mark.slow
def test_a_torchrun_environment_is_joined(tmp_path: Path) -> None:
    words = ["unlearn", *HURRIED, "train.max_steps=2", "name=joined"]
    done = torchrun(*words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "outputs" / "unlearn" / "joined"
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    assert json.loads((folder / "environment.json").read_text())["processes"] == 2
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == 2
    assert done.stdout.count("everything is in") == 1
    again = torchrun(*words, cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already done") == 1


@pytest.mark.slow
def test_wrong_input_under_torchrun_is_said_once(tmp_path: Path) -> None:
    done = torchrun("unlearn", "data.forget_split=forget77", "hardware=cpu", cwd=tmp_path)
    assert done.returncode != 0
    assert done.stderr.count("undial: data.forget_split=forget77") == 1
    assert not (tmp_path / "outputs").exists()


# What two processes on gloo do, in small, and how they end.
PAIR = """
import sys
import torch
from accelerate import PartialState
from undial_cli.system import processes

PartialState(cpu=True)
model = torch.nn.parallel.DistributedDataParallel(torch.nn.Linear(8, 8))
for _ in range(3):
    model(torch.ones(2, 8)).sum().backward()
    processes.gather_items([{"rows": list(range(2000))}])
    assert processes.run_on_main(lambda: "said once") == "said once"
print("last words", end="")
processes.exit_process(int(sys.argv[1]))
"""


@pytest.mark.slow
def test_two_processes_leave_with_their_code_and_their_last_words(tmp_path: Path) -> None:
    (tmp_path / "pair.py").write_text(PAIR)
    for code in (0, 3):
        port = str(29500 + os.getpid() % 1000 + code)
        pair = [
            subprocess.Popen(
                [sys.executable, "pair.py", str(code)], cwd=tmp_path, stdout=subprocess.PIPE,
                env={**os.environ, "RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": "2",
                     "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port},
            )
            for rank in ("0", "1")
        ]  # fmt: skip
        assert [process.communicate(timeout=120)[0] for process in pair] == [b"last words"] * 2
        assert [process.returncode for process in pair] == [code] * 2


@pytest.mark.slow
def test_runs_of_two_processes_end_well_however_often(train: Train) -> None:
    """UNDIAL_REPEATS=200 for the proof: one in twelve once ended in SIGABRT."""
    for _ in range(int(os.environ.get("UNDIAL_REPEATS", "2"))):
        train("2 x 2 started", "method.retain=klr", "train.optim=sgd", "overwrite=true")


@pytest.mark.slow
def test_a_workers_failure_names_rank_and_reason(tmp_path: Path, random_model: Path) -> None:
    rows = write_answers(tmp_path / "forget.jsonl", range(6))
    done = undial(
        "unlearn", "data=jsonl", f"data.forget_file={rows}", f"model.path={random_model}",
        "hardware=cpu", "hardware.num_processes=2", "eval=none", "method=ga", "name=lost",
        "train.learning_rate=1e30", "train.max_steps=4", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 1
    assert "Traceback" not in done.stdout + done.stderr
    (line,) = [row for row in done.stderr.splitlines() if row.startswith("undial: ")]
    assert "process 0 failed" in line or "process 1 failed" in line
    assert "diverged" in line
    folder = tmp_path / "outputs" / "unlearn" / "lost"
    status = json.loads((folder / "status.json").read_text())
    assert status["status"] == "failed"
    assert "diverged" in status["reason"]
    assert "Traceback" in (folder / "log.txt").read_text()
    assert not (folder / "checkpoint").exists()


@pytest.mark.slow
@pytest.mark.parametrize("adapter", ["none", "lora"])
def test_every_lean_option_leaves_an_untied_model_the_same_on_every_layout(
    adapter: str, untied_model: Path, train: Train
) -> None:
    words = [DOUBLE, *LEAN, "method.retain=klr", "train.optim=sgd", "train.learning_rate=0.05",
             f"model.path={untied_model}", f"adapter={adapter}"]  # fmt: skip
    whole = train("1 x 1", *words)
    assert_same_run(whole, train("2 x 2", *words), 1e-9, 1e-9)
    plain = [w for w in words if w not in LEAN]
    assert_same_run(whole, train("1 x 4", *plain, "train.packing=off"), 1e-9, 1e-9)
