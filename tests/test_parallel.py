"""Tasks side by side: an error stops further ones, processes share the cores, and Ctrl-C is quiet."""

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

from cpc.experiments import ParallelError
from cpc.experiments.parallel import num_cores, run_side_by_side

ROOT = Path(__file__).resolve().parents[1]


def write(path: Path, *names: str) -> None:
    """Write the process and some environment variables."""
    path.write_text(" ".join([str(os.getpid()), *(os.environ.get(name, "unset") for name in names)]))


def refuse() -> None:
    raise ValueError("one line")


def die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def test_one_job_runs_the_tasks_in_order_in_this_process():
    made, ended = [], []
    run_side_by_side([partial(made.append, i) for i in range(3)], 1, done=ended.append)
    assert made == ended == [0, 1, 2]


def test_several_jobs_run_every_task_in_other_processes_that_share_the_cores(tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MKL_NUM_THREADS", raising=False)
    paths, ended = [tmp_path / str(i) for i in range(3)], []
    run_side_by_side([partial(write, p, "OMP_NUM_THREADS", "MKL_NUM_THREADS") for p in paths], 2, done=ended.append)
    assert sorted(ended) == [0, 1, 2]
    found = [path.read_text().split() for path in paths]
    assert str(os.getpid()) not in {process for process, *_ in found}
    assert {tuple(threads) for _, *threads in found} == {(str(max(1, num_cores() // 2)),) * 2}
    assert os.environ["OMP_NUM_THREADS"] == "7"
    assert "MKL_NUM_THREADS" not in os.environ


def test_after_an_error_no_further_task_begins(tmp_path):
    waiting = [partial(write, tmp_path / str(i)) for i in range(5)]
    with pytest.raises(ValueError, match=r"^one line$"):
        run_side_by_side([refuse, refuse, *waiting], 2)
    assert len(list(tmp_path.iterdir())) <= 1


def test_a_process_that_is_killed_is_one_line():
    with pytest.raises(ParallelError, match="one of 2 processes died, as happens when memory runs out"):
        run_side_by_side([die, die], 2)


def test_less_than_one_job_is_refused():
    with pytest.raises(ParallelError, match="jobs: got 0, expected 1 or more"):
        run_side_by_side([refuse], 0)


SCRIPT = """
import sys, time
from functools import partial
from pathlib import Path
from cpc.experiments import errors_in_one_line
from cpc.experiments.parallel import run_side_by_side

def wait(path):
    path.write_text("begun")
    time.sleep(60)

if __name__ == "__main__":
    with errors_in_one_line("test"):
        run_side_by_side([partial(wait, Path(sys.argv[1]) / str(i)) for i in range(4)], 2)
"""


@pytest.mark.skipif(os.name != "posix", reason="process groups are POSIX")
def test_ctrl_c_ends_all_processes_at_once_and_without_a_traceback(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    (tmp_path / "begun").mkdir()
    command = [sys.executable, tmp_path / "script.py", tmp_path / "begun"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        command,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
        cwd=tmp_path,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # the tests may run where it is ignored
    )
    for _ in range(1000):
        if len(list((tmp_path / "begun").iterdir())) == 2:
            break
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # a terminal sends Ctrl-C to the whole group
    errors = process.communicate(timeout=30)[1]
    assert errors == "interrupted; run the same command to resume\n"
    assert process.returncode == 1
    assert len(list((tmp_path / "begun").iterdir())) == 2


SLEEPER = """
import sys, time
from functools import partial
from pathlib import Path
from cpc.experiments.parallel import run_side_by_side

def wait(path):
    path.write_text(str(__import__("os").getpid()))
    time.sleep(600)

if __name__ == "__main__":
    run_side_by_side([partial(wait, Path(sys.argv[1]) / str(i)) for i in range(2)], 2)
"""


def test_processes_end_with_a_parent_that_is_killed(tmp_path):
    """Otherwise an ablation that was killed would train on unseen, beside the one that resumes it."""
    (tmp_path / "script.py").write_text(SLEEPER)
    (tmp_path / "begun").mkdir()
    command = [sys.executable, tmp_path / "script.py", tmp_path / "begun"]
    parent = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, cwd=tmp_path)

    def workers() -> list[int]:
        return [int(path.read_text()) for path in (tmp_path / "begun").iterdir() if path.read_text()]

    assert eventually(lambda: len(workers()) == 2)
    parent.kill()
    parent.wait()
    assert eventually(lambda: not any(map(is_running, workers())))


def eventually(condition) -> bool:
    """Whether a condition holds within a minute."""
    for _ in range(1200):
        if condition():
            return True
        time.sleep(0.05)
    return False


def is_running(process: int) -> bool:
    """Whether a process runs; one that has ended and was not waited for does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not (status.exists() and status.read_text().rpartition(")")[2].split()[0] == "Z")
