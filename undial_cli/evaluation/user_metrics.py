"""Metrics of the user's own, from a Python file: `eval.metric_file=my_metrics.py`.

The file makes entries like those of catalog.py, of any names; a suite names them as all others. It
is run, so it is taken from the command line only: never from a YAML file or a run.yaml. Imports no
torch.
"""

from __future__ import annotations

import functools
import re

from undial_cli.errors import UserError
from undial_cli.evaluation.catalog import ENTRIES, METRICS, NUMBERED, Metric
from undial_cli.methods.user_file import allow_user_file, check_user_file, import_user_file

KEY = "eval.metric_file"
# Names the file that the command line named, for this process and those that it starts.
METRIC_FILE_VARIABLE = "UNDIAL_METRIC_FILE"
SHIPPED_METRICS = frozenset(metric.name for metric in ENTRIES)
# What engines and helper models can be asked for.
KNOWN_NEEDS = sorted({need for metric in ENTRIES for need in metric.needs})
METRIC_NAME = re.compile(r"[a-z][a-z0-9_]*")


def allow_metric_file(path: str) -> None:
    """Note that the command line named a file; raises UserError where there is none."""
    allow_user_file(KEY, METRIC_FILE_VARIABLE, path)


def load_metric_file(path: str) -> str:
    """Make the metrics of a file known by their names; the file's whole path.

    Raises:
        UserError: the command line did not name it, it cannot be run, or defines no metric.
    """
    file = check_user_file(KEY, METRIC_FILE_VARIABLE, path)
    for metric in run_metric_file(str(file), file.stat().st_mtime_ns):
        METRICS[metric.name] = metric
    return str(file)


@functools.lru_cache(maxsize=8)
def run_metric_file(path: str, changed: int) -> list[Metric]:
    """Run a file and take the metrics it defines; once, as long as it is not `changed`."""
    del changed
    shipped = set(map(id, ENTRIES))  # which a file may import
    members = vars(import_user_file(KEY, path)).values()
    defined = {id(m): m for m in members if isinstance(m, Metric) and id(m) not in shipped}
    if not defined:
        raise UserError(f"{KEY}={path}: defines no metric; needed is a Metric at its top level")
    for metric in defined.values():
        check_own_metric(metric, path)
    return list(defined.values())


def check_own_metric(metric: Metric, path: str) -> None:
    """Raise UserError for a metric that cannot be told from another, or that nothing computes."""
    where, word = f"{KEY}={path}: metric '{metric.name}'", metric.name.rpartition("_")
    if not METRIC_NAME.fullmatch(metric.name):
        raise UserError(f"{where}: allowed in a name are small letters, digits and _")
    if metric.name in SHIPPED_METRICS or (word[0] in NUMBERED and word[2].isdecimal()):
        raise UserError(f"{where}: there is one of this name already; rename yours")
    if metric.sample is None and metric.joint is None:
        raise UserError(f"{where}: has no function; needed is sample=... or joint=...")
    for need in metric.needs:
        if need not in KNOWN_NEEDS:
            raise UserError(f"{where}: needs '{need}'; allowed is {', '.join(KNOWN_NEEDS)}")
