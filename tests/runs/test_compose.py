"""Every pair of options composes; each is valid or refused in one line, as the tables say."""

from __future__ import annotations

import itertools
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from undial_cli.config.schema import (
    AdapterConfig,
    FinetuneRun,
    HardwareConfig,
    UnlearnRun,
    make_default_name,
)
from undial_cli.errors import UserError
from undial_cli.methods import make_method
from undial_cli.runs.checks import check_run
from undial_cli.runs.compose import compose_run, find_config_folder
from undial_cli.runs.resolved import ResolvedRun
from undial_cli.runs.run_yaml import dump_run_yaml, load_run

GROUPS = ("model", "data", "method", "adapter", "hardware", "eval")
Option = tuple[str, str]

# Refused with everything on a machine without a GPU.
NEEDS_GPU: set[Option] = {
    ("hardware", "single_gpu"),
    ("hardware", "ddp"),
    ("hardware", "fsdp"),
    ("hardware", "deepspeed_zero3"),
    ("adapter", "qlora"),
}
# Refused everywhere: a suite on another data set's data.
SUITES = {
    "demo": ("demo",),
    "tofu": ("tofu",),
    "files": ("jsonl",),
    "muse": ("muse_books", "muse_news"),
    "extraction": ("extraction", "jsonl"),
}
REFUSED: dict[tuple[str, str], str] = {
    (f"data={data}", f"eval={suite}"): f"eval={suite}: this suite needs data="
    for suite, known in SUITES.items()
    for data in ("demo", "tofu", "jsonl", "muse_books", "muse_news", "extraction")
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
    "gptneo_125m": {"extraction"},
    "gptneo_1_3b": {"extraction"},
    "gptneo_2_7b": {"extraction"},
}

without_gpu = pytest.mark.skipif(
    torch.cuda.device_count() > 0, reason="what needs a GPU is refused only without one"
)


def options(group: str) -> list[str]:
    """The options of a group, as they lie in configs/."""
    return sorted(file.stem for file in (find_config_folder() / group).glob("*.yaml"))


def is_refused(pair: tuple[Option, Option]) -> bool:
    """Whether the table REFUSED lists a pair."""
    words = {f"{group}={option}" for group, option in pair}
    return any(set(listed) == words for listed in REFUSED)


def covering_set() -> list[dict[str, str]]:
    """Configs in which every pair of options occurs, but those of REFUSED (which end at once)."""
    chooser = random.Random(0)
    choices = {group: options(group) for group in GROUPS}
    missing = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(GROUPS, 2)
        for x in choices[a]
        for y in choices[b]
        if not is_refused(((a, x), (b, y)))
    }

    def pairs(config: dict[str, str]) -> set[tuple[Option, Option]]:
        return set(itertools.combinations([(g, config[g]) for g in GROUPS], 2))

    found = []
    while missing:
        fixed = dict(min(missing))
        tries = []
        for _ in range(60):
            config = {g: fixed.get(g) or chooser.choice(choices[g]) for g in GROUPS}
            if not any(map(is_refused, pairs(config))):
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
        if run.adapter.name == "qlora":
            run.adapter = AdapterConfig(name="lora")
    if "retain" in make_method(run.method).terms() and config["data"] in ("jsonl", "extraction"):
        expect("needs a retain set")
        run.data.retain_file = "kept.jsonl"
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
    pairs = [
        ((a, x), (b, y))
        for a, b in itertools.combinations(GROUPS, 2)
        for x in options(a)
        for y in options(b)
    ]
    assert {frozenset(p) for p in pairs if not is_refused(p)} <= found
    assert sum(map(is_refused, pairs)) == len(REFUSED)


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
        assert option in options(group)
    for pair in REFUSED:
        for word in pair:
            group, _, option = word.partition("=")
            assert option in options(group)
    assert set(TARGETS) <= set(options("model"))
    assert set().union(*TARGETS.values()) <= set(options("data"))


@pytest.mark.slow
@pytest.mark.parametrize("command", ["finetune", "evaluate"])
def test_finetune_and_evaluate_compose_with_every_model_and_data_set(command: str) -> None:
    models, data = options("model"), itertools.cycle(options("data"))
    adapters = itertools.cycle(["none", "lora", "auto"])
    for model in models:
        words = [f"model={model}", f"data={next(data)}", "hardware=cpu"]
        words += [f"adapter={next(adapters)}"] if command == "finetune" else ["model.path=a/model"]
        run = compose_run(command, words)
        check_run(ResolvedRun(run))
        assert (run.command, run.model.name) == (command, model)


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


