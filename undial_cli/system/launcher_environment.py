"""What torchrun, accelerate or srun told this process that they started as one of several.

torch and accelerate read torchrun's variables, which srun does not set: a step of several tasks
(`srun --ntasks=8 undial unlearn ...`) is one run, and gets them here. A batch script, an
interactive step and a step of one task start their own processes. gloo is told the network that
the others are on. Knows nothing of the run, and imports no torch.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import re
import socket
from collections.abc import Iterator

import psutil

from undial_cli.errors import UserError, bad_value

# What torchrun and accelerate tell each process that they start.
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
MEETING_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")
GLOO_INTERFACE = "GLOO_SOCKET_IFNAME"
# Ports below those that Linux hands out by itself; steps that run together get different ones.
FIRST_PORT, PORTS = 12000, 20000
# Tasks per node as SLURM spells them: 2(x3),1 are three nodes of two and one of one.
TASKS_PER_NODE = re.compile(r"(\d+)(?:\(x(\d+)\))?")
# The first of node[01-04,07],login3 is node01.
FIRST_HOST = re.compile(r"([^\[,]+)(?:\[(\d+)[^\]]*\]([^,]*))?")


def is_launched() -> bool:
    """Whether torchrun, accelerate or SLURM has already started this process as one of several."""
    return all(name in os.environ for name in LAUNCHER_VARIABLES)


def check_launcher_environment() -> None:
    """The variables of a launcher are there together and make sense, or none of them is.

    Raises:
        UserError: some are missing, or one is no number that can be.
    """
    given = [name for name in LAUNCHER_VARIABLES if name in os.environ]
    if not given:
        return
    numbers = {name: os.environ[name] for name in given}
    for name, text in numbers.items():
        if not text.isdecimal():
            raise bad_value(name, text, "a number >= 0 in the environment, as torchrun sets it")
    missing = [name for name in LAUNCHER_VARIABLES if name not in os.environ]
    if not missing and int(numbers["WORLD_SIZE"]) > 1:
        missing = [name for name in MEETING_VARIABLES if not os.environ.get(name)]
    if missing:
        raise UserError(
            f"{', '.join(given)}: set in the environment, as torchrun and accelerate do, but not "
            f"{', '.join(missing)}; unset them to start the run by itself"
        )
    port = os.environ.get("MASTER_PORT", "")
    if port and not (port.isdecimal() and int(port) < 65536):
        raise bad_value("MASTER_PORT", port, "a port's number in the environment, as torchrun sets")
    if int(numbers["RANK"]) >= int(numbers["WORLD_SIZE"]):
        size = numbers["WORLD_SIZE"]
        raise bad_value("RANK", numbers["RANK"], f"less than WORLD_SIZE={size}")


def adopt_slurm_step() -> None:
    """Set torchrun's variables from those of the SLURM step that this process is a task of.

    What a launcher has set already stays, and so do MASTER_ADDR and MASTER_PORT of the user's.

    Raises:
        UserError: a variable of the step is missing, or is not what srun sets.
    """
    environment = os.environ
    tasks = environment.get("SLURM_STEP_NUM_TASKS", "1")
    if tasks == "1" or any(name in environment for name in LAUNCHER_VARIABLES):
        return
    try:
        node = read_count("SLURM_NODEID")
        job, step = read_count("SLURM_JOB_ID"), read_count("SLURM_STEP_ID")
        on_nodes = list(read_tasks_per_node(environment["SLURM_STEP_TASKS_PER_NODE"]))
        host = FIRST_HOST.match(environment["SLURM_STEP_NODELIST"])
        launched = {
            "RANK": str(read_count("SLURM_PROCID")),
            "LOCAL_RANK": str(choose_local_rank(read_count("SLURM_LOCALID"))),
            "WORLD_SIZE": str(read_count("SLURM_STEP_NUM_TASKS")),
            "LOCAL_WORLD_SIZE": str(on_nodes[node]),
            "GROUP_RANK": str(node),
        }
        first = "".join(part or "" for part in host.groups()) if host else ""
    except (KeyError, ValueError, IndexError) as error:
        raise UserError(
            f"SLURM_STEP_NUM_TASKS={tasks}: a step of several tasks, but its other variables do "
            f"not fit ({type(error).__name__}: {error}); unset it to start the run by itself"
        ) from error
    environment.update(launched)
    environment.setdefault("MASTER_ADDR", first if len(on_nodes) > 1 else "127.0.0.1")
    environment.setdefault("MASTER_PORT", str(FIRST_PORT + (16 * job + step) % PORTS))


def read_count(name: str) -> int:
    """A number >= 0 of the environment; anything else is a ValueError that names it."""
    if not (text := os.environ[name]).isdecimal():
        raise ValueError(f"{name}={text}")
    return int(text)


def choose_local_rank(task: int) -> int:
    """Which of the GPUs that it sees is a task's: `--gpus-per-task=1` shows each its own alone."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return 0 if visible and "," not in visible else task


def read_tasks_per_node(text: str) -> Iterator[int]:
    """The number of tasks on each node of a step, in the order of its nodes."""
    for part in text.split(","):
        match = TASKS_PER_NODE.fullmatch(part.strip())
        if match is None:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE={text}")
        yield from itertools.repeat(int(match[1]), int(match[2] or 1))


def name_gloo_interface() -> None:
    """Tell gloo to use the network on which the other processes are met.

    It gives the others the address of this machine's own name. Where that is the loopback's, as
    Debian writes it into /etc/hosts, another machine would look for it on itself.
    """
    if GLOO_INTERFACE in os.environ or not os.environ.get("MASTER_ADDR") or is_name_reachable():
        return
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect((os.environ["MASTER_ADDR"], 9))  # sends nothing: it only chooses a way
        address = probe.getsockname()[0]
        for name, addresses in psutil.net_if_addrs().items():
            if address in [one.address for one in addresses]:
                os.environ[GLOO_INTERFACE] = name


def is_name_reachable() -> bool:
    """Whether this machine's name is an address of it that other machines see, as gloo takes it."""
    try:
        address = socket.gethostbyname(socket.gethostname())
        with socket.socket() as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return not address.startswith("127.")
