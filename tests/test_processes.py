"""How many threads fit beside other processes."""

import os
import subprocess
import sys
import time

import pytest
import torch

from cpc import processes
from cpc.config import ConfigError
from cpc.devices import Threads
from cpc.processes import FreeCores, _busy_seconds


@pytest.fixture
def machine(monkeypatch):
    """Four cores, and a clock and counters that the test moves: seconds passed, busy seconds, own seconds."""
    there = {"now": 0.0, "busy": 0.0, "own": 0.0}
    monkeypatch.setattr(processes, "_own_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(processes, "_busy_seconds", lambda cores: there["busy"])
    monkeypatch.setattr(processes.time, "monotonic", lambda: there["now"])
    monkeypatch.setattr(processes.time, "process_time", lambda: there["own"])

    def pass_by(seconds, *, own, others):
        there["now"] += seconds
        there["own"] += own * seconds
        there["busy"] += (own + others) * seconds

    return pass_by


@pytest.mark.parametrize(
    ("others", "threads"), [(0.0, 4), (0.4, 4), (0.6, 3), (1.0, 3), (2.2, 2), (3.0, 1), (4.0, 1), (9.0, 1)]
)
def test_threads_are_as_many_as_cores_are_free_and_never_fewer_than_one(machine, others, threads):
    free = FreeCores(4)
    machine(2.0, own=4 - min(4, others), others=others)
    assert free.update() == (threads != 4)
    assert free.threads == threads


def test_threads_go_at_once_and_come_back_when_cores_stay_free(machine):
    free = FreeCores(4)
    machine(1.0, own=2.0, others=2.0)
    assert free.update()
    for look in range(1, 5):
        assert free.threads == 2, f"at look {look}"
        machine(1.0, own=2.0, others=0.0)
        assert free.update() == (look == 4)
    assert free.threads == 4


def test_no_more_threads_than_asked_for_and_no_look_within_a_second(machine):
    free = FreeCores(2)
    machine(0.5, own=0.0, others=4.0)
    assert not free.update()
    machine(0.5, own=2.0, others=0.0)  # together two cores on average
    assert not free.update()
    assert free.threads == 2
    machine(1.0, own=1.0, others=3.0)
    assert free.update()
    assert free.threads == 1


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat")
def test_a_busy_process_is_seen_in_the_cores_that_others_use():
    free = FreeCores(2)
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as busy:
        try:
            time.sleep(1.5)
            free.update()
        finally:
            busy.kill()
    assert free.used_by_others > 0.3  # a core, unless the machine is overloaded


@pytest.mark.skipif(sys.platform != "linux", reason="/proc/stat")
def test_only_own_cores_count_and_low_priority_only_if_this_process_has_it(tmp_path, monkeypatch):
    stat = tmp_path / "stat"
    stat.write_text(
        "cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 50 20 999 7 1 2 3 0 0\ncpu1 1000 0 0 0 0 0 0 0 0 0\n"
        "cpu10 5 0 0 0 0 0 0 0 0 0\nintr 1 2 3\n"
    )
    ticks = os.sysconf("SC_CLK_TCK")
    monkeypatch.setattr(os, "getpriority", lambda *_: 0)
    assert _busy_seconds({0}, stat) == pytest.approx(126 / ticks)
    assert _busy_seconds({0, 10}, stat) == pytest.approx(131 / ticks)
    monkeypatch.setattr(os, "getpriority", lambda *_: 10)
    assert _busy_seconds({0}, stat) == pytest.approx(176 / ticks)


def test_threads_of_torch_follow_and_are_as_before_at_the_end(machine):
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        with Threads("auto") as threads:
            assert threads.adapt() == ""
            machine(1.0, own=1.0, others=3.0)
            assert threads.adapt() == "other processes use 3.0 of 4 cores: continuing with --threads 1"
            assert threads.count == torch.get_num_threads() == 1
        assert torch.get_num_threads() == 4
        with Threads(2) as threads:
            machine(1.0, own=1.0, others=3.0)
            assert threads.adapt() == ""
            assert threads.count == 2
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_less_than_one_thread_is_refused():
    with pytest.raises(ConfigError, match="threads: got 0, expected auto, or 1 or more"):
        Threads(0)
