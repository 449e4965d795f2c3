"""What the figures and the table of a run show."""

import json
from pathlib import Path
from typing import Any

import pytest
from matplotlib.image import imread

from cpc.cli import main
from cpc.config import Config, DataConfig, EncoderConfig, read_config, write_config
from cpc.experiments import override
from cpc.report import Figure, ReportError, learning_figure, results_table, save_figure, seeds_table, steps_figure
from cpc.report.figures import best_measurement, metrics_of_run
from cpc.runs import MetricsError

PNG = b"\x89PNG"
UNITS = ("frame", "utterance")


def metric(kind: str, update: int, loss: float, **more: Any) -> dict[str, Any]:
    speed = {"lr": 1e-3, "audio_seconds_per_second": 200.0} if kind == "train" else {}
    by_k = {
        "loss_k": [loss, loss],
        "accuracy_k": [0.3, 0.2],
        "win_rate_k": [0.9, 0.8],
        "bound_k": [1.0, -0.1],
    }
    common = {
        "kind": kind,
        "update": update,
        "epoch": 0,
        "seconds": 1.0,
        "loss": loss,
        "accuracy": 0.25,
        "log_n": 5.5,
    }
    return {**common, **by_k, "bound_kind": "I(x;c)", **speed, **more}


def write_run(folder: Path, *lines: dict[str, Any] | str) -> Path:
    folder.mkdir(exist_ok=True)
    text = "\n".join(line if isinstance(line, str) else json.dumps(line) for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return folder


def test_only_a_torn_last_line_is_left_out_of_the_metrics(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metric("train", 1, 5.0), metric("dev", 2, 4.0), '{"kind": "tra')
    assert [line["update"] for line in metrics_of_run(run)] == [1, 2]
    assert metrics_of_run(run / "metrics.jsonl") == metrics_of_run(run)
    write_run(run, metric("train", 1, 5.0), '{"kind": "tra', metric("dev", 2, 4.0))
    with pytest.raises(MetricsError, match=r"metrics\.jsonl.*line 2"):
        metrics_of_run(run)


@pytest.mark.parametrize("line", ["[]", "3", '{"update": 3}'])
def test_a_foreign_line_in_the_metrics_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "metrics.jsonl").write_text(f"{line}\n")
    with pytest.raises(MetricsError, match=r"metrics.jsonl: line 1 is no line of a run's metrics"):
        metrics_of_run(tmp_path)


def test_missing_metrics_are_named(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="no such file"):
        metrics_of_run(tmp_path)
    with pytest.raises(ReportError, match="empty"):
        metrics_of_run(write_run(tmp_path / "empty"))
    with pytest.raises(ReportError, match="empty"):
        metrics_of_run(write_run(tmp_path / "torn", '{"kind'))


def test_figures_are_drawn_for_finished_runs_and_for_those_that_have_just_begun(tmp_path: Path) -> None:
    lines = [
        metric("train", 1, 5.4),
        metric("train", 2, 5.0),
        metric("dev", 2, 4.9, bound_kind="conditional"),
    ]
    run = write_run(tmp_path / "run", *lines)
    save_figure(learning_figure(run), tmp_path / "pictures" / "curves.png")
    save_figure(steps_figure(run), tmp_path / "pictures" / "by_k.png")
    assert all((tmp_path / "pictures" / name).read_bytes()[:4] == PNG for name in ("curves.png", "by_k.png"))

    begun = write_run(tmp_path / "begun", metric("train", 1, 5.4))
    assert [len(axes.lines) for axes in learning_figure(begun).axes] == [2, 1, 1]
    with pytest.raises(ReportError, match="no dev measurement yet"):
        steps_figure(begun)


def test_a_run_with_another_loss_than_cpcs_has_no_figure_of_steps(tmp_path: Path) -> None:
    line = {key: value for key, value in metric("dev", 1, 5.4).items() if not key.endswith("_k")}
    with pytest.raises(ReportError, match="no prediction steps; only CPC's own loss has them"):
        steps_figure(write_run(tmp_path / "run", line))


