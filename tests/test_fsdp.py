"""FSDP2 on two CPU processes: what one process gives, a killed run gives, an evaluation gives."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import read_jsonl
from forked import run_together
from safetensors.torch import load_file
from test_distributed import LEAN, make_answer, write_answers
from transformers import AutoModelForCausalLM

from undial_cli.cli import run_command

FSDP = [
    "hardware.args.fsdp=true",
    "hardware.args.fsdp_config.version=2",
    "hardware.args.fsdp_config.transformer_layer_cls_to_wrap=[LlamaDecoderLayer]",
    "hardware.args.fsdp_config.reshard_after_forward=true",
    "hardware.args.fsdp_config.state_dict_type=FULL_STATE_DICT",
    "hardware.args.fsdp_config.cpu_ram_efficient_loading=false",
]
SCRIPT = Path(__file__).parent / "fsdp_on_cpu.py"
KLR = ["method=undial", "method.retain=klr"]
NPO = ["method=npo", "method.retain=gdr"]
RMU = ["method=rmu", "method.layer=0"]
PDU = ["method=pdu", "method.dual_warmup_epochs=0.5"]
# Method, adapter, whether the head is tied.
CASES = [
    (KLR, "none", True),
    (KLR, "lora", False),
    (NPO, "none", False),
    (NPO, "lora", True),
    (RMU, "none", False),
    (RMU, "lora", True),
    (PDU, "none", True),
    (PDU, "lora", False),
    (["method=undial", "method.strength=auto"], "none", True),
    (["method=altpo"], "none", False),
    (["method=altpo"], "lora", True),
    (["method=task_arithmetic"], "none", True),
    (["method=task_arithmetic"], "none", False),
]
# Every engine: scores, their distribution, gradients; greedy and drawn answers; continuations.
SUITE = """
name: own
sets:
  forget:
    role: forget
    split: "{{forget}}"
    metrics: [probability, rouge, extraction_strength, mia_min_k_plus_plus, mia_gradnorm]
  retain:
    role: retain
    split: ${{data.retain_file}}
    top_p: 0.9
    metrics: [probability, rouge]
  holdout:
    role: holdout
    split: ${{data.retain_file}}
    metrics: [mia_min_k_plus_plus]
  texts:
    role: other
    path: {texts}
    kind: document
    max_tokens: 12
    metrics: [ma, el_3]
"""
UNEQUAL = ("tokens_per_second", "peak_memory_bytes", "forget_mia_gradnorm")


@pytest.fixture
def words(tmp_path: Path) -> list[str]:
    """A short run's words, but for its name, model and adapter."""
    forget = write_answers(tmp_path / "f.jsonl", range(13))
    retain = write_answers(tmp_path / "r.jsonl", range(50, 60))
    return [
        "unlearn", "data=jsonl", f"data.forget_file={forget}", f"data.retain_file={retain}",
        "hardware=cpu", "adapter.dropout=0", "train.batch_size=5", "train.warmup_steps=0",
        "report=false",
    ]  # fmt: skip


def run_sharded(
    folder: Path, *commands: list[str], processes: int = 2, **env: str
) -> subprocess.CompletedProcess:
    """Commands one after another, in the same sharded processes."""
    argv = [word for command in commands for word in (*command, *FSDP, "--")]
    return run_together(SCRIPT, argv, folder, processes, **env)


def read_losses(folder: Path) -> list[dict[str, float]]:
    """The losses of every step."""
    return [
        {name: row[name] for name in row if name.endswith("loss")}
        for row in read_jsonl(folder / "metrics.jsonl")
        if "loss" in row
    ]


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    (file,) = (folder / "checkpoint").glob("*.safetensors")
    return load_file(file)


def compute_logits(checkpoint: Path) -> torch.Tensor:
    """What a checkpoint says of a few tokens, loaded without this package."""
    load: Callable = AutoModelForCausalLM.from_pretrained
    if (checkpoint / "adapter_config.json").is_file():
        from peft import AutoPeftModelForCausalLM

        load = AutoPeftModelForCausalLM.from_pretrained
    model = load(checkpoint, dtype=torch.float64).eval()
    with torch.no_grad():
        return model(input_ids=torch.arange(3, 40)[None]).logits


