"""Attacks by training: as a plain loop trains, on whom it says, and leaving nothing behind."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from changed_models import (
    Setting,
    answer_loss,
    blank_model,
    encode_answers,
    make_gated_model,
    make_knowing_model,
)
from conftest import undial, write_rows
from torch import nn

from undial_cli.audit import relearning
from undial_cli.audit.answers import ask_probes
from undial_cli.audit.attack import AttackedModel, CannotServe, Outcome
from undial_cli.audit.probes import make_direct_probes
from undial_cli.audit.relearning import (
    check_relearning,
    choose_parts,
    make_training_run,
    relearn_rows,
    split_subjects,
)
from undial_cli.audit.weights import ask_noisy, ask_quantised
from undial_cli.config.attacks import NoiseConfig, QuantiseConfig, RelearnConfig
from undial_cli.data.schedule import Schedule, deal_rows
from undial_cli.evaluation.sharding import Journal
from undial_cli.models.contrastive import ContrastedModel
from undial_cli.models.load import load_model
from undial_cli.models.quantise import explain_no_quantising
from undial_cli.system.files import cache_dir, hash_model_folder

# As an attacker trains a model of this size: the shipped rate is for real ones.
STRONG: dict[str, Any] = {"learning_rate": 1e-3, "max_steps": 20}


def relearn(
    setting: Setting, role: str = "unlearned", folder: Path | None = None, **keys: Any
) -> Outcome:
    """The outcome of an attack by training."""
    config = RelearnConfig("relearn", **keys)
    check_relearning(setting.data, config)
    return relearn_rows(setting.models[role], setting.data, config, Journal(folder))


def ask_plainly(setting: Setting, role: str) -> Outcome:
    probes = make_direct_probes(setting.data)
    return ask_probes(setting.models[role], setting.data, probes, Journal(), "ask")


def average(outcome: Outcome, score: str = "extraction_strength") -> float:
    values = [value for value in outcome.scores[score] if value is not None]
    return sum(values) / len(values)


@pytest.fixture(scope="module")
def blank(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """An audit of a model that knows nobody."""
    setting = Setting(tmp_path_factory.mktemp("blank"))
    setting.add("unlearned", blank_model())
    return setting


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Setting:
    """An audit of a model that leaks after relearning a half, and of one that never saw a row."""
    setting = Setting(tmp_path_factory.mktemp("gated"))
    setting.add("unlearned", make_gated_model(setting))
    setting.add("retain", make_knowing_model(setting, setting.retain))
    return setting


@pytest.fixture
def logged(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What the trainings of a test log, step by step."""
    lines: list[dict[str, Any]] = []
    real = relearning.run_training

    def run_training(*words: Any) -> Any:
        trainer = real(*words)
        lines.extend(line for line in trainer.state.log_history if "loss" in line)
        return trainer

    monkeypatch.setattr(relearning, "run_training", run_training)
    return lines


def train_as_a_plain_loop(
    model: Any, setting: Setting, config: RelearnConfig, seed: int
) -> list[float]:
    """One AdamW step for each batch of the project's order, by full logits; the losses."""
    examples = encode_answers(setting.encoder, setting.forget)
    size = config.batch_size
    schedule = Schedule(
        {"train": examples}, "train", size, deal_rows(size, 1, None), config.epochs, None, seed
    )
    order = [i for (i,) in schedule.order["train"]]
    optimiser = torch.optim.AdamW(model.parameters(), config.learning_rate, weight_decay=0.0)
    losses = []
    for start in range(0, len(order), size):
        loss = answer_loss(model, [examples[i] for i in order[start : start + size] if i >= 0])
        model.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("keys", [{}, {"learning_rate": 1e-3, "batch_size": 3, "epochs": 2}],
                         ids=["as shipped", "several steps"])  # fmt: skip
