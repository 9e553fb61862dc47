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
import logging
import math
import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeGuard
from unittest import mock

import numpy as np
import torch
from transformers.tokenization_utils_base import PreTrainedTokenizerBase

from undial_cli.config.suites import HarnessConfig
from undial_cli.errors import UserError, suggest_nearest
from undial_cli.evaluation.sharding import NO_JOURNAL, KeepResult, shard_work
from undial_cli.system import processes

# Modules of lm_eval that show progress bars.
BAR_MODULES = ("lm_eval.api.task", "lm_eval.api.model", "lm_eval.models.huggingface", "tqdm")
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
            own = TaskManager(include_path=folder, include_defaults=False)
            if set(tasks) <= set(own.all_subtasks):
                return own
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
    tasks = list(dict.fromkeys(config.tasks))
    if not tasks:
        return {}, {}, {}
    check_harness_tasks(config)
    manager = index_harness_tasks(tuple(config.tasks), config.include_path)
    figures: dict[str, HarnessFigure] = {}
    missing: dict[str, str] = {}
    accuracies: list[HarnessFigure] = []
    training = model.training
    try:
        with quiet_harness(), without_harness_bars():
            lm = make_sharded_model(model, tokenizer, batch_size)
            for task in tasks:
                with preserve_random_state(seed):
                    results, reason = run_harness_task(
                        lm, manager, task, config.num_fewshot, limit, seed
                    )
                if results is None:
                    missing[f"harness_{task}"] = reason
                else:
                    accuracies += collect_accuracies(results, task)
                    figures |= collect_task_figures(results)
    finally:
        model.train(training)
    if len(accuracies) > 1 and not missing:
        figures["harness_mean_acc"] = average_task_figures(accuracies)
    elif len(tasks) > 1 and missing:
        missing["harness_mean_acc"] = f"{len(missing)} of {len(tasks)} tasks could not be run"
    finite = {name: figure for name, figure in figures.items() if math.isfinite(figure[0])}
    missing |= {name: f"it is {figures[name][0]}" for name in figures if name not in finite}
    values = {name: value for name, (value, _) in finite.items()}
    return values, missing, {name: known for name, (_, known) in finite.items()}


def run_harness_task(
    lm: Any, manager: Any, task: str, num_fewshot: int | None, limit: int | None, seed: int
) -> tuple[TaskResults | None, str]:
    """The library's results of one task (of each task in a group), or None and the reason.

    The same on every process, or they would wait for each other.
    """
    from lm_eval.evaluator import evaluate as evaluate_tasks

    loaded, reason = None, ""
    try:
        loaded = manager.load([task])
        for one in loaded["tasks"].values():
            set_fewshot(one, num_fewshot, seed)
    except Exception as error:  # a task's own code, a data set's, the hub's
        reason = f"cannot be loaded ({summarise_exception(error)})"
    reasons = [r for r in processes.gather_items([reason]) if r]
    if loaded is None or reasons:
        return None, reasons[0]
    try:
        found = evaluate_tasks(
            lm, loaded, limit=limit, bootstrap_iters=STDERR_DRAWS, log_samples=False
        )
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        return None, f"cannot be run ({summarise_exception(error)})"
    return dict(found["results"]), ""  # type: ignore[index]


def set_fewshot(task: Any, num_fewshot: int | None, seed: int) -> None:
    """Set a loaded task's number of solved examples and their seed."""
    own = task.get_config("num_fewshot")
    if num_fewshot is not None and own != 0:
        task.set_config(key="num_fewshot", value=num_fewshot)
    elif own is None:
        task.set_config(key="num_fewshot", value=0)
    task.set_fewshot_seed(seed=seed)