def assert_resumed_run(runs: Path, name: str, losses: float, weights: float) -> None:
    """Of `name` and `one_NAME`, killed in their third step: resumed by two processes and by one.

    The first is `whole_NAME` to the bit, the second within the tolerances.
    """
    whole, resumed, alone = (runs / f for f in (f"whole_{name}", name, f"one_{name}"))
    assert "resuming at step 2 of " in (resumed / "log.txt").read_text()
    assert "resumed with 1 processes after 2" in (alone / "log.txt").read_text()
    assert read_losses(resumed) == read_losses(whole)
    expected, bits, found = map(read_weights, (whole, resumed, alone))
    assert all(torch.equal(bits[key], expected[key]) for key in expected)
    # AdamW's means are whole in the state: without them the first step would be twice as large.
    for a, b in zip(read_losses(alone), read_losses(whole), strict=True):
        assert a == pytest.approx(b, rel=losses)
    assert max(float((found[key] - expected[key]).abs().max()) for key in expected) < weights


@pytest.mark.slow
def test_a_sharded_run_is_the_run_of_one_process(
    words: list[str],
    random_model: Path,
    untied_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runs = [
        [*words, "eval=none", *method, f"adapter={adapter}", *LEAN, "model.dtype=float64",
         f"model.path={random_model if tied else untied_model}", "train.max_steps=3", f"name=r{i}"]
        for i, (method, adapter, tied) in enumerate(CASES)
    ]  # fmt: skip
    mixed = [*words, "eval=none", "hardware.precision=bf16", f"model.path={random_model}",
             "train.max_steps=1", "name=mixed"]  # fmt: skip
    done = run_sharded(tmp_path, *runs, mixed)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "another"))
    assert run_command([*mixed, f"output_dir={tmp_path / 'whole'}"]) == 0
    # Products in bf16, which their order rounds; the loss itself is not rounded to bf16's digits.
    rounded, one = (
        read_losses(tmp_path / f / "unlearn" / "mixed")[0]["loss"] for f in ("outputs", "whole")
    )
    assert rounded == pytest.approx(one, rel=2e-3)
    assert rounded != float(torch.tensor(rounded).bfloat16())
    for run, (method, adapter, tied) in zip(runs, CASES, strict=True):
        assert run_command([*run, f"output_dir={tmp_path / 'whole'}"]) == 0
        one, other = (tmp_path / f / "unlearn" / run[-1][5:] for f in ("outputs", "whole"))
        case = f"{' '.join(method)} {adapter}"
        losses = read_losses(one), read_losses(other)
        for a, b in zip(*losses, strict=True):
            assert a == pytest.approx(b, rel=1e-9, abs=1e-9), case
        assert len({row["loss"] for row in losses[0]}) == 3, case
        sharded, whole = read_weights(one), read_weights(other)
        assert sharded.keys() == whole.keys(), case
        worst = max(float((sharded[k] - whole[k]).abs().max()) for k in whole)
        assert worst < 1e-9, case
        logits = [compute_logits(f / "checkpoint") for f in (one, other)]
        assert torch.allclose(*logits, rtol=0, atol=1e-7), case
        assert torch.isfinite(logits[0]).all(), case
        last = "layers.0." if "rmu" in method[0] else ""  # beyond its layer nothing is trained
        if adapter == "lora":
            changed = {k for k, v in sharded.items() if bool(v.any())}
            assert changed >= {k for k in whole if "lora_B" in k and last in k}, case
        else:
            before = load_file((random_model if tied else untied_model) / "model.safetensors")
            changed = {k for k, v in before.items() if not torch.equal(whole[k], v.double())}
            assert changed >= {k for k in before if "proj" in k and last in k}, case