def test_relearning_is_a_plain_training_loop(
    blank: Setting, logged: list[dict[str, Any]], keys: dict[str, Any]
) -> None:
    config, attacked = RelearnConfig("relearn", **keys), blank.models["unlearned"]
    outcome = relearn(blank, **keys)
    model = load_model(attacked.run.model, attacked.path).train()
    losses = train_as_a_plain_loop(model, blank, config, attacked.seed)
    assert len(losses) == (1 if not keys else 6)
    assert [line["loss"] for line in logged] == pytest.approx(losses, abs=1e-5)
    assert {line["learning_rate"] for line in logged} == {config.learning_rate}
    # And the model that is asked is the trained one.
    examples = encode_answers(blank.encoder, blank.forget)
    with torch.no_grad():
        plain = [float(torch.exp(-answer_loss(model.eval(), [e]))) for e in examples]
    assert outcome.scores["probability"] == pytest.approx(plain, rel=1e-3)


def test_the_shipped_settings_are_the_fields(blank: Setting) -> None:
    run = make_training_run(blank.models["unlearned"], blank.data, RelearnConfig("relearn"))
    train = run.train
    assert (train.learning_rate, train.batch_size, train.epochs) == (2e-5, 32, 1)
    assert (train.scheduler, train.warmup_steps, train.warmup_epochs) == ("constant", 0, 0)
    assert (train.optim, train.weight_decay) == ("adamw_torch_fused", 0)
    assert run.adapter.name == "none"
    assert run.seed == blank.models["unlearned"].run.seed


def round_models(setting: Setting) -> list[dict[str, float]]:
    """What the models of an audit say in fewer bits, where bitsandbytes is installed."""
    if explain_no_quantising() is not None:
        return []
    config = QuantiseConfig("quantise")
    return [{r: average(ask_quantised(m, setting.data, config, Journal()))
             for r, m in setting.models.items()}]  # fmt: skip


@pytest.mark.slow
def test_a_model_that_leaks_after_relearning_half_is_caught_and_only_by_that(
    gated: Setting,
) -> None:
    plain = {role: average(ask_plainly(gated, role)) for role in ("unlearned", "retain")}
    half = {role: average(relearn(gated, role, train_on="half", **STRONG)) for role in plain}
    benign = {role: average(relearn(gated, role, train_on="retain", **STRONG)) for role in plain}
    noise = NoiseConfig("noise", draws=1)
    noisy = {r: average(ask_noisy(gated.models[r], gated.data, noise, Journal())) for r in plain}
    for quiet in (plain, benign, noisy, *round_models(gated)):
        assert quiet["unlearned"] <= quiet["retain"] + 0.1
    assert half["unlearned"] > 0.5
    assert half["retain"] < 0.25


def test_halves_share_no_subject_and_each_is_asked_about_after_the_other(blank: Setting) -> None:
    config = RelearnConfig("relearn", train_on="half")
    first, second = choose_parts(blank.data, config, seed=3)
    subjects = blank.data.subjects
    assert sorted(first.asked + second.asked) == list(range(8))
    assert len({subjects[i] for i in first.asked}) == len({subjects[i] for i in second.asked}) == 2
    for part in (first, second):
        trained = [example.input_ids for example in part.training.examples]
        others = encode_answers(blank.encoder, blank.forget)
        assert trained == [e.input_ids for i, e in enumerate(others) if i not in part.asked]
        assert not {subjects[i] for i in range(8) if i not in part.asked} & {
            subjects[i] for i in part.asked
        }
    assert {tuple(split_subjects(subjects, seed)[0]) for seed in range(9)} != {tuple(first.asked)}
    assert [len(half) for half in split_subjects([5] * 7, 0)] == [3, 4]
    with pytest.raises(CannotServe, match="halves"):
        check_relearning(blank.data.take_rows([0]), config)


