"""Every pair of options composes; each is valid or refused in one line, as the tables say."""

from __future__ import annotations

import functools
import itertools
import random
from pathlib import Path

import pytest
import torch
from conftest import list_options

from undial_cli.config.schema import HardwareConfig, UnlearnRun
from undial_cli.errors import UserError
from undial_cli.methods import make_method
from undial_cli.runs.checks import check_run
from undial_cli.runs.compose import compose_run
from undial_cli.runs.hydra_configs import find_config_folder
from undial_cli.runs.resolved import ResolvedRun

GROUPS = ("model", "data", "method", "adapter", "hardware", "eval")
Option = tuple[str, str]

# Refused with everything on a machine without a GPU.
NEEDS_GPU: set[Option] = {
    ("hardware", "single_gpu"),
    ("hardware", "ddp"),
    ("hardware", "fsdp"),
    ("hardware", "deepspeed_zero2"),
    ("hardware", "deepspeed_zero3"),
}
# Refused everywhere: a suite on another data set's data.
SUITES = {
    "demo": ("demo",),
    "tofu": ("tofu",),
    "tofu_languages": ("tofu",),
    "files": ("jsonl",),
    "muse": ("muse_books", "muse_news"),
    "extraction": ("extraction", "jsonl"),
    "lume": ("lume",),
    "knowundo": ("knowundo",),
    "rwku": ("rwku",),
    "wmdp_bio": ("wmdp_bio",),
    "wmdp_cyber": ("wmdp_cyber",),
}
REFUSED: dict[tuple[str, str], str] = {
    (f"data={data}", f"eval={suite}"): f"eval={suite}: this suite needs data="
    for suite, known in SUITES.items()
    for data in list_options("data")
    if data not in known
}
# Models with a target for a data set; every other pair is refused unless model.path is given.
TARGETS: dict[str, set[str]] = {
    "tiny": {"demo"},
    "llama1b": {"tofu"},
    "llama3b": {"tofu"},
    "llama7b": {"tofu"},
    "llama8b": {"tofu"},
    "phi1_5": {"tofu"},
    "llama7b_base": {"muse_news", "muse_books"},
    "zephyr7b": {"wmdp_bio", "wmdp_cyber"},
    "gptneo_125m": {"extraction"},
    "gptneo_1_3b": {"extraction"},
    "gptneo_2_7b": {"extraction"},
}

# The models that meet every method: those with a recipe, and of the others, in which a method sees
# no difference, one that is trained whole and one with LoRA.
PAIRED_MODELS = {
    *(file.stem for file in (find_config_folder() / "recipe" / "unlearn").glob("*.yaml")),
    "llama1b", "llama7b",
}  # fmt: skip
# Of those with neither a recipe nor a target, in which no group sees a difference, one by adapter.
LIKE_OTHERS = set(list_options("model")) - {
    *TARGETS, *PAIRED_MODELS, "qwen3_4b", "qwen3_8b", "llama70b",
}  # fmt: skip

without_gpu = pytest.mark.skipif(
    torch.cuda.device_count() > 0, reason="what needs a GPU is refused only without one"
)


REFUSED_WORDS = {frozenset(pair) for pair in REFUSED}


@functools.cache
def is_refused(pair: tuple[Option, Option]) -> bool:
    """Whether the table REFUSED lists a pair."""
    return frozenset(f"{group}={option}" for group, option in pair) in REFUSED_WORDS


def list_pairs() -> list[tuple[Option, Option]]:
    """Every pair of options that is looked at, those of REFUSED too."""
    pairs = [
        ((a, x), (b, y))
        for a, b in itertools.combinations(GROUPS, 2)
        for x in list_options(a)
        for y in list_options(b)
    ]
    return [
        ((a, x), b)
        for (a, x), b in pairs
        if a != "model" or (x not in LIKE_OTHERS if b[0] != "method" else x in PAIRED_MODELS)
    ]


def draw_config(
    fixed: dict[str, str], choices: dict[str, list[str]], chooser: random.Random
) -> dict[str, str] | None:
    """Options at random, no two of which are refused; None on a dead end."""
    config = dict(fixed)
    for group in GROUPS:
        free = [
            option
            for option in ([fixed[group]] if group in fixed else choices[group])
            if not any(is_refused((other, (group, option))) for other in config.items())
        ]
        if not free:
            return None
        config[group] = chooser.choice(free)
    return {group: config[group] for group in GROUPS}


@functools.cache
def covering_set() -> list[dict[str, str]]:
    """Configs in which every pair of options occurs, but those of REFUSED (which end at once)."""
    chooser = random.Random(0)
    choices = {group: list_options(group) for group in GROUPS}
    missing = {pair for pair in list_pairs() if not is_refused(pair)}

    def pairs(config: dict[str, str]) -> set[tuple[Option, Option]]:
        return set(itertools.combinations([(g, config[g]) for g in GROUPS], 2))

    found = []
    while missing:
        fixed = dict(min(missing))
        tries = []
        for _ in range(60):
            config = draw_config(fixed, choices, chooser)
            if config is not None:
                tries.append((len(pairs(config) & missing), tuple(config.items())))
        best = dict(max(tries)[1])
        missing -= pairs(best)
        found.append(best)
    return found