def test_a_figure_is_written_whole_with_the_asked_resolution(tmp_path: Path) -> None:
    figure = learning_figure(write_run(tmp_path / "run", metric("train", 1, 5.4)))
    for dpi in (50, 100):
        save_figure(figure, tmp_path / "figure.png", dpi=dpi)
        assert imread(tmp_path / "figure.png").shape[:2] == (round(7.2 * dpi), round(7.0 * dpi))
    assert [path.name for path in tmp_path.glob("*figure*")] == ["figure.png"]


def test_a_phone_called_dollar_is_drawn_as_it_is(tmp_path: Path) -> None:
    figure = Figure()
    axes = figure.subplots()
    axes.set_xticks([0, 1], ["$", "a$b$\\frac"])
    axes.set_title("$x")
    save_figure(figure, tmp_path / "figure.png")
    assert imread(tmp_path / "figure.png").ndim == 3


def test_jupyter_displays_a_figure(tmp_path: Path) -> None:
    """IPython finds its picture without pyplot, in the size that the figure has."""
    formatters = pytest.importorskip("IPython.core.formatters")
    figure = learning_figure(write_run(tmp_path / "run", metric("train", 1, 5.4)))
    shown, _ = formatters.DisplayFormatter().format(figure)
    assert shown["image/png"].startswith(PNG)
    (tmp_path / "shown.png").write_bytes(shown["image/png"])
    assert imread(tmp_path / "shown.png").shape[:2] == (720, 700)
    assert "matplotlib.pyplot" not in type(figure).__module__


def test_learning_curves_show_one_log_n_or_one_each_for_train_and_dev(tmp_path: Path) -> None:
    lines = [metric("train", 1, 5.4), metric("train", 2, 5.0), metric("dev", 2, 4.9)]
    same = learning_figure(write_run(tmp_path / "same", *lines))
    other = learning_figure(write_run(tmp_path / "other", *lines[:2], metric("dev", 2, 4.9, log_n=3.0)))
    shown = [[list(line.get_ydata()) for line in figure.axes[0].lines] for figure in (same, other)]
    assert shown == [[[5.4, 5.0], [4.9], [5.5, 5.5]], [[5.4, 5.0], [4.9], [5.5, 5.5], [3.0]]]


def test_the_figure_of_steps_stands_where_the_predicted_steps_are(tmp_path: Path) -> None:
    figure = steps_figure(write_run(tmp_path / "run", metric("dev", 1, 3.0, steps=[2, 5], bound_kind="none")))
    assert [list(axes.lines[0].get_xdata()) for axes in figure.axes] == [[2, 5], [2, 5]]
    assert {axes.get_xlim() for axes in figure.axes} == {(0.5, 5.5)}


def test_the_figure_of_steps_shows_the_chosen_measurement(tmp_path: Path) -> None:
    run = write_run(
        tmp_path / "run",
        metric("dev", 10, 3.0, accuracy_k=[0.5, 0.4], bound_k=[2.5, 2.4]),
        metric("dev", 20, 4.0, bound_kind="conditional"),
    )
    strides = EncoderConfig(strides=(5, 4, 4, 2, 2))
    write_config(Config(data=DataConfig(manifest="m.csv"), encoder=strides), run / "config.toml")
    figures = [steps_figure(run), steps_figure(run, which="best")]
    shown = [[list(axes.lines[-2].get_ydata()) for axes in figure.axes] for figure in figures]
    assert shown == [[[30.0, 20.0], [1.0, -0.1]], [[50.0, 40.0], [2.5, 2.4]]]
    titles = [figure.axes[1].get_title() for figure in figures]
    assert "conditional" in titles[0]
    assert titles[1] == "lower bound on I(x;c)"
    assert {figure.axes[0].get_xlabel() for figure in figures} == {"prediction step k, 20 ms each"}
    assert all(5.5 in list(figure.axes[1].lines[-1].get_ydata()) for figure in figures)


def test_the_best_measurement_gains_most_over_chance(tmp_path: Path) -> None:
    """While MoCo's queue fills, N grows and with it the loss, so the lowest loss is the first one."""
    lines = [metric("dev", 1, 3.7, log_n=3.8), metric("dev", 2, 5.0, log_n=5.5)]
    assert best_measurement(lines)["update"] == 2


