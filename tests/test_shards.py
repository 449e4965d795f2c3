"""Work that is done in shares, by processes that know of each other through the disk alone."""

import json
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
import torch

from cpc.config import Config, EncoderConfig
from cpc.data import ManifestError, list_folder, read_manifest, scan_folder, scan_shard, write_manifest
from cpc.experiments.parallel import run_side_by_side
from cpc.features import CPCExtractor, FeaturesError, SpectralExtractor, extract_features, extract_shard, open_features
from cpc.files import ClaimError, Shard
from cpc.runs import build_model
from tests.conftest import make_corpus, write_sound


def same(a, b):
    """Whether two features folders have the same content."""
    assert json.loads((a / "features.json").read_text()) == json.loads((b / "features.json").read_text())
    assert sorted(p.name for p in a.iterdir()) == sorted(p.name for p in b.iterdir())
    rows = [sorted((folder / "sources.csv").read_text().splitlines()) for folder in (a, b)]
    assert rows[0] == rows[1]
    x, y = open_features(a), open_features(b)
    assert x.manifest.utterances == y.manifest.utterances
    assert all(np.array_equal(x.frames(u), y.frames(u)) for u in x.manifest.utterances)
    return True


@pytest.fixture
def small_groups(monkeypatch):
    """Extract two files side by side, so that a small corpus has several groups."""
    monkeypatch.setattr("cpc.features.extract._FILES_AT_ONCE", 2)


@pytest.mark.parametrize("text", ["0/4", "5/4", "1", "a/b", "1/4/2", "-1/4", ""])
def test_what_is_no_share_is_refused(text):
    with pytest.raises(ClaimError, match="expected K/N with K from 1 to N"):
        Shard.of(text)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_shares_one_after_the_other_make_the_folder_of_one_call(corpus, tmp_path, small_groups, count):
    """To the bit, although g_ar of a network works on groups; with more shares than groups, too."""
    torch.manual_seed(0)
    network = build_model(Config(encoder=EncoderConfig(channels=16)))
    extractor, manifest = CPCExtractor(network, "c"), read_manifest(corpus)
    whole = extract_features(extractor, manifest, tmp_path / "whole", progress=False)
    out = tmp_path / "out"
    for number in range(1, count + 1):
        assert extract_shard(Shard(number, count), extractor, manifest, out, progress=False) == count - number
    assert same(whole, out)
    assert extract_shard(Shard(1, count), extractor, manifest, out, progress=False) == 0


def _extract_mfcc(shard, corpus, out):
    extract_shard(shard, SpectralExtractor("mfcc"), read_manifest(corpus), out, progress=False)


@pytest.mark.slow
def test_four_shares_side_by_side_equal_one_run(corpus, tmp_path):
    whole = extract_features(SpectralExtractor("mfcc"), read_manifest(corpus), tmp_path / "whole", progress=False)
    tasks = [partial(_extract_mfcc, Shard(number, 4), corpus, tmp_path / "out") for number in range(1, 5)]
    run_side_by_side(tasks, 4)
    assert same(whole, tmp_path / "out")


def test_shares_that_end_at_the_same_time_are_joined_once(corpus, tmp_path, small_groups):
    whole = extract_features(SpectralExtractor("mfcc"), read_manifest(corpus), tmp_path / "whole", progress=False)
    shares = [Shard(number, 4) for number in range(1, 5)]
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda shard: _extract_mfcc(shard, corpus, tmp_path / "out"), shares))
    assert same(whole, tmp_path / "out")


def test_joining_that_was_interrupted_goes_on(corpus, tmp_path, small_groups, monkeypatch):
    whole = extract_features(SpectralExtractor("mfcc"), read_manifest(corpus), tmp_path / "whole", progress=False)
    out = tmp_path / "out"
    _extract_mfcc(Shard(1, 2), corpus, out)
    with monkeypatch.context() as patch:
        patch.setattr("cpc.features.shards.join_sources", None)  # a power cut: it cannot be called
        with pytest.raises(TypeError):
            _extract_mfcc(Shard(2, 2), corpus, out)
    with pytest.raises(FeaturesError, match="not finished"):
        open_features(out)
    _extract_mfcc(Shard(2, 2), corpus, out)
    assert same(whole, out)