def refusal(run: UnlearnRun) -> str:
    """What check_run says against a run, or "" if it is valid."""
    try:
        check_run(ResolvedRun(run))
    except UserError as error:
        return str(error)
    return ""


def judge(config: dict[str, str]) -> list[str]:
    """What is not as the tables say about one config; a refused run is mended and judged again."""
    label = " ".join(f"{g}={o}" for g, o in config.items())
    try:
        run = compose_run("unlearn", label.split())
    except UserError as error:
        return [f"{label}: does not compose: {error}"]
    assert isinstance(run, UnlearnRun)
    wrong = []

    def expect(fragment: str) -> None:
        said = refusal(run)
        if (fragment not in said) if fragment else said:
            wrong.append(f"{label}: expected {fragment or 'valid'!r}, got {said!r}")
        if "\n" in said:
            wrong.append(f"{label}: more than one line: {said!r}")

    if NEEDS_GPU & set(config.items()):
        expect("needs a GPU")
        run.hardware = HardwareConfig(name="cpu", precision="no")
    no_retain = ("jsonl", "extraction", "rwku")
    if "retain" in make_method(run.method).terms() and config["data"] in no_retain:
        expect("needs a retain set")
        run.data.retain_file = "kept.jsonl"
    if (config["method"], run.adapter.name) == ("contrastive_decoding", "qlora"):
        expect("method=contrastive_decoding decodes two models of whole weights")
        run.adapter.merge = True
    if config["data"] not in TARGETS.get(config["model"], set()):
        expect("no target model is known for this data; name one: model.path=..., or make one: ")
        run.model.path = "somebody/their-model"
    expect("")
    return wrong


@pytest.mark.slow
@without_gpu
def test_every_pair_of_options_is_valid_or_refused_as_the_tables_say() -> None:
    wrong = [line for config in covering_set() for line in judge(config)]
    assert not wrong, "\n".join(wrong)


@pytest.mark.slow
def test_the_covering_set_holds_every_pair_that_is_not_refused() -> None:
    found = {
        frozenset(pair)
        for config in covering_set()
        for pair in itertools.combinations(config.items(), 2)
    }
    assert {frozenset(p) for p in list_pairs() if not is_refused(p)} <= found
    assert sum(map(is_refused, list_pairs())) == len(REFUSED)


@pytest.mark.slow
@pytest.mark.parametrize("pair", REFUSED)
def test_a_suite_of_another_data_set_is_refused_in_one_line(pair: tuple[str, str]) -> None:
    words = [*pair, "hardware=cpu", "model.path=some/model"]
    with pytest.raises(UserError) as caught:
        check_run(ResolvedRun(compose_run("unlearn", words)))
    assert REFUSED[pair] in str(caught.value)
    assert "\n" not in str(caught.value)


def test_tables_name_only_options_that_exist() -> None:
    for group, option in NEEDS_GPU:
        assert option in list_options(group)
    for pair in REFUSED:
        for word in pair:
            group, _, option = word.partition("=")
            assert option in list_options(group)
    assert set(TARGETS) | PAIRED_MODELS <= set(list_options("model"))
    assert set().union(*TARGETS.values()) <= set(list_options("data"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["finetune", "evaluate"])
def test_finetune_and_evaluate_compose_with_every_model_and_data_set(command: str) -> None:
    models, data = list_options("model"), itertools.cycle(list_options("data"))
    adapters = itertools.cycle(["none", "lora", "auto"])
    for model in models:
        words = [f"model={model}", f"data={next(data)}", "hardware=cpu"]
        words += [f"adapter={next(adapters)}"] if command == "finetune" else ["model.path=a/model"]
        run = compose_run(command, words)
        check_run(ResolvedRun(run))
        assert (run.command, run.model.name) == (command, model)


def test_config_dir_adds_a_users_own_option(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from undial_cli.cli import run_command

    (tmp_path / "mine" / "model").mkdir(parents=True)
    (tmp_path / "mine" / "model" / "my_own.yaml").write_text(
        "# Mine.\nname: my_own\nbase: me/base\npath: me/target\n"
    )
    (tmp_path / "mine" / "recipe" / "unlearn").mkdir(parents=True)
    (tmp_path / "mine" / "recipe" / "unlearn" / "my_own.yaml").write_text("epochs: 3\n")
    monkeypatch.chdir(tmp_path)
    run = compose_run("unlearn", ["model=my_own"], extra_configs="mine")
    assert isinstance(run, UnlearnRun)
    assert (run.model.name, run.model.path, run.train.epochs) == (
        "my_own", "me/target", 3
    )  # fmt: skip
    assert run_command(["unlearn", "--config-dir", "mine", "model=my_own", "--cfg", "job"]) == 0
    assert "path: me/target" in capsys.readouterr().out
