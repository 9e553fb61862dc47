"""`undial tune`: settings of a method found on the user's data, by a stated rule.

The way of the command, top to bottom. A trial is a run of `undial unlearn` that chooses its weights
by the rule on rows held apart (train.select); a study (optimise.py) draws its settings, a sweep
carries it out. What is reported of a trial are the other rows. Knows no figure by name.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override

from undial_cli import ui
from undial_cli.config.fields import check_field_value, walk_fields
from undial_cli.config.identity import collect_identity, hash_json
from undial_cli.config.schema import UnlearnRun
from undial_cli.config.tuning import TuneConfig
from undial_cli.errors import UserError, bad_value, suggest_nearest
from undial_cli.evaluation.selection_rule import NAMED_RULES, SELECT_KEY, SELECTION, parse_selection
from undial_cli.runs import config_errors
from undial_cli.runs.command_words import split_run_words
from undial_cli.runs.compose import compose_command_keys, compose_run, translate_words
from undial_cli.runs.hydra_configs import COMPOSITION_ERRORS, list_config_groups, list_folders
from undial_cli.runs.known_keys import list_known_keys
from undial_cli.sweeps.executors import require_library
from undial_cli.sweeps.launchers import make_batch_runner, parse_sweep_words
from undial_cli.sweeps.optimise import conduct_study
from undial_cli.sweeps.search_space import (
    TIMES,
    collect_space,
    find_own_values,
    list_bounds,
    parse_space,
    spell_sweep,
)
from undial_cli.sweeps.slots import make_slot_environments
from undial_cli.sweeps.sweep import Sweep
from undial_cli.sweeps.tune_results import TuneResults, collect_trials, show_plan, show_results
from undial_cli.system.launcher_environment import is_launched
from undial_cli.system.locks import hold_lock
from undial_cli.system.quiet import silence_libraries

KEYS_NOT_FOR_TRIALS = {
    SELECT_KEY: "say rule=nearest_retain or rule=most_forgotten",
    "train.keep": "a trial's checkpoint is the weights that were chosen",
    "name": "trials are named by their settings",
    "resume": "an unfinished trial always goes on",
    "overwrite": "a finished trial stays; remove its folder to have it run again",
    "objective": "say rule=nearest_retain or rule=most_forgotten",
    "hydra/sweeper": "it is optuna's; hydra.sweeper.sampler says which sampler",
    "hydra.sweeper.n_trials": "say budget=N",
    "hydra.sweeper.direction": "the rule has one",
    "hydra.sweep.dir": "say output_dir=FOLDER",
}
# Trials before the sampler goes by the figures of others: the method's own settings, then drawn
# ones. The same for every budget, so that a larger one goes on with the same trials.
FIRST_TRIALS = 5
DEFAULT_SPACE = "default"


@dataclass(frozen=True)
class Tuning:
    """A search that was asked for.

    `base`: the first trial, at the settings that it has without a search. `words`: of every trial.
    `typed`: those of them that the command to use repeats. `space`: what is searched, of which
    `start` are the values of `base`. `folder`: of the user's configs.
    """

    asked: TuneConfig
    base: UnlearnRun
    words: list[str]
    typed: list[str]
    space: list[Override]
    start: dict[str, Any]
    sweeper: dict[str, Any]
    launcher: dict[str, Any]
    folder: str | None

    @property
    def path(self) -> Path:
        """Where the search lies: the same for the same trials and rule, whatever the budget."""
        run = self.base
        drawn = {o.get_key_element(): spell_sweep(o) for o in self.space}
        how = [self.sweeper[key] for key in ("sampler", "sampler_args", "seed", "n_jobs")]
        name = f"{run.model.name}-{run.data.name}-{run.method.name}"
        name += f"-{hash_json([collect_identity(run), drawn, how])}"
        return Path(run.output_dir).expanduser() / "tune" / name


def run_tune_command(words: list[str]) -> int:
    """Do `undial tune WORDS`; returns the exit code: 0 if a trial was chosen.

    Raises:
        UserError: a word is wrong; nothing has been run and nothing written.
    """
    tuning = compose_tuning(words)
    if tuning.asked.plan:
        show_plan(tuning.base, tuning.asked, tuning.space, tuning.start, tuning.path)
        return 0
    title = f"tune: {' '.join(tuning.typed)}"
    sweep = Sweep(title, "unlearn", tuning.words, tuning.path, total=tuning.asked.budget)
    with hold_lock(tuning.path):
        ui.say(f"tune: {tuning.path}", "bold")
        carry_out = make_batch_runner(sweep, tuning.launcher, tuning.folder)
        overrides = [*parse_words(tuning.words, tuning.folder), *tuning.space]
        conduct_study(
            tuning.sweeper, overrides, [SELECTION], carry_out, tuning.path, first=tuning.start
        )
        results = TuneResults(
            parse_selection(tuning.asked.rule, tuning.base.eval),
            tuning.base.train.select_utility,
            [override.get_key_element() for override in tuning.space],
            collect_trials(sweep.runs),
        )
        sweep.write()
        results.write(tuning.path, tuning.typed)
        show_results(results, tuning.typed)
        sweep.report()
    return results.find_exit_code()


def compose_tuning(words: list[str]) -> Tuning:
    """What the words ask for, checked as far as it can be without a model.

    Raises:
        UserError: a word is wrong, data cannot be read, or a bound of the space is not allowed.
    """
    command_keys = [field.name for field in dataclasses.fields(TuneConfig)]
    command_words, run_words, folder = split_run_words(
        words, command_keys, KEYS_NOT_FOR_TRIALS, "undial tune", "budget=20"
    )
    check_keys(run_words, command_keys, folder)
    require_library("optuna", "undial tune")
    if is_launched():
        raise UserError(
            "undial tune: it starts the processes of its trials itself; call it once, without "
            "torchrun, accelerate or srun"
        )
    times = dict(w.split("=", 1) for w in run_words if TIMES.fullmatch(w.partition("=")[2]))
    typed = [word for word in run_words if word.partition("=")[0] not in times]
    translated = translate_words("unlearn", typed, folder, aloud=True)
    try:
        launcher, sweeper, overrides = parse_sweep_words(
            "unlearn", [*translated, "hydra/sweeper=optuna"], folder
        )
    except COMPOSITION_ERRORS as error:
        raise config_errors.explain_composition_error(error, "unlearn", typed) from error
    several = {o.key_or_group: spell_sweep(o) for o in overrides if is_several(o)}
    typed = [w for w in typed if get_bare_key(w) not in several and not is_of_hydra(w)]
    fixed = [str(o.input_line) for o in overrides if not is_several(o)]
    given = {get_bare_key(word) for word in fixed}
    asked = load_tune_config(command_words, find_method_name(fixed, folder), folder)
    chosen = [f"{SELECT_KEY}={asked.rule}", "train.eval_steps=1"]
    if "train.select_utility" not in given:
        chosen.insert(1, f"train.select_utility={NAMED_RULES[asked.rule]}")
    if "train.eval_steps" in given:
        chosen.pop()
    base = compose_trial([*fixed, *chosen], folder)
    space = parse_space(collect_space(asked.tune.space, {**several, **times}, given, base), folder)
    for word in (word for override in space for word in list_bounds(override)):
        compose_run("unlearn", [*fixed, *chosen, word], folder)
    steps = read_base_inputs(base)
    if "train.eval_steps" not in given:
        chosen[-1] = f"train.eval_steps={math.ceil(steps / asked.checkpoints)}"
        base = compose_trial([*fixed, *chosen], folder)
    if "seed" not in given:
        chosen.append(f"seed={base.seed}")
    return Tuning(
        asked,
        base,
        [*fixed, *chosen, f"objective=[{SELECTION}]"],
        [*typed, *chosen, *([f"--config-dir={folder}"] if folder else [])],
        space,
        find_own_values(space, base),
        complete_sweeper(sweeper, base, asked, run_words),
        launcher,
        folder,
    )


def check_keys(words: Sequence[str], command_keys: Sequence[str], folder: str | None) -> None:
    """Raise UserError for a key that neither this command nor a run has, of those without a dot."""
    known = {*(key for key in list_known_keys("unlearn") if "." not in key), "experiment"}
    known |= list_config_groups(folder) - {"tune", "table", "recipe"}
    for key in map(get_bare_key, words):
        if not (set("./@") & set(key)) and key not in known:
            hint = suggest_nearest(key, [*command_keys, *known])
            raise UserError(f"{key}: no such key{hint or '; undial tune --help lists the keys'}")


def get_bare_key(word: str) -> str:
    """The key of a word, without what Hydra writes before it."""
    return word.partition("=")[0].lstrip("+~")


def is_several(override: Override) -> bool:
    """Whether an override gives a key several values to be searched."""
    return override.is_sweep_override()


def is_of_hydra(word: str) -> bool:
    """Whether a word says how trials are carried out."""
    return re.match(r"[+~]*hydra[./]", word) is not None


def parse_words(words: Sequence[str], folder: str | None) -> list[Override]:
    """Words of runs as overrides."""
    return parse_sweep_words("unlearn", list(words), folder)[2]


def find_method_name(words: list[str], folder: str | None) -> str:
    """The method that the words of a run choose."""
    run = compose_run("unlearn", words, folder)
    assert isinstance(run, UnlearnRun)
    return run.method.name


def load_tune_config(words: list[str], method: str, folder: str | None) -> TuneConfig:
    """The command's own keys, and the space of the method unless another one is named.

    Raises:
        UserError: a key, a value or a space is not allowed.
    """
    named = any(word.startswith("tune=") for word in words)
    files = [path / "tune" / f"{method}.yaml" for path in list_folders(folder)]
    if not named and any(file.is_file() for file in files):
        words = [*words, f"tune={method}"]
    asked = compose_command_keys(TuneConfig, "tune", words, folder)
    for name, value, field in walk_fields(asked):
        check_field_value(name, value, field)
    if asked.rule not in NAMED_RULES:
        raise bad_value("rule", asked.rule, NAMED_RULES)
    return asked


def compose_trial(words: list[str], folder: str | None) -> UnlearnRun:
    """A trial without what is searched, checked as far as its keys go."""
    run = compose_run("unlearn", words, folder)
    assert isinstance(run, UnlearnRun)
    if run.data.requests:
        raise UserError(
            f"data.requests=[{','.join(run.data.requests)}]: undial tune finds settings for one "
            "request; allowed is data.requests=[]"
        )
    return run


def read_base_inputs(run: UnlearnRun) -> int:
    """Read what a trial reads, but weights, and say what is wrong with it; its optimiser steps.

    Raises:
        UserError: the trial cannot be done so.
    """
    from undial_cli.runs.checks import check_run
    from undial_cli.runs.inputs import prepare_inputs
    from undial_cli.runs.resolved import ResolvedRun
    from undial_cli.training.loop import make_schedule

    silence_libraries()
    resolved = ResolvedRun(run)
    if resolved.trained_method.from_start:
        raise UserError(
            f"method={run.method.name}: its model is made after training, and none of the weights "
            "on the way can be chosen; undial unlearn --multirun tries several settings"
        )
    try:
        check_run(resolved)
        inputs = prepare_inputs(resolved, weights=False)
    except UserError as error:
        line = str(error).replace(
            f"{SELECT_KEY}={run.train.select}: ", f"rule={run.train.select}: "
        )
        raise UserError(line) from error
    return make_schedule(run, inputs.sets, inputs.samples, resolved.anchor, False).steps


def complete_sweeper(
    keys: dict[str, Any], run: UnlearnRun, asked: TuneConfig, words: Sequence[str]
) -> dict[str, Any]:
    """The keys of the sweeper with what this command says of them.

    As many trials are drawn at a time as there are slots, unless hydra.sweeper.n_jobs says it.
    """
    given = {get_bare_key(word) for word in words}
    keys = {**keys, "n_trials": asked.budget}
    keys["direction"] = parse_selection(asked.rule, run.eval).direction
    if "hydra.sweeper.seed" not in given:
        keys["seed"] = run.seed
    if "hydra.sweeper.n_jobs" not in given:
        keys["n_jobs"] = len(make_slot_environments(run))
    if keys["sampler"] == "tpe":
        keys["sampler_args"] = {"n_startup_trials": FIRST_TRIALS, **(keys["sampler_args"] or {})}
    return keys
