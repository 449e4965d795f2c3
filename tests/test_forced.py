"""Forced alignment: near the exact times, resumable, and clear about what it leaves out."""

import itertools
import json
import os
import sys

import numpy as np
import pytest

from cpc.data import AudioError, read_manifest, scan_folder, write_manifest
from cpc.files import ClaimError, Shard
from cpc.labels import LabelsError, align, labelled_utterances, read_labels, read_phones, read_transcripts
from cpc.labels.aligner import align_one
from cpc.labels.forced import _digest
from cpc.labels.intervals import phones_at_labels, read_ctm
from tests.conftest import make_corpus

pytest.importorskip("pocketsphinx", reason="pip install -e '.[align]'")
pytest.importorskip("espeakng_loader", reason="minispeech is made by espeak-ng: pip install -e '.[demo]'")

SILENCE = {0}


@pytest.fixture(scope="module")
def speech(tmp_path_factory):
    """Some synthetic speech with its words and its exact labels."""
    from pathlib import Path

    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "recipes" / "minispeech"))
    from synthesise import synthesise

    root = tmp_path_factory.mktemp("speech") / "corpus"
    synthesise(root, minutes=0.6, seed=0, num_speakers=2)
    return root


@pytest.fixture(scope="module")
def manifest(speech):
    return scan_folder(speech, progress=False).manifest


@pytest.fixture(scope="module")
def aligned(speech, manifest, tmp_path_factory):
    out = tmp_path_factory.mktemp("aligned")
    return out, align(manifest, read_transcripts(speech), out)


def files(folder):
    names = ("phone_labels.txt", "phones.txt", "intervals.ctm", "left_out.csv")
    return {name: (folder / name).read_text() for name in names}


def test_labels_agree_with_the_exact_times_and_fit_the_probe(speech, manifest, aligned):
    """Most frames have the phone that was spoken there, and every length is what the probe asks for."""
    out, summary = aligned
    assert summary.num_aligned >= len(manifest) - 2
    assert summary.num_aligned + len(summary.left_out) == len(manifest)
    ours, exact = (read_labels(folder / "phone_labels.txt") for folder in (out, speech))
    names, exact_names = (read_phones(folder / "phones.txt") for folder in (out, speech))
    assert len(labelled_utterances(manifest, ours)) == summary.num_aligned
    assert len(names) == 40
    agree = [
        np.mean([names[a] == exact_names[b].replace("ax", "ah") for a, b in zip(ours[u], exact[u], strict=True)])
        for u in ours
    ]
    assert np.mean(agree) > 0.65


def test_intervals_cover_each_utterance_and_give_the_labels(manifest, aligned):
    out, _ = aligned
    found, labels = read_ctm(out / "intervals.ctm"), read_labels(out / "phone_labels.txt")
    names = read_phones(out / "phones.txt")
    seconds = dict(zip(manifest.utterances, manifest.seconds, strict=True))
    assert found.keys() == labels.keys()
    for u, of in found.items():
        assert of[0].start == 0
        assert of[-1].end == pytest.approx(seconds[u], abs=1e-3)
        assert all(a.end == pytest.approx(b.start, abs=2e-4) for a, b in itertools.pairwise(of))
        assert phones_at_labels(of, len(labels[u])) == [names[i] for i in labels[u]]


def test_two_processes_find_what_one_finds_and_a_finished_alignment_is_not_repeated(
    speech, manifest, aligned, tmp_path
):
    out, summary = aligned
    transcripts = read_transcripts(speech)
    assert align(manifest, transcripts, tmp_path, jobs=2) == summary
    assert files(tmp_path) == files(out)
    (tmp_path / "intervals.ctm").write_text("left alone")
    assert align(manifest, transcripts, tmp_path) == summary
    assert (tmp_path / "intervals.ctm").read_text() == "left alone"
    with pytest.raises(ClaimError, match=r"other aligned labels: transcripts was \"\w+\", is \"\w+\"; pass another"):
        align(manifest, {u: "other words" for u in transcripts}, tmp_path)
    with pytest.raises(ClaimError, match="holds other aligned labels: utterances was"):
        align(manifest.keep(np.arange(len(manifest)) > 0), transcripts, tmp_path)


def test_a_finished_alignment_of_an_earlier_version_is_not_repeated(speech, manifest, aligned, tmp_path):
    """Its record has one digest of everything, and no key `complete`."""
    summary, transcripts = aligned[1], read_transcripts(speech)
    texts = [transcripts[u] for u in manifest.utterances]
    digest = _digest([manifest.utterances, manifest.num_samples.tolist(), texts, {}])
    record = {"identity": digest, "num_aligned": summary.num_aligned, "left_out": summary.left_out}
    (tmp_path / "alignment.json").write_text(json.dumps(record, indent=1))
    (tmp_path / "intervals.ctm").write_text("left alone")
    assert align(manifest, transcripts, tmp_path) == summary
    assert {path.name for path in tmp_path.iterdir()} == {"alignment.json", "intervals.ctm"}
    with pytest.raises(ClaimError, match="holds other aligned labels: identity was"):
        align(manifest, {u: "other words" for u in transcripts}, tmp_path)


