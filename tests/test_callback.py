"""A run tells a callback what it measures, in a fixed order, whatever way it ends."""

import dataclasses
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import cpc.train.loop
from cpc.config import ConfigError, CriterionConfig, NegativeSet
from cpc.runs import read_metrics
from cpc.train import TensorBoard, TrainingError, resume, train
from cpc.train.stopping import Stopped
from tests.conftest import tiny_config


class Recorder:
    """Notes each call; raises in the one that it is told."""

    def __init__(self, raises_in=""):
        self.calls, self.raises_in = [], raises_in

    def note(self, name, *values):
        self.calls.append((name, *values))
        if name == self.raises_in:
            raise RuntimeError(f"from {name}")

    def on_start(self, config, run):
        self.note("start", config, run)

    def on_log(self, row):
        self.note("log", {**row})
        row.clear()  # must not disturb the run

    def on_end(self, summary):
        self.note("end", summary)

    @property
    def names(self):
        return [name for name, *_ in self.calls]


def test_a_callback_hears_of_the_start_each_measurement_and_the_end(corpus, tmp_path):
    """The rows are those of metrics.jsonl, and the run learns the same with it as without."""
    config, recorder = tiny_config(corpus), Recorder()
    run = train(config, tmp_path / "run", on_log=recorder)
    rows = read_metrics(run / "metrics.jsonl")
    assert recorder.names == ["start", *["log"] * len(rows), "end"]
    assert recorder.calls[0][1:] == (config, run)
    assert [row for _, row in recorder.calls[1:-1]] == rows
    assert {row["kind"] for row in rows} == {"train", "dev"}
    summary = recorder.calls[-1][1]
    best = max(row["log_n"] - row["loss"] for row in rows if row["kind"] == "dev")
    assert {key: summary[key] for key in ("ended", "update", "best_gain")} == {
        "ended": "finished",
        "update": 12,
        "best_gain": best,
    }
    assert summary["seconds"] > 0
    plain = train(config, tmp_path / "plain")
    assert [row["loss"] for row in read_metrics(plain / "metrics.jsonl")] == [row["loss"] for row in rows]


def test_a_run_that_stops_and_one_that_resumes_say_so(corpus, tmp_path):
    config, first, second = tiny_config(corpus), Recorder(), Recorder()
    with pytest.raises(Stopped):
        train(config, tmp_path / "run", on_log=first, max_hours=0)
    assert first.names == ["start", "end"]
    assert first.calls[-1][1] | {"seconds": 0} == {"ended": "stopped", "update": 1, "seconds": 0, "best_gain": None}
    resume(tmp_path / "run", on_log=second)
    assert second.names == ["start", *["log"] * len(read_metrics(tmp_path / "run" / "metrics.jsonl")), "end"]


def test_a_run_that_fails_ends_as_failed(corpus, tmp_path, monkeypatch):
    recorder, original = Recorder(), cpc.train.loop.learning_rate

    def fail(update, *others):
        if update == 7:
            raise TrainingError("broken")
        return original(update, *others)

    monkeypatch.setattr(cpc.train.loop, "learning_rate", fail)
    with pytest.raises(TrainingError, match="broken"):
        train(tiny_config(corpus), tmp_path / "run", on_log=recorder)
    assert recorder.names == ["start", "log", "log", "end"]  # train at 4, dev at 6
    assert (recorder.calls[-1][1]["ended"], recorder.calls[-1][1]["update"]) == ("failed", 7)


@pytest.mark.parametrize(
    ("where", "calls"),
    [("start", ["start"]), ("log", ["start", "log", "end"]), ("end", ["start", *["log"] * 5, "end"])],
)
def test_an_error_of_a_callback_ends_the_run_which_can_be_resumed(corpus, tmp_path, where, calls):
    recorder = Recorder(where)
    with pytest.raises(RuntimeError, match=f"from {where}"):
        train(tiny_config(corpus), tmp_path / "run", on_log=recorder)
    assert recorder.names == calls
    if where == "log":
        assert recorder.calls[-1][1]["ended"] == "failed"
    config = tiny_config(corpus)
    if (tmp_path / "run" / "last.pt").exists():
        train(config, tmp_path / "run", resume=True)
    else:  # before its first checkpoint, it begins again
        train(config, tmp_path / "run")
    assert read_metrics(tmp_path / "run" / "metrics.jsonl")[-1]["update"] == 12


