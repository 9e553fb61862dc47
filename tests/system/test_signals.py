"""Real signals to this process: raised, held back, let through; and the end that each makes."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest

from undial_cli.errors import Interrupted
from undial_cli.system import signals
from undial_cli.system.supervision import give_beat

NUMBERS = {"SIGTERM": 143, "SIGINT": 130, "SIGHUP": 129, "SIGUSR1": 138}


@pytest.fixture
def listening() -> Iterator[None]:
    """The handlers of a run that has begun; those of before are put back."""
    before = {name: signal.getsignal(getattr(signal, name)) for name in NUMBERS}
    for name in NUMBERS:
        signal.signal(getattr(signal, name), signal.SIG_DFL)
    signals._state = signals.SignalState()
    signals.install_signal_handlers()
    signals.raise_signals()
    yield
    for name, handler in before.items():
        signal.signal(getattr(signal, name), handler)
    signals._state = signals.SignalState()


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("name", NUMBERS)
def test_a_signal_is_raised_with_its_exit_code(name: str) -> None:
    with pytest.raises(Interrupted) as caught:
        send(name)
    assert caught.value.exit_code == NUMBERS[name]
    assert signals.find_signal(NUMBERS[name]) is getattr(signal, name)
    send(name)  # schedulers repeat themselves


@pytest.mark.usefixtures("listening")
def test_a_held_signal_is_raised_at_the_end_of_the_block() -> None:
    passed = []

    @signals.hold_signals()
    def work() -> None:
        with signals.hold_signals():
            send("SIGTERM")
            passed.append("inner")
        assert signals.get_held_signal() is signal.SIGTERM
        passed.append("outer")

    with pytest.raises(Interrupted):
        work()
    assert passed == ["inner", "outer"]
    assert signals.get_held_signal() is None


class Finalized:
    """Gets a signal while it is let go."""

    def __del__(self) -> None:
        send("SIGTERM")


@pytest.mark.usefixtures("listening")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_that_a_finalizer_swallowed_ends_the_work_at_its_next_beat() -> None:
    give_beat("evaluation")
    Finalized()
    with pytest.raises(Interrupted) as caught:
        give_beat("evaluation")
    assert caught.value.sign is signal.SIGTERM
    with signals.hold_signals():  # a training puts itself in order first
        give_beat("training", 3)


@pytest.mark.usefixtures("listening")
def test_what_is_released_within_a_held_block_ends_at_once() -> None:
    passed = []

    @signals.release_signals()
    def work() -> None:
        send("SIGUSR1")
        passed.append("on")

    with signals.hold_signals(), pytest.raises(Interrupted):
        work()
    assert passed == []


@pytest.mark.usefixtures("listening")
def test_a_signal_that_was_held_is_raised_before_something_released_begins() -> None:
    with signals.hold_signals():
        send("SIGHUP")
        with pytest.raises(Interrupted), signals.release_signals():
            pytest.fail("it began")


@pytest.mark.usefixtures("listening")
def test_a_second_control_c_ends_what_was_held_and_a_double_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    passed = []

    @signals.hold_signals()
    def work() -> None:
        send("SIGINT")
        send("SIGINT")  # `timeout -s INT` signals the process, then its group
        monkeypatch.setattr(signals, "REPEAT_SECONDS", 0)
        send("SIGTERM")
        passed.append("so far")
        send("SIGINT")
        passed.append("on")

    with pytest.raises(Interrupted):
        work()
    assert passed == ["so far"]


# What a command does before it reads anything, in small.
CHILD = """
import signal, sys, time
from undial_cli.system import signals
signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's job in the background ignores it
signals.install_signal_handlers(quiet=sys.argv[1] == "quiet")
if sys.argv[1] == "cleaning":
    signals.raise_signals()
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        print("cleaning", flush=True)
        time.sleep(60)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that has taken over its signals."""
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, request.param], stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    yield process
    process.kill()
    process.communicate()


@pytest.mark.parametrize(
    "child, said",
    [("speaking", "undial: interrupted by SIGTERM; the same command goes on\n"), ("quiet", "")],
    indirect=["child"],
)
def test_before_anything_is_written_the_process_ends_with_one_line(
    child: subprocess.Popen[str], said: str
) -> None:
    child.terminate()
    assert child.communicate(timeout=30) == ("", said)
    assert child.returncode == 143


@pytest.mark.parametrize("child", ["cleaning"], indirect=True)
def test_a_second_control_c_ends_a_run_that_is_putting_itself_in_order(
    child: subprocess.Popen[str],
) -> None:
    assert child.stdout is not None
    child.send_signal(signal.SIGUSR1)
    assert child.stdout.readline() == "cleaning\n"
    time.sleep(signals.REPEAT_SECONDS + 0.1)
    child.send_signal(signal.SIGINT)
    _, error = child.communicate(timeout=30)
    assert child.returncode == 130
    assert error == "undial: interrupted by SIGINT; the same command goes on\n"


@pytest.mark.usefixtures("listening")
def test_what_the_starter_had_ignored_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    signals.install_signal_handlers()
    send("SIGHUP")


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("held", [False, True])
def test_ctrl_c_ends_a_block_that_absorbs_it_and_nothing_beyond(held: bool) -> None:
    reached = []
    for _ in range(3):  # as often as one likes
        with signals.absorb_interrupts(held=held):
            send("SIGINT")
            reached.append(signals.get_held_signal())
    assert reached == ([signal.SIGINT] * 3 if held else [])
    with pytest.raises(Interrupted):  # what comes later is not absorbed
        send("SIGINT")


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize("held", [False, True])
def test_any_other_signal_ends_the_command_after_the_block(held: bool) -> None:
    with pytest.raises(Interrupted) as caught, signals.absorb_interrupts(held=held):
        send("SIGTERM")
    assert caught.value.exit_code == 143


@pytest.mark.usefixtures("listening")
def test_ctrl_c_is_absorbed_where_the_block_fails_too() -> None:
    @signals.absorb_interrupts(held=True)
    def fail() -> None:
        send("SIGINT")
        raise ValueError("of the block")

    with pytest.raises(ValueError, match="of the block"):
        fail()
    assert signals.get_held_signal() is None
    with signals.absorb_interrupts():
        send("SIGINT")
    assert signals.get_held_signal() is None


@pytest.mark.usefixtures("listening")
def test_a_second_ctrl_c_cuts_short_a_block_that_does_not_end_by_itself(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "REPEAT_SECONDS", 0.0)
    reached = []
    with signals.absorb_interrupts(held=True):
        send("SIGINT")
        reached.append("first")
        send("SIGINT")
        reached.append("second")
    assert reached == ["first"]
