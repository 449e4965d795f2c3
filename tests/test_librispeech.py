"""recipes/librispeech on a small tree with LibriSpeech's layout and minispeech's speech, from transcripts alone."""

import contextlib
import io
import json
import shutil
import sys
import tarfile
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from tests.conftest import load_script

pytest.importorskip("espeakng_loader", reason="minispeech is made by espeak-ng: pip install -e '.[demo]'")

RECIPES = Path(__file__).resolve().parents[1] / "recipes"
SCRIPT = RECIPES / "librispeech" / "run.py"


@pytest.fixture(autouse=True, scope="module")
def _siblings_are_found():
    """The script imports its siblings, as Python does for a script that it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(SCRIPT.parent)
        yield


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Use one thread: so little is computed that several would only wait for each other."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


class Done(NamedTuple):
    code: int
    out: str
    err: str


TINY = """
[batches]
num_windows = 4
[encoder]
channels = 32
[autoregressor]
hidden = 32
[optim]
lr = 1e-3
[train]
num_updates = 4
"""


def recipe(*arguments) -> Done:
    """Run the script's main() with these arguments in this process."""
    out, err, code = io.StringIO(), io.StringIO(), 0
    command = ["run.py", "--device", "cpu", "--jobs", "2", "--probe-frames", "2000"]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        preset = Path(arguments[1]) / "tiny.toml"  # beside the corpus
        preset.write_text(TINY)
        patch.setattr(sys, "argv", [*command, "--preset", str(preset), *map(str, arguments)])
        patch.setattr("cpc.experiments.estimate._FILE_SECONDS", 2)
        patch.setattr("cpc.report.projections.NUM_FRAMES", 200)
        script = load_script(SCRIPT)
        patch.setattr(script, "CS", (0.01,))
        try:
            script.main()
        except SystemExit as stop:
            code = stop.code
    return Done(code, out.getvalue(), err.getvalue())


def refused(*arguments) -> str:
    """Run the script and return its one line of error."""
    done = recipe(*arguments)
    assert done.code == 2, done.err
    line = done.err.strip().splitlines()[-1]
    assert line.startswith("librispeech: error: ")
    return line


@pytest.fixture(scope="session")
def speech(tmp_path_factory) -> Path:
    """Write sound and transcripts to ROOT/LibriSpeech/train-clean-100, and the exact labels to ROOT."""
    root = tmp_path_factory.mktemp("librispeech")
    corpus = root / "LibriSpeech" / "train-clean-100"
    load_script(RECIPES / "minispeech" / "synthesise.py").synthesise(corpus, minutes=2, num_speakers=5)
    for name in ("phone_labels.txt", "phones.txt"):
        (corpus / name).rename(root / name)
    (corpus / "corpus.json").unlink()
    return root


@pytest.fixture
def tree(speech, tmp_path) -> Path:
    """Copy the tree, for a test that changes something."""
    return Path(shutil.copytree(speech, tmp_path / "root"))


@pytest.fixture(scope="session")
def split_run(speech, tmp_path_factory) -> Path:
    """Make the manifest and the splits of a run."""
    out = tmp_path_factory.mktemp("split") / "run"
    for stage in ("manifest", "split"):
        done = recipe("--root", speech, "--out", out, "--stage", stage)
        assert done.code == 0, done.err
    return out


def test_the_corpus_is_found_from_above_at_it_and_inside(speech):
    run = load_script(SCRIPT)
    corpus = speech / "LibriSpeech" / "train-clean-100"
    for root in (speech, speech / "LibriSpeech", corpus):
        assert run.find(root) == corpus
    assert run.find(speech.parent) is None


def test_splits_share_or_part_what_their_names_say(split_run):
    import pandas as pd

    tables = {
        by: pd.read_csv(split_run / "splits" / f"{by}.csv", dtype=str) for by in ("utterance", "chapter", "speaker")
    }
    assert len({tuple(table["utterance"]) for table in tables.values()}) == 1
    for by, unit in (("chapter", "chapter"), ("speaker", "speaker")):
        assert (tables[by].groupby(unit)["split"].nunique() == 1).all()
    closed = tables["utterance"]
    assert (closed[closed["split"] == "train"]["speaker"].nunique()) == 5
    shares = closed["split"].value_counts(normalize=True)
    assert abs(shares["test"] - 0.2) < 0.05