def test_an_interrupted_alignment_resumes_where_it_stopped(speech, manifest, aligned, tmp_path, monkeypatch):
    """Interrupted in the third utterance, it keeps the first two and drops the incomplete line; the end is the same."""
    out, summary = aligned
    transcripts, original, seen = read_transcripts(speech), align_one, []

    def stops(task):
        seen.append(task[0])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return original(task)

    monkeypatch.setattr("cpc.labels.forced.align_one", stops)
    with pytest.raises(KeyboardInterrupt):
        align(manifest, transcripts, tmp_path)
    partial = tmp_path / "aligned.jsonl"
    assert len(partial.read_text().splitlines()) == 2
    partial.write_text(partial.read_text() + '{"utterance": "to')
    with pytest.raises(ClaimError, match="holds other aligned labels: transcripts was"):
        align(manifest, {u: "other words" for u in transcripts}, tmp_path)
    monkeypatch.setattr("cpc.labels.forced.align_one", lambda task: seen.append(task[0]) or original(task))
    assert align(manifest, transcripts, tmp_path) == summary
    assert files(tmp_path) == files(out)
    assert seen[:3] == [*seen[:2], seen[3]]
    assert len(set(seen)) == len(seen) - 1
    assert not partial.exists()


def test_a_share_that_lost_what_it_aligned_is_not_joined(speech, manifest, tmp_path):
    transcripts = read_transcripts(speech)
    align(manifest, transcripts, tmp_path, shard=Shard(1, 2))
    (tmp_path / "shards" / "1-of-2" / "aligned.jsonl").write_text("")
    with pytest.raises(LabelsError, match=r"utterances are in no share .*; remove .*shards and align again"):
        align(manifest, transcripts, tmp_path, shard=Shard(2, 2))
    assert not (tmp_path / "phone_labels.txt").exists()


def test_what_is_left_out_stands_in_the_manifests_order_also_after_shares(speech, manifest, tmp_path):
    transcripts = read_transcripts(speech) | dict.fromkeys(manifest.utterances[:3], "xyzzyx")
    for number in (2, 1):
        align(manifest, transcripts, tmp_path, shard=Shard(number, 2))
    left_out = (tmp_path / "left_out.csv").read_text().splitlines()[1:]
    assert [line.split(",")[0] for line in left_out][:3] == manifest.utterances[:3]


@pytest.mark.parametrize("count", [2, 20])
def test_shares_of_an_alignment_make_the_labels_of_one_call(speech, manifest, aligned, tmp_path, count):
    """With more shares than utterances, too. A repeated share changes nothing."""
    out, summary = aligned
    transcripts = read_transcripts(speech)
    for number in range(1, count):
        assert align(manifest, transcripts, tmp_path, shard=Shard(number, count)).num_waiting == count - number
        assert not (tmp_path / "phone_labels.txt").exists()
    assert align(manifest, transcripts, tmp_path, shard=Shard(1, count)).num_waiting == 1
    assert align(manifest, transcripts, tmp_path, shard=Shard(count, count)) == summary
    assert files(tmp_path) == files(out)
    assert align(manifest, transcripts, tmp_path, shard=Shard(1, count)) == summary


def test_what_cannot_be_aligned_is_left_out_counted_and_listed(speech, manifest, tmp_path):
    transcripts = read_transcripts(speech)
    utterances = manifest.utterances
    transcripts[utterances[0]] = "the xyzzyq jumps over the plugh"
    transcripts[utterances[1]] = "- ? !"
    del transcripts[utterances[2]]
    summary = align(manifest, transcripts, tmp_path)
    assert summary.left_out[utterances[0]] == "not in the dictionary: xyzzyq plugh"
    assert summary.left_out[utterances[1]] == "no word in its transcript"
    assert summary.left_out[utterances[2]] == "no transcript"
    assert "left out: " + str(len(summary.left_out)) in str(summary)
    listed = (tmp_path / "left_out.csv").read_text()
    assert all(u in listed for u in utterances[:3])
    assert not set(utterances[:3]) & read_labels(tmp_path / "phone_labels.txt").keys()


def test_a_dictionary_adds_words(speech, manifest, tmp_path):
    transcripts = read_transcripts(speech)
    first = manifest.utterances[0]
    words = transcripts[first].split()
    transcripts[first] = " ".join([*words[:2], "Xyzzyq", *words[3:]])
    (tmp_path / "words.dict").write_text(";;; ours\nXYZZYQ Z IH1 Z IY0 K\n")
    one = manifest.keep(np.arange(len(manifest)) == 0)
    with pytest.raises(
        LabelsError, match=r"none of 1 utterances could be aligned \(e.g. not in the dictionary: xyzzyq\)"
    ):
        align(one, transcripts, tmp_path / "without")
    out = tmp_path / "with"
    try:
        align(one, transcripts, out, dictionary=tmp_path / "words.dict")
    except LabelsError as error:  # the sound says another word, which may be too far from this one
        assert "do not fit the sound" in str(error)  # noqa: PT017


