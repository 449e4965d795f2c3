"""The pipeline: rows are extracted, probes run once, interrupted experiments resume and end as if never interrupted."""

import importlib
import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cpc.data import read_manifest, write_manifest
from cpc.experiments import (
    Pipeline,
    Probe,
    RowError,
    StageError,
    Stages,
    evaluate_once,
    extract_row,
    override,
    run_probes,
    table_rows,
)
from cpc.experiments.evaluate import SPECTRAL
from cpc.experiments.probing import SUMMARY, TASKS, of_known_speakers
from cpc.features import DerivedExtractor, SpectralExtractor, extract_features, open_features
from cpc.labels import num_labels, read_phone_labels, write_labels, write_phones
from cpc.probes import AbxScore, Options, ProbeError, Result
from cpc.report import results_table
from cpc.train import complete
from tests.conftest import abx_result, tiny_config

OPTIONS = Options(max_frames=400, Cs=(0.1,), hidden=8)
ROWS_OF = {
    "phone": ("mfcc", "untrained", "spectral", "cpc_z", "cpc_c", "cpc_c_cmvn"),
    "speaker": ("mfcc", "untrained", "spectral", "cpc_z", "cpc_c"),
}


def write_alternating_labels(manifest: Path, path: Path, *, frames_per_phone: int = 5) -> Path:
    """Write labels of two phones that alternate, and their names."""
    table = read_manifest(manifest)
    lengths = zip(table.utterances, table.num_samples, strict=True)
    labels = {utterance: np.arange(num_labels(int(n))) // frames_per_phone % 2 for utterance, n in lengths}
    write_labels(path, labels)
    write_phones(path.with_name("phones.txt"), ["sil", "aa"])
    return path


@pytest.fixture(scope="module")
def labels(corpus, tmp_path_factory) -> Path:
    return write_alternating_labels(corpus, tmp_path_factory.mktemp("labels") / "phone_labels.txt")


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory) -> Path:
    """A trained run that tests read and never change."""
    config = tiny_config(corpus)
    return complete(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def mfcc(corpus, run, tmp_path_factory) -> Path:
    return extract_row("mfcc", run, read_manifest(corpus), tmp_path_factory.mktemp("features") / "mfcc")


def test_each_row_names_its_features(corpus, run, tmp_path):
    """The untrained network has another identity than the trained one; MFCC needs no network."""
    found = {}
    for row in ("mfcc", "logmel", "untrained", "cpc_z", "cpc_c"):
        features = open_features(extract_row(row, run, read_manifest(corpus), tmp_path / row))
        found[row] = (features.source, features.layer, features.dim)
    assert found == {
        "mfcc": ("mfcc", None, 39),
        "logmel": ("logmel", None, 40),
        "untrained": ("untrained", "c", 8),
        "cpc_z": ("cpc", "z", 16),
        "cpc_c": ("cpc", "c", 8),
    }


@pytest.mark.parametrize(
    ("row", "cmvn", "context_frames"),
    [("mfcc_cmvn", True, 0), ("mfcc_context8", False, 8), ("mfcc_cmvn_context4", True, 4)],
)
def test_the_end_of_a_rows_name_says_what_is_derived(corpus, run, tmp_path, row, cmvn, context_frames):
    manifest = read_manifest(corpus)
    found = open_features(extract_row(row, run, manifest, tmp_path / "row"))
    extractor = DerivedExtractor(SpectralExtractor("mfcc"), cmvn=cmvn, context_frames=context_frames)
    direct = open_features(extract_features(extractor, manifest, tmp_path / "direct", progress=False))
    utterance = manifest.utterances[0]
    assert np.array_equal(found.frames(utterance), direct.frames(utterance))
    assert found.source == row


def test_derived_frames_come_from_the_plain_ones_beside_them(corpus, run, tmp_path, monkeypatch):
    manifest = read_manifest(corpus)
    direct = open_features(extract_row("cpc_c_cmvn", run, manifest, tmp_path / "alone" / "cpc_c_cmvn"))
    extract_row("cpc_c", run, manifest, tmp_path / "cpc_c")
    monkeypatch.setattr("cpc.features.CPCExtractor.frames_of", None)  # the network does not run again
    derived = open_features(extract_row("cpc_c_cmvn", run, manifest, tmp_path / "cpc_c_cmvn"))
    assert derived.meta == direct.meta
    assert all(np.array_equal(derived.frames(u), direct.frames(u)) for u in manifest.utterances)


def test_cmvn_of_c_has_zero_mean_in_each_utterance(corpus, run, tmp_path):
    found = open_features(extract_row("cpc_c_cmvn", run, read_manifest(corpus), tmp_path / "row"))
    means = [np.abs(found.frames(utterance).mean(axis=0)).max() for utterance in found.manifest.utterances]
    assert max(means) < 1e-4
    assert (found.source, found.layer, found.dim) == ("cpc_cmvn", "c", 8)


def test_a_supervised_row_is_c_of_its_topline(corpus, run, tmp_path):
    (tmp_path / "run" / "topline").mkdir(parents=True)
    (tmp_path / "run" / "topline" / "phone").symlink_to(run)
    (tmp_path / "run" / "config.toml").symlink_to(run / "config.toml")
    direct = open_features(extract_row("cpc_c", run, read_manifest(corpus), tmp_path / "direct"))
    topline = extract_row("supervised_phone", tmp_path / "run", read_manifest(corpus), tmp_path / "topline")
    utterance = direct.manifest.utterances[0]
    assert np.array_equal(open_features(topline).frames(utterance), direct.frames(utterance))


@pytest.mark.parametrize("row", ["wav2vec", "wav2vec_cmvn", "wav2vec_context8_cmvn"])
def test_a_row_without_features_is_refused_with_those_that_there_are(corpus, run, tmp_path, row):
    with pytest.raises(RowError, match=r"got 'wav2vec.*allowed: mfcc, logmel, untrained, cpc_z, cpc_c, supervised_"):
        extract_row(row, run, read_manifest(corpus), tmp_path / "row")
    assert not (tmp_path / "row").exists()


def test_a_probe_runs_once(mfcc, labels, tmp_path):
    probe = Probe("phone", "mfcc", mfcc, tmp_path / "phone.json", OPTIONS, predictions=tmp_path / "predictions.txt")
    run_probes([probe], read_phone_labels(labels))
    stamp = probe.result.stat().st_mtime_ns
    assert {line.split()[0] for line in (tmp_path / "predictions.txt").read_text().splitlines()} == set(
        open_features(mfcc).manifest.select("test").utterances
    )
    run_probes([probe], read_phone_labels(labels))
    assert probe.result.stat().st_mtime_ns == stamp


def test_frames_that_are_probed_once_give_the_same_result_and_are_removed(corpus, mfcc, labels, tmp_path):
    known = read_phone_labels(labels)
    tasks = ("phone", "speaker")
    probes = [Probe(task, "mfcc", mfcc, tmp_path / f"{task}.json", OPTIONS) for task in tasks]
    run_probes(probes, known)
    asked = dict.fromkeys(tasks, OPTIONS)
    results = evaluate_once(SpectralExtractor("mfcc"), read_manifest(corpus), known, asked, frames=tmp_path / "frames")
    for probe in probes:
        assert results[probe.task].per_class == Result.read(probe.result).per_class
    assert not (tmp_path / "frames").exists()


def test_other_splits_than_the_features_own_are_used_if_they_are_given(mfcc, labels, tmp_path):
    """Swapping dev and test swaps the split that is evaluated."""
    manifest = open_features(mfcc).manifest
    swapped = {"train": "train", "dev": "test", "test": "dev"}
    write_manifest(
        manifest.with_column("split", [swapped[name] for name in manifest.column("split")]), tmp_path / "swapped.csv"
    )
    probe = Probe("phone", "mfcc", mfcc, tmp_path / "phone.json", OPTIONS, splits=tmp_path / "swapped.csv")
    run_probes([probe], read_phone_labels(labels))
    features = open_features(mfcc)
    num_frames = sum(features.num_frames(utterance) for utterance in manifest.select("dev").utterances)
    assert Result.read(probe.result).num_evaluated_frames == num_frames


def test_unknown_speakers_are_refused_or_left_out_and_counted(mfcc, labels, tmp_path):
    """One speaker is taken out of train, so nobody can recognise them in dev and test."""
    manifest = open_features(mfcc).manifest
    stranger = manifest.speakers[0]
    pairs = list(zip(manifest.speakers, manifest.column("split"), strict=True))
    rest = manifest.keep([pair != (stranger, "train") for pair in pairs])
    write_manifest(rest, tmp_path / "splits.csv")
    num_unknown = rest.speakers.count(stranger)
    assert num_unknown > 0
    assert stranger not in of_known_speakers(rest).speakers
    probe = Probe("speaker", "mfcc", mfcc, tmp_path / "refused.json", OPTIONS, splits=tmp_path / "splits.csv")
    with pytest.raises(ProbeError, match=r"not in train"):
        run_probes([probe], read_phone_labels(labels))
    result, splits = tmp_path / "left_out.json", tmp_path / "splits.csv"
    probe = Probe("speaker", "mfcc", mfcc, result, OPTIONS, splits=splits, unknown_speakers="leave out")
    run_probes([probe], read_phone_labels(labels))
    assert Result.read(result).num_left_out_utterances == num_unknown


def test_results_become_rows_of_a_table(mfcc, labels, tmp_path):
    probes = [Probe(task, "mfcc", mfcc, tmp_path / f"{task}.json", OPTIONS) for task in ("phone", "speaker")]
    run_probes(probes, read_phone_labels(labels))
    rows = table_rows(probes)
    assert {task: list(row) for task, row in rows.items()} == {
        "phone": ["majority", "mfcc"],
        "speaker": ["majority", "mfcc"],
    }
    assert rows["phone"]["mfcc"]["accuracy"] == Result.read(probes[0].result).accuracy
    assert set(rows["speaker"]["mfcc"]) == set(SUMMARY)
    assert "utterance_accuracy" not in rows["phone"]["mfcc"]


def test_both_classifiers_of_a_row_stand_side_by_side_in_results_and_table(mfcc, labels, tmp_path):
    hidden = replace(OPTIONS, classifier="mlp")
    probes = [
        Probe("phone", "mfcc", mfcc, tmp_path / "phone.json", OPTIONS),
        Probe("phone", "mfcc_mlp", mfcc, tmp_path / "phone_mlp.json", hidden),
    ]
    run_probes(probes, read_phone_labels(labels))
    rows = table_rows(probes)
    assert [rows["phone"][row]["classifier"] for row in ("mfcc", "mfcc_mlp")] == ["linear", "mlp"]
    linear, mlp = (f"{100 * Result.read(probe.result).accuracy:.1f}" for probe in probes)
    line = next(line for line in results_table(rows).splitlines() if line.startswith("| MFCC"))
    assert [cell.strip() for cell in line.strip("|").split("|")] == ["MFCC", linear, mlp]


def test_probes_side_by_side_give_what_one_after_the_other_gives(mfcc, labels, tmp_path, capfd):
    """Each line of their progress names its probe."""
    results = {}
    for jobs in (1, 2):
        probes = [Probe(task, "mfcc", mfcc, tmp_path / str(jobs) / f"{task}.json", OPTIONS) for task in TASKS]
        run_probes(probes, read_phone_labels(labels), jobs=jobs)
        results[jobs] = [Result.read(probe.result).confusion or Result.read(probe.result).per_class for probe in probes]
        lines = capfd.readouterr().err.splitlines()
        assert {line.partition(": ")[0] for line in lines} == {"phone", "speaker"}
    assert results[1] == results[2]


def test_a_probe_that_fails_beside_another_is_one_error_and_the_others_result_stays(mfcc, labels, tmp_path):
    good = Probe("phone", "mfcc", mfcc, tmp_path / "good.json", OPTIONS)
    manifest = open_features(mfcc).manifest
    write_manifest(manifest.with_column("split", ["train"] * len(manifest)), tmp_path / "no_dev.csv")
    bad = Probe("phone", "mfcc", mfcc, tmp_path / "bad.json", OPTIONS, splits=tmp_path / "no_dev.csv")
    with pytest.raises(ProbeError, match="no dev utterances in the manifest"):
        run_probes([bad, good], read_phone_labels(labels), jobs=2)
    assert Result.read(good.result).task == "phone"
    assert not bad.result.exists()


def pipeline_of(corpus: Path, labels: Path, out: Path, **changes) -> Pipeline:
    """Make a pipeline in one process, where tests can patch what it calls."""
    settings = {"options": OPTIONS, "hidden_layer_frames": 400, "jobs": 1, "with_abx": False, **changes}
    return Pipeline(out, tiny_config(corpus), labels, **settings)


def results_of(out: Path) -> dict[str, dict[str, object]]:
    """Read all results but their times and the run folder's path."""
    results = {path.name: json.loads(path.read_text()) for path in (out / "probes").glob("*.json")}
    for result in results.values():
        del result["seconds"], result["features"]["run"]
    return results


@pytest.fixture(scope="module")
def finished(corpus, labels, tmp_path_factory) -> Path:
    """An experiment that ran without an interruption, with topline."""
    out = tmp_path_factory.mktemp("pipeline") / "run"
    Stages(out, pipeline_of(corpus, labels, out, with_topline=True).stages()).run()
    return out


def test_a_pipeline_that_is_interrupted_anywhere_ends_as_if_it_had_not_been(
    corpus, labels, finished, tmp_path, monkeypatch
):
    """Interrupted between two rows' features, between two probes, between two toplines, and before their probes."""
    out = tmp_path / "run"
    stages = Stages(out, pipeline_of(corpus, labels, out, with_topline=True).stages())
    for target, calls, stage in (
        ("cpc.experiments.evaluate.extract_features", 2, "features"),
        ("cpc.experiments.probing.probe_speakers", 2, "probes"),
        ("cpc.experiments.pipeline.complete", 2, "topline"),
        ("cpc.experiments.probing.probe_phones", 1, "topline_probes"),
    ):
        with monkeypatch.context() as patch:
            interrupt_at(patch, target, calls)
            with pytest.raises(KeyboardInterrupt):
                stages.run()
        assert stages.standings()[stage].state == "begun"
    stages.run()
    assert {standing.state for standing in stages.standings().values()} == {"done"}
    assert results_of(out) == results_of(finished)
    assert set(results_of(out)) == {
        f"{task}-{row}{classifier}-test.json"
        for task, rows in ROWS_OF.items()
        for row in (*rows, "supervised")
        for classifier in ("", "_mlp")
    }


def interrupt_at(patch: pytest.MonkeyPatch, target: str, calls: int) -> None:
    """Make a function raise KeyboardInterrupt in one of its calls."""
    module, name = target.rsplit(".", 1)
    function, made = getattr(importlib.import_module(module), name), []

    def interrupted(*args, **kwargs):
        made.append(name)
        if len(made) == calls:
            raise KeyboardInterrupt
        return function(*args, **kwargs)

    patch.setattr(target, interrupted)


def test_a_second_run_of_a_pipeline_changes_nothing_and_reports_the_same(corpus, labels, finished, monkeypatch):
    monkeypatch.setattr("cpc.report.projections.NUM_FRAMES", 100)  # t-SNE of more takes half a minute
    pipeline = pipeline_of(corpus, labels, finished, with_topline=True)
    stamps = {path: path.stat().st_mtime_ns for path in finished.rglob("*") if path.is_file()}
    Stages(finished, pipeline.stages()).run()
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    table = pipeline.report({"train": 1.0})
    assert "| supervised " in table
    results = json.loads((finished / "results.json").read_text())
    assert results["seconds"] == {"train": 1.0}
    assert results["evaluate"] == "test"
    for task, rows in ROWS_OF.items():
        expected = {f"{row}{classifier}" for row in (*rows, "supervised") for classifier in ("", "_mlp")}
        assert set(results[task]) == expected | {"majority"}
        assert results[task]["spectral"]["features"]["source"] == SPECTRAL[task]
        assert results[task]["spectral_mlp"]["classifier"] == "mlp"
    assert "aa" in (finished / "report.html").read_text()


def test_abx_is_a_table_of_its_own_where_fastabx_is_and_else_one_line_says_what_it_needs(
    corpus, labels, finished, tmp_path, monkeypatch
):
    """Errors that were measured stay in the results of a machine that cannot measure them."""
    monkeypatch.setattr("cpc.report.projections.NUM_FRAMES", 100)
    out = Path(shutil.copytree(finished, tmp_path / "run"))
    without = pipeline_of(corpus, labels, out)
    monkeypatch.setattr("cpc.experiments.pipeline.missing_for_abx", lambda: "ABX needs fastabx")
    assert without.report({}).endswith("\n\nABX is left out: ABX needs fastabx")
    assert "abx" not in json.loads((out / "results.json").read_text())
    assert "ABX error" not in (out / "report.html").read_text()

    def measured(features, known, *, evaluate, seed, progress):
        progress(f"{evaluate}, seed {seed}")
        within = 0.08 if features.source == "mfcc" else 0.05
        scores = AbxScore(within, 500), AbxScore(0.2, 900), AbxScore(None, 0), AbxScore(0.125, 300)
        return abx_result(*scores, evaluate=evaluate)

    monkeypatch.setattr("cpc.experiments.probing.probe_abx", measured)
    stages = Stages(out, pipeline_of(corpus, labels, out, with_abx=True).stages())
    stages.run()
    assert stages.standings()["abx"].state == "done"
    table = without.report({})
    assert "ABX is left out" not in table
    rows = {cells[0]: cells[1:] for line in table.split("\n\n")[1].splitlines() if (cells := line.split(" | "))}
    rows = {name.strip("| "): [cell.strip("| ") for cell in cells] for name, cells in rows.items()}
    assert rows["MFCC"] == ["8.0", "20.0", "–", "12.5"]
    assert rows["CPC c"] == rows["untrained network"] == ["5.0", "20.0", "–", "12.5"]
    assert set(json.loads((out / "results.json").read_text())["abx"]) == set(ROWS_OF["phone"])
    page = re.sub(r"\s*\n\s*", "", (out / "report.html").read_text())
    assert '<th scope="row">MFCC, test</th><td>8.0</td><td>20.0</td><td>–</td><td>12.5</td>' in page


def test_a_finished_pipeline_is_finished_by_whatever_path_its_folder_is_named(corpus, labels, finished, monkeypatch):
    monkeypatch.chdir(finished.parent)
    stages = Stages(Path("run"), pipeline_of(corpus, labels, Path("run"), with_topline=True).stages())
    assert {name: standing.state for name, standing in stages.standings().items()} == dict.fromkeys(
        ("train", "features", "probes", "topline", "topline_probes"), "done"
    )


def test_results_on_dev_stand_beside_those_on_test(corpus, labels, finished):
    """Evaluating dev leaves the results on test where they are."""
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "probes").glob("*-test.json")}
    dev = replace(pipeline_of(corpus, labels, finished), options=replace(OPTIONS, evaluate="dev"))
    stages = Stages(finished, dev.stages())
    stages.run()
    assert "probes_dev" in stages.stages
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert Result.read(finished / "probes" / "phone-cpc_c-dev.json").evaluate == "dev"


def test_other_settings_of_the_training_are_refused_and_other_labels_repeat_the_probes_only(corpus, labels, tmp_path):
    out = tmp_path / "run"
    own = tmp_path / "labels" / "phone_labels.txt"
    write_alternating_labels(corpus, own)
    pipeline = pipeline_of(corpus, own, out)
    Stages(out, pipeline.stages()).run()
    before, trained = results_of(out), (out / "last.pt").stat().st_mtime_ns
    other = replace(pipeline, config=override(pipeline.config, {"optim.lr": 0.5}, where="test"))
    with pytest.raises(StageError, match=r"stage train .*optim.lr was 0.001, is 0.5"):
        Stages(out, other.stages()).run()
    assert results_of(out) == before

    write_alternating_labels(corpus, own, frames_per_phone=7)
    Stages(out, pipeline.stages()).run()
    assert (out / "last.pt").stat().st_mtime_ns == trained
    after = results_of(out)
    assert after["phone-mfcc-test.json"] != before["phone-mfcc-test.json"]
    assert after["speaker-mfcc-test.json"] == before["speaker-mfcc-test.json"]