def test_the_plan_shows_hours_and_disk_and_writes_nothing(speech, tmp_path):
    out = tmp_path / "run"
    done = recipe("--root", speech, "--out", out, "--dry-run")
    assert done.code == 0, done.err
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in done.out.splitlines() if line[:1] == "|"]
    names = [row[0] for row in rows[2:]]
    stages = [
        "download",
        "manifest",
        "split",
        "labels",
        "train",
        "features",
        "probes",
        "baselines",
        "topline",
        "report",
    ]
    assert names == [*stages, "in all"]
    states = dict(zip(names, (row[3] for row in rows[2:]), strict=True))
    assert states["download"] == "done"
    assert states["train"] == "to do"
    assert "free at" in done.out
    assert not out.exists()


def test_a_stage_alone_says_what_is_missing_before_it(split_run, speech, tmp_path):
    assert "labels/phone_labels.txt is missing; stage labels makes it" in refused(
        "--root", speech, "--out", split_run, "--stage", "topline"
    )
    assert "no such stage; there are download, manifest" in refused("--root", speech, "--stage", "everything")
    line = refused("--root", tmp_path, "--out", tmp_path / "run")
    assert f"{tmp_path}: no LibriSpeech/train-clean-100 in it" in line
    assert "--download" in line


def test_lists_make_the_closed_set_and_unknown_utterances_are_refused(speech, tmp_path):
    import pandas as pd

    names = sorted(path.stem for path in speech.rglob("*.flac"))
    train, test = tmp_path / "train.txt", tmp_path / "test.txt"
    train.write_text("\n".join(names[1::2]))
    test.write_text("\n".join(names[::4]))
    arguments = ("--root", speech, "--out", tmp_path / "run", "--train-list", train, "--test-list", test)
    assert recipe(*arguments, "--stage", "manifest").code == 0
    done = recipe(*arguments, "--stage", "split")
    assert done.code == 0, done.err
    table = pd.read_csv(tmp_path / "run" / "splits" / "utterance.csv", dtype=str)
    assert set(table["utterance"][table["split"] == "test"]) == set(names[::4])
    assert set(table["utterance"][table["split"] != "test"]) == set(names[1::2])
    assert f"left out: {len(names) - len(names[1::2]) - len(names[::4])} of {len(names)}" in done.out

    test.write_text("84-121123-0000\n")
    line = refused(*arguments, "--stage", "split")
    assert "'84-121123-0000', which the manifest lacks (1 of 1" in line
    assert "expected both or none" in refused(*arguments[:-2])


def test_labels_of_another_length_are_refused(split_run, speech, tmp_path):
    lines = (speech / "phone_labels.txt").read_text().splitlines()
    (tmp_path / "labels.txt").write_text("\n".join([lines[0] + " 0", *lines[1:]]))
    out = Path(shutil.copytree(split_run, tmp_path / "run"))
    line = refused("--root", speech, "--out", out, "--stage", "labels", "--labels", tmp_path / "labels.txt")
    assert "(1 of " in line
    assert lines[0].split()[0] in line


def test_a_tree_that_was_not_unpacked_completely_is_refused(tree):
    victim = sorted(tree.rglob("*.flac"))[3]
    victim.unlink()
    line = refused("--root", tree, "--out", tree / "run", "--stage", "manifest")
    assert f"1 utterances have a sound file or a transcript but not both (e.g. {victim.stem})" in line


