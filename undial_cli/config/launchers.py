"""The keys of Hydra's launchers and sweepers that undial brings; configs/hydra/ has the defaults.

`library`: who carries out the runs, or chooses them. Imports neither hydra nor these libraries.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SlotsConfig:
    """Runs side by side on this machine, by hardware.gpus_per_run or hardware.slots."""

    library: str = "slots"


@dataclass
class JoblibConfig:
    """Slots by another name: as many as joblib would start processes."""

    library: str = "joblib"
    n_jobs: int = -1


@dataclass
class RayKeys:
    """Arguments of ray.init and ray.remote."""

    init: dict[str, Any] = field(default_factory=dict)
    remote: dict[str, Any] = field(default_factory=dict)


@dataclass
class RayConfig:
    """Ray."""

    library: str = "ray"
    ray: RayKeys = field(default_factory=RayKeys)


@dataclass
class SubmititConfig:
    """submitit.AutoExecutor; null: its own default."""

    library: str = "submitit"
    cluster: str = "local"
    submitit_folder: str | None = None
    timeout_min: int = 60
    cpus_per_task: int | None = None
    gpus_per_node: int | None = None
    tasks_per_node: int = 1
    mem_gb: int | None = None
    nodes: int = 1
    name: str = "undial"
    stderr_to_stdout: bool = False


@dataclass
class SlurmConfig(SubmititConfig):
    """submitit.AutoExecutor on SLURM: what that takes beside, see sbatch."""

    partition: str | None = None
    qos: str | None = None
    comment: str | None = None
    constraint: str | None = None
    exclude: str | None = None
    gres: str | None = None
    cpus_per_gpu: int | None = None
    gpus_per_task: int | None = None
    mem_per_gpu: str | None = None
    mem_per_cpu: str | None = None
    account: str | None = None
    signal_delay_s: int = 120
    max_num_timeout: int = 0
    additional_parameters: dict[str, Any] = field(default_factory=dict)
    array_parallelism: int = 256
    setup: list[str] | None = None


@dataclass
class OptunaConfig:
    """An optuna study."""

    library: str = "optuna"
    sampler: str = "tpe"
    sampler_args: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    direction: Any = "minimize"
    storage: str | None = None
    study_name: str | None = None
    n_trials: int = 20
    n_jobs: int = 1
    params: dict[str, str] = field(default_factory=dict)


HYDRA_SCHEMAS = {
    "launcher": {
        "slots": SlotsConfig,
        "joblib_schema": JoblibConfig,
        "ray_schema": RayConfig,
        "submitit_schema": SubmititConfig,
        "slurm_schema": SlurmConfig,
    },
    "sweeper": {"optuna_schema": OptunaConfig},
}
