"""The names of runs follow from the settings that make them what they are."""

from __future__ import annotations

import re

from undial_cli.config.identity import collect_identity, make_default_name
from undial_cli.config.schema import UnlearnRun
from undial_cli.config.training import AdapterConfig
from undial_cli.runs.compose import compose_run


def test_the_default_name_ignores_processes_and_places_but_not_settings() -> None:
    base = make_default_name(compose_run("unlearn", []))
    assert re.fullmatch(r"tiny-demo-undial-[0-9a-f]{10}", base)
    same = ["hardware.num_processes=2", "output_dir=elsewhere", "overwrite=true", "resume=false"]
    same += ["train.learning_rates.lora=1e-2"]
    assert make_default_name(compose_run("unlearn", same)) == base
    for word in ("seed=1", "method.strength=3", "train.learning_rate=1e-3", "data.limit=4"):
        assert make_default_name(compose_run("unlearn", [word])) != base


def test_bits_count_where_layers_are_rounded() -> None:
    run = compose_run("unlearn", ["adapter=qlora"])
    assert isinstance(run, UnlearnRun)

    def name(adapter: str, bits: int) -> str:
        run.adapter = AdapterConfig(name=adapter, bits=bits)
        return make_default_name(run)

    assert name("qlora", 4) != name("qlora", 8)
    assert name("lora", 4) == name("lora", 8)


def test_keys_of_a_strength_that_sets_itself_count_where_it_does() -> None:
    def name(*words: str) -> str:
        return make_default_name(compose_run("unlearn", list(words)))

    run = compose_run("unlearn", [])
    assert "method.auto_questions" not in collect_identity(run)
    assert collect_identity(run)["method.strength"] == 10.0
    assert name("method.strength=10") == name("method.strength='10.0'") == make_default_name(run)
    names = {name("method.strength=auto", f"method.auto_questions={k}") for k in (8, 16)}
    names |= {name("method.strength=auto", "method.auto_limit=30"), name()}
    assert len(names) == 4


def test_keys_of_a_choice_count_where_weights_are_chosen() -> None:
    run = compose_run("unlearn", [])
    assert isinstance(run, UnlearnRun)
    plain = make_default_name(run)
    run.train.select_share = 0.5
    assert make_default_name(run) == plain
    run.train.select = "nearest_retain"
    chosen = make_default_name(run)
    run.train.keep = "all"
    assert len({plain, chosen, make_default_name(run)}) == 3
