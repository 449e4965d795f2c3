"""recipes/librispeech on a small tree with LibriSpeech's layout and minispeech's speech, from transcripts alone."""

import contextlib
import hashlib
import io
import json
import shutil
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

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
    command = ["run.py", "--device", "cpu", "--jobs", "1", "--probe-frames", "2000"]
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        tempfile.TemporaryDirectory() as folder,
    ):
        preset = Path(folder) / "tiny.toml"
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


@pytest.fixture(scope="module")
def split_run(speech, tmp_path_factory) -> Path:
    """Make the manifest and the splits of a run."""
    out = tmp_path_factory.mktemp("split") / "run"
    for stage in ("manifest", "split"):
        done = recipe("--root", speech, "--out", out, "--stage", stage)
        assert done.code == 0, done.err
    return out


def subset(name):
    return load_script(SCRIPT.with_name("corpus.py")).SUBSETS[name]


def test_the_corpus_is_found_from_above_at_it_and_inside(speech):
    corpus = speech / "LibriSpeech" / "train-clean-100"
    for root in (speech, speech / "LibriSpeech", corpus):
        assert subset("train-clean-100").find(root) == corpus
        assert subset("dev-clean").find(root) is None
    assert subset("train-clean-100").find(speech.parent) is None


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
    stages = "download manifest split labels train features probes topline topline_probes splits report"
    assert names == [*stages.split(), "in all"]
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
    """Pack the corpus as it is distributed."""
    path = tmp_path / "all.tar.gz"
    with tarfile.open(path, "w:gz") as tar:
        tar.add(speech / "LibriSpeech", arcname="LibriSpeech")
    return path


def serve(monkeypatch, archive):
    """Replace the transfer: every address leads to this archive."""
    calls = []

    def transfer(url, target):
        calls.append(url)
        shutil.copy(archive, target)

    monkeypatch.setattr("torch.hub.download_url_to_file", transfer)
    return calls


@pytest.fixture
def openslr():
    return load_script(SCRIPT.with_name("openslr.py"))


ADDRESS, FOLDER = "12/train-clean-100.tar.gz", "LibriSpeech/train-clean-100"


