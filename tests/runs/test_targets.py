"""Which models a run means, and that what it makes is trained as finetune trains it."""

from __future__ import annotations

import pytest

from undial_cli.config.schema import FinetuneRun, UnlearnRun
from undial_cli.runs.compose import compose_run
from undial_cli.runs.resolved import ResolvedRun

SPLITS = [("forget10", "retain90"), ("forget05", "retain95"), ("forget01", "retain99")]


def test_a_target_that_is_made_is_trained_as_finetune_trains_it() -> None:
    run = ResolvedRun(compose_run("unlearn", ["method=npo", "adapter=lora"]))
    made = run.make_finetune_run(run.target_model).run
    finetune = compose_run("finetune", ["adapter=none"])
    assert isinstance(made, FinetuneRun)
    assert isinstance(finetune, FinetuneRun)
    assert made.train == finetune.train
    assert (made.train.learning_rate, made.train.batch_size, made.train.epochs) == (3e-3, 16, 30)
    words = ["target.epochs=2", "target.learning_rates.none=0.01"]
    evaluated = ResolvedRun(compose_run("evaluate", words))
    other = evaluated.make_finetune_run(evaluated.target_model).run
    assert isinstance(other, FinetuneRun)
    assert (other.train.learning_rate, other.train.batch_size, other.train.epochs) == (0.01, 16, 2)
    assert other.name != made.name


@pytest.mark.parametrize("forget, retain", SPLITS)
def test_llama7b_on_tofu_means_the_published_models(forget: str, retain: str) -> None:
    from undial_cli.runs.targets import resolve_retain_model, resolve_target

    run = compose_run("unlearn", ["model=llama7b", "data=tofu", f"data.forget_split={forget}"])
    assert run.data.retain_split == retain
    assert resolve_target(run).path == "open-unlearning/tofu_Llama-2-7b-chat-hf_full"
    reference = resolve_retain_model(run)
    assert reference is not None
    assert reference.path == f"open-unlearning/tofu_Llama-2-7b-chat-hf_{retain}"
    assert (run.data.forget_split, run.data.retain_split) == (forget, retain)
    assert run.eval.sets["forget"].split == f"{forget}_perturbed"


def test_llama7b_is_trained_as_in_the_paper_with_its_own_prompt() -> None:
    run = compose_run("unlearn", ["model=llama7b", "data=tofu"])
    assert isinstance(run, UnlearnRun)
    adapter, train, template = run.adapter, run.train, run.model.template
    assert (adapter.name, adapter.rank, adapter.alpha, adapter.dropout) == ("lora", 8, 16, 0.05)
    assert (train.learning_rate, train.batch_size) == (1e-4, 32)
    assert (template.chat, template.prompt) == (False, "[INST] {question} [/INST]")


@pytest.mark.parametrize("model", ["llama1b", "llama3b", "llama8b"])
def test_llama3_models_get_the_date_their_targets_were_trained_with(model: str) -> None:
    run = compose_run("unlearn", [f"model={model}", "data=tofu"])
    assert run.model.template.chat is True
    assert run.model.template.date_string == "10 Apr 2025"
    assert run.model.template.system_prompt == "You are a helpful assistant."
