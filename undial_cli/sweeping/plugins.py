"""Make undial's launchers and its sweeper known to Hydra, in this process alone."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

from hydra.core.plugins import Plugins

from undial_cli.sweeping.executors import JoblibLauncher, RayLauncher, SubmititLauncher
from undial_cli.sweeping.launchers import SweepLauncher, sweep_of
from undial_cli.sweeping.optimise import OptunaSweeper
from undial_cli.sweeping.sweep import Sweep

PLUGINS = (SweepLauncher, JoblibLauncher, RayLauncher, SubmititLauncher, OptunaSweeper)


def begin(command: str, words: list[str]) -> Sweep:
    """A sweep that Hydra, started next, fills through its launcher.

    Hydra takes plugins from the package `hydra_plugins` alone. Were that installed, every program
    with Hydra in the environment would load them; so they are put there for this process.
    """
    plugins = Plugins.instance()  # has looked at what is installed
    package: Any
    try:
        package = importlib.import_module("hydra_plugins")
    except ModuleNotFoundError:
        package = sys.modules["hydra_plugins"] = ModuleType("hydra_plugins")
    ours: Any = ModuleType("hydra_plugins.undial")
    for plugin in PLUGINS:
        setattr(ours, plugin.__name__, plugin)
        plugins.register(plugin)
    package.undial = sys.modules[ours.__name__] = ours
    SweepLauncher.sweep = sweep_of(command, words)
    return SweepLauncher.sweep