def make_sharded_model(model: Any, tokenizer: PreTrainedTokenizerBase, batch_size: int) -> Any:
    """The model as lm-evaluation-harness wants it, its requests dealt out to the processes.

    To the library each process is the only one, since its own way of sharing draws other few-shot
    examples for another number of processes.
    """
    from lm_eval.models.huggingface import HFLM

    class SharedModel(HFLM):
        """Answers this process's share of the requests and gathers the others' answers."""

        def loglikelihood(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            return shard_requests(requests, super().loglikelihood)

        def loglikelihood_rolling(
            self, requests: list[Any], disable_tqdm: bool = True
        ) -> list[Any]:
            return shard_requests(requests, super().loglikelihood_rolling)

        def generate_until(self, requests: list[Any], disable_tqdm: bool = True) -> list[Any]:
            return shard_requests(requests, super().generate_until)

    # The library gives a tokenizer a padding token: not to ours.
    own: Any = copy.deepcopy(tokenizer)
    make: Any = SharedModel
    return make(pretrained=model, tokenizer=own, batch_size=batch_size)


def shard_requests(requests: list[Any], answer: Callable[[list[Any]], list[Any]]) -> list[Any]:
    """The answers to all requests, in order, each found by one process.

    Requests of one context stay together: the library then computes it once.

    Raises:
        RuntimeError: it failed on some process (on all of them the same).
    """
    groups: dict[str, list[int]] = {}
    for i, request in enumerate(requests):
        groups.setdefault(request.args[0], []).append(i)
    members = list(groups.values())
    failures: list[str] = []

    def run(numbers: list[int], keep: KeepResult) -> None:
        mine = [i for n in numbers for i in members[n]]
        found: dict[int, Any] = dict.fromkeys(mine)
        try:
            if mine:
                found = dict(zip(mine, answer([requests[i] for i in mine]), strict=True))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:
            failures.append(summarise_exception(error))
        for n in numbers:
            keep(n, [found[i] for i in members[n]])

    sizes = [len(context) * len(members[n]) for n, context in enumerate(groups)]
    parts = shard_work("harness", sizes, run, NO_JOURNAL)
    failed = processes.gather_items(failures)
    if failed:
        raise RuntimeError(failed[0])
    pairs = zip(members, parts, strict=True)
    answers = {i: a for m, part in pairs for i, a in zip(m, part, strict=True)}
    return [answers[i] for i in range(len(requests))]


def collect_task_figures(results: TaskResults) -> dict[str, HarnessFigure]:
    """`harness_{task}_{metric}` of the library's results, with the filter where there are some."""
    figures = {}
    for task, found in results.items():
        for key, value in found.items():
            metric, comma, kind = key.partition(",")
            if not comma or metric.endswith("_stderr") or not is_task_number(value):
                continue
            suffix = "" if kind == "none" else f"_{kind.replace('-', '_')}"
            figures[f"harness_{task}_{metric}{suffix}"] = read_task_figure(found, metric, kind)
    return figures


def read_task_figure(found: dict[str, Any], metric: str, kind: str = "none") -> HarnessFigure:
    """A metric of a task's results, the documents behind it, and its standard error."""
    stderr, documents, statistics = (
        found.get(f"{metric}_stderr,{kind}"),
        found.get("sample_len"),
        {},
    )
    if is_task_number(documents):
        statistics["n"] = int(documents)
    if is_task_number(stderr) and math.isfinite(stderr):
        statistics["stderr"] = float(stderr)
    return float(found[f"{metric},{kind}"]), statistics


def collect_accuracies(results: TaskResults, task: str) -> list[HarnessFigure]:
    """The accuracy of a task or group; of the single tasks where a group or tag has none."""
    whole = results.get(task, {})
    parts = [whole] if is_task_number(whole.get("acc,none")) else results.values()
    return [read_task_figure(r, "acc") for r in parts if is_task_number(r.get("acc,none"))]


def average_task_figures(parts: list[HarnessFigure]) -> HarnessFigure:
    """The plain mean of figures of different documents, and its standard error."""
    mean: dict[str, Any] = {}
    if any("n" in known for _, known in parts):
        mean["n"] = sum(known.get("n", 0) for _, known in parts)
    if all("stderr" in known for _, known in parts):
        mean["stderr"] = math.hypot(*(known["stderr"] for _, known in parts)) / len(parts)
    return float(np.mean([value for value, _ in parts])), mean


def is_task_number(value: object) -> TypeGuard[float]:
    """Whether a result is a figure (the library also writes "N/A" and lists)."""
    return isinstance(value, (int, float, np.number))


def summarise_exception(error: Exception) -> str:
    """An exception in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@contextlib.contextmanager
def quiet_harness() -> Iterator[None]:
    """Keep the library's notices off the screen."""
    loggers = [logging.getLogger(name) for name in ("lm_eval", "lm-eval")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
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


@contextlib.contextmanager
def preserve_random_state(seed: int | None = None) -> Iterator[None]:
    """Put all random number generators back as they were; until then they may be seeded."""
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        if seed is not None:
            random.seed(seed)
            np.random.seed(seed % 2**32)
            torch.manual_seed(seed)
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])
