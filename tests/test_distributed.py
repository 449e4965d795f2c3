"""Two processes (gloo, CPU) train as one would on both batches: same gradients, same weights, files written once."""

import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import multiprocessing

from cpc.config import BatchConfig, ConfigError, CriterionConfig, DataConfig, OptimConfig, TrainConfig, write_config
from cpc.data import BatchSampler, Composition, WindowOptions, Windows
from cpc.infonce import Negatives, Rule, infonce
from cpc.runs import append_metrics, build_model, read_checkpoint, read_metrics, read_starts
from cpc.train import TrainingError, learning_rate, train
from cpc.train.distributed import Ranks, joined, own_device
from cpc.train.objectives import Supervised
from tests.conftest import tiny_config


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def in_two_processes(function, *args):
    """function(rank, *args) in two processes that know of each other as torchrun's do."""
    multiprocessing.spawn(_as_rank, (function, free_port(), args), nprocs=2)


def _as_rank(rank, function, port, args):
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }  # fmt: skip
    torch.set_num_threads(1)
    function(rank, *args)


def run_config(manifest, num_windows=2, **train_changes):
    """One window an utterance and negatives of one's own sequence: the batch's composition changes nothing."""
    return tiny_config(
        manifest, data=DataConfig(manifest=str(manifest), window_samples=16000),
        batches=BatchConfig(num_windows=num_windows),
        criterion=CriterionConfig(num_steps=3, scheme="current_sequence"),
        optim=OptimConfig(lr=1e-2, eps=1e-3, clip_norm=0.5),  # a smooth step, so that rounding stays small
        precision="float32",
        train=replace(TrainConfig(2, log_every=1, validate_every=2, validate_batches=1, checkpoint_every=1),
                      **train_changes),
    )  # fmt: skip


def loss_of(network, x, rows, ranks):
    """Mean InfoNCE of some windows of a batch, with negatives from their own rank's windows."""
    z, c = network.represent(x[rows])
    own = Rule(same=("rank",))
    negatives = Negatives.of(own, [z.shape[1]] * len(rows), {"rank": ranks})
    return infonce(z, network.predict(c), negatives).losses.mean()


def _gradients(rank, manifest, folder):
    with joined(torch.device("cpu")) as ranks:
        assert (ranks.rank, ranks.size) == (rank, 2)
        torch.manual_seed(rank)
        network = build_model(tiny_config(manifest))
        ranks.share(network)
        x = torch.randn(4, 4000, generator=torch.Generator().manual_seed(0))
        loss_of(network, x, [2 * rank, 2 * rank + 1], [rank, rank]).backward()
        ranks.average_gradients(network)
    torch.save([network.state_dict(), [p.grad for p in network.parameters()]], folder / f"{rank}.pt")


