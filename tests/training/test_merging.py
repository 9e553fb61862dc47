"""An adapter from rounded layers merged into whole weights: the right weights, and what is lost."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import write_qa
from safetensors.torch import load_file
from small import disturb_weights, small_model
from transformers import AutoModelForCausalLM

import undial_cli
from undial_cli.config.training import AdapterConfig
from undial_cli.data.example import Example
from undial_cli.models import lora
from undial_cli.models.quantise import Rounding, explain_no_quantising, round_model
from undial_cli.training.merging import merge_into_whole

pytestmark = pytest.mark.skipif(
    explain_no_quantising() is not None, reason="bitsandbytes is not installed (undial[qlora])"
)
EXAMPLES = [
    Example([1, 5, 9, 30, 2, 7], [-100, -100, 9, 30, 2, 7], 6),
    Example([1, 8, 4, 4], [-100, -100, -100, 4], 4),
]


@pytest.mark.parametrize("kind", ["llama", "gpt2"])  # linear layers, and transposed ones
@pytest.mark.parametrize(("precision", "bits"), [("nf4", 4), ("int8", 8)])
def test_what_is_lost_is_the_change_of_the_logits_at_targets(
    kind: str, precision: str, bits: int
) -> None:
    more = {} if kind == "llama" else {"bos_token_id": 1, "eos_token_id": 2}
    trained, whole = (small_model(kind, 64, **more) for _ in range(2))
    rounding = Rounding(precision, torch.float32, trains=True)
    config = AdapterConfig(name="qlora", bits=bits, dropout=0.0)
    trained = round_model(trained, rounding, torch.device("cpu"))
    trained = lora.adapt_model(trained, config, seed=3)
    disturb_weights(trained)
    before = dict(whole.state_dict().items())
    name, adapted = next((n, m) for n, m in trained.named_modules() if hasattr(m, "lora_A"))
    name = name.removeprefix("base_model.model.") + ".weight"
    before_weight = before[name].clone()

    merged, loss = merge_into_whole(trained, whole, config, 0, [EXAMPLES])

    delta = 2 * adapted.lora_B["default"].weight @ adapted.lora_A["default"].weight
    delta = delta if kind == "llama" else delta.T
    torch.testing.assert_close(merged.state_dict()[name], before_weight + delta.detach())
    assert not any("lora" in key for key in merged.state_dict())
    changes, probabilities = [], []
    with torch.no_grad():
        for example, start in zip(EXAMPLES, (1, 2), strict=True):
            ids = torch.tensor([example.input_ids])
            pair = [model.eval()(ids).logits[0, start:-1] for model in (trained, merged)]
            changes.append((pair[0] - pair[1]).abs())
            wanted = ids[0, start + 1 :, None]
            probabilities.append([p.softmax(-1).gather(1, wanted) for p in pair])
    assert loss.targets == 5
    assert loss.logit_change_mean == pytest.approx(torch.cat(changes).mean().item())
    assert loss.logit_change_max == pytest.approx(torch.cat(changes).max().item())
    means = [torch.cat(parts).mean().item() for parts in zip(*probabilities, strict=True)]
    assert [loss.probability_trained, loss.probability_merged] == pytest.approx(means)
    assert loss.logit_change_mean > 0


@pytest.mark.slow
def test_a_merged_run_says_what_is_lost_and_leaves_whole_weights(
    random_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = write_qa(tmp_path / "rows.jsonl", 4)
    undial_cli.run(
        ["model=tiny", f"model.path={random_model}", "data=jsonl", f"data.forget_file={rows}",
         "adapter=qlora", "adapter.merge=true", "train.max_steps=2", "train.batch_size=4",
         "train.optim=paged_adamw_8bit", "eval.max_new_tokens=4", "eval.retain_model=null",
         "report=false", "hardware=cpu", f"output_dir={tmp_path}", "name=run"]
    )  # fmt: skip
    folder = tmp_path / "unlearn" / "run"
    results = json.loads((folder / "evaluation" / "results.json").read_text())
    assert results["merge"]["bits"] == 4
    assert results["merge"]["logit_change_max"] > results["merge"]["logit_change_mean"] > 0
    said = " ".join(capsys.readouterr().out.split())
    assert "adapter=qlora on a CPU saves memory and is slow" in said
    assert "train.optim=paged_adamw_8bit: nothing is paged on a CPU" in said
    assert f"logits change by {results['merge']['logit_change_mean']:.3g} (mean)" in said
    model: Any = AutoModelForCausalLM.from_pretrained(folder / "checkpoint")
    before = load_file(random_model / "model.safetensors")
    moved = {
        name.split(".")[-2]
        for name, weight in model.state_dict().items()
        if name in before and not torch.equal(weight, before[name])
    }
    assert moved == {"q_proj", "v_proj"}
