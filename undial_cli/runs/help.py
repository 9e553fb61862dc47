"""`--help`: commands, groups with their options and keys, a line each, from configs and schema."""

from __future__ import annotations

from pathlib import Path

from rich.table import Table
from rich.text import Text

from undial_cli import ui
from undial_cli.config.asking import ASK_FIELDS, SERVE_FIELDS
from undial_cli.config.attacks import ATTACK_CONFIGS
from undial_cli.config.fields import walk_fields
from undial_cli.config.schema import RUN_TYPES, UnlearnRun
from undial_cli.config.suites import EvalSetConfig
from undial_cli.evaluation import catalog
from undial_cli.evaluation.selection_rule import NAMED_RULES, RULE_WORDS
from undial_cli.methods import METHODS
from undial_cli.models.gguf_kinds import LOGIT_BOUNDS
from undial_cli.runs.commands.file_kinds import FILE_KINDS
from undial_cli.runs.hydra_configs import find_config_folder
from undial_cli.runs.run_folder import FOLLOW_UPS

COMMAND_SUMMARIES = {
    "unlearn": "make a model forget chosen data",
    "finetune": "train a target or a retain model",
    "evaluate": "score a model on the forget and retain sets",
    "audit": "try to get forgotten data back: by asking, by looking, by attacks on the weights",
    "alternatives": "draw other answers from the target model, for method=altpo",
    "tune": "find settings of a method on your data, by a stated rule, on rows held apart",
    "data": "show what would be trained on, token by token, and what looks wrong with it",
    "reproduce": "run what is missing of a paper's table and print ours beside the paper's figures",
    "report": "one page of runs that are there: tables, plots, samples",
    "ask": "type a question; target, retain model and unlearned model answer side by side",
    "serve": "an endpoint of the OpenAI kind for a run's models, for other tools to ask",
    "merge": "a run's adapter and its base as one checkpoint of whole weights",
    "export": "a run's model as a GGUF file, for llama.cpp or Ollama, held against the checkpoint",
    "show": "the values that a command line composes, each with the file and line it comes from",
    "validate": "what is wrong with config files of yours, a line each fault",
    "copy": "a shipped config file into a folder of yours, to be edited",
    "schema": "a JSON schema of a config group, by which an editor completes and checks its files",
    "list": "runs and what the cache holds: state, size, age, text of the data, what removes it",
    "compare": "runs side by side: what differs in settings, figures with intervals, verdicts",
    "purge": "remove what still holds text of the data or states made from it",
    "doctor": "try devices, processes, folders, hub and engines; say what to do",
    "completion": "commands, groups, keys and values for the tab key of a shell",
}
USAGE_LINES = {
    "tune": "undial tune model=NAME data=NAME method=NAME budget=N [key=value ...]",
    "reproduce": "undial reproduce table=NAME [key=value ...]",
    "report": "undial report PATH... [output=FOLDER]",
    "ask": 'undial ask RUN_OR_MODEL [MORE...] ["question"...] [key=value ...]',
    "serve": "undial serve RUN_OR_MODEL [MORE...] [key=value ...]",
    "merge": "undial merge RUN [out=FOLDER] [overwrite=true]",
    "export": "undial export RUN [format=gguf|ollama] [quantise=f16] [out=FOLDER] [overwrite=true]",
    "show": "undial show [group=option] [key=value ...] [SECTION_OR_KEY...] [--all] [--json]",
    "validate": "undial validate FILE_OR_FOLDER... [kind=NAME]",
    "copy": "undial copy GROUP/NAME FOLDER [name=NAME]",
    "schema": "undial schema GROUP > FILE",
    "list": "undial list [PATH...] [--json]",
    "compare": "undial compare RUN RUN [MORE...] [--json]",
    "purge": "undial purge [PATH...] [--older-than=30d] [--text] [--dry-run]",
    "doctor": "undial doctor [--json]",
    "completion": 'eval "$(undial completion bash)" (or zsh); undial completion fish | source',
}
REPRODUCE_KEYS = {
    "plan=true, --dry-run": "show what is done, what is missing and what it would cost, and stop",
    "rows=[a,b]": "these rows only",
    "seeds=[0,1]": "these seeds only",
    "output_dir=DIR": "where runs and the table go",
    "any other key=value": "an override of every run, such as hardware.slots=2",
}
MODEL_WORD = {
    "RUN_OR_MODEL": "a run folder (its target, retain model and checkpoint), a checkpoint, hub id, "
    ".gguf file or pkg://; several stand side by side",
}
MODEL_CONFIG_KEYS = {
    "model=NAME": "of a model that no run made: its chat format, from configs/model",
    "model.KEY": "a key of the models' config, as model.dtype=bfloat16",
}
ASK_KEYS = {
    **MODEL_WORD,
    '"question"': "words with a blank between them; without one it is typed, or read from a pipe",
    **{key: f.metadata["help"] for key, f in ASK_FIELDS.items()},
    **MODEL_CONFIG_KEYS,
}
SERVE_KEYS = {
    **MODEL_WORD,
    **{key: f.metadata["help"] for key, f in SERVE_FIELDS.items()},
    **MODEL_CONFIG_KEYS,
}
TUNE_KEYS = {
    "model=NAME data=NAME ...": "as of undial unlearn; a key that is set is not searched",
    "KEY=times(low,high)": "searched around its value, on a log scale",
    "KEY=choice(a,b)": "searched as a sweep has it: also range(...), interval(...), "
    "tag(log,interval(...))",
    **{f"rule={name}": text for name, text in RULE_WORDS.items()},
    "train.select_utility=0.9": "the share of the target's utility that is to be kept; without: "
    + ", ".join(f"{share:g} of {name}" for name, share in NAMED_RULES.items()),
    "budget=N": "trials, those that are done already included",
    "checkpoints=6": "of each trial, the weights that are evaluated and may be chosen "
    "(train.eval_steps=N: every N steps)",
    "plan=true, --dry-run": "show what is searched, what is done and what a trial takes, and stop",
    "seed=0": "of the trials and of the search",
    "hardware.slots=2": "trials side by side, each drawn without the others' figures",
    "hydra.sweeper.sampler=tpe": "or random, grid, cmaes",
    "--config-dir DIR": "add your own config groups, such as DIR/tune/NAME.yaml",
}
# Words of the commands that compose no run.
COMMAND_WORDS = {
    "tune": TUNE_KEYS,
    "reproduce": REPRODUCE_KEYS,
    "ask": ASK_KEYS,
    "serve": SERVE_KEYS,
    "merge": {
        "RUN": "the folder of a run that left an adapter",
        "out=FOLDER": "where the checkpoint goes; without: RUN/merged",
        "overwrite=true": "make it anew where it was made before",
        "model.adapter_base=PATH": "where the adapter's base lies, if it was moved",
    },
    "export": {
        "RUN": "the folder of a run that left a checkpoint; an adapter is merged on the way",
        "format=gguf|ollama": "the file alone, or with a Modelfile for Ollama",
        "quantise=f16": f"how weights are rounded: {', '.join(LOGIT_BOUNDS)}; llama.cpp knows more",
        "out=FOLDER": "where the files go; without: RUN/export/FORMAT-QUANTISE",
        "overwrite=true": "make them anew where they were made before",
        "model.adapter_base=PATH": "where an adapter's base lies, if it was moved",
    },
    "show": {
        "model=NAME ...": "as of undial unlearn; shown are the groups and keys that are named",
        "SECTION_OR_KEY": "train, or train.learning_rate: show this instead",
        "--all": "show every key",
        "command=NAME": f"whose keys: {', '.join(RUN_TYPES)}; without: unlearn",
        "--config-dir DIR": "add your own config groups",
        "--json": "the same for scripts",
    },
    "validate": {
        "FILE_OR_FOLDER": "YAML files; what each is, is told from its folder (method/mine.yaml), "
        "else from its keys",
        "kind=NAME": f"what they are: {', '.join(FILE_KINDS)}",
    },
    "copy": {
        "GROUP/NAME": "a file of configs/, as method/undial or recipe/method/npo_tofu",
        "FOLDER": "a folder for --config-dir; the copy is FOLDER/GROUP/NAME.yaml, if it is new",
        "name=NAME": "call the copy so; without: the same, and it stands for the shipped one",
    },
    "schema": {
        "GROUP": ", ".join(FILE_KINDS),
        "FILE": "is named in a comment of a YAML file: # yaml-language-server: $schema=FILE",
    },
    "list": {
        "PATH": "a run or sweep folder, or one with runs below it; without: all runs that this "
        "cache knows, and the cache",
        "--json": "the same for scripts, in bytes",
    },
    "compare": {
        "RUN": "a run or sweep folder, or one with runs below it; the others are compared with "
        "the first",
        "--json": "the same for scripts",
    },
    "purge": {
        "PATH": "a run folder, or one with runs below it; without: all runs that this cache knows, "
        "and what no run of the cache needs",
        "--older-than=30d": "only what was done longer ago (h, d, w: hours, days, weeks)",
        "--text": "only what holds text; states to resume from and the teacher's signal stay",
        "--dry-run": "say what would be removed, and remove nothing",
    },
}
CONFIG_GROUPS = ("model", "data", "method", "adapter", "hardware", "eval", "audit", "experiment")
HELP_FLAGS = {
    "--multirun": "a run for every combination of comma-separated values (see docs/sweeps.md)",
    "--cfg job": "print the composed config and stop",
    "--from run.yaml": "repeat a run from its run folder",
    "--dry-run": "the same as plan=true, of unlearn and finetune: say what it takes, and stop",
    "--config-dir DIR": "add your own config groups",
    "--help": "this page",
}


