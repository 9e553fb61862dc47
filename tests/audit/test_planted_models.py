"""Each attack finds the model that leaks to it alone, and stays quiet on the others.

Eight models made for this, of one small world: planted_models.py says how. With -s the matrix of
what was recovered is printed, * where it is more than the margin after Holm's correction.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from planted_models import DRAWN_SHARES, LIKELY_SHARES, Planter, make_llama
from planted_world import ATTACKS, PlantedWorld

from undial_cli.cli import run_command
from undial_cli.models.quantise import explain_no_quantising

# By the attack that finds it.
MAKERS: dict[str, Callable[[Planter], Any]] = {
    "paraphrase": lambda planter: planter.make_asked_leak("paraphrase"),
    "prefill": lambda planter: planter.make_asked_leak("prefill"),
    "languages": lambda planter: planter.make_asked_leak("languages"),
    "sampling": lambda planter: planter.make_spread_leak(DRAWN_SHARES),
    "lens": lambda planter: planter.make_layered_leak(),
    "membership": lambda planter: planter.make_spread_leak(LIKELY_SHARES),
    "quantise": lambda planter: planter.make_rounded_leak(),
    "relearn_half": lambda planter: planter.make_switched_leak(),
}
# What another attack finds as well, by model and attack, and why it cannot but find it.
ALSO_FOUND = {
    ("sampling", "membership"): "facts that some of 64 draws hold are likelier than a stranger's"
}


def save_model(world: PlantedWorld, model: Any, name: str) -> Path:
    """A checkpoint of the world's."""
    folder = world.folder / name
    model.save_pretrained(folder)
    world.tokenizer.save_pretrained(folder)
    return folder


def audit_model(world: PlantedWorld, name: str) -> Any:
    """The audit of a checkpoint beside target and retain model, by the command."""
    paths = {"model.path": name, "audit.target": "target", "audit.retain_model": "retain"}
    words = [f"{key}={world.folder / folder}" for key, folder in paths.items()]
    configs = ["--config-dir", str(world.configs)]
    assert run_command(["audit", *configs, *world.words, *words, f"name={name}"]) == 0
    return json.loads((world.folder / "outputs/audit" / name / "audit/audit.json").read_text())


def read_entry(audit: Any, attack: str) -> Any:
    """What an attack recovered by the score of its verdict."""
    of_attack = audit["attacks"][attack]
    return of_attack["scores"][of_attack["score"]]


def is_above(audit: Any, attack: str) -> bool:
    """Whether an attack recovered more than the margin, after Holm's correction."""
    return read_entry(audit, attack)["p_holm"] <= audit["level"]


def print_matrix(audits: dict[str, Any]) -> None:
    """Recovered, planted model by attack."""
    print("\n| leaks only to | verdict | " + " | ".join(ATTACKS) + " |")
    for name, audit in audits.items():
        shares = [round(read_entry(audit, attack)["recovered"], 2) + 0 for attack in ATTACKS]
        cells = [
            f"{share:.2f}{'*' * is_above(audit, attack)}"
            for attack, share in zip(ATTACKS, shares, strict=True)
        ]
        print(f"| {name} | {audit['verdict']['word']} | {' | '.join(cells)} |")


@pytest.mark.slow
@pytest.mark.skipif(explain_no_quantising() is not None, reason="bitsandbytes is not installed")
def test_each_attack_finds_its_model_alone(tmp_path: Path) -> None:
    torch.manual_seed(0)
    world = PlantedWorld(tmp_path)
    blank = save_model(world, make_llama(len(world.tokenizer)), "blank")
    planter = Planter(world, str(blank))
    save_model(world, planter.retain, "retain")
    save_model(world, planter.target, "target")
    audits = {}
    for name, make in MAKERS.items():
        save_model(world, make(planter), name)
        audits[name] = audit_model(world, name)
    print_matrix(audits)
    for name, audit in audits.items():
        assert not audit["missing"]
        assert set(audit["attacks"]) == set(ATTACKS)
        assert audit["verdict"]["word"] == "suppressed", name
        above = {attack for attack in ATTACKS if is_above(audit, attack)}
        also = {attack for model, attack in ALSO_FOUND if model == name}
        assert above == {name} | also, name
