"""Task arithmetic: the saved weights are the formula's, tensor by tensor."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from conftest import write_qa
from run_helpers import start, weights
from safetensors.torch import load_file, save_file
from torch import Tensor

from undial_cli.system.weight_files import negate_task_vector


def test_full_weights_are_stepped_back_over_any_number_of_files(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shapes = {"a": (3, 4), "b": (5,), "c": (2, 2)}
    dtypes = {"a": torch.float32, "b": torch.bfloat16, "c": torch.float64}
    theta, tuned = (
        {n: torch.randn(s, dtype=torch.float64).to(dtypes[n]) for n, s in shapes.items()}
        for _ in range(2)
    )
    count = {"count": torch.tensor([7])}
    before, after = tmp_path / "start", tmp_path / "checkpoint"
    before.mkdir()
    after.mkdir()
    save_file({**theta, "count": torch.tensor([3])}, before / "model.safetensors")
    save_file({"a": tuned["a"], **count}, after / "model-1.safetensors", {"format": "pt"})
    save_file({n: tuned[n] for n in ("b", "c")}, after / "model-2.safetensors")
    negate_task_vector(after, before, 0.6)
    found = {n: t for f in after.glob("*.safetensors") for n, t in load_file(f).items()}
    assert sorted(p.name for p in after.iterdir()) == ["model-1.safetensors", "model-2.safetensors"]
    assert found.keys() == {*shapes, "count"}
    assert torch.equal(found["count"], count["count"])
    for name in shapes:
        wide = torch.float64 if name == "c" else torch.float32
        a, b = theta[name].to(wide), tuned[name].to(wide)
        assert found[name].dtype == dtypes[name]
        assert torch.equal(found[name], (a - 0.6 * (b - a)).to(dtypes[name]))


def test_tied_weights_that_one_folder_holds_twice_are_stepped_back_alike(tmp_path: Path) -> None:
    torch.manual_seed(0)
    before, after = tmp_path / "start", tmp_path / "checkpoint"
    before.mkdir()
    after.mkdir()
    theta, tuned, other = torch.randn(3, 4, 2)
    save_file({"b.embed": theta, "c.other": other}, before / "model.safetensors")
    save_file({"a.head": tuned.clone()}, after / "model-1.safetensors")
    save_file({"b.embed": tuned, "c.other": other}, after / "model-2.safetensors")
    negate_task_vector(after, before, 0.6)
    head = load_file(after / "model-1.safetensors")["a.head"]
    rest = load_file(after / "model-2.safetensors")
    assert torch.equal(head, rest["b.embed"])
    assert torch.equal(head, theta - 0.6 * (tuned - theta))
    assert torch.equal(rest["c.other"], other)


def task(model: Path, out: Path, coefficient: float, *words: str) -> dict[str, Tensor]:
    """The weights that task arithmetic leaves."""
    out.mkdir()
    forget = write_qa(out / "forget.jsonl", 5)
    more = [f"data.forget_file={forget}", "eval=none", "train.batch_size=3", "adapter.dropout=0"]
    method = ["method=task_arithmetic", f"method.coefficient={coefficient}"]
    return weights(start(model, out, "data=jsonl", *more, *method, *words))


def tuned_on(model: Path, out: Path, *words: str) -> dict[str, Tensor]:
    """The weights of plain fine-tuning on the same rows."""
    out.mkdir()
    rows = write_qa(out / "retain.jsonl", 5)
    more = ["method=finetune", f"data.retain_file={rows}", "data.anchor=retain", "eval=none"]
    more += ["train.batch_size=3", "adapter.dropout=0"]
    return weights(start(model, out, "data=jsonl", *more, *words))


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["tied", pytest.param("untied", marks=pytest.mark.slow)])
def test_what_was_learnt_is_subtracted_from_every_weight(
    kind: str, random_model: Path, untied_model: Path, tmp_path: Path
) -> None:
    model = random_model if kind == "tied" else untied_model
    theta, tuned = load_file(model / "model.safetensors"), tuned_on(model, tmp_path / "tuned")
    found = task(model, tmp_path / "task", 0.7)
    assert found.keys() == theta.keys() == tuned.keys()
    for name, before in theta.items():
        assert torch.equal(found[name], before - 0.7 * (tuned[name] - before)), name
        assert not torch.equal(tuned[name], before)


@pytest.mark.slow
def test_a_coefficient_of_0_leaves_the_target(random_model: Path, tmp_path: Path) -> None:
    theta = load_file(random_model / "model.safetensors")
    found = task(random_model, tmp_path / "task", 0)
    assert all(torch.equal(found[name], before) for name, before in theta.items())


@pytest.mark.slow
def test_an_adapter_is_negated(random_model: Path, tmp_path: Path) -> None:
    lora = ["adapter=lora", "train.learning_rate=1e-2"]
    tuned = tuned_on(random_model, tmp_path / "tuned", *lora)
    found = task(random_model, tmp_path / "task", 0.7, *lora)
    assert found.keys() == tuned.keys()
    assert any("lora_B" in name and t.any() for name, t in tuned.items())
    for name, value in tuned.items():
        assert torch.equal(found[name], -0.7 * value if "lora_B" in name else value), name


@pytest.mark.slow
def test_merged_weights_are_those_of_the_negated_adapter(
    random_model: Path, tmp_path: Path
) -> None:
    from peft import AutoPeftModelForCausalLM
    from transformers import AutoModelForCausalLM

    lora = ["adapter=lora", "train.learning_rate=1e-2"]
    task(random_model, tmp_path / "apart", 0.7, *lora)
    task(random_model, tmp_path / "merged", 0.7, *lora, "adapter.merge=true")
    folders = [tmp_path / name / "unlearn" / "run" / "checkpoint" for name in ("merged", "apart")]
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        whole = AutoModelForCausalLM.from_pretrained(folders[0]).eval()(ids).logits
        parts = AutoPeftModelForCausalLM.from_pretrained(folders[1]).eval()(ids).logits
        target = AutoModelForCausalLM.from_pretrained(random_model).eval()(ids).logits
    torch.testing.assert_close(whole, parts, rtol=1e-4, atol=1e-3)
    assert float((whole - target).abs().max()) > 0.05
