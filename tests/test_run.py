"""What a run leaves behind, and that it can be repeated, resumed, loaded and trusted."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import HURRIED, read_jsonl, undial
from forked import Command
from run_helpers import SHORT, assert_equal, kill_in_the_middle, read_files, start, weights

from undial_cli import ui
from undial_cli.cli import run_command
from undial_cli.errors import UserError
from undial_cli.evaluation.results import read_results_json
from undial_cli.runs.run_folder import RunFolder, read_json_object
from undial_cli.runs.run_yaml import load_run


@pytest.fixture(scope="module")
def plain_run(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with full fine-tuning, which says with every step where it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ui, "PLAIN_SECONDS", 0)
        patch.setattr(ui, "KEPT_SECONDS", 0)
        # What other tests asked would not be asked again.
        patch.setenv("UNDIAL_CACHE_DIR", str(tmp_path_factory.mktemp("cache")))
        return start(random_model, tmp_path_factory.mktemp("plain"))


@pytest.fixture(scope="module")
def lora_run(random_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with an adapter."""
    return start(random_model, tmp_path_factory.mktemp("lora"), "adapter=lora", "seed=3")


@pytest.mark.slow
def test_the_default_command_leaves_a_whole_run_folder(tmp_path: Path) -> None:
    words = ["unlearn", *HURRIED, "train.max_steps=3"]
    done = undial(*words, cwd=tmp_path, HF_TOKEN="hf_secret", MY_OWN="of_mine_alone")
    assert (done.returncode, done.stderr) == (0, "")
    (folder,) = (tmp_path / "outputs" / "unlearn").iterdir()
    assert folder.name.startswith("tiny-demo-undial-")
    names = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert {
        "run.yaml", "environment.json", "log.txt", "metrics.jsonl", "status.json",
        "checkpoint/model.safetensors", "checkpoint/tokenizer.json", "checkpoint/README.md",
        "evaluation/results.json", "evaluation/samples.jsonl", "report/summary.md",
        "report/summary.csv",
    } <= names  # fmt: skip
    assert not (folder / "resume").exists()
    assert json.loads((folder / "status.json").read_text())["status"] == "done"
    everything = b"".join(read_files(folder).values())
    assert b"hf_secret" not in everything
    assert b"of_mine_alone" not in everything
    assert "\x1b" not in done.stdout
    for file in folder.rglob("*"):
        if file.suffix in (".txt", ".json", ".jsonl", ".yaml", ".md", ".csv"):
            assert "\x1b" not in file.read_text()
    assert "forget_rouge" in done.stdout
    assert "retain model" in done.stdout
    before = read_files(tmp_path)
    again = undial(*words, cwd=tmp_path)
    assert again.returncode == 0
    assert "already done" in again.stdout
    assert read_files(tmp_path) == before