@pytest.mark.slow
def test_a_killed_run_goes_on_with_two_processes_and_with_one(
    words: list[str], random_model: Path, tmp_path: Path
) -> None:
    def name_run(name: str, adapter: str) -> list[str]:
        return [*words, "eval=none", "method=undial", f"adapter={adapter}", f"name={name}",
                f"model.path={random_model}", "train.max_steps=6", "train.save_steps=2",
                "model.dtype=float64", *LEAN]  # fmt: skip

    runs = tmp_path / "outputs" / "unlearn"
    full, lora = name_run("full", "none"), name_run("lora", "lora")
    undisturbed = name_run("whole_full", "none"), name_run("whole_lora", "lora")
    # In the third step, when the state of the second is saved.
    killed = run_sharded(tmp_path, *undisturbed, full, KILL_AFTER="15")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shutil.copytree(runs / "full", runs / "one_full")
    killed = run_sharded(tmp_path, full, lora, KILL_AFTER="7")
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    shutil.copytree(runs / "lora", runs / "one_lora")
    assert run_sharded(tmp_path, lora).returncode == 0
    one = name_run("one_full", "none"), name_run("one_lora", "lora")
    done = run_sharded(tmp_path, *one, processes=1)
    assert done.returncode == 0, done.stderr
    for name in ("full", "lora"):
        assert_resumed_run(runs, name, losses=1e-9, weights=1e-9)


@pytest.mark.slow
def test_an_evaluation_on_the_sharded_model_gives_the_figures_of_one_process(
    words: list[str], random_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": make_answer(i)}) + "\n" for i in range(7, 50, 7)))
    (tmp_path / "conf" / "eval").mkdir(parents=True)
    (tmp_path / "conf" / "eval" / "own.yaml").write_text(SUITE.format(texts=texts))
    command, *rest = words
    asked = [
        command, f"--config-dir={tmp_path / 'conf'}", *rest, "eval=own", "method=undial",
        f"model.path={random_model}", "model.dtype=float64", "eval.batch_size=2", "eval.limit=5",
        "eval.max_new_tokens=5", "train.max_steps=5", "train.eval_steps=4", "train.stop.every=2",
        f"train.stop.split={texts}", "train.stop.tokens=12",
    ]  # fmt: skip
    runs = [
        [
            *asked,
            "adapter=none",
            "train.stop.perplexity_ratio=1e9",
            "train.select=retain_probability",
            "name=full",
        ],
        [*asked, "adapter=lora", "train.stop.forget_probability=0.9", "name=lora"],  # at step 4
    ]
    done = run_sharded(tmp_path, *runs)
    assert done.returncode == 0, done.stderr
    monkeypatch.setenv("UNDIAL_CACHE_DIR", str(tmp_path / "another"))
    for run, last in zip(runs, (5, 4), strict=True):
        assert run_command([*run, f"output_dir={tmp_path / 'whole'}"]) == 0
        one, other = (tmp_path / f / "unlearn" / run[-1][5:] for f in ("outputs", "whole"))
        rows = [
            [{k: v for k, v in row.items() if k not in UNEQUAL} for row in read_jsonl(f)]
            for f in (one / "metrics.jsonl", other / "metrics.jsonl")
        ]
        assert rows[0][-1]["step"] == last
        # At its beginning and its end as well, where weights are chosen.
        assert sum("texts_ma" in row for row in rows[0]) == (3 if last == 5 else 1)
        assert sum("validation_perplexity" in r or "forget_probability" in r for r in rows[0]) >= 2
        for a, b in zip(*rows, strict=True):
            assert a == pytest.approx(b, rel=1e-9, abs=1e-9)
        results = [json.loads((f / "evaluation/results.json").read_text()) for f in (one, other)]
        sharded, whole = ({**result["metrics"]} for result in results)
        assert "forget_mia_gradnorm" not in sharded
        assert "sharded" in results[0]["missing"]["forget_mia_gradnorm"]
        whole.pop("forget_mia_gradnorm", None)  # of full weights it is there
        assert sharded == pytest.approx(whole, rel=1e-9, abs=1e-9)
        lines = [read_jsonl(f / "evaluation/samples.jsonl") for f in (one, other)]
        for a, b in zip(*lines, strict=True):
            assert a.get("generation") == b.get("generation")
        if last == 5:  # the weights of step 4, gathered from their shards while it trained on
            assert [result["selection"]["step"] for result in results] == [4, 4]
            saved, others = map(read_weights, (one, other))
            assert saved.keys() == others.keys()
            assert max(float((saved[k] - others[k]).abs().max()) for k in others) < 1e-9