@pytest.fixture
def archive(speech, tmp_path) -> Path:
    path = tmp_path / "all.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(speech / "LibriSpeech", arcname="LibriSpeech")
    return path


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torchaudio unpacks without a filter
def test_download_unpacks_all_or_nothing(speech, archive, tmp_path, monkeypatch):
    """With torchaudio's own class and a replaced transfer: nothing incomplete is ever taken for the corpus."""
    corpus = load_script(SCRIPT.with_name("corpus.py"))
    root = tmp_path / "root"
    calls = []

    def fail(url, target, **_):
        calls.append(url)
        raise OSError("no route to host")

    monkeypatch.setattr("torchaudio.datasets.librispeech.download_url_to_file", fail)
    with pytest.raises(ValueError, match=r"could not be fetched \(no route to host\); run the same command again"):
        corpus.download(root)
    assert calls == ["http://www.openslr.org/resources/12/train-clean-100.tar.gz"]
    assert corpus.find(root) is None

    whole = archive.read_bytes()
    (root / "train-clean-100.tar.gz").write_bytes(whole[: len(whole) // 2])  # fetched by hand and truncated
    with pytest.raises(ValueError, match="it is truncated or damaged, remove it") as error:
        corpus.download(root)
    assert corpus.find(root) is None
    Path(str(error.value).split(": cannot")[0]).unlink()

    monkeypatch.setattr(
        "torchaudio.datasets.librispeech.download_url_to_file", lambda url, target, **_: shutil.copy(archive, target)
    )
    corpus.download(root)
    files = {path.relative_to(speech) for path in (speech / "LibriSpeech").rglob("*.flac")}
    assert {path.relative_to(root) for path in corpus.find(root).rglob("*.flac")} == files
    assert not (root / "train-clean-100.unfinished").exists()


@pytest.mark.slow
def test_from_transcripts_to_the_report_and_only_what_changed_reruns(tree):
    """Align, train, probe, report; a second run repeats nothing, a changed input reruns what depends on it."""
    pytest.importorskip("pocketsphinx", reason="our own alignment: pip install -e '.[align]'")
    out = tree / "run"
    done = recipe("--root", tree, "--out", out)
    assert done.code == 0, done.err
    results = json.loads((out / "results.json").read_text())
    rows = {"majority", "untrained", "mfcc", "cpc_z", "cpc_c", "supervised", "shuffled"}
    assert set(results["phone"]) == rows | {"cpc_c_mlp"}
    assert set(results["speaker"]) == rows
    for task in results.values():
        for row in task.values():
            assert not isinstance(row, dict) or 0 <= row["accuracy"] <= 1
    assert results["phone"]["mfcc"]["accuracy"] > results["phone"]["shuffled"]["accuracy"] + 0.05
    table = (out / "table.md").read_text()
    for text in ("CPC c, one hidden layer", "supervised", "72.5", "1.87", "by chapter", "by speaker"):
        assert text in table

    page = (out / "report.html").read_text()
    for text in ("CPC c", "MFCC", "supervised", "<audio"):
        assert text in page

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = recipe("--root", tree, "--out", out)
    assert again.code == 0, again.err
    assert again.err.count(": done") == 10
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()} == stamps

    # Other labels: pretraining and its features stay, probes would follow; the topline is expensive, so all is refused.
    labels = tree / "phone_labels.txt"
    given = ("--root", tree, "--out", out, "--labels", labels, "--phones", tree / "phones.txt")
    assert "stage labels would have to rerun" in refused(*given)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    done = recipe(*given, "--redo", "labels", "--redo", "topline")
    assert done.code == 0, done.err
    assert "== train: done" in done.err
    assert "== features: done" in done.err
    assert f"== probes: {out / 'labels' / 'phone_labels.txt'} changed" in done.err
    assert (out / "superseded" / "labels-1" / "labels" / "phone_labels.txt").exists()
    assert (out / "last.pt").stat().st_mtime_ns == stamps[out / "last.pt"]
    assert json.loads((out / "results.json").read_text())["phone"] != results["phone"]

    # Other sound: the manifest is made again, and training on it is refused, not thrown away.
    sound = sorted(tree.rglob("*.flac"))[0]
    sound.unlink()
    transcript = next(sound.parent.glob("*.trans.txt"))
    lines = [line for line in transcript.read_text().splitlines() if not line.startswith(sound.stem)]
    transcript.write_text("\n".join(lines) + "\n")
    line = refused(*given)
    assert "would have to rerun" in line
    assert "--redo" in line
    assert (out / "last.pt").exists()