def scalars(run):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    accumulator = reader.EventAccumulator(str(run / "tensorboard"))
    accumulator.Reload()
    return {tag: {e.step: e.value for e in accumulator.Scalars(tag)} for tag in accumulator.Tags()["scalars"]}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_has_the_numbers_of_the_metrics(corpus, tmp_path):
    """Also after an interruption: what a resumed run measures again stands there once."""
    pytest.importorskip("tensorboard")
    config = tiny_config(corpus)
    with pytest.raises(RuntimeError):
        train(config, tmp_path / "run", on_log=StopsLate())
    run = train(config, tmp_path / "run", resume=True, on_log=TensorBoard())
    found, rows = scalars(run), read_metrics(run / "metrics.jsonl")
    for kind in ("train", "dev"):
        for name in ("loss", "accuracy", "log_n"):
            expected = {row["update"]: row[name] for row in rows if row["kind"] == kind}
            assert found[f"{kind}/{name}"] == pytest.approx(expected, rel=1e-6)
        expected = {row["update"]: row["accuracy_k"][2] for row in rows if row["kind"] == kind}
        assert found[f"{kind}/accuracy_k/3"] == pytest.approx(expected, rel=1e-6)
    assert "train/lr" in found
    assert not [tag for tag in found if "kind" in tag or "update" in tag.split("/")]


class StopsLate(TensorBoard):
    """Writes to TensorBoard and fails at update 8, after the checkpoint of update 5."""

    def on_log(self, row):
        super().on_log(row)
        if row["update"] == 8:
            raise RuntimeError


def test_without_tensorboard_one_line_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    monkeypatch.setattr("cpc.train.tensorboard.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"^TensorBoard is not installed; pip install 'cpc-audio\[tensorboard\]'$"):
        TensorBoard()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_sets_of_negatives_with_steps_of_their_own_have_their_means(corpus, tmp_path):
    pytest.importorskip("tensorboard")
    sets = (
        NegativeSet(scheme="current_sequence", steps=(1, 2)),
        NegativeSet(scheme="mixed_speaker"),
    )
    config = tiny_config(corpus, criterion=CriterionConfig(num_steps=3, scheme="sets", negatives=sets))
    config = replace(config, train=replace(config.train, num_updates=2, log_every=1, validate_every=2))
    run = train(config, tmp_path / "run", on_log=TensorBoard())
    found = scalars(run)
    assert {"dev/current_sequence/loss", "dev/mixed_speaker/loss_k/3"} <= set(found)
    assert not [tag for tag in found if tag.startswith("dev/current_sequence/loss_k")]


class Calls:
    """Stands for a dashboard's package: notes each call with its arguments, and returns itself."""

    def __init__(self):
        self.calls = []

    def __getattr__(self, name):
        def call(*arguments, **options):
            self.calls.append((name, arguments, options))
            return self

        return call


@pytest.mark.parametrize(
    ("name", "package", "order"),
    [
        ("WandB", "wandb", ["init", *["log"] * 5, "finish"]),
        ("MLflow", "mlflow", ["start_run", "log_dict", *["log_metrics"] * 5, "end_run"]),
    ],
)
def test_the_dashboards_of_contributing_take_ten_lines_and_work(corpus, tmp_path, name, package, order):
    """The packages are not installed, so an object in their place notes what it is called with."""
    text = (Path(__file__).resolve().parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
    (code,) = [block for block in re.findall(r"```python\n(.*?)```", text, re.S) if f"class {name}:" in block]
    assert len([line for line in code.splitlines() if line.strip()]) <= 10
    calls = Calls()
    names = {"dataclasses": dataclasses, package: calls}
    exec(code, names)
    run = train(tiny_config(corpus), tmp_path / "run", on_log=names[name]())
    assert [call for call, *_ in calls.calls] == order
    logged = [
        (options["step"], arguments[0]) for call, arguments, options in calls.calls if call in ("log", "log_metrics")
    ]
    rows = read_metrics(run / "metrics.jsonl")
    assert [step for step, _ in logged] == [row["update"] for row in rows]
    assert [numbers[f"{row['kind']}/loss"] for (_, numbers), row in zip(logged, rows, strict=True)] == [
        row["loss"] for row in rows
    ]
