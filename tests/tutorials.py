"""A tutorial's page as a shell session: its commands, and what it shows of their output.

A block of `bash` is run, a block of `console` right after it is compared with what was printed, a
block of `text` is shown only. In a shown output `...` stands for what was left out: a line of its
own for any lines, within a line for any text.
"""

from __future__ import annotations

import functools
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
GOES_ON = re.compile(r"^Goes on in the folder of \[[^\]]+\]\((\w+\.md)\)", re.MULTILINE)
RUN, SHOWN, ONLY_SHOWN = "bash", "console", "text"
CUT = "..."
# A model's figures differ between processors by this much at most, percentages by a hundred times.
TOLERANCE = 0.1
NUMBER = re.compile(
    r"(?P<measured>\d[\d.,]*(?= ?(?:s|min|h|ms|tok/s|[kKMGT]?B)\b))"  # time, rate, memory
    r"|(?P<share>\d+(?:\.\d+)?(?=%))"
    r"|(?P<figure>[-−]?\d+\.\d+(?:e[-+]?\d+)?|\d+e[-+]?\d+)"
)
ANY_NUMBER = r"([-−]?\d[\d.,]*(?:e[-+]?\d+)?)"
# Printed every 30 s where there is no terminal, so on a slow machine alone.
PROGRESS = re.compile(r"^[a-z ]+ \d+/\d+  .*\bleft$")


@dataclass(frozen=True)
class Step:
    """Commands of a page, where they stand, and the output that is shown; None: none is."""

    line: int
    commands: str
    shown: str | None


def read_steps(page: str) -> list[Step]:
    """The commands of a page, in order.

    Raises:
        ValueError: a block of another kind, or an output that stands behind no command.
    """
    steps: list[Step] = []
    before = ""
    for block in BLOCK.finditer(page):
        kind, content = block[1], block[2]
        line = page.count("\n", 0, block.start()) + 1
        if kind == RUN:
            steps.append(Step(line, content, None))
        elif kind == SHOWN and before == RUN:
            steps[-1] = Step(steps[-1].line, steps[-1].commands, content)
        elif kind != ONLY_SHOWN:
            raise ValueError(f"line {line}: a block of {kind or 'no kind'} behind one of {before}")
        before = kind
    return steps


def run_page(page: Path, folder: Path) -> None:
    """Run a page's commands in a folder, one block after the other.

    Raises:
        AssertionError: a command fails, or prints something else than the page shows.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for step in read_steps(page.read_text(encoding="utf-8")):
        done = subprocess.run(
            ["bash", "-e", "-c", step.commands],
            cwd=folder, env={**os.environ, "PATH": path}, text=True, timeout=1200,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        place = f"{page.name}, line {step.line}"
        assert done.returncode == 0, f"{place}: exit code {done.returncode}\n{done.stdout}"
        if step.shown is not None:
            fault = compare_output(step.shown, done.stdout)
            assert not fault, f"{place}: {fault}\n--- printed:\n{done.stdout}"


def compare_output(shown: str, printed: str) -> str:
    """What a page shows that was not printed so, in words; "" where all was."""
    wanted = [line.strip() for line in shown.splitlines() if line.strip()]
    lines = [line.strip() for line in printed.splitlines() if line.strip()]
    lines = [line for line in lines if not PROGRESS.match(line)]
    furthest = [0, 0]

    @functools.cache
    def match_from(i: int, j: int) -> bool:
        """Whether the shown lines from i on are all that is printed from j on."""
        if [i, j] > furthest:
            furthest[:] = [i, j]
        if i == len(wanted):
            return j == len(lines)
        if wanted[i] == CUT:
            return any(match_from(i + 1, k) for k in range(j, len(lines) + 1))
        return j < len(lines) and match_line(wanted[i], lines[j]) and match_from(i + 1, j + 1)

    if match_from(0, 0):
        return ""
    i, j = furthest
    if i == len(wanted):
        return f"more is printed than shown: {lines[j]!r}"
    return f"shown, but not printed there: {wanted[i]!r}"


def match_line(shown: str, printed: str) -> bool:
    """Whether a printed line is the shown one.

    White space and the length of rules do not count, nor do numbers of time, rate and memory;
    decimals and percentages may differ by the tolerance, whole numbers may not.
    """
    shown, printed = squeeze(shown), squeeze(printed)
    pattern, numbers, end = "", [], 0
    for number in NUMBER.finditer(shown):
        pattern += escape(shown[end : number.start()]) + ANY_NUMBER
        numbers.append(number)
        end = number.end()
    match = re.fullmatch(pattern + escape(shown[end:]), printed)
    if match is None:
        return False
    return all(map(is_near, numbers, match.groups()))


def is_near(shown: re.Match[str], printed: str) -> bool:
    """Whether a printed number may stand where another one is shown."""
    if shown["measured"]:
        return True
    allowed = TOLERANCE * (100 if shown["share"] else 1)
    difference = read_number(shown[0]) - read_number(printed)
    return abs(difference) <= allowed


def read_number(text: str) -> float:
    return float(text.replace("−", "-").rstrip(".,"))


def squeeze(line: str) -> str:
    return re.sub(r"([━─])\1+", r"\1", re.sub(r"\s+", " ", line))


def escape(text: str) -> str:
    """A pattern of a text in which dots may stand for anything."""
    return ".*".join(map(re.escape, text.split(CUT)))