def test_the_table_has_a_column_for_each_classifier_and_explains_its_rows() -> None:
    """A result with a hidden layer stands in its row's line; the majority class is the same for both classifiers."""
    results = {
        "phone": {
            "majority": {"accuracy": 0.1},
            "cpc_c_cmvn_mlp": {"accuracy": 0.7},
            "spectral": {"accuracy": 0.6},
            "spectral_mlp": {"accuracy": 0.75},
        },
        "speaker": {"spectral": {"accuracy": 0.4, "utterance_accuracy": 0.9}},
    }
    table, *notes = results_table(results).split("\n\n")
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if "--" not in row] == [
        ["accuracy in %", "phone, linear", "phone, hidden layer", *(f"speaker by {u}, linear" for u in UNITS)],
        ["majority class", "10.0", "10.0", "–", "–"],
        ["strongest spectral", "60.0", "75.0", "40.0", "90.0"],
        ["CPC c, CMVN", "–", "70.0", "–", "–"],
    ]
    assert "MFCC stacked with their neighbours up to 8 frames away; for phones" in notes[0]
    assert "for phones only" in notes[0]


def test_the_table_is_aligned_markdown_in_percent() -> None:
    results = {
        "phone": {"cpc_c": {"accuracy": 0.6456}, "majority": {"accuracy": 0.1}, "other": {"accuracy": 1.0}},
        "speaker": {
            "cpc_c": {"accuracy": 0.97449, "utterance_accuracy": 1.0},
            "majority": {"accuracy": 0.004},
        },
        "seconds": {"train": 100.4, "probe": 20.0},
    }
    text = results_table(results)
    rows = text.split("\n\n")[0].splitlines()
    assert len({len(row) for row in rows}) == 1
    assert [[cell.strip() for cell in row.strip("|").split("|")] for row in rows if "--" not in row] == [
        ["accuracy in %", "phone, linear", "speaker by frame, linear", "speaker by utterance, linear"],
        ["majority class", "10.0", "0.4", "–"],
        ["CPC c", "64.6", "97.4", "100.0"],
        ["other", "100.0", "–", "–"],
    ]
    assert set(rows[1]) == set("|-: ")
    assert text.endswith("Time: train 100 s, probe 20 s; 120 s in total.")
    assert "Time" not in results_table({"phone": {"mfcc": {"accuracy": 0.4}}})


def finished_run(run: Path, seed: int, accuracy: float, **changes: Any) -> Path:
    """Write what a finished experiment leaves for the table."""
    run.mkdir()
    config = override(read_config("small"), {"seed": seed, "data.manifest": f"{run}/m.csv", **changes}, where="test")
    write_config(config, run / "config.toml")
    results = {
        "phone": {"majority": {"accuracy": 0.1}, "cpc_c": {"accuracy": accuracy}},
        "abx": {"cpc_c": {"within_speaker_any_context": accuracy / 10, "across_speaker_any_context": None}},
        "evaluate": "test",
        "seconds": {"train": 10 * accuracy},
    }
    (run / "results.json").write_text(json.dumps(results))
    return run


def test_several_seeds_become_a_mean_with_its_deviation(tmp_path: Path, monkeypatch, capsys) -> None:
    runs = [finished_run(tmp_path / str(seed), seed, 0.5 + seed / 10) for seed in range(3)]
    monkeypatch.setattr("sys.argv", ["cpc", "table", *map(str, runs)])
    main()
    accuracies, abx, times, seeds = capsys.readouterr().out.strip().split("\n\n")
    assert [cell.strip() for cell in accuracies.splitlines()[-1].strip("|").split("|")] == ["CPC c", "60.0 ± 10.0"]
    assert [cell.strip() for cell in abx.splitlines()[-1].strip("|").split("|")] == ["CPC c", "6.0 ± 1.0", *"–––"]
    assert times == "Time: train 6 s; 6 s in total."
    assert seeds == "Mean ± standard deviation over seeds 0, 1, 2."
    assert seeds_table(runs[:1]) == results_table(json.loads((runs[0] / "results.json").read_text()))


def test_runs_that_are_not_seeds_of_one_experiment_are_refused(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "a", 0, 0.5)
    for other, says in (
        (finished_run(tmp_path / "b", 1, 0.5, **{"optim.lr": 0.5}), "another experiment than .*optim.lr was 0.004"),
        (finished_run(tmp_path / "c", 0, 0.5), "seed 0 has occurred already"),
        (tmp_path / "none", "no results.json"),
    ):
        with pytest.raises(ReportError, match=says):
            seeds_table([run, other])
