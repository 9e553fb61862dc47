"""General ability by lm-evaluation-harness (extra `harness`), on the model at hand.

Every process builds all requests and answers its share of them, so that no figure, few-shot draw
included, depends on the number of processes. Knows no suite.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import io
import itertools
import logging
import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard
from unittest import mock

import numpy as np
import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli import ui
from undial_cli.config.suites import HarnessConfig
from undial_cli.errors import UserError, suggest_nearest
from undial_cli.evaluation.evidence import MissingFigure
from undial_cli.evaluation.sharding import NO_JOURNAL, KeepResult, shard_work
from undial_cli.models.head import evaluation_mode
from undial_cli.system import processes
from undial_cli.system.random_state import preserve_random_state
from undial_cli.system.supervision import give_beat

# Modules of lm_eval that show progress bars.
BAR_MODULES = ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface", "tqdm")
# What the library logs by, in its versions.
LOGGERS = ("lm_eval", "lm-eval")
# Draws behind a standard error that has no closed form (a perplexity's).
STDERR_DRAWS = 1000

TaskResults = dict[str, dict[str, Any]]
# A figure, and what is known of it: `n`, the documents, and `stderr`, where the library has one.
HarnessFigure = tuple[float, dict[str, Any]]


def check_harness_tasks(config: HarnessConfig) -> None:
    """Find what is wrong with the tasks before anything is computed. Asks no hub.

    Raises:
        UserError: lm-eval is missing, the folder is, or a task is unknown (the nearest one named).
    """
    if not config.tasks:
        return
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("eval.harness.tasks: needs lm-eval: pip install 'undial[harness]'")
    folder = config.include_path
    if folder is not None and not Path(folder).expanduser().is_dir():
        raise UserError(f"eval.harness.include_path={folder}: no such folder")
    known = index_harness_tasks(tuple(config.tasks), folder).all_tasks
    for task in config.tasks:
        if task not in known:
            raise UserError(
                f"eval.harness.tasks={task}: no such task of lm-evaluation-harness"
                f"{suggest_nearest(task, known)}"
            )


@functools.lru_cache(maxsize=4)
def index_harness_tasks(tasks: tuple[str, ...], include_path: str | None) -> Any:
    """The index of tasks, those in a folder first; the library's own (seconds) only if needed."""
    from lm_eval.tasks import TaskManager

    folder = None if include_path is None else Path(include_path).expanduser()
    with quiet_harness():
        if folder is not None:
            local = TaskManager(include_path=folder, include_defaults=False)
            if set(tasks) <= set(local.all_subtasks):
                return local
        return TaskManager(include_path=folder)


def run_harness_tasks(
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    config: HarnessConfig,
    limit: int | None,
    batch_size: int,
    seed: int,
) -> tuple[dict[str, float], dict[str, str], dict[str, dict[str, Any]]]:
    """Run tasks, groups or tags of lm-evaluation-harness; to be called on every process.

    Args:
        model: unwrapped, in any mode; it is put into eval mode and back.
        config: its `include_path` holds task files of one's own, which win over the library's;
            functions they name are run: it is as trusted as `method.file`. A task that says 0
            solved examples keeps 0, as in the library.
        limit: first documents of each task only.

    Returns:
        metrics `harness_{task}_{metric}`, with `harness_mean_acc` over tasks where more than one
        has an accuracy; what is missing, with the reason in one line; and by metric `n`, the
        documents, and `stderr`, the library's standard error, where it has one. The mean is
        missing too if a task is, since it would be one of other tasks.

    Raises:
        UserError: as `check_tasks`.
    """
    if not config.tasks:
        return {}, {}, {}
    check_harness_tasks(config)
    manager = index_harness_tasks(tuple(config.tasks), config.include_path)
    tasks = list(dict.fromkeys(config.tasks))
    figures: dict[str, HarnessFigure] = {}
    missing: dict[str, str] = {}
    accuracies: list[HarnessFigure] = []
    with (
        ui.show_progress("harness", len(tasks), unit="task") as bar,
        evaluation_mode(model),
        quiet_harness(),
        without_harness_bars(),
    ):
        lm = make_sharded_model(model, tokenizer, batch_size)
        for number, task in enumerate(tasks):
            bar.advance(number - bar.done, task)
            try:
                # Seeded task by task, so that no task's draws depend on those before it.
                with preserve_random_state(seed):
                    results = run_harness_task(lm, manager, task, config.num_fewshot, limit, seed)
            except MissingFigure as reason:
                missing[f"harness_{task}"] = str(reason)
                continue
            accuracies += collect_accuracies(results, task)
            figures |= collect_task_figures(results)
        bar.advance(len(tasks) - bar.done)
    if len(accuracies) > 1 and not missing:
        figures["harness_mean_acc"] = average_task_figures(accuracies)
    elif len(tasks) > 1 and missing:
        missing["harness_mean_acc"] = f"{len(missing)} of {len(tasks)} tasks could not be run"
    finite = {name: figure for name, figure in figures.items() if math.isfinite(figure[0])}
    missing |= {name: f"it is {figures[name][0]}" for name in figures if name not in finite}
    values = {name: value for name, (value, _) in finite.items()}
    return values, missing, {name: statistics for name, (_, statistics) in finite.items()}