SPLITS = [("forget10", "retain90"), ("forget05", "retain95"), ("forget01", "retain99")]


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


@pytest.mark.parametrize(
    "command, words",
    [
        ("unlearn", ["method=npo", "method.beta=0.3", "train.args.adam_beta2=0.95"]),
        ("unlearn", ["model=llama7b", "data=tofu", "method.retain=klr", "name=yes"]),
        ("unlearn", ["experiment=tofu_smollm2_cpu", "data.path=/some/where"]),
        ("finetune", ["data.limit=3"]),
        ("evaluate", ["model=llama1b", "data=tofu"]),
    ],
)
def test_a_run_survives_its_run_yaml(command: str, words: list[str], tmp_path: Path) -> None:
    run = compose_run(command, words)
    (tmp_path / "run.yaml").write_text(dump_run_yaml(run))
    again = load_run(tmp_path / "run.yaml")
    assert again == run
    assert type(again) is type(run)
    assert dump_run_yaml(again) == dump_run_yaml(run)


def test_the_default_name_ignores_processes_and_places_but_not_settings() -> None:
    base = make_default_name(compose_run("unlearn", []))
    assert re.fullmatch(r"tiny-demo-undial-[0-9a-f]{10}", base)
    same = ["hardware.num_processes=2", "output_dir=elsewhere", "overwrite=true", "resume=false"]
    same += ["train.learning_rates.lora=1e-2"]
    assert make_default_name(compose_run("unlearn", same)) == base
    for word in ("seed=1", "method.strength=3", "train.learning_rate=1e-3", "data.limit=4"):
        assert make_default_name(compose_run("unlearn", [word])) != base


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


SPY = """
import sys
from undial_cli.cli import run_command
code = run_command(sys.argv[1:]) if len(sys.argv) > 1 else 0
heavy = {"torch", "transformers", "datasets", "peft", "accelerate"} & set(sys.modules)
sys.exit(code or (f"imported {heavy}" if heavy else 0))
"""


@pytest.mark.parametrize(
    "words",
    [[], ["--help"], ["unlearn", "--help"], ["unlearn", "--cfg", "job"], ["--version"]],
    ids=lambda words: " ".join(words) or "import",
)
def test_help_and_cfg_job_do_not_import_torch(words: list[str], tmp_path: Path) -> None:
    spy = [sys.executable, "-c", SPY, *words]
    done = subprocess.run(spy, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.iterdir())


def test_flags_stand_anywhere_among_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from undial_cli.cli import run_command, split_flags

    monkeypatch.chdir(tmp_path)
    for line in ("--cfg job seed=3 data.limit=2", "seed=3 --cfg job data.limit=2",
                 "seed=3 data.limit=2 --cfg=job"):  # fmt: skip
        assert run_command(["unlearn", *line.split()]) == 0
        said = capsys.readouterr().out
        assert "seed: 3" in said
        assert "limit: 2" in said
    words = ["seed=1,2", "--multirun", "-cd", "a=b", "--info", "plan=true", "-i", "defaults", "x=1"]
    assert split_flags(words) == (
        {"--multirun": "", "-cd": "a=b", "--info": "", "-i": "defaults"},
        ["seed=1,2", "plan=true", "x=1"],
    )


def test_help_names_every_option_and_key(capsys: pytest.CaptureFixture[str]) -> None:
    from undial_cli.cli import run_command
    from undial_cli.runs.known_keys import list_known_keys

    assert run_command(["unlearn", "--help"]) == 0
    words = set(capsys.readouterr().out.split())
    assert {o for group in GROUPS for o in options(group)} <= words
    keys = {k for k in list_known_keys("unlearn") if not k.startswith("model.")} - {"command"}
    assert keys <= words


def test_a_slice_needs_no_quotes_and_keeps_its_retain_model() -> None:
    from undial_cli.runs.targets import resolve_retain_model

    words = ["model=llama1b", "data=tofu", "data.forget_split=forget05[:20]"]
    run = compose_run("unlearn", words)
    assert run.data.forget_split == "forget05[:20]"
    assert run.eval.sets["forget"].split == "forget05[:20]_perturbed"
    reference = resolve_retain_model(run)
    assert reference is not None
    assert str(reference.path).endswith("_retain95")