def test_wrong_input_is_one_line(manifest, tmp_path, monkeypatch):
    words = {u: "the boat" for u in manifest.utterances}
    with pytest.raises(LabelsError, match=r"has a transcript \(e.g. other\); are they of another corpus"):
        align(manifest, {"other": "the boat"}, tmp_path)
    with pytest.raises(LabelsError, match=r"nothing.dict: no such dictionary"):
        align(manifest, words, tmp_path, dictionary=tmp_path / "nothing.dict")
    (tmp_path / "wrong.dict").write_text("boat B OW T\nhouse H AU S\n")
    with pytest.raises(LabelsError, match=r"wrong.dict, line 2: found 'house H AU S', expected"):
        align(manifest, words, tmp_path, dictionary=tmp_path / "wrong.dict")
    with pytest.raises(LabelsError, match=r"jobs: got 0, expected 1 or more"):
        align(manifest, words, tmp_path, jobs=0)
    slow = read_manifest(make_corpus(tmp_path / "slow", speakers=1, utterances=4, rate=8000))
    with pytest.raises(AudioError, match=r"8000 Hz, the acoustic model's is 16000; pass --resample"):
        align(slow, {u: "the boat" for u in slow.utterances}, tmp_path)
    monkeypatch.setitem(sys.modules, "pocketsphinx", None)
    with pytest.raises(LabelsError, match=r"needs pocketsphinx: pip install 'cpc-audio\[align\]'"):
        align(manifest, words, tmp_path)


def test_transcripts_from_a_file_a_tree_and_single_files(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "1-2.trans.txt").write_text("1-2-3 HE SAID\n\n1-2-4 YES\n")
    (tmp_path / "a" / "5.txt").write_text("and then\n she left\n")
    assert read_transcripts(tmp_path) == {"1-2-3": "HE SAID", "1-2-4": "YES", "5": "and then she left"}
    assert read_transcripts(tmp_path / "a" / "b" / "1-2.trans.txt") == {"1-2-3": "HE SAID", "1-2-4": "YES"}
    (tmp_path / "1-2-4.txt").write_text("again")
    with pytest.raises(LabelsError, match=r"utterance 1-2-4 appears a second time"):
        read_transcripts(tmp_path)
    with pytest.raises(LabelsError, match="no such file or folder of transcripts"):
        read_transcripts(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(LabelsError, match="no transcript in it"):
        read_transcripts(tmp_path / "empty")


def test_the_command_aligns_and_writes_textgrids(speech, manifest, tmp_path, monkeypatch, capsys):
    from cpc.cli import main

    pytest.importorskip("praatio")
    write_manifest(manifest, tmp_path / "manifest.csv")
    arguments = ["align", "--manifest", tmp_path / "manifest.csv", "--out", tmp_path / "labels", "--jobs", "1"]
    monkeypatch.setattr(sys, "argv", ["cpc", *map(str, [*arguments, "--transcripts", speech, "--textgrids"])])
    monkeypatch.chdir(tmp_path)
    for path in speech.glob("*.txt"):  # label files of the corpus are no transcripts
        assert path.name in ("phone_labels.txt", "phones.txt")
    main()
    assert "aligned: " in capsys.readouterr().out
    grids = sorted((tmp_path / "labels" / "textgrids").iterdir())
    assert len(grids) == json.loads((tmp_path / "labels" / "alignment.json").read_text())["num_aligned"]
    again = ["align", "--manifest", tmp_path / "manifest.csv", "--out", tmp_path / "imported"]
    monkeypatch.setattr(sys, "argv", ["cpc", *map(str, [*again, "--intervals", tmp_path / "labels" / "textgrids"])])
    main()
    ours, back = (read_labels(tmp_path / name / "phone_labels.txt") for name in ("labels", "imported"))
    names, back_names = (read_phones(tmp_path / name / "phones.txt") for name in ("labels", "imported"))
    for u in ours:
        assert [names[i] for i in ours[u]] == [back_names[i] for i in back[u]]


def test_a_variant_without_its_word_is_refused_in_one_line(speech, manifest, tmp_path):
    (tmp_path / "words.dict").write_text("zyxzyx(2) Z IH K S\n")
    with pytest.raises(LabelsError, match=r"dictionary: zyxzyx\(2\) cannot be added; a variant needs its word"):
        align(manifest, read_transcripts(speech), tmp_path / "out", dictionary=tmp_path / "words.dict", jobs=2)


def test_a_process_that_dies_is_one_line_and_the_same_call_resumes(speech, manifest, tmp_path, monkeypatch):
    """It used to wait for ever. A process that cannot start ends in the same way."""
    transcripts, out = read_transcripts(speech), tmp_path / "out"
    monkeypatch.setattr("cpc.labels.forced.start_worker", os.abort)
    with pytest.raises(LabelsError, match=r"one of 2 processes died or could not start, .* run the same command again"):
        align(manifest, transcripts, out, jobs=2)
    monkeypatch.undo()
    assert align(manifest, transcripts, out).num_aligned > 0