def test_the_averaged_gradient_is_that_of_one_process_on_both_batches(corpus, tmp_path):
    """Each process has its two windows' negatives; one process has both pairs, with the same negatives."""
    in_two_processes(_gradients, corpus, tmp_path)
    (weights, first), (weights_1, second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert all(torch.equal(weights[name], weights_1[name]) for name in weights)
    network = build_model(tiny_config(corpus))
    network.load_state_dict(weights)
    x = torch.randn(4, 4000, generator=torch.Generator().manual_seed(0))
    loss_of(network, x, [0, 1, 2, 3], [0, 0, 1, 1]).backward()
    for p, a, b in zip(network.parameters(), first, second, strict=True):
        assert torch.equal(a, b)
        torch.testing.assert_close(a, p.grad, atol=1e-6, rtol=0)


def _share(rank, folder):
    with joined(torch.device("cpu")) as ranks:
        torch.manual_seed(rank)
        objective = Supervised(["a", "b"], 3)
        ranks.share(objective)
    torch.save(objective.state_dict(), folder / f"{rank}.pt")


def test_an_objective_that_saves_names_of_classes_is_shared_too(tmp_path):
    """Its state holds a list of names beside the weights, which no process group can send."""
    in_two_processes(_share, tmp_path)
    first, second = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert torch.equal(first["classifier.weight"], second["classifier.weight"])


def _train_and_write(rank, config, folder):
    """Both processes write, each into a folder of its own, what only the first does otherwise."""
    Ranks.is_first = True
    train(config, folder / str(rank))


def test_two_processes_end_with_the_same_weights_as_one_with_both_batches(corpus, tmp_path):
    """So does one process that takes the two batches of an update one after the other."""
    config = run_config(corpus)
    in_two_processes(_train_and_write, config, tmp_path)
    alone = train(replace(config, batches=BatchConfig(num_windows=4)), tmp_path / "alone")
    first, second, expected = (read_checkpoint(tmp_path / name / "last.pt")[1]["model"] for name in ("0", "1", "alone"))
    accumulated = train(replace(config, batches=BatchConfig(num_windows=2, accumulate=2)), tmp_path / "accumulated")
    one_after_the_other = read_checkpoint(accumulated / "last.pt")[1]["model"]
    for name in expected:
        assert torch.equal(first[name], second[name])
        torch.testing.assert_close(first[name], expected[name], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(one_after_the_other[name], expected[name], atol=1e-5, rtol=1e-4)
    ours, theirs = (read_metrics(run / "metrics.jsonl")[0] for run in (tmp_path / "0", alone))
    assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)


def _train_until(rank, config, run, stop_at):
    """Rank 1 alone gets a signal while it logs update `stop_at`."""
    if stop_at:
        original = Ranks.any

        def signalled(self, flag, device):
            signalled.count += 1
            return original(self, flag or (rank == 1 and signalled.count == stop_at), device)

        signalled.count = 0
        Ranks.any = signalled
        with pytest.raises(KeyboardInterrupt):
            train(config, run)
    else:
        train(config, run, resume=(run / "last.pt").exists())


@pytest.mark.slow
def test_a_signal_to_one_stops_both_after_the_same_update_and_the_run_goes_on_exactly(corpus, tmp_path):
    config = run_config(corpus, num_updates=4)
    in_two_processes(_train_until, config, tmp_path / "whole", 0)
    in_two_processes(_train_until, config, tmp_path / "halved", 2)
    assert read_checkpoint(tmp_path / "halved" / "last.pt")[1]["update"] == 2
    in_two_processes(_train_until, config, tmp_path / "halved", 0)
    a, b = (read_checkpoint(tmp_path / name / "last.pt")[1]["model"] for name in ("whole", "halved"))
    assert all(torch.equal(a[name], b[name]) for name in a)
    lines = [(line["kind"], line["update"]) for line in read_metrics(tmp_path / "halved" / "metrics.jsonl")]
    assert sorted(lines) == sorted({*lines})
    assert lines.count(("train", 4)) == 1


@pytest.mark.parametrize(("num_ranks", "accumulate"), [(1, 1), (2, 1), (3, 1), (1, 3), (2, 2)])
def test_ranks_share_the_batches_out(corpus, num_ranks, accumulate):
    """Batch i of update u of rank r is batch (u · R + r) · A + i of what one process would see without accumulation.

    A later start changes nothing.
    """
    from cpc.data import read_manifest

    windows = Windows(read_manifest(corpus).select("train"), WindowOptions(window_samples=4000))
    composition = Composition("mixed", num_windows=3, seed=5)
    of_update = num_ranks * accumulate
    one = list(BatchSampler(windows, composition, 0, 7 * of_update))
    for rank in range(num_ranks):
        how = {"rank": rank, "num_ranks": num_ranks, "accumulate": accumulate}
        sampler = BatchSampler(windows, composition, 0, 7, **how)
        own = list(sampler)
        assert len(own) == len(sampler) == 7 * accumulate
        assert own == [batch for number, batch in enumerate(one) if number % of_update // accumulate == rank]
        assert list(BatchSampler(windows, composition, 4, 7, **how)) == own[4 * accumulate :]


def torchrun_command(*args):
    module, count = [sys.executable, "-m", "torch.distributed.run"], ["--nproc-per-node", "2"]
    return [*module, "--standalone", *count, "-m", "cpc", "train", *map(str, args)]


def torchrun(*args, cwd):
    return subprocess.run(torchrun_command(*args), capture_output=True, text=True, cwd=cwd)


@pytest.mark.slow
def test_torchrun_trains_one_run_and_bad_input_is_one_line(corpus, tmp_path):
    path = tmp_path / "config.toml"
    write_config(run_config(corpus), path)
    done = torchrun(path, "--out", tmp_path / "run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "2 processes × 2 windows an update" in done.stderr
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        *("config.toml", "metrics.jsonl", "last.pt", "previous.pt", "best.safetensors")
    }
    refused = torchrun(path, "--out", tmp_path / "other", "--data.manifest", "nothing.csv", cwd=tmp_path)
    assert refused.returncode != 0
    assert refused.stderr.count("cpc: error:") == 1
    assert "nothing.csv" in refused.stderr
    assert not (tmp_path / "other").exists()


def kill_a_rank(agent, run):
    """Kill a process that torchrun has started, once the run has a checkpoint."""
    deadline = time.monotonic() + 120
    while not (run / "previous.pt").exists():
        assert agent.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
    ranks = [child for child in children if b"RANK=1" in Path(f"/proc/{child}/environ").read_bytes().split(b"\0")]
    os.kill(int(ranks[0]), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_when_a_rank_dies_the_others_end_within_a_minute(corpus, tmp_path):
    path, run = tmp_path / "config.toml", tmp_path / "run"
    write_config(run_config(corpus, num_updates=300), path)
    command, log = torchrun_command(path, "--out", run), tmp_path / "log"
    with log.open("w") as stderr, subprocess.Popen(command, stderr=stderr) as agent:
        kill_a_rank(agent, run)
        killed = time.monotonic()
        status = agent.wait(timeout=180)
    assert status != 0
    assert time.monotonic() - killed < 60
    assert read_checkpoint(run / "last.pt")[1]["update"] < 300


def test_a_process_that_torchrun_starts_again_continues_from_the_checkpoint(corpus, tmp_path, monkeypatch):
    """In the first round, a folder that holds a run is refused."""
    config = run_config(corpus, num_updates=3)
    whole, run = train(config, tmp_path / "whole"), tmp_path / "run"
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    with monkeypatch.context() as patch:
        patch.setattr("cpc.train.loop.learning_rate", _dies_at_update_2)
        with pytest.raises(RuntimeError, match="power cut"):
            train(config, run)
    assert read_checkpoint(run / "last.pt")[1]["update"] == 2
    train(config, run)
    a, b = (read_checkpoint(folder / "last.pt")[1]["model"] for folder in (run, whole))
    assert all(torch.equal(a[name], b[name]) for name in a)
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    with pytest.raises(TrainingError, match="holds a run already"):
        train(config, run)


def _dies_at_update_2(update, *options):
    if update == 2:
        raise RuntimeError("power cut")
    return learning_rate(update, *options)


@pytest.mark.slow
def test_a_run_of_two_processes_continues_as_one_and_the_other_way(corpus, tmp_path):
    config, run = run_config(corpus, num_updates=6), tmp_path / "run"
    in_two_processes(_train_until, config, run, 2)
    train(replace(config, train=replace(config.train, num_updates=4)), run, resume=True)
    in_two_processes(_train_until, config, run, 0)
    assert read_checkpoint(run / "last.pt")[1]["update"] == 6
    assert [(s["update"], s["processes"]) for s in read_starts(run / "metrics.jsonl")] == [(0, 2), (2, 1), (4, 2)]


def test_more_processes_than_gpus_is_one_line(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(ConfigError, match=r"process 1 has no GPU of its own, there are 1; pass --nproc"):
        own_device(torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert own_device(torch.device("cuda")) == torch.device("cuda", 1)
    assert own_device(torch.device("cpu")) == torch.device("cpu")


def test_signals_reach_a_single_process_as_before(corpus, tmp_path, monkeypatch):
    """Alone, it stops after the very update, not at the next line of the log."""
    original = append_metrics

    def interrupt(path, line):
        original(path, line)
        if line["kind"] == "train":
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("cpc.train.metrics.append_metrics", interrupt)
    with pytest.raises(KeyboardInterrupt, match="stopped after update 3"):
        train(run_config(corpus, num_updates=9, log_every=2), tmp_path / "run")
