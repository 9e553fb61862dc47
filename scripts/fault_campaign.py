"""Faults at traced moments of real runs: is the result that of an undisturbed run, to the bit?

    python scripts/fault_campaign.py [--rounds 200] [--faults kill,term,disk]
                                     [--scenarios run,audit] [--seed 0] [--folder FOLDER]
                                     [--journal FILE]

Each scenario is a real command in a home of its own. It runs undisturbed twice (what differs
between the two, such as times, is not compared), every change of a file being traced in each of its
processes. In each round a stage, a change of a file in it and a wait after it are drawn, and a
signal is sent there: `kill`: SIGKILL to the process itself, be it parent or worker; `term`: SIGTERM
or SIGUSR1 to the parent. `disk`: the output or the cache folder lies on a disk of a drawn size
(needs the right to mount). What was started has to be gone within 20 s; then the same command is
given again, and has to end with 0 and to leave the files of an undisturbed run and no other. Prints
a Markdown table, and each failure with what repeats it; exit code 1 if there is one. A journal gets
a line for each round; the table is of all its rounds, those of earlier campaigns too (`--rounds 0`:
of these alone).
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
TRACER = ROOT / "scripts" / "fault_tracer"
DEBUG = ["experiment=debug", "hardware=cpu", "output_dir=out"]
RUN = ["unlearn", *DEBUG, "name=run"]
AUDIT = [
    "audit", "out/unlearn/run", "output_dir=out", "name=audit", "audit.budget=quick",
    "audit.attacks=[direct,choice,sampling,relearn]",
]  # fmt: skip
# The command of each, and those that are done before it.
SCENARIOS: dict[str, tuple[list[str], list[list[str]]]] = {
    "first use": (RUN, []),
    "run": (RUN, [["unlearn", *DEBUG, "name=before", "train.max_steps=4"]]),
    "two processes": ([*RUN, "hardware.num_processes=2"], []),
    "sweep": (["unlearn", "--multirun", *DEBUG, "method.strength=5,10"], []),
    "audit": (AUDIT, [RUN]),
}
# What was started is gone so many seconds after one of its processes was killed.
GRACE = 20
# A command that takes longer hangs.
TIMEOUT = 900
SIGNALS = {"kill": [signal.SIGKILL], "term": [signal.SIGTERM, signal.SIGUSR1]}
DISKS = ("out", "cache")
# These show speeds and times; that they are there is what is compared.
PICTURES = (".html", ".svg", ".png")
# What a Markdown report says of a run's time.
WALL_TIME = re.compile(rb" \xc2\xb7 [\d.]+ (s|min|h)( \d+ \w+)?(?= \xc2\xb7)")
PAGE = 4096
# What a command writes less of than that fills no disk.
SLACK = 2 * PAGE
# A disk is made as large as that for the second command.
ROOM = "1g"


@dataclass(frozen=True)
class Moment:
    """A change of a file: which process makes it, its number there, the stage that it belongs to,
    and the seconds until the next one."""

    role: str
    number: int
    stage: str
    gap: float


class Home:
    """A folder with the output, cache and temporary folders of a command; always at one path.

    Paths are part of what some files hold, and of the names of locks.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.traces, self.prepared = (
            folder / name for name in ("home", "traces", "prepared")
        )

    def renew(self) -> None:
        """As it was before the command."""
        shutil.rmtree(self.path, ignore_errors=True)
        shutil.rmtree(self.traces, ignore_errors=True)
        self.traces.mkdir(parents=True)
        if self.prepared.is_dir():
            shutil.copytree(self.prepared, self.path)
        for name in ("out", "cache", "tmp"):
            (self.path / name).mkdir(parents=True, exist_ok=True)

    def start(self, words: list[str], at: str = "", traced: bool = False) -> subprocess.Popen[str]:
        """A command of undial; `at`: where a signal is sent, as the tracer reads it."""
        environment = {
            **os.environ,
            "HOME": str(self.path), "UNDIAL_CACHE_DIR": str(self.path / "cache"),
            "TMPDIR": str(self.path / "tmp"), "HF_HOME": str(self.path / "hub"),
            "HF_HUB_OFFLINE": "1", "FAULT_CAMPAIGN": str(self.path),
            "MPLCONFIGDIR": str(self.prepared.parent / "matplotlib"),  # it lists fonts in any order
        }  # fmt: skip
        folders = [str(ROOT), environment.get("PYTHONPATH", "")]
        if traced:
            folders.insert(0, str(TRACER))
            environment |= {
                "FAULT_ROOT": str(self.path), "FAULT_TRACE": str(self.traces), "FAULT_AT": at,
            }  # fmt: skip
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, folders))
        return subprocess.Popen(
            [sys.executable, "-m", "undial_cli.cli", *words],
            cwd=self.path, env=environment, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip

    def run(self, words: list[str], at: str = "", traced: bool = False) -> tuple[int | None, str]:
        """Exit code (None: it hangs) and what a command says."""
        process = self.start(words, at, traced)
        try:
            text, _ = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            for pid in list_processes(self.path):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            return None, process.communicate()[0]
        return process.returncode, text

    def read_moments(self) -> list[Moment]:
        """What the last traced command changed."""
        moments = []
        for file in sorted(self.traces.iterdir()):
            role = file.name.rpartition(".")[0]
            rows = [line.split("\t") for line in file.read_text().splitlines()]
            times = [float(row[0]) for row in rows]
            gaps = [after - now for now, after in itertools.pairwise(times)]
            for number, (row, gap) in enumerate(zip(rows, [*gaps, 0.0], strict=True)):
                moments.append(Moment(role, number, name_stage(row[2]), gap))
        return moments

    def read_results(self) -> dict[str, Any]:
        """What a command left, by file: JSON as it is, of others a hash of the content."""
        results: dict[str, Any] = {}
        for file in sorted(self.path.rglob("*")):
            name = str(file.relative_to(self.path))
            if file.is_dir() or name.startswith("cache/locks/") or file.name == "log.txt":
                continue  # a log tells of both commands
            content = file.read_bytes()
            if name.startswith("tmp/") and content in (b"", b"blat"):
                continue  # so Python tries whether the folder can be written to
            if file.suffix == ".md":
                content = WALL_TIME.sub(b"", content)
            elif file.suffix in PICTURES:
                content = b""
            results[name] = hashlib.blake2b(content, digest_size=16).hexdigest()
            if file.suffix in (".json", ".jsonl"):
                with contextlib.suppress(ValueError):
                    lines = content.decode().splitlines() if file.suffix == ".jsonl" else [content]
                    results[name] = [json.loads(line) for line in lines if line]
            if file.name == "evidence.json":  # which tells of a log that holds a traceback
                for evidence in results[name]:
                    evidence["files"] = [f for f in evidence["files"] if f["path"] != "log.txt"]
        return results


def name_stage(path: str) -> str:
    """What part of a run a file belongs to: its first three folders, without the names of runs."""
    parts = path.split("/")
    if parts[0] == "out":
        parts = ["out", *(re.sub(r"\.[0-9a-f]{8}-\d+\.unfinished$", "", p) for p in parts[3:4])]
    return "/".join(parts[:2])


def list_processes(home: Path) -> list[int]:
    """The processes that a command of this home started and that still run."""
    alive = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            marked = f"FAULT_CAMPAIGN={home}\0".encode() in (folder / "environ").read_bytes()
            if marked and state != "Z":
                alive.append(int(folder.name))
    return alive


def wait_for_end(home: Path) -> list[int]:
    """The processes that are left after the grace; they are ended."""
    until = time.monotonic() + GRACE
    while (alive := list_processes(home)) and time.monotonic() < until:
        time.sleep(0.2)
    for pid in alive:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return alive


def list_differences(ours: Any, theirs: Any, path: str = "") -> Iterator[str]:
    """The paths of values that differ: names of files, and keys within them."""
    if isinstance(ours, dict) and isinstance(theirs, dict):
        for key in sorted(ours.keys() | theirs.keys()):
            if (key in ours) != (key in theirs):
                yield f"{path}/{key} ({'gone' if key in theirs else 'left'})"
            else:
                yield from list_differences(ours[key], theirs[key], f"{path}/{key}")
    elif isinstance(ours, list) and isinstance(theirs, list) and len(ours) == len(theirs):
        for number, pair in enumerate(zip(ours, theirs, strict=True)):
            yield from list_differences(*pair, f"{path}/{number}")
    elif ours != theirs:
        yield path


def is_timing(path: str) -> bool:
    """Whether a value is a run's wall time, which it has only if it was done in one go."""
    return path.removesuffix(" (gone)").endswith("status.json/0/seconds")


class Scenario:
    """A command, what it leaves undisturbed, and the moments at which it can be disturbed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name = name
        self.words, before = SCENARIOS[name]
        self.home = Home(folder / name.replace(" ", "_"))
        shutil.rmtree(self.home.prepared.parent, ignore_errors=True)
        self.home.renew()
        for words in before:
            self.finish(words)
        shutil.copytree(self.home.path, self.home.prepared)
        before_it = self.measure_disks()
        self.home.renew()
        self.finish(self.words)
        first = self.home.read_results()
        # What it writes to each disk; a few pages are no disk to fill.
        after = self.measure_disks()
        self.written = {
            d: after[d] - before_it[d] for d in DISKS if after[d] - before_it[d] > SLACK
        }
        self.home.renew()
        self.finish(self.words, traced=True)
        self.expected = self.home.read_results()
        self.moments = self.home.read_moments()
        # Times, memory, pictures of them: what two undisturbed runs do not agree in.
        self.varying = set(list_differences(first, self.expected))

    def measure_disks(self) -> dict[str, int]:
        return {disk: measure_folder(self.home.path / disk) for disk in DISKS}

    def finish(self, words: list[str], traced: bool = False) -> None:
        code, text = self.home.run(words, traced=traced)
        if code != 0:
            raise SystemExit(f"undial {' '.join(words)}: exit code {code}\n{text}")

    def draw_moment(self, draws: random.Random) -> tuple[Moment, float]:
        """A process, a stage of it, a moment in it, and seconds to wait there."""
        role = draws.choice(sorted({m.role for m in self.moments}))
        stages = sorted({m.stage for m in self.moments if m.role == role})
        stage = draws.choice(stages)
        moment = draws.choice([m for m in self.moments if (m.role, m.stage) == (role, stage)])
        return moment, draws.choice([0.0, draws.uniform(0, moment.gap)])

    def disturb(self, fault: str, draws: random.Random) -> tuple[str, str, str]:
        """A fault and the same command again: where, how the first ended, what is wrong ("")."""
        if fault == "disk":
            return self.fill_disk(draws)
        moment, wait = self.draw_moment(draws)
        sign = draws.choice(SIGNALS[fault])
        whom = "self" if fault == "kill" else "main"
        at = f"{moment.role}|{moment.number}|{wait:.3f}|{int(sign)}|{whom}"
        self.home.renew()
        code, text = self.home.run(self.words, at, traced=True)
        wrong = []
        if fault == "term" and code not in (0, 128 + sign):
            wrong.append(f"exit code {code} after {sign.name}")
        where = f"{moment.role}: {moment.stage}"
        return where, describe_end(code), self.check_end(text, wrong, f"{sign.name} at {at}")

    def fill_disk(self, draws: random.Random) -> tuple[str, str, str]:
        """The command on a disk too small (or just large enough), and then on a larger one."""
        disk = draws.choice(sorted(self.written))
        room = int(draws.uniform(0, 1.1) * self.written[disk]) // PAGE * PAGE
        self.home.renew()
        folder = self.home.path / disk
        with mount_disk(folder, room):
            code, text = self.home.run(self.words)
            wrong = []
            if code not in (0, 1):
                wrong.append(f"exit code {code}")
            if code == 1 and "Traceback" in text:
                wrong.append("a traceback")
            if code == 1 and not any(word in text for word in ("room", "space", "full", "free")):
                wrong.append("the message does not speak of the disk")
            resize_disk(folder, ROOM)
            end = describe_end(code)
            return (
                f"{disk} full",
                end,
                self.check_end(text, wrong, f"{disk} with room for {room} bytes"),
            )

    def check_end(self, text: str, wrong: list[str], at: str) -> str:
        """Nothing still runs, and the same command ends as an undisturbed one; what is wrong."""
        if left := wait_for_end(self.home.path):
            wrong.append(f"{len(left)} processes left")
        again, more = self.home.run(self.words)
        if again != 0:
            wrong.append(f"the same command again: exit code {again}")
            text += more
        else:
            differing = list_differences(self.home.read_results(), self.expected)
            wrong += [d for d in differing if d not in self.varying and not is_timing(d)][:5]
        if not wrong:
            return ""
        last = "\n".join(f"      {line}" for line in text.strip().splitlines()[-6:])
        return f"{self.name}, {at}: {'; '.join(wrong)}\n{last}"


def describe_end(code: int | None) -> str:
    """How a command ended, in a word."""
    if code is None:
        return "hung"
    return f"{signal.Signals(-code).name}" if code < 0 else f"exit {code}"


def measure_folder(folder: Path) -> int:
    """The bytes that a folder takes on a disk in memory, which gives whole pages."""
    sizes = (file.stat().st_size if file.is_file() else 0 for file in folder.rglob("*"))
    return sum((size // PAGE + 1) * PAGE for size in sizes)


@contextlib.contextmanager
def mount_disk(folder: Path, room: int) -> Iterator[None]:
    """A disk in place of a folder, with what the folder held and room for so many bytes."""
    copy = folder.with_name(f"{folder.name}_before")
    folder.rename(copy)
    folder.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", str(folder)]
    subprocess.run(words, check=True)
    try:
        shutil.copytree(copy, folder, dirs_exist_ok=True)
        shutil.rmtree(copy)
        resize_disk(folder, f"{shutil.disk_usage(folder).used + room}")
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)


def resize_disk(folder: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(folder)], check=True)


def can_mount() -> bool:
    """Whether this user may mount a disk in memory."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder]
        try:
            allowed = subprocess.run(words, capture_output=True, check=False).returncode == 0
        except OSError:
            return False
        if allowed:
            subprocess.run(["umount", folder], check=False)
        return allowed


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=200, help="faults, over all scenarios")
    parser.add_argument("--faults", default="kill,term,disk")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--journal", type=Path, help="default: rounds.jsonl in the folder")
    options = parser.parse_args()
    faults = options.faults.split(",")
    if "disk" in faults and not can_mount():
        faults.remove("disk")
        print("disk: left out, this user may not mount", flush=True)
    folder = (options.folder or Path(tempfile.mkdtemp(prefix="faults-"))).absolute()
    draws = random.Random(options.seed)
    print(f"seed {options.seed}, {options.rounds} rounds, in {folder}", flush=True)
    journal = options.journal or folder / "rounds.jsonl"
    journal.parent.mkdir(parents=True, exist_ok=True)
    names = options.scenarios.split(",") if options.rounds else []
    for number, name in enumerate(names):
        scenario = Scenario(name, folder)
        rounds = options.rounds * (number + 1) // len(names) - options.rounds * number // len(names)
        print(f"{name}: {len(scenario.moments)} changes traced, {rounds} faults", flush=True)
        for turn in range(rounds):
            fault = faults[turn % len(faults)]
            where, end, wrong = scenario.disturb(fault, draws)
            row = {"scenario": name, "fault": fault, "where": where, "end": end, "wrong": wrong}
            with open(journal, "a", encoding="utf-8") as file:
                file.write(json.dumps({"seed": options.seed, **row}) + "\n")
            if wrong:
                print(f"FAILED {wrong}", flush=True)
    rows = [json.loads(line) for line in journal.read_text().splitlines()]
    print_table(rows)
    sys.exit(1 if any(row["wrong"] for row in rows) else 0)


def print_table(rows: list[dict[str, Any]]) -> None:
    """A line for each kind of fault of a scenario: in how many stages, how the disturbed commands
    ended, and how often the end was not that of an undisturbed one."""
    print(
        "| scenario | fault | times | stages | the disturbed command ended | not as undisturbed |"
    )
    print("| --- | --- | ---: | ---: | --- | ---: |")
    for scenario, fault in sorted({(row["scenario"], row["fault"]) for row in rows}):
        ours = [row for row in rows if (row["scenario"], row["fault"]) == (scenario, fault)]
        stages = len({row["where"] for row in ours})
        ends = Counter(row["end"] for row in ours).most_common()
        bad = sum(bool(row["wrong"]) for row in ours)
        spelled = ", ".join(f"{end}: {count}" for end, count in ends)
        print(f"| {scenario} | {fault} | {len(ours)} | {stages} | {spelled} | {bad} |")
    print(f"{len(rows)} faults, {sum(bool(row['wrong']) for row in rows)} not as undisturbed")


if __name__ == "__main__":
    main()
