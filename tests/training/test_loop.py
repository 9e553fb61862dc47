"""What is packed before the first step, and what to try after a training that diverged."""

from __future__ import annotations

import pytest
from conftest import refused
from small import random_llama, small_model
from steps import compose_cpu_run

from undial_cli.config.schema import UnlearnRun
from undial_cli.models.lora import adapt_model
from undial_cli.runs.compose import compose_run
from undial_cli.training.loop import is_packed, suggest_remedy


def test_batches_are_packed_where_the_model_takes_it_and_it_is_wanted() -> None:
    auto, on, off = (compose_cpu_run(f"train.packing={word}") for word in ("auto", "on", "off"))
    llama, window = random_llama(), small_model("window", 64)
    assert is_packed(auto, llama)
    assert is_packed(on, llama)
    assert not is_packed(off, llama)
    assert not is_packed(auto, window)
    assert not is_packed(off, window)
    refused(lambda: is_packed(on, window), "train.packing=on", "mistral", "whole sequence")
    adapted = adapt_model(random_llama(), auto.adapter, 0)
    assert is_packed(on, adapted)
    assert llama.config._attn_implementation == "sdpa"


@pytest.mark.parametrize(
    "given, parts, without",
    [
        (["model.dtype=float16"], ["model.dtype=bfloat16", "float32"], ["learning_rate"]),
        (["model.dtype=float32"], ["a smaller train.learning_rate", "method.retain"], ["dtype"]),
        (["method.retain=gdr"], ["train.learning_rate", "train.epochs"], ["method.retain"]),
        (["train.max_grad_norm=0"], ["train.max_grad_norm=1"], ["dtype"]),
    ],
    ids=" ".join,
)  # fmt: skip
def test_what_to_try_fits_the_run(given: list[str], parts: list[str], without: list[str]) -> None:
    run = compose_run("unlearn", ["hardware=cpu", *given])
    assert isinstance(run, UnlearnRun)
    said = suggest_remedy(run)
    assert "\n" not in said
    assert all(part in said for part in parts)
    assert not any(part in said for part in without)
