"""`table=open_unlearning`: the list of checkpoints, and the real command on stand-ins."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from conftest import refused, undial
from made_tables import asked_of

from undial_cli.errors import UserError
from undial_cli.runs.hydra_configs import PACKAGE_FOLDER, find_config_folder
from undial_cli.tables.runs import compose_table_runs, list_table_lines

STEM = "open-unlearning/unlearn_tofu_Llama-3.2-1B-Instruct_forget10_"
FULL, RETAIN = (
    f"open-unlearning/tofu_Llama-3.2-1B-Instruct_{kind}" for kind in ("full", "retain90")
)
UNLEARNED, MISSING = "undial_lr1e4_b10_a1_ep10", "undial_lr3e4_b10_a1_ep10"


def test_each_row_is_the_checkpoint_of_its_label() -> None:
    file = find_config_folder() / "table" / "open_unlearning.yaml"
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    paths = {}
    for row in yaml.load(file.read_text(), loader)["rows"]:
        (word,) = row["overrides"]
        paths[row["label"]] = word.removeprefix("model.path=")
    assert len(set(paths.values())) == len(paths) == 400
    assert (paths.pop("full"), paths.pop("retain")) == (FULL, RETAIN)
    short = {"0.0001": "1e4", "0.0003": "3e4", "1e-05": "1e5", "2e-05": "2e5", "5e-05": "5e5"}
    short |= {"3e-05": "3e5", "4e-05": "4e5"}
    for label, path in paths.items():
        method, rate, *parts = path.removeprefix(STEM).split("_")
        named = [method.lower(), f"lr{short[rate.removeprefix('lr')]}"]
        for part in parts:
            letters = part.rstrip("0123456789.")
            letter = "ep" if letters in ("epoch", "ep") else letters[0]
            named.append(letter + part.removeprefix(letters).replace(".", ""))
        assert "_".join(named) == label


def test_models_lie_below_a_folder(tmp_path: Path) -> None:
    root = tmp_path / "it's"
    root.mkdir()
    words = [f"model.targets.tofu.path={FULL}", f"model.targets.tofu.retain={RETAIN}"]
    rows = [{"label": "retain", "overrides": [f"model.path={RETAIN}", "data.path=a/b"]}]
    text = yaml.safe_dump(
        {
            "command": "evaluate",
            "overrides": ["model=llama1b", "data=tofu", *words],
            "columns": [{"metric": ["model_utility"]}],
            "rows": rows,
        }
    )
    asked = asked_of(text, tmp_path, models=str(root))
    lines = list_table_lines(asked.table, [])
    (entry,) = compose_table_runs(asked, lines, [], None)
    assert (entry.run.model.path, entry.run.data.path) == (str(root / RETAIN), "a/b")
    targets = entry.run.model.targets["tofu"]
    assert (targets.path, targets.retain) == (str(root / FULL), str(root / RETAIN))
    # said on the command line: as it is
    (entry,) = compose_table_runs(asked, lines, ["model.path=a/b"], None)
    assert entry.run.model.path == "a/b"
    asked.models = "nowhere"
    refused(lambda: compose_table_runs(asked, lines, [], None), "models=nowhere", "no such folder")


def lay_out_tofu(folder: Path) -> Path:
    """The demo's rows under the names of TOFU's splits."""
    names = {name: name for name in ("forget10_perturbed", "retain_perturbed", "holdout10")}
    names |= {f"{name}_perturbed": "retain_perturbed" for name in ("real_authors", "world_facts")}
    folder.mkdir()
    for name, source in names.items():
        shutil.copy(PACKAGE_FOLDER / "data" / "demo" / f"{source}.json", folder / f"{name}.json")
    configs = [{"config_name": name, "data_files": f"{name}.json"} for name in names]
    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    return folder


def lay_out_models(random_model: Path, root: Path) -> None:
    """Three models of the table, each with noise of its own."""
    from transformers import AutoModelForCausalLM

    for seed, name in enumerate((FULL, RETAIN, f"{STEM}UNDIAL_lr0.0001_beta10_alpha1_epoch10")):
        shutil.copytree(random_model, root / name)
        model = AutoModelForCausalLM.from_pretrained(random_model)
        torch.manual_seed(seed)
        with torch.no_grad():
            for p in model.parameters():
                p += 0.02 * torch.randn_like(p)
        model.save_pretrained(root / name)


@pytest.mark.slow
def test_stand_ins_are_evaluated_and_what_is_missing_is_a_failed_row(
    random_model: Path, tmp_path: Path
) -> None:
    root, data = tmp_path / "models", lay_out_tofu(tmp_path / "TOFU")
    lay_out_models(random_model, root)
    words = ["reproduce", "table=open_unlearning", f"rows=[{UNLEARNED},{MISSING},retain]"]
    words += [f"models={root}", f"data.path={data}", "eval.limit=10", "eval.max_new_tokens=8"]
    words += ["model.dtype=float32", "hardware=cpu", "report=false", "output_dir=out"]
    done = undial(*words, cwd=tmp_path, HF_HUB_OFFLINE="1")
    assert done.returncode == 2, done.stderr
    table = tmp_path / "out" / "reproduce" / "open_unlearning"
    with open(table / "table.csv", newline="") as file:
        cells = {(row["row"], row["column"]): row for row in csv.DictReader(file)}
    assert {label for label, _ in cells} == {UNLEARNED, MISSING, "retain"}
    # random weights have no utility that anything could be relative to
    columns = {column for label, column in cells if label == UNLEARNED}
    columns -= {"utility_score", "aggregate_score"}
    assert {cells[UNLEARNED, name]["status"] for name in columns} == {"done"}
    assert {cells[MISSING, name]["status"] for name in columns} == {"failed"}
    assert float(cells["retain", "privacy_score"]["mean"]) == pytest.approx(1)
    assert float(cells[UNLEARNED, "memorization_score"]["reference"]) == pytest.approx(0.6398)
    text = (table / "table.md").read_text().replace("\\", "")
    missing = root / f"{STEM}UNDIAL_lr0.0003_beta10_alpha1_epoch10"
    assert f"failed: UNDIAL: {MISSING}: model.path={missing}: no such file or folder" in text
    results = list((tmp_path / "out").glob("evaluate/*/evaluation/results.json"))
    assert len(results) == 2
    for file in results:  # with the target's, whose row was not asked for
        assert json.loads(file.read_text())["target"]["model_utility"] is not None


def test_rows_are_chosen_by_a_glob(tmp_path: Path) -> None:
    rows = [{"label": name} for name in ("npo_lr1_ep5", "npo_lr1_ep10", "ga_lr1_ep10", "a [b]")]
    text = yaml.safe_dump({"columns": [{"metric": ["model_utility"]}], "rows": rows})
    table = asked_of(text, tmp_path).table
    labels = [line.row.label for line in list_table_lines(table, ["NPO*ep10", "a [b]"])]
    assert labels == ["npo_lr1_ep10", "a [b]"]
    refused(lambda: list_table_lines(table, ["npo*ep7"]), "rows", "npo*ep7")


def test_of_hundreds_of_rows_a_message_lists_some_and_the_nearest(tmp_path: Path) -> None:
    rows = [{"label": f"npo_lr{number:03}"} for number in range(400)]
    text = yaml.safe_dump({"columns": [{"metric": ["model_utility"]}], "rows": rows})
    table = asked_of(text, tmp_path).table
    with pytest.raises(UserError) as caught:
        list_table_lines(table, ["npo_lr39x"])
    line = str(caught.value)
    assert "npo_lr058, npo_lr059 and 340 more; did you mean 'npo_lr39" in line
    assert "npo_lr060" not in line