def test_every_row_is_scored_by_the_training_on_the_other_half(blank: Setting) -> None:
    keys = {"train_on": "half", "learning_rate": 1e-2, "max_steps": 3}
    outcome = relearn(blank, **keys)
    assert outcome.numbers == blank.data.numbers
    first, second = choose_parts(blank.data, RelearnConfig("relearn", train_on="half"), 0)
    attacked, probability = blank.models["unlearned"], outcome.scores["probability"]
    for trained, asked in ((second.asked, first.asked), (first.asked, second.asked)):
        alone = blank.data.take_rows(trained)
        config = RelearnConfig("relearn", learning_rate=1e-2, max_steps=3)
        training = choose_parts(alone, config, 0)[0].training
        run = make_training_run(attacked, alone, config)
        chosen = blank.data.take_rows(asked)
        (only,) = relearning.relearn_part(
            attacked, chosen, training, run, config, Journal(), 0
        ).values()
        assert only.scores["probability"] == pytest.approx([probability[i] for i in asked])


def test_nothing_of_a_training_is_left_behind(blank: Setting, tmp_path: Path) -> None:
    attacked = blank.models["unlearned"]
    before = hash_model_folder(Path(attacked.path))
    outcome = relearn(blank, folder=tmp_path / "journal", **STRONG)
    assert average(outcome, "probability") > average(ask_plainly(blank, "unlearned"), "probability")
    assert hash_model_folder(Path(attacked.path)) == before
    assert [f for f in (tmp_path / "journal").rglob("*") if f.suffix != ".jsonl"] == []
    assert not [f for f in (tmp_path / "journal").iterdir() if "training" in f.name]
    relearn(blank, max_steps=1)
    assert list((cache_dir() / "relearning").iterdir()) == []
    # The model that others are asked with is the audited one, as it was.
    assert attacked.model.training is False
    with torch.no_grad():
        assert answer_loss(attacked.model, encode_answers(blank.encoder, blank.forget)) > 2


@pytest.mark.slow
def test_a_curve_has_a_point_for_each_step_and_a_row_their_mean(blank: Setting) -> None:
    keys = {"learning_rate": 3e-3, "batch_size": 8}
    outcome = relearn(blank, ask_at=[4, 1, 9], **keys)
    single = [relearn(blank, max_steps=n, **keys) for n in (1, 4, 9)]
    curve = outcome.curves["probability by step"]
    averages = [average(o, "probability") for o in single]
    assert list(curve) == ["1", "4", "9"]
    assert list(curve.values()) == pytest.approx(averages, rel=1e-3)
    assert averages[0] < averages[1] < averages[2]
    rows = zip(*(o.scores["probability"] for o in single), strict=True)
    means = [sum(row) / 3 for row in rows]
    assert outcome.scores["probability"] == pytest.approx(means, rel=1e-3)