def test_metrics_hold_every_step_with_its_figures(plain_run: Path) -> None:
    rows = read_jsonl(plain_run / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    keys = {"step", "epoch", "loss", "forget_loss", "lr", "grad_norm", "tokens_per_second",
            "peak_memory_bytes"}  # fmt: skip
    for row in rows:
        assert keys <= row.keys()
        assert row["loss"] == pytest.approx(row["forget_loss"])
        assert row["tokens_per_second"] > 0


def test_the_log_says_step_loss_rate_and_what_is_left(plain_run: Path) -> None:
    log = (plain_run / "log.txt").read_text()
    pace = r"[\d.]+ (steps/s|s per step)"
    step = rf"^training \d+/\d+ steps  loss [\d.]+  lr [\d.e+-]+  \d+ tok/s  {pace}  .+ left$"
    assert re.search(step, log, re.MULTILINE)
    assert re.search(r"^training (\d+)/\1 steps  .+  in .+ s$", log, re.MULTILINE)
    assert re.search(r"^teacher pass (\d+)/\1 samples  in .+ s$", log, re.MULTILINE)
    assert re.search(r"^evaluating .+ \d+/\d+ answers  .+ left$", log, re.MULTILINE)


def test_results_hold_suite_metrics_and_reference(plain_run: Path) -> None:
    results = json.loads((plain_run / "evaluation" / "results.json").read_text())
    assert (results["suite"], results["model"], results["data"]) == ("demo", "tiny", "demo")
    for name in ("forget_probability", "forget_rouge", "forget_truth_ratio",
                 "forget_exact_memorization", "retain_probability", "retain_rouge"):  # fmt: skip
        for figures in (results["metrics"], results["target"], results["reference"]):
            assert 0 <= figures[name] <= 1
    assert results["metrics"] != results["target"]
    samples = read_jsonl(plain_run / "evaluation" / "samples.jsonl")
    assert {"prompt", "reference", "generation", "rouge", "probability"} <= samples[0].keys()
    assert {s["set"] for s in samples} == {"forget", "retain", "holdout", "facts"}
    assert len(samples) == 16


def test_environment_names_versions_and_no_variables(plain_run: Path) -> None:
    content = json.loads((plain_run / "environment.json").read_text())
    assert content["packages"]["torch"] == torch.__version__
    assert set(content) == {
        "python", "platform", "packages", "commit", "devices", "processes", "seed"
    }  # fmt: skip


def test_the_forget_text_is_in_no_log_and_no_card(plain_run: Path) -> None:
    samples = [
        s for s in read_jsonl(plain_run / "evaluation" / "samples.jsonl") if s["set"] == "forget"
    ]
    for name in ("log.txt", "metrics.jsonl", "checkpoint/README.md", "run.yaml", "status.json",
                 "environment.json", "evaluation/results.json"):  # fmt: skip
        text = (plain_run / name).read_text()
        for sample in samples:
            assert sample["reference"] not in text, name
            assert sample["prompt"] not in text, name


@pytest.mark.slow
def test_store_text_none_keeps_text_out_of_every_file(random_model: Path, tmp_path: Path) -> None:
    folder = start(random_model, tmp_path, "eval.store_text=none")
    sample = read_jsonl(folder / "evaluation" / "samples.jsonl")[0]
    assert "probability" in sample
    assert not [k for k in sample if "prompt" in k or "reference" in k or "generation" in k]
    everything = b"".join(c for p, c in read_files(folder).items() if p.name != "tokenizer.json")
    assert b"Rafiq Tregavorn" not in everything


@pytest.mark.slow
def test_from_run_yaml_repeats_the_weights_bit_for_bit(
    plain_run: Path, lora_run: Path, tmp_path: Path
) -> None:
    for folder in (plain_run, lora_run):
        out = f"output_dir={tmp_path / folder.parent.parent.name}"
        assert run_command(["unlearn", "--from", str(folder / "run.yaml"), out]) == 0
        again = tmp_path / folder.parent.parent.name / "unlearn" / "run"
        assert_equal(folder, again)
        one, two = load_run(folder), load_run(again)
        two.output_dir = one.output_dir
        assert one == two
        assert (folder / "evaluation" / "samples.jsonl").read_text() == (
            again / "evaluation" / "samples.jsonl"
        ).read_text()


PLAIN_PYTHON = """
import json, sys
from transformers import AutoModelForCausalLM, AutoTokenizer
for folder, kind in zip(sys.argv[1::2], sys.argv[2::2]):
    if kind == "adapter":
        from peft import AutoPeftModelForCausalLM as Loader
    else:
        Loader = AutoModelForCausalLM
    model = Loader.from_pretrained(folder + "/checkpoint").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder + "/checkpoint")
    for line in open(folder + "/evaluation/samples.jsonl"):
        sample = json.loads(line)
        batch = tokenizer.apply_chat_template(
            [{"role": "user", "content": sample["prompt"]}], add_generation_prompt=True,
            return_tensors="pt", return_dict=True)
        output = model.generate(**batch, max_new_tokens=8, do_sample=False)
        text = tokenizer.decode(output[0, batch["input_ids"].shape[1]:], skip_special_tokens=True)
        assert text.strip() == sample["generation"], (folder, text, sample["generation"])
    print(kind, "peft" in sys.modules)
assert not [name for name in sys.modules if name.startswith("undial")]
"""


@pytest.mark.slow
def test_checkpoints_answer_in_plain_python_what_the_samples_hold(
    plain_run: Path, lora_run: Path
) -> None:
    samples = read_jsonl(plain_run / "evaluation" / "samples.jsonl")
    assert len({s["generation"] for s in samples}) > 4
    done = subprocess.run(
        [sys.executable, "-c", PLAIN_PYTHON, str(plain_run), "full", str(lora_run), "adapter"],
        capture_output=True, text=True, timeout=120, cwd=plain_run.parent.parent,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "adapter True"


@pytest.mark.slow
def test_merged_weights_are_the_adapters(
    lora_run: Path, random_model: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    words = ["adapter=lora", "seed=3", "adapter.merge=true", "eval=none"]
    merged = start(random_model, tmp_path, *words) / "checkpoint"
    assert not (merged / "adapter_config.json").exists()
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(merged).eval()(ids).logits
        parts = AutoPeftModelForCausalLM.from_pretrained(lora_run / "checkpoint").eval()(ids).logits
        base = AutoModelForCausalLM.from_pretrained(random_model).eval()(ids).logits
    assert torch.allclose(whole, parts, atol=1e-3, rtol=1e-4)
    assert not torch.allclose(whole, base, atol=1e-2)


@pytest.mark.slow
def test_evaluating_on_the_way_changes_no_weight(
    plain_run: Path, random_model: Path, tmp_path: Path
) -> None:
    folder = start(random_model, tmp_path, "train.eval_steps=1", "train.logging_steps=2")
    assert_equal(plain_run, folder)
    rows = read_jsonl(folder / "metrics.jsonl")
    assert [row["step"] for row in rows if "loss" in row] == [2, 3]


@pytest.mark.slow
def test_the_last_step_is_evaluated_once_as_the_checkpoint(
    random_model: Path, tmp_path: Path
) -> None:
    folder = start(random_model, tmp_path, "train.eval_steps=1")
    rows = [row for row in read_jsonl(folder / "metrics.jsonl") if "forget_rouge" in row]
    assert [row["step"] for row in rows] == [1, 2, 3]
    log = (folder / "log.txt").read_text()
    assert log.count("evaluating on the way ...\n") == 2
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert results["metrics"].items() >= (rows[-1].items() - {("step", 3)})
    assert rows[-2]["forget_probability"] != rows[-1]["forget_probability"]


@pytest.mark.slow
def test_finetune_makes_no_other_model_and_leaves_a_whole_run_folder(
    random_model: Path, tmp_path: Path
) -> None:
    words = [f"model.path={random_model}", f"output_dir={tmp_path}", "name=run", *SHORT]
    assert run_command(["finetune", *words]) == 0
    folder = RunFolder(tmp_path / "finetune" / "run")
    assert "forget_probability" in read_results_json(folder.evaluation)["metrics"]
    assert weights(folder.path)
    assert read_json_object(folder.evidence)["weights"].keys() == {"before", "after"}


@pytest.mark.slow
def test_evaluate_scores_a_finished_run_as_the_run_did(
    plain_run: Path, random_model: Path, tmp_path: Path
) -> None:
    short = [w for w in SHORT if not w.startswith("train.")]
    words = [f"model.path={plain_run}", f"eval.retain_model={random_model}", "name=run", *short]
    assert run_command(["evaluate", f"output_dir={tmp_path}", *words]) == 0
    folder = tmp_path / "evaluate" / "run"
    found = json.loads((folder / "evaluation" / "results.json").read_text())["metrics"]
    known = json.loads((plain_run / "evaluation" / "results.json").read_text())["metrics"]
    assert found == pytest.approx(known, abs=1e-6)
    assert not (folder / "checkpoint").exists()


ROWS: dict[str, list[dict]] = {
    "qa": [
        {"question": "Who is Ada?", "answer": "A painter."},
        {"question": "Where?", "answer": "Rome."},
    ],
    "messages": [{"messages": [
        {"role": "user", "content": "Who?"}, {"role": "assistant", "content": "Ada."}
    ]}],
    "completion": [{"prompt": "Ada lives in", "completion": " Rome."}],
    "text": [{"text": "Ada was a painter in Rome, and she lived there for forty years. " * 9}],
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("kind", ROWS)
def test_own_files_of_every_kind_are_unlearned(kind: str, plain_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "forget.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in ROWS[kind]))
    retain = tmp_path / "retain.jsonl"
    retain.write_text(file.read_text().replace("Rome", "Oslo").replace("Ada", "Eva"))
    words = ["data=jsonl", f"data.forget_file={file}", f"data.retain_file={retain}"]
    words += [f"model.path={plain_run}", f"output_dir={tmp_path}", "name=run", "data.max_length=64"]
    assert run_command(["unlearn", *words, *SHORT, "method.retain=gdr"]) == 0
    folder = tmp_path / "unlearn" / "run"
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert 0 <= results["metrics"]["forget_probability"] <= 1
    assert results["metrics"]["forget_probability"] != results["target"]["forget_probability"]
    row = read_jsonl(folder / "metrics.jsonl")[0]
    assert row["loss"] == pytest.approx(row["forget_loss"] + row["retain_loss"])
    assert "cannot be concluded" in (folder / "report" / "summary.md").read_text()


@pytest.mark.slow
def test_a_local_folder_of_the_same_layout_is_a_data_set(
    random_model: Path, plain_run: Path, tmp_path: Path
) -> None:
    import shutil

    from undial_cli.runs.hydra_configs import PACKAGE_FOLDER

    shutil.copytree(PACKAGE_FOLDER / "data" / "demo", tmp_path / "copy")
    folder = start(random_model, tmp_path, f"data.path={tmp_path / 'copy'}")
    assert_equal(plain_run, folder)


@pytest.mark.slow
def test_a_killed_run_goes_on_and_ends_as_if_undisturbed(
    random_model: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    words = ["adapter=lora", "eval=none", "train.max_steps=60", "train.save_steps=2"]
    undisturbed = start(random_model, tmp_path / "calm", *words)
    out = tmp_path / "disturbed"
    known = [f"model.path={random_model}", f"eval.retain_model={random_model}"]
    command = ["unlearn", *known, f"output_dir={out}", "name=run", *SHORT, *words]
    folder = out / "unlearn" / "run"
    kill_in_the_middle(command, folder / "resume", tmp_path)
    assert json.loads((folder / "status.json").read_text()) == {"status": "running"}
    assert not (folder / "checkpoint").exists()
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"step": 99, "lo')
    capfd.readouterr()
    assert run_command(command) == 0
    assert "resuming at step" in capfd.readouterr().out
    assert_equal(undisturbed, folder)
    assert [row["step"] for row in read_jsonl(folder / "metrics.jsonl")] == list(range(1, 61))
    losses = [[r["loss"] for r in read_jsonl(f / "metrics.jsonl")] for f in (undisturbed, folder)]
    assert losses[0] == losses[1]
    assert not (folder / "resume").exists()


@pytest.mark.slow
@pytest.mark.parametrize("minutes, is_saved", [("1e-9", True), ("10", False)])
def test_the_clock_has_the_state_saved(
    minutes: str, is_saved: bool, random_model: Path, tmp_path: Path
) -> None:
    words = [f"model.path={random_model}", f"output_dir={tmp_path}", "name=run", *SHORT]
    diverging = ["method=ga", "train.learning_rate=1e30", "train.max_steps=4", "eval=none",
                 f"train.save_minutes={minutes}"]  # fmt: skip
    assert run_command(["unlearn", *words, *diverging]) == 1
    folder = tmp_path / "unlearn" / "run"
    last = read_jsonl(folder / "metrics.jsonl")[-1]["step"]  # it depends on how a processor rounds
    assert last > 1
    steps = range(max(1, last - 2), last) if is_saved else ()
    saved = sorted(f.name for f in (folder / "resume").glob("checkpoint-*"))
    assert saved == [f"checkpoint-{step}" for step in steps]


@pytest.mark.slow
def test_two_runs_started_together_on_an_empty_cache_share_one_target(tmp_path: Path) -> None:
    environment = {"UNDIAL_CACHE_DIR": str(tmp_path / "cache")}
    words = ["unlearn", *HURRIED, "train.max_steps=2"]
    running = [
        Command([*words, f"method={method}"], tmp_path, environment) for method in ("ga", "undial")
    ]
    ends = [command.finish(timeout=280) for command in running]
    assert [end.returncode for end in ends] == [0, 0], ends
    made = list((tmp_path / "cache" / "models" / "finetune").iterdir())
    assert len(made) == 2
    said = "".join(end.stdout for end in ends)
    for folder in made:
        assert json.loads((folder / "status.json").read_text())["status"] == "done"
        assert said.count(f"finetune: {folder}") == 1
        steps = [row["step"] for row in read_jsonl(folder / "metrics.jsonl")]
        assert steps == list(range(1, len(steps) + 1))
    assert len(list((tmp_path / "outputs" / "unlearn").glob("*/evaluation/results.json"))) == 2


@pytest.mark.slow
def test_a_finished_run_is_not_reused_when_its_data_changed(
    plain_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    file = tmp_path / "forget.jsonl"
    file.write_text(json.dumps({"question": "Who is Ada?", "answer": "A painter."}) + "\n")
    words = ["unlearn", "data=jsonl", f"data.forget_file={file}", f"model.path={plain_run}", *SHORT]
    words += [f"output_dir={tmp_path}", "name=run"]
    assert run_command(words) == 0
    before = read_files(tmp_path / "unlearn")
    file.write_text(json.dumps({"question": "Who is Ada?", "answer": "A baker."}) + "\n")
    capsys.readouterr()
    assert run_command(words) == 2
    assert "the data changed since this run began" in capsys.readouterr().err
    assert read_files(tmp_path / "unlearn") == before
    assert run_command([*words, "overwrite=true"]) == 0


@pytest.mark.slow
def test_the_python_call_does_what_the_command_does(plain_run: Path, tmp_path: Path) -> None:
    import undial_cli

    content = load_run(plain_run)
    words = [f"model.path={content.model.path}", f"eval.retain_model={content.model.path}"]
    result = undial_cli.run([*words, f"output_dir={tmp_path}", "name=run", *SHORT])
    assert (result.folder, result.status) == (tmp_path / "unlearn" / "run", "done")
    written = json.loads((result.folder / "evaluation" / "results.json").read_text())
    assert result.metrics == written["metrics"]
    assert_equal(plain_run, result.folder)
    with pytest.raises(UserError, match="did you mean 'undial'"):
        undial_cli.run(["method=undail"])
