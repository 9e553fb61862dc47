"""The demo's models, audited: each gets its verdict, from the target to a collapsed one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

import undial_cli

BRIEF = ["hardware=cpu", "report=false"]

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def outputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("outputs")


def audit_model(outputs: Path, name: str, *words: str) -> dict[str, Any]:
    """The audit.json of a quick audit."""
    keys = ["audit=quick", f"output_dir={outputs}", f"name={name}", *BRIEF]
    result = undial_cli.run([*words, *keys], "audit")
    return json.loads((result.folder / "audit" / "audit.json").read_text())


def unlearn_demo(outputs: Path, method: str) -> dict[str, Any]:
    """The audit.json at the end of an unlearning of the demo."""
    keys = [f"method={method}", "audit=quick", f"output_dir={outputs}", f"name={method}", *BRIEF]
    result = undial_cli.run(keys)
    return json.loads((result.folder / "audit" / "audit.json").read_text())


def train_retain_model(outputs: Path, seed: int) -> Path:
    """A model that never saw the forget set."""
    keys = ["model=tiny", "data=demo", "data.train_split=[retain90,facts]", f"seed={seed}"]
    keys += ["eval=none", f"output_dir={outputs}", f"name=retain-{seed}", *BRIEF]
    return undial_cli.run(keys, "finetune").folder / "checkpoint"


def read_recovered(audit: dict[str, Any], attack: str) -> float:
    entry = audit["attacks"][attack]
    return entry["scores"][entry["score"]]["recovered"]


def test_the_target_leaks(outputs: Path) -> None:
    audit = audit_model(outputs, "target")
    assert audit["verdict"]["word"] == "leaking"
    assert read_recovered(audit, "direct") == 1.0


def test_the_retain_model_is_as_if_it_had_never_seen_the_data(outputs: Path) -> None:
    own = json.loads((outputs / "audit" / "target" / "audit" / "audit.json").read_text())
    itself = audit_model(outputs, "itself", f"model.path={own['models']['retain']['path']}")
    assert itself["verdict"]["word"] == "as if never seen"
    assert {read_recovered(itself, attack) for attack in itself["attacks"]} == {0.0}
    another = train_retain_model(outputs, seed=3)
    audit = audit_model(outputs, "another", f"model.path={another}")
    assert audit["verdict"]["word"] == "as if never seen"


def test_a_collapsed_model_is_destroyed(outputs: Path) -> None:
    audit = unlearn_demo(outputs, "ga")
    assert audit["verdict"]["word"] == "destroyed"
    assert audit["works"]["retain_rouge"]["lost"]


def test_undial_is_quiet_when_asked_and_known_by_what_it_still_holds(outputs: Path) -> None:
    audit = unlearn_demo(outputs, "undial")
    assert audit["verdict"]["word"] == "suppressed"
    assert read_recovered(audit, "direct") < 0.2
    assert read_recovered(audit, "membership") == 1.0
    assert not audit["works"]["retain_rouge"]["lost"]


def test_an_unlearned_model_that_was_quantised_for_good_is_audited_like_any(outputs: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from bitsandbytes.functional import dequantize_4bit, quantize_4bit

    whole, rounded = outputs / "unlearn" / "undial" / "checkpoint", outputs / "nf4"
    rounded.mkdir()
    for file in whole.iterdir():
        (rounded / file.name).write_bytes(file.read_bytes())
    weights = load_file(rounded / "model.safetensors")
    for name, weight in weights.items():
        if name.endswith("_proj.weight"):
            codes, state = quantize_4bit(weight, quant_type="nf4")
            weights[name] = dequantize_4bit(codes, state).reshape(weight.shape)
    save_file(weights, rounded / "model.safetensors", {"format": "pt"})
    audit = audit_model(outputs, "nf4", f"model.path={rounded}")
    assert audit["verdict"]["word"] in ("suppressed", "leaking")
    # What the attack says of the whole model is what the rounded one says when it is asked.
    of_whole = json.loads((outputs / "unlearn" / "undial" / "audit" / "audit.json").read_text())
    gap = read_recovered(audit, "direct") - read_recovered(of_whole, "quantise")
    assert abs(gap) < 0.1