def test_shares_of_other_features_or_of_another_manifest_are_refused(corpus, tmp_path, small_groups):
    out, manifest = tmp_path / "out", read_manifest(corpus)
    _extract_mfcc(Shard(1, 2), corpus, out)
    with pytest.raises(FeaturesError, match="holds other features: source was"):
        extract_shard(Shard(2, 2), SpectralExtractor("logmel"), manifest, out, progress=False)
    less = manifest.keep(np.arange(len(manifest)) < 4)
    extract_shard(Shard(1, 3), SpectralExtractor("mfcc"), less, tmp_path / "mixed", progress=False)
    extract_shard(Shard(2, 3), SpectralExtractor("mfcc"), manifest, tmp_path / "mixed", progress=False)
    with pytest.raises(FeaturesError, match=r"utterances are in no share .*, so not all shares are of this manifest"):
        extract_shard(Shard(3, 3), SpectralExtractor("mfcc"), manifest, tmp_path / "mixed", progress=False)


def test_shares_name_what_is_too_short_or_cannot_be_read(tmp_path):
    path = make_corpus(tmp_path / "c", speakers=1, utterances=4)
    write_sound(path.parent / "1" / "10" / "short.wav", 0.001, seed=0)
    manifest = scan_folder(path.parent, progress=False).manifest
    broken = manifest.audio_path(2)
    whole_bytes = broken.read_bytes()
    broken.write_bytes(whole_bytes[: len(whole_bytes) // 2])
    how = {"on_bad_audio": "skip", "progress": False}
    extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "whole", **how)
    for number in (1, 2):
        extract_shard(Shard(number, 2), SpectralExtractor("mfcc"), manifest, tmp_path / "out", **how)
    assert same(tmp_path / "whole", tmp_path / "out")


# --- scans


@pytest.fixture
def folder(tmp_path):
    """Sound files, of which three cannot be used."""
    root = make_corpus(tmp_path / "sounds", speakers=2, utterances=3).parent
    for name in ("a", "b", "z"):
        (root / "1" / "10" / f"{name}.wav").write_bytes(b"no sound")
    return root


def _scan(shard, folder, target, scans=None):
    """Scan one share, as `cpc manifest` does."""

    def write(scan):
        write_manifest(scan.manifest, target)
        if scans is not None:
            scans.append(scan)

    work = target.with_name("work")
    return scan_shard(shard, list_folder(folder, "{speaker}/{chapter}/*"), work, write, progress=False)


@pytest.mark.parametrize("count", [1, 3, 20])
def test_shares_of_a_scan_make_the_manifest_of_one_call(folder, tmp_path, count):
    """With more shares than files, too; the working folder goes when the manifest is written."""
    whole, joined, scans = tmp_path / "whole.csv", tmp_path / "joined.csv", []
    expected = scan_folder(folder, progress=False)
    write_manifest(expected.manifest, whole)
    for number in range(1, count + 1):
        assert not joined.exists()
        assert _scan(Shard(number, count), folder, joined, scans) == count - number
    assert joined.read_bytes() == whole.read_bytes()
    assert [scan.left_out for scan in scans] == [expected.left_out]
    assert len(expected.left_out) == 3
    assert not (tmp_path / "work").exists()


def test_shares_of_a_scan_that_end_at_the_same_time_are_joined_once(folder, tmp_path):
    whole, joined, scans = tmp_path / "whole.csv", tmp_path / "joined.csv", []
    write_manifest(scan_folder(folder, progress=False).manifest, whole)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda number: _scan(Shard(number, 4), folder, joined, scans), range(1, 5)))
    assert joined.read_bytes() == whole.read_bytes()
    assert len(scans) == 1
    assert not (tmp_path / "work").exists()


@pytest.mark.parametrize("change", ["another file", "other sound", "another folder"])
def test_a_share_of_a_scan_of_other_files_is_refused_before_it_decodes(folder, tmp_path, change, monkeypatch):
    _scan(Shard(1, 2), folder, tmp_path / "m.csv")
    if change == "another file":
        write_sound(folder / "1" / "10" / "new.wav", 1.0, seed=0)
    elif change == "other sound":
        write_sound(folder / "1" / "10" / "a.wav", 1.0, seed=0)
    else:
        folder = folder.rename(tmp_path / "moved")
    monkeypatch.setattr("cpc.data.scan._inspect_all", None)  # it cannot be called
    with pytest.raises(ClaimError, match="holds other facts of sound files"):
        _scan(Shard(2, 2), folder, tmp_path / "m.csv")


def test_two_files_of_one_utterance_are_refused_before_anything_is_decoded(folder, monkeypatch):
    (folder / "1" / "10" / "x y.wav").write_bytes(b"")
    (folder / "1" / "10" / "x_y.wav").write_bytes(b"")
    monkeypatch.setattr("cpc.data.scan._inspect_all", None)
    with pytest.raises(ManifestError, match="x_y"):
        scan_folder(folder, progress=False)