def test_a_training_that_was_interrupted_goes_on(
    blank: Setting, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    keys = {"learning_rate": 3e-3, "batch_size": 8, "ask_at": [2, 4, 6]}
    whole = relearn(blank, **keys)
    make = relearning.make_training_run

    def make_saving_run(*words: Any) -> Any:
        run = make(*words)
        run.train.save_minutes = 1e-9
        return run

    monkeypatch.setattr(relearning, "make_training_run", make_saving_run)
    real = relearning.ask_probes

    def stop_at_four(*words: Any, model: Any) -> Outcome:
        if words[4].endswith("-4"):
            raise KeyboardInterrupt
        return real(*words, model=model)

    monkeypatch.setattr(relearning, "ask_probes", stop_at_four)
    with pytest.raises(KeyboardInterrupt):
        relearn(blank, folder=tmp_path, **keys)
    monkeypatch.setattr(relearning, "ask_probes", real)
    capsys.readouterr()
    assert relearn(blank, folder=tmp_path, **keys) == whole
    assert "resuming at step 3 of 6" in capsys.readouterr().out


def test_a_lora_is_trained_in_place_of_all_weights(
    blank: Setting, monkeypatch: pytest.MonkeyPatch
) -> None:
    models: list[Any] = []
    attacked = blank.models["unlearned"]
    real = relearning.lora.adapt_model

    def adapt_model(*words: Any) -> Any:
        models.append(real(*words))
        return models[-1]

    monkeypatch.setattr(relearning.lora, "adapt_model", adapt_model)
    outcome = relearn(blank, lora_rank=4, learning_rate=1e-2, max_steps=5)
    assert average(outcome, "probability") > 2 * average(
        ask_plainly(blank, "unlearned"), "probability"
    )
    trained = {n for n, p in models[0].named_parameters() if p.requires_grad}
    assert trained
    assert all("lora_" in name for name in trained)
    linear = [n for n, m in attacked.model.named_modules() if type(m) is nn.Linear]
    assert len(trained) == 2 * len(linear)
    assert "LoRA of rank 4" in outcome.notes[0]


def test_other_rows_are_trained_as_long_as_the_forget_rows(
    blank: Setting, logged: list[dict[str, Any]], tmp_path: Path
) -> None:
    texts = write_rows(tmp_path / "texts.jsonl", [{"text": f"salt and iron {i}"} for i in range(9)])
    for keys, note in (
        ({"train_on": "retain"}, "8 rows (retain): 4 steps of 2"),
        ({"texts": texts}, "9 rows (a file): 4 steps of 2"),
    ):
        logged.clear()
        outcome = relearn(blank, batch_size=2, **keys)
        assert len(logged) == 4
        assert outcome.notes[0].startswith(f"trained on {note}, AdamW, learning rate 2e-05")
        assert outcome.numbers == blank.data.numbers
    without = dataclasses.replace(blank.data, retain_set=None, retain_rows=[])
    with pytest.raises(CannotServe, match="no retain set"):
        check_relearning(without, RelearnConfig("relearn", train_on="retain"))
    with pytest.raises(CannotServe, match=r"nowhere\.jsonl"):
        check_relearning(blank.data, RelearnConfig("relearn", texts="nowhere.jsonl"))


def test_what_cannot_be_trained_is_said(blank: Setting) -> None:
    attacked = blank.models["unlearned"]
    config = RelearnConfig("relearn")

    def contrast(path: str) -> Any:
        return ContrastedModel(*(load_model(attacked.run.model, path) for _ in range(2)), 1.0)

    two = AttackedModel("unlearned", attacked.path, attacked.run, attacked.device, contrast)
    with pytest.raises(CannotServe, match="decoded together"):
        relearn_rows(two, blank.data, config, Journal())
    attacked.run.hardware.args["fsdp"] = True
    try:
        with pytest.raises(CannotServe, match="relearn_lora"):
            relearn_rows(attacked, blank.data, config, Journal())
    finally:
        del attacked.run.hardware.args["fsdp"]


@pytest.mark.slow
def test_two_processes_relearn_as_one_does(tmp_path: Path) -> None:
    """The real command: what the trained copies answer is what one process's do."""
    setting = Setting(tmp_path / "setting")
    path = setting.add("unlearned", blank_model()).path
    keys = {"learning_rate": 1e-3, "batch_size": 3, "epochs": 2}
    given = [f"audit.attack.relearn_half.{key}={value}" for key, value in keys.items()]
    words = [*setting.words, f"model.path={path}", "audit.attacks=[relearn_half]", *given]
    cache = tmp_path / "cache"
    run = undial(
        "audit", *words, "hardware.num_processes=2", "report=false", "name=two",
        cwd=tmp_path, UNDIAL_CACHE_DIR=str(cache),
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    record = json.loads((tmp_path / "outputs/audit/two/audit/audit.json").read_text())
    assert record["missing"] == {}
    assert not list(cache.rglob("training-*"))
    two = record["attacks"]["relearn_half"]["scores"]
    one = relearn(setting, train_on="half", **keys)
    plain = average(ask_plainly(setting, "unlearned"), "probability")
    assert average(one, "probability") > 1.2 * plain
    for score in ("probability", "exact_memorization", "extraction_strength"):
        attacked = two[score]["attacked"]["unlearned"]
        assert attacked == pytest.approx(average(one, score), rel=1e-3)