def run_harness_task(
    lm: Any, manager: Any, task: str, num_fewshot: int | None, limit: int | None, seed: int
) -> TaskResults:
    """The library's results of one task (of each task in a group).

    Raises:
        MissingFigure: it cannot be loaded or run; on every process alike, or they would wait for
            each other.
    """
    from lm_eval.evaluator import evaluate as evaluate_tasks

    loaded: Any = None
    reason = ""
    try:
        loaded = manager.load([task])
        for one in loaded["tasks"].values():
            set_fewshot(one, num_fewshot, seed)
    except Exception as error:  # a task's own code, a data set's, the hub's
        reason = f"cannot be loaded ({summarise_exception(error)})"
    for failure in filter(None, processes.gather_items([reason])):
        raise MissingFigure(failure)
    try:
        results: Any = evaluate_tasks(
            lm, loaded, limit=limit, bootstrap_iters=STDERR_DRAWS, log_samples=False
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        raise MissingFigure(f"cannot be run ({summarise_exception(error)})") from error
    return dict(results["results"])


def set_fewshot(task: Any, num_fewshot: int | None, seed: int) -> None:
    """Set a loaded task's number of solved examples and their seed."""
    default = task.get_config("num_fewshot")
    if num_fewshot is not None and default != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif default is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def make_sharded_model(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Any:
    """The model as lm-evaluation-harness wants it, its requests dealt out to the processes.

    To the library each process is the only one, since its own way of sharing draws other few-shot
    examples for another number of processes.
    """
    from lm_eval.models.huggingface import HFLM

    library: Any = HFLM  # its registry hides the class from type checkers
    batches = itertools.count(1)

    class SharedModel(library):
        """Answers this process's share of the requests and gathers the others' answers."""

        def _model_call(self, *args: Any, **options: Any) -> Any:
            give_beat("harness", next(batches))
            return super()._model_call(*args, **options)

        def _model_generate(self, *args: Any, **options: Any) -> Any:
            give_beat("harness", next(batches))
            return super()._model_generate(*args, **options)

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            return shard_requests(requests, super().loglikelihood)

        def loglikelihood_rolling(
            self, requests: list[Any], disable_tqdm: bool = True
        ) -> list[Any]:
            return shard_requests(requests, super().loglikelihood_rolling)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            return shard_requests(requests, super().generate_until)

    make: Any = SharedModel
    # The library gives a tokenizer a padding token: not to ours.
    return make(pretrained=model, tokenizer=copy.deepcopy(tokenizer), batch_size=batch_size)


def shard_requests(requests: list[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """The answers to all requests, in order, each found by one process.

    Requests of one context stay together: the library then computes it once.

    Raises:
        RuntimeError: it failed on some process (on all of them the same).
    """
    groups: dict[str, list[int]] = {}  # by context
    for i, request in enumerate(requests):
        groups.setdefault(request.args[0], []).append(i)
    members = list(groups.values())
    failures: list[str] = []

    def run(numbers: list[int], keep: KeepResult) -> None:
        dealt = [i for n in numbers for i in members[n]]
        answers: dict[int, Any] = dict.fromkeys(dealt)
        try:
            if dealt:
                answers = dict(zip(dealt, answer([requests[i] for i in dealt]), strict=True))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # told below: the others must not wait for this process
            failures.append(summarise_exception(error))
        for n in numbers:
            keep(n, [answers[i] for i in members[n]])

    sizes = [len(context) * len(members[n]) for n, context in enumerate(groups)]
    parts = shard_work("harness", sizes, run, NO_JOURNAL)
    for failure in processes.gather_items(failures):
        raise RuntimeError(failure)
    order = [i for numbers in members for i in numbers]
    answers = dict(zip(order, itertools.chain(*parts), strict=True))
    return [answers[i] for i in range(len(requests))]


def collect_task_figures(results: TaskResults) -> dict[str, HarnessFigure]:
    """`harness_{task}_{metric}` of the library's results, with the filter where there are some."""
    figures = {}
    for task, result in results.items():
        for key, value in result.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not is_task_number(value):
                continue
            suffix = "" if kind == "none" else f"_{kind.replace('-', '_')}"
            figures[f"harness_{task}_{metric}{suffix}"] = read_task_figure(result, metric, kind)
    return figures


def read_task_figure(result: dict[str, Any], metric: str, kind: str = "none") -> HarnessFigure:
    """A metric of a task's results, the documents behind it, and its standard error."""
    stderr, documents = result.get(f"{metric}_stderr,{kind}"), result.get("sample_len")
    statistics: dict[str, Any] = {"n": int(documents)} if is_task_number(documents) else {}
    if is_task_number(stderr) and math.isfinite(stderr):
        statistics["stderr"] = float(stderr)
    return float(result[f"{metric},{kind}"]), statistics


def collect_accuracies(results: TaskResults, task: str) -> list[HarnessFigure]:
    """The accuracy of a task or group; of the single tasks where a group or tag has none."""
    whole = results.get(task, {})
    parts = [whole] if is_task_number(whole.get("acc,none")) else results.values()
    return [read_task_figure(part, "acc") for part in parts if is_task_number(part.get("acc,none"))]


def average_task_figures(figures: list[HarnessFigure]) -> HarnessFigure:
    """The plain mean of figures of different documents, and its standard error."""
    parts, statistics = [part for _, part in figures], dict[str, Any]()
    if any("n" in part for part in parts):
        statistics["n"] = sum(part.get("n", 0) for part in parts)
    if all("stderr" in part for part in parts):
        statistics["stderr"] = math.hypot(*(part["stderr"] for part in parts)) / len(parts)
    return float(np.mean([value for value, _ in figures])), statistics


def is_task_number(value: object) -> TypeGuard[float]:
    """Whether a result is a figure (the library also writes "N/A" and lists)."""
    return isinstance(value, (int, float, np.number))


def summarise_exception(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep the library's notices off the screen."""
    levels = {logging.getLogger(name): logging.getLogger(name).level for name in LOGGERS}
    try:
        for logger in levels:
            logger.setLevel(logging.ERROR)
        yield
    finally:
        for logger, level in levels.items():
            logger.setLevel(level)


@contextlib.contextmanager
def without_harness_bars() -> Iterator[None]:
    """Without the library's progress bars, and what it prints of its draws, in one process."""
    from tqdm import tqdm

    def silent(*values: Any, **options: Any) -> Any:
        return tqdm(*values, **{**options, "disable": True})

    with contextlib.ExitStack() as stack:
        for module in BAR_MODULES:
            stack.enter_context(mock.patch(f"{module}.tqdm", silent))
        stack.enter_context(mock.patch.dict(os.environ, {"DISABLE_MULTIPROC": "1"}))
        stack.enter_context(contextlib.redirect_stdout(io.StringIO()))
        yield