def read_first_comment(file: Path) -> str:
    """The first comment line of a YAML file: what `--help` says of it."""
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and "@package" not in line:
            return line[2:].strip()
    return ""


def make_two_columns(rows: list[tuple[str, str]]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in rows:
        table.add_row(Text(f"  {name}"), Text(text))
    return table


def tabulate_options(group: str) -> Table:
    """The options of a config group, a line each."""
    files = sorted((find_config_folder() / group).glob("*.yaml"))
    return make_two_columns([(file.stem, read_first_comment(file)) for file in files])


def list_keys_of_all(configs: dict[str, type], prefix: str) -> list[tuple[str, str]]:
    """The keys of all configs by name; those that not every one has, with the names of those."""
    owners: dict[tuple[str, str], list[str]] = {}
    for name, config in configs.items():
        for key, _, f in walk_fields(config(), prefix):
            owners.setdefault((key, f.metadata["help"]), []).append(name)
    shared = [(key, text) for (key, text), names in owners.items() if len(names) > len(configs) / 2]
    rest = [
        (key, f"{text} ({', '.join(names)})")
        for (key, text), names in owners.items()
        if (key, text) not in shared
    ]
    return shared + sorted(rest)


def show_top_help() -> None:
    ui.say("undial COMMAND [group=option] [key=value ...] [flags]\n")
    ui.say(make_two_columns(list(COMMAND_SUMMARIES.items())))
    ui.say("\nmethod=", "bold")
    ui.say(tabulate_options("method"))
    ui.say("\nundial COMMAND --help lists groups, options and keys.")
    ui.say(
        "undial unlearn alone runs the embedded demo; then: undial unlearn model=llama7b data=tofu"
    )


def show_command_help(command: str) -> None:
    if command in USAGE_LINES:
        ui.say(f"{USAGE_LINES[command]}: {COMMAND_SUMMARIES[command]}")
        if command == "reproduce":
            ui.say("\ntable=", "bold")
            ui.say(tabulate_options("table"))
        if command == "tune":
            ui.say("\ntune= (what is searched; without: the method's file, else default)", "bold")
            ui.say(tabulate_options("tune"))
        if command in COMMAND_WORDS:
            ui.say("keys", "bold")
            ui.say(make_two_columns(list(COMMAND_WORDS[command].items())))
        return
    folder = "[RUN_FOLDER] " if command in FOLLOW_UPS else ""
    words = f"{folder}[group=option] [key=value ...] [flags]"
    ui.say(f"undial {command} {words}: {COMMAND_SUMMARIES[command]}\n")
    primary = (find_config_folder() / f"{command}.yaml").read_text(encoding="utf-8")
    for name in CONFIG_GROUPS:
        if f"- {name}:" in primary:
            ui.say(f"{name}=", "bold")
            ui.say(tabulate_options(name))
    if command == "audit":
        ui.say("audit.attacks=[...]", "bold")
        ui.say(tabulate_options("attack"))
    ui.say("keys", "bold")
    rows = [
        (key, f.metadata.get("help", ""))
        for key, _, f in walk_fields(RUN_TYPES[command]())
        if key not in ("command", "method")
    ]
    # eval.sets is empty by default, so that the walk does not reach the keys of a set.
    after_sets = [key for key, _ in rows].index("eval.sets") + 1
    rows[after_sets:after_sets] = [
        (key, f.metadata["help"]) for key, _, f in walk_fields(EvalSetConfig(), "eval.sets.NAME.")
    ]
    if issubclass(RUN_TYPES[command], UnlearnRun):
        configs = {name: entry.config for name, entry in METHODS.items()}
        rows += list_keys_of_all(configs, "method.")
    if command == "audit":
        rows += list_keys_of_all(ATTACK_CONFIGS, "audit.attack.NAME.")
    ui.say(make_two_columns(rows))
    ui.say("metrics", "bold")
    names = {"of a set": catalog.list_set_metrics(), "joint": catalog.list_joint_metrics()}
    ui.say(make_two_columns([(kind, ", ".join(metrics)) for kind, metrics in names.items()]))
    ui.say("flags", "bold")
    ui.say(make_two_columns(list(HELP_FLAGS.items())))
