"""Pictures and table of a run: claims about what they show."""

import json
from pathlib import Path
from typing import Any

import pytest

from cpc.report import ReportError, draw_accuracy_by_k, draw_learning_curves, metrics_of_run, results_table
from cpc.runs import MetricsError

PNG = b"\x89PNG"


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


def test_read_metrics_leaves_out_a_torn_last_line_only(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", metric("train", 1, 5.0), metric("dev", 2, 4.0), '{"kind": "tra')
    assert [line["update"] for line in metrics_of_run(run)] == [1, 2]
    assert metrics_of_run(run / "metrics.jsonl") == metrics_of_run(run)
    write_run(run, metric("train", 1, 5.0), '{"kind": "tra', metric("dev", 2, 4.0))
    with pytest.raises(MetricsError, match=r"metrics\.jsonl.*line 2"):
        metrics_of_run(run)


def test_read_metrics_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(MetricsError, match="no such file"):
        metrics_of_run(tmp_path)
    with pytest.raises(ReportError, match="empty"):
        metrics_of_run(write_run(tmp_path / "empty"))
    with pytest.raises(ReportError, match="empty"):
        metrics_of_run(write_run(tmp_path / "torn", '{"kind'))


def test_pictures_are_drawn_for_whole_runs_and_for_those_that_have_just_begun(tmp_path: Path) -> None:
    lines = [
        metric("train", 1, 5.4),
        metric("train", 2, 5.0),
        metric("dev", 2, 4.9, bound_kind="conditional"),
    ]
    run = write_run(tmp_path / "run", *lines)
    draw_learning_curves(run, tmp_path / "pictures" / "curves.png")
    draw_accuracy_by_k(run, tmp_path / "pictures" / "by_k.png")
    assert all((tmp_path / "pictures" / name).read_bytes()[:4] == PNG for name in ("curves.png", "by_k.png"))

    begun = write_run(tmp_path / "begun", metric("train", 1, 5.4))
    draw_learning_curves(begun, tmp_path / "curves.png")
    with pytest.raises(ReportError, match="no dev measurement"):
        draw_accuracy_by_k(begun, tmp_path / "by_k.png")


def test_learning_curves_show_one_log_n_or_that_of_train_and_of_dev(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures = []
    monkeypatch.setattr("cpc.report.figures._write", lambda figure, path: figures.append(figure))
    lines = [metric("train", 1, 5.4), metric("train", 2, 5.0), metric("dev", 2, 4.9)]
    draw_learning_curves(write_run(tmp_path / "same", *lines), "same.png")
    draw_learning_curves(write_run(tmp_path / "other", *lines[:2], metric("dev", 2, 4.9, log_n=3.0)), "other.png")
    shown = [[list(line.get_ydata()) for line in figure.axes[0].lines] for figure in figures]
    assert shown == [[[5.4, 5.0], [4.9], [5.5, 5.5]], [[5.4, 5.0], [4.9], [5.5, 5.5], [3.0]]]


def test_accuracy_by_k_shows_the_chosen_measurement(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = []
    monkeypatch.setattr("cpc.report.figures._write", lambda figure, path: figures.append(figure))
    run = write_run(
        tmp_path / "run",
        metric("dev", 10, 3.0, accuracy_k=[0.5, 0.4], bound_k=[2.5, 2.4]),
        metric("dev", 20, 4.0, bound_kind="conditional"),
    )
    draw_accuracy_by_k(run, "last.png")
    draw_accuracy_by_k(run, "best.png", which="best")
    shown = [[list(axes.lines[-2].get_ydata()) for axes in figure.axes] for figure in figures]
    assert shown == [[[30.0, 20.0], [1.0, -0.1]], [[50.0, 40.0], [2.5, 2.4]]]
    titles = [figure.axes[1].get_title() for figure in figures]
    assert "conditional" in titles[0]
    assert titles[1] == "lower bound on I(x;c)"
    assert all(5.5 in list(figure.axes[1].lines[-1].get_ydata()) for figure in figures)


def test_table_is_markdown_aligned_and_in_per_cent() -> None:
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
        ["accuracy in %", "phone, frame", "speaker, frame", "speaker, utterance"],
        ["majority class", "10.0", "0.4", "–"],
        ["CPC c", "64.6", "97.4", "100.0"],
        ["other", "100.0", "–", "–"],
    ]
    assert set(rows[1]) == set("|-: ")
    assert text.endswith("Time: train 100 s, probe 20 s; in all 120 s.")
    assert "Time" not in results_table({"phone": {"mfcc": {"accuracy": 0.4}}})