def test_download_unpacks_all_or_nothing(openslr, speech, archive, tmp_path, monkeypatch):
    """Nothing incomplete is ever taken for the corpus, whether the transfer failed or the archive is truncated."""
    root, corpus = tmp_path / "root", tmp_path / "root" / FOLDER

    def fail(url, target):
        raise OSError(f"no route to {url}")

    monkeypatch.setattr("torch.hub.download_url_to_file", fail)
    way_out = (
        r"could not be fetched \(no route to https://www.openslr.org/resources/12/train-clean-100.tar.gz\); run the"
    )
    with pytest.raises(ValueError, match=way_out):
        openslr.fetch(ADDRESS, FOLDER, root)
    assert not corpus.exists()

    calls, whole = serve(monkeypatch, archive), archive.read_bytes()
    fetched = root / "train-clean-100.tar.gz"
    fetched.write_bytes(whole[: len(whole) // 2])  # fetched by hand and truncated
    with pytest.raises(ValueError, match=f"^{fetched}: cannot be unpacked .* remove {fetched}"):
        openslr.fetch(ADDRESS, FOLDER, root)
    assert not corpus.exists()
    fetched.unlink()

    def incomplete(folder):
        raise ValueError(f"{folder}: not the whole corpus")

    with pytest.raises(ValueError, match="not the whole corpus"):
        openslr.fetch(ADDRESS, FOLDER, root, check=incomplete)
    assert not corpus.exists()

    openslr.fetch(ADDRESS, FOLDER, root)
    assert calls == ["https://www.openslr.org/resources/12/train-clean-100.tar.gz"]  # once: then it is there
    files = {path.relative_to(speech) for path in (speech / "LibriSpeech").rglob("*.flac")}
    assert {path.relative_to(root) for path in corpus.rglob("*.flac")} == files
    assert not list(root.glob("*.unfinished"))


@pytest.mark.parametrize("name", ["train-clean-100", "dev-clean"])
def test_an_archive_with_another_checksum_is_refused(name, archive, tmp_path, monkeypatch):
    calls = serve(monkeypatch, archive)
    with pytest.raises(ValueError, match=r"its SHA-256 is [0-9a-f]{64}, expected [0-9a-f]{64}; remove"):
        subset(name).download(tmp_path / "root")
    assert calls == [f"https://www.openslr.org/resources/12/{name}.tar.gz"]
    assert subset(name).find(tmp_path / "root") is None


def test_an_archive_with_the_right_checksum_is_unpacked(openslr, archive, tmp_path, monkeypatch):
    serve(monkeypatch, archive)
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    openslr.fetch(ADDRESS, FOLDER, tmp_path / "root", sha256=digest)
    assert (tmp_path / "root" / FOLDER).is_dir()


def test_an_archive_without_the_corpus_is_refused(openslr, archive, tmp_path, monkeypatch):
    serve(monkeypatch, archive)
    with pytest.raises(ValueError, match="no folder LibriSpeech/dev-clean in it; it is another archive"):
        openslr.fetch("12/dev-clean.tar.gz", "LibriSpeech/dev-clean", tmp_path / "root")


@pytest.mark.parametrize("kind", ["above", "absolute", "link"])
def test_an_archive_writes_nothing_outside_its_folder(kind, openslr, tmp_path, monkeypatch):
    """A member above the folder, one with an absolute name, and a link that leads outside are refused."""
    path, outside = tmp_path / "evil.tar.gz", tmp_path / "outside.txt"
    with tarfile.open(path, "w:gz") as tar:
        if kind == "link":
            member = tarfile.TarInfo(f"{FOLDER}/link")
            member.type, member.linkname = tarfile.SYMTYPE, "../../../../outside.txt"
            tar.addfile(member)
        else:
            member = tarfile.TarInfo("../../outside.txt" if kind == "above" else str(outside))
            member.size = 4
            tar.addfile(member, io.BytesIO(b"evil"))
    serve(monkeypatch, path)
    with pytest.raises(ValueError, match=r"it would write outside its folder .*; nothing was installed"):
        openslr.fetch(ADDRESS, FOLDER, tmp_path / "root")
    assert not outside.exists()
    assert not list((tmp_path / "root").rglob("outside.txt"))
    assert not (tmp_path / "root" / FOLDER).exists()


@pytest.fixture
def dev_clean(speech, tmp_path) -> Path:
    """Put the same speech in the place of dev-clean."""
    root = tmp_path / "dev"
    shutil.copytree(speech / "LibriSpeech" / "train-clean-100", root / "LibriSpeech" / "dev-clean")
    return root


def test_the_plan_of_a_subset_that_is_not_there_has_its_published_size(tmp_path):
    done = recipe("--root", tmp_path, "--subset", "dev-clean", "--out", tmp_path / "run", "--download", "--dry-run")
    assert done.code == 0, done.err
    assert "5.4 hours of audio" in done.out
    (download,) = (line for line in done.out.splitlines() if line.startswith("| download"))
    assert [cell.strip() for cell in download.strip("|").split("|")] == ["download", "0.01", "0.7", "to do"]


@pytest.mark.parametrize("more", [(), ("--dry-run",), ("--stage", "report")])
def test_a_subset_that_is_not_there_is_named_unless_a_download_was_asked_for(speech, tmp_path, more):
    """Neither a run nor its plan goes on without the subset, even where another subset is."""
    for root in (tmp_path, speech, speech / "LibriSpeech", speech / "LibriSpeech" / "train-clean-100"):
        line = refused("--root", root, "--subset", "dev-clean", "--out", tmp_path / "run", *more)
        assert f"{root}: no LibriSpeech/dev-clean in it" in line
        assert "(0.337 GB, and as much again to unpack)" in line
    assert not (tmp_path / "run").exists()


def test_an_excerpt_without_transcripts_takes_labels_that_are_given(speech, tmp_path):
    """A few speakers under any name, with a label file among them that covers some of the utterances."""
    root = tmp_path / "excerpt"
    shutil.copytree(speech / "LibriSpeech" / "train-clean-100", root, ignore=shutil.ignore_patterns("*.txt"))
    lines = (speech / "phone_labels.txt").read_text().splitlines()
    (root / "phone_labels.txt").write_text("\n".join(lines[:-1]) + "\n")
    arguments = ("--root", root, "--subset", "dev-clean", "--out", tmp_path / "run")
    done = recipe(*arguments, "--stage", "manifest")
    assert done.code == 0, done.err
    assert f"note: no transcripts in {root}" in done.out
    assert recipe(*arguments, "--stage", "split").code == 0
    assert f"{root}: no *.trans.txt in it" in refused(*arguments, "--stage", "labels")
    done = recipe(*arguments, "--stage", "labels", "--labels", root / "phone_labels.txt")
    assert done.code == 0, done.err
    assert f"labels: {len(lines[:-1])} of {len(lines)} utterances have them: train" in done.out
    assert "will be refused" not in done.out
    (tmp_path / "one.txt").write_text(lines[0] + "\n")
    done = recipe(*arguments, "--stage", "labels", "--labels", tmp_path / "one.txt", "--redo", "labels")
    assert done.code == 0, done.err
    assert "the probes of phones will be refused" in done.out


@pytest.mark.parametrize(("name", "channels", "frames"), [("train-clean-100", 512, 0), ("dev-clean", 128, 100_000)])
def test_a_subset_has_its_own_preset_and_probes(name, channels, frames, tmp_path, monkeypatch):
    """The paper's network and all train frames for 100 hours; the small network and a drawing for dev-clean."""
    script, planned = load_script(SCRIPT), []
    monkeypatch.setattr(script, "show_plan", lambda stages, experiment, *_, **__: planned.append(experiment))
    monkeypatch.setattr(sys, "argv", ["run.py", "--root", str(tmp_path), "--subset", name, "--download", "--dry-run"])
    script.main()
    assert planned[0].config.encoder.channels == channels
    linear = [p.options for p in planned[0].probes() if p.options.classifier == "linear"]
    assert {options.max_frames for options in linear} == {frames}


@pytest.mark.slow
def test_dev_clean_is_the_standard_experiment(dev_clean, speech):
    """From labels that were given to the table, on dev and then on test; what was trained is trained once."""
    given = ("--labels", speech / "phone_labels.txt", "--phones", speech / "phones.txt")
    arguments = ("--root", dev_clean, "--subset", "dev-clean", "--out", dev_clean / "run", *given)
    for split in ("dev", "test"):
        done = recipe(*arguments, "--evaluate", split)
        assert done.code == 0, done.err
        results = json.loads((dev_clean / "run" / "results.json").read_text())
        assert results["evaluate"] == split
        for task in ("phone", "speaker"):
            assert {"majority", "untrained", "mfcc", "spectral", "cpc_z", "cpc_c", "supervised"} <= set(results[task])
        assert "CPC c" in (dev_clean / "run" / "table.md").read_text()
        assert "CPC c" in done.out
    assert done.err.count("== train: done") == done.err.count("== topline: done") == 1
    assert "whereas dev-clean has 2703" in recipe(*arguments[:5], dev_clean / "other", "--stage", "manifest").out
    line = refused(*arguments, "--pretrain-split", "chapter")
    assert "only train-clean-100 has it" in line


@pytest.mark.slow
def test_from_transcripts_to_the_report_and_only_what_changed_reruns(tree):
    """Align, train, probe, report; a second run repeats nothing, a changed input reruns what depends on it."""
    pytest.importorskip("pocketsphinx", reason="our own alignment: pip install -e '.[align]'")
    out = tree / "run"
    done = recipe("--root", tree, "--out", out)
    assert done.code == 0, done.err
    results = json.loads((out / "results.json").read_text())
    linear = {"untrained", "mfcc", "spectral", "cpc_z", "cpc_c", "supervised"}
    for task, more in (("phone", {"cpc_c_cmvn"}), ("speaker", set())):
        rows = linear | more
        assert set(results[task]) == {"majority", *rows, *(f"{row}_mlp" for row in rows)}
        for row in results[task].values():
            assert 0 <= row["accuracy"] <= 1
    shuffled = results["controls"]["phone"]["shuffled"]["accuracy"]
    assert results["phone"]["mfcc"]["accuracy"] > shuffled + 0.05
    assert set(results["splits"]["speaker"]) == {"phone"}  # no speaker of test is known from train
    assert set(results["splits"]["chapter"]) == {"phone", "speaker"}
    table = (out / "table.md").read_text()
    for text in ("hidden layer", "supervised", "72.5", "1.87", "shuffled", "by chapter", "by speaker"):
        assert text in table

    page = (out / "report.html").read_text()
    for text in ("CPC c", "MFCC", "supervised", "<audio"):
        assert text in page

    stamps = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    again = recipe("--root", tree, "--out", out)
    assert again.code == 0, again.err
    assert again.err.count(": done") == 11
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
