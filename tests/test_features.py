"""Features: streaming equals the whole file, frames have times, extraction resumes, and all sources share one form."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

from cpc.config import EncoderConfig, config_digest, read_config
from cpc.data import AudioError, Manifest, read_audio, read_manifest, scan_folder, split_manifest
from cpc.features import (
    CPCExtractor,
    DerivedExtractor,
    FeaturesError,
    SpectralExtractor,
    extract_features,
    extractor_of_run,
    open_features,
)
from cpc.probes.result import Origin
from cpc.runs import build_model
from cpc.train import train
from tests.conftest import make_corpus, tiny_config, without_file_hashes, write_sound


@pytest.fixture(scope="module")
def run(corpus, tmp_path_factory):
    return train(tiny_config(corpus), tmp_path_factory.mktemp("train") / "run")


def normalised(manifest, i):
    waveform = read_audio(manifest.audio_path(i), sample_rate=16000)
    return (waveform - waveform.mean()) / waveform.std()


@pytest.mark.parametrize("layer", ["z", "c"])
@pytest.mark.parametrize("padding", ["none", "same", "cpc_audio"])
@pytest.mark.parametrize("block_seconds", [1, 20])
def test_features_on_disk_equal_the_model_on_the_whole_file(
    corpus, tmp_path, monkeypatch, layer, padding, block_seconds
):
    """Streamed in blocks or side by side: each file starts from a zero state and is normalised as a whole."""
    torch.manual_seed(0)
    network = build_model(replace(tiny_config(corpus), encoder=EncoderConfig(channels=16, padding=padding)))
    manifest = read_manifest(corpus)
    monkeypatch.setattr("cpc.data.audio._PIECE_SAMPLES", 1000)
    monkeypatch.setattr("cpc.features.extract._BLOCK_SECONDS", block_seconds)
    monkeypatch.setattr("cpc.features.extractors._ENCODER_SECONDS", 5)  # two files at a time through g_enc
    opened = open_features(extract_features(CPCExtractor(network, layer), manifest, tmp_path / "f", progress=False))
    for i, utterance in enumerate(manifest.utterances):
        with torch.no_grad():
            z, c = network(torch.from_numpy(read_audio(manifest.audio_path(i), sample_rate=16000))[None])
        expected = (z if layer == "z" else c)[0].numpy()
        np.testing.assert_allclose(opened.frames(utterance), expected, atol=2e-4)
        assert opened.num_frames(utterance) == network.g_enc.geometry.num_frames(manifest.num_samples[i])


def test_frame_times_are_the_centres_of_the_geometry(run, tmp_path, corpus):
    opened = open_features(extract_features(extractor_of_run(run, "z"), read_manifest(corpus), tmp_path / "f"))
    np.testing.assert_allclose(opened.times(3), [232 / 16000, 392 / 16000, 552 / 16000])
    utterance = opened.manifest.utterances[0]
    np.testing.assert_array_equal(opened.times_of(utterance), opened.times(len(opened.frames(utterance))))
    mfcc = extract_features(SpectralExtractor("mfcc"), read_manifest(corpus), tmp_path / "m")
    np.testing.assert_allclose(open_features(mfcc).times(2), [0.0125, 0.0225])


@pytest.mark.parametrize(("kind", "dim"), [("mfcc", 39), ("logmel", 40)])
@pytest.mark.parametrize("block", [50, 161, 1000, 5000, 10**6])
def test_spectral_baselines_stream_equal_to_the_whole_file(corpus, kind, dim, block):
    extractor, waveform = SpectralExtractor(kind), normalised(read_manifest(corpus), 3)
    whole = np.concatenate(list(extractor.frames([waveform])))
    pieces = [waveform[i : i + block] for i in range(0, len(waveform), block)]
    streamed = np.concatenate(list(extractor.frames(pieces)))
    assert whole.shape == (extractor.num_frames(len(waveform)), dim)
    np.testing.assert_allclose(streamed, whole, atol=2e-3)


def test_a_tone_moves_the_mel_band_of_its_frequency():
    t = np.arange(16000) / 16000
    low, high = (
        np.concatenate(list(SpectralExtractor("logmel").frames([np.sin(2 * np.pi * f * t).astype(np.float32)])))
        for f in (300, 3000)
    )
    assert low.mean(0).argmax() < 12 < 24 < high.mean(0).argmax()


def test_interrupted_extraction_resumes_and_keeps_what_is_there(run, corpus, tmp_path):
    manifest, out = read_manifest(corpus), tmp_path / "f"
    extract_features(extractor_of_run(run, "c"), manifest, out)
    paths = sorted((out / "frames").glob("*.npy"))
    kept, lost = paths[0], paths[1]
    stamp, content = kept.stat().st_mtime_ns, lost.read_bytes()
    lost.unlink()
    meta = json.loads((out / "features.json").read_text())
    (out / "features.json").write_text(json.dumps({**meta, "complete": False}))
    with pytest.raises(FeaturesError, match="not finished"):
        open_features(out)
    extract_features(extractor_of_run(run, "c"), manifest, out)
    assert kept.stat().st_mtime_ns == stamp
    assert lost.read_bytes() == content


def test_a_frames_file_cut_short_by_a_crash_is_written_again(run, corpus, tmp_path):
    extractor, manifest = extractor_of_run(run, "c"), read_manifest(corpus)
    folder = extract_features(extractor, manifest, tmp_path / "f", progress=False)
    path = next(iter(sorted((folder / "frames").iterdir())))
    whole = path.read_bytes()
    path.write_bytes(whole[:-1000])
    extract_features(extractor, manifest, tmp_path / "f", progress=False)
    assert path.read_bytes() == whole


def test_a_folder_of_other_features_is_refused(run, corpus, tmp_path):
    manifest = read_manifest(corpus)
    extract_features(extractor_of_run(run, "c"), manifest, tmp_path / "f")
    with pytest.raises(FeaturesError, match='holds other features: layer was "c", is "z"'):
        extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "f")
    with pytest.raises(FeaturesError, match="holds other features: source"):
        extract_features(extractor_of_run(run, "c", untrained=True), manifest, tmp_path / "f")
    (tmp_path / "g").mkdir()
    (tmp_path / "g" / "mine.txt").write_text("mine")
    with pytest.raises(FeaturesError, match="not empty, and holds no features"):
        extract_features(extractor_of_run(run, "c"), manifest, tmp_path / "g")


def test_untrained_is_the_runs_network_before_its_first_update(run, corpus):
    torch.manual_seed(0)
    start = build_model(tiny_config(corpus))
    untrained = extractor_of_run(run, "c", untrained=True).model
    assert all(
        torch.equal(a, b) for a, b in zip(start.state_dict().values(), untrained.state_dict().values(), strict=True)
    )
    trained = extractor_of_run(run, "c").model
    assert not torch.equal(trained.W.weight, untrained.W.weight)


def test_float16_halves_the_files(run, corpus, tmp_path):
    manifest = read_manifest(corpus)
    half = open_features(extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "h", dtype="float16"))
    full = open_features(extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "f"))
    name = manifest.utterances[0]
    assert half.frames(name).dtype == np.float16
    np.testing.assert_allclose(half.frames(name), full.frames(name), rtol=1e-3, atol=1e-3)


def test_files_of_another_rate_are_resampled_or_refused(run, tmp_path):
    manifest = read_manifest(make_corpus(tmp_path / "c", speakers=1, utterances=3, rate=8000))
    with pytest.raises(AudioError, match="8000 Hz, expected 16000"):
        extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "f")
    opened = open_features(extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "g", resample=True))
    name = manifest.utterances[0]
    assert opened.num_frames(name) == (16000 - 465) // 160 + 1  # 1 s


def test_utterances_too_short_for_a_frame_are_left_out_and_reported(run, corpus, tmp_path, capsys):
    write_sound(tmp_path / "c" / "1" / "1" / "tiny.wav", 0.02, 0)
    write_sound(tmp_path / "c" / "1" / "1" / "long.wav", 0.2, 1)
    manifest = scan_folder(tmp_path / "c", progress=False).manifest
    opened = open_features(extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "f"))
    assert "left out 1 utterances that are too short for a frame: tiny" in capsys.readouterr().out
    assert opened.num_frames("tiny") == 0
    assert opened.num_frames("long") > 0


def test_memory_does_not_grow_with_the_file(corpus, monkeypatch):
    """Blocks pass through one at a time, and the carried state has a fixed size."""
    torch.manual_seed(0)
    network = build_model(tiny_config(corpus))
    state, sizes = None, []
    for _ in range(6):
        _, _, state = network.represent_block(torch.randn(1, 16000), state, False)
        sizes.append(sum(t.numel() for t in state[0]) + state[1].numel())
    assert max(sizes) < 2 * min(sizes)


def test_a_damaged_or_missing_frames_file_is_one_clear_error(run, corpus, tmp_path):
    manifest = read_manifest(corpus)
    opened = open_features(extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "f"))
    first, second = manifest.utterances[:2]
    path = opened.folder / "frames" / f"{first}.npy"
    path.write_bytes(path.read_bytes()[:300])
    with pytest.raises(FeaturesError, match="damaged"):
        opened.frames(first)
    (opened.folder / "frames" / f"{second}.npy").unlink()
    with pytest.raises(FeaturesError, match="no such file; run `cpc features` again"):
        opened.frames(second)
    with pytest.raises(FeaturesError, match="no features folder"):
        open_features(tmp_path)


def test_bf16_features_are_close_to_float32_and_not_mixed_with_them(run, corpus, tmp_path):
    manifest = read_manifest(corpus)
    exact = open_features(extract_features(extractor_of_run(run, "c"), manifest, tmp_path / "f"))
    close = open_features(extract_features(extractor_of_run(run, "c", precision="bf16"), manifest, tmp_path / "g"))
    for utterance in manifest.utterances:
        assert np.abs(exact.frames(utterance) - close.frames(utterance)).max() < 0.05
    with pytest.raises(FeaturesError, match="holds other features: identity"):
        extract_features(extractor_of_run(run, "c", precision="bf16"), manifest, tmp_path / "f")


def test_one_folder_opens_under_another_split_but_not_with_utterances_it_lacks(run, tmp_path, corpus):
    manifest = read_manifest(corpus)
    folder = extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "f", progress=False)
    by_speaker = split_manifest(manifest, by="speaker", fractions=(0.4, 0.3, 0.3), seed=1)
    opened = open_features(folder, by_speaker)
    assert opened.manifest.column("split") == by_speaker.column("split")
    name = manifest.utterances[0]
    np.testing.assert_array_equal(opened.frames(name), open_features(folder).frames(name))
    other = by_speaker.with_column("utterance", ["another", *by_speaker.utterances[1:]])
    with pytest.raises(FeaturesError, match="1 utterances of the given manifest have no frames here: another"):
        open_features(folder, other)


def test_a_folder_can_be_extended_by_further_utterances_and_says_while_it_is_incomplete(corpus, tmp_path, monkeypatch):
    """An interruption while utterances are added leaves a folder that is refused, not one that lacks frames."""
    manifest, out = read_manifest(corpus), tmp_path / "f"
    extractor = SpectralExtractor("logmel")
    extract_features(extractor, manifest.keep([i < 5 for i in range(len(manifest))]), out, progress=False)
    assert open_features(out).manifest.utterances == manifest.utterances[:5]

    def fails(waveforms):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(extractor, "frames_of", fails)
        with pytest.raises(KeyboardInterrupt):
            extract_features(extractor, manifest, out, progress=False)
    with pytest.raises(FeaturesError, match="not finished"):
        open_features(out)
    opened = open_features(extract_features(extractor, manifest, out, progress=False))
    assert all(opened.num_frames(utterance) for utterance in manifest.utterances)


def test_a_folder_of_an_older_version_stays_readable_and_its_frames_are_not_rewritten(run, corpus, tmp_path):
    """features.json as it was written before it named the run, which a further call adds."""
    manifest = read_manifest(corpus)
    folder = extract_features(extractor_of_run(run, "z"), manifest, tmp_path / "f", progress=False)
    written = json.loads((folder / "features.json").read_text())
    assert " ".join(written) == (
        "source layer identity dim dtype sample_rate hop_samples first_centre_samples normalise resample run "
        "run_identity too_short complete"
    )
    older = {key: value for key, value in written.items() if not key.startswith("run")}
    (folder / "features.json").write_text(json.dumps(older, indent=1))
    stamps = {path: path.stat().st_mtime_ns for path in (folder / "frames").iterdir()}
    assert open_features(folder).meta == older
    extract_features(extractor_of_run(run, "z"), manifest, folder, progress=False)
    assert {path: path.stat().st_mtime_ns for path in (folder / "frames").iterdir()} == stamps
    assert json.loads((folder / "features.json").read_text()) == written


def test_a_sound_file_that_changed_since_the_manifest_was_made_is_an_error(tmp_path):
    manifest = read_manifest(make_corpus(tmp_path / "c", speakers=1, utterances=3))
    write_sound(manifest.audio_path(0), 0.5, 0)
    with pytest.raises(AudioError, match="changed since the manifest was made; run cpc manifest again"):
        extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "f", progress=False)
    manifest = without_file_hashes(tmp_path / "c" / "manifest.csv")
    with pytest.raises(FeaturesError, match=r"got 48 frames, expected 98 .* run `cpc manifest` again"):
        extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "f", progress=False)


@pytest.mark.parametrize("with_record", [True, False])
def test_frames_of_a_sound_file_that_was_replaced_are_made_anew(tmp_path, capsys, with_record):
    """By one of the same length, so nothing but the file itself tells; folders of earlier versions have no record."""
    manifest = without_file_hashes(make_corpus(tmp_path / "c", speakers=1, utterances=4))
    folder, path = tmp_path / "f", manifest.audio_path(0)
    extract_features(SpectralExtractor("mfcc"), manifest, folder, progress=False)
    before = {u: np.asarray(open_features(folder).frames(u)) for u in manifest.utterances}
    if not with_record:
        (folder / "sources.csv").unlink()
    write_sound(path, manifest.num_samples[0] / 16000, seed=99)
    extract_features(SpectralExtractor("mfcc"), manifest, folder, progress=False)
    assert f"1 sound files changed since their frames were made: {manifest.utterances[0]}" in capsys.readouterr().out
    fresh = extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "fresh", progress=False)
    for i, utterance in enumerate(manifest.utterances):
        now = open_features(folder).frames(utterance)
        assert np.array_equal(now, open_features(fresh).frames(utterance))
        assert np.array_equal(now, before[utterance]) == (i > 0)
    extract_features(SpectralExtractor("mfcc"), manifest, folder, progress=False)
    assert "changed" not in capsys.readouterr().out


def test_frames_outlive_their_sound_files(tmp_path):
    manifest = read_manifest(make_corpus(tmp_path / "c", speakers=1, utterances=3))
    folder = extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "f", progress=False)
    for path in map(manifest.audio_path, range(len(manifest))):
        path.unlink()
    extract_features(SpectralExtractor("mfcc"), manifest, folder, progress=False)
    assert len(open_features(folder).frames(manifest.utterances[0]))


def test_a_manifest_with_other_utterances_of_the_same_names_is_refused(tmp_path):
    manifest = read_manifest(make_corpus(tmp_path / "c", speakers=1, utterances=3))
    folder = extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "f", progress=False)
    other = Manifest(manifest.root, manifest.table.assign(num_samples=np.add(manifest.num_samples, [0, 160, 0])))
    with pytest.raises(FeaturesError, match=rf"1 utterances .* have other lengths here, .*: {manifest.utterances[1]};"):
        open_features(folder, other)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[1]", "got a list, expected the record of features"),
        ("null", "got a NoneType"),
        ('{"complete": true}', "no source, dim, dtype, sample_rate, hop_samples, first_centre_samples; it is damaged"),
        ("\xff", "not JSON"),
    ],
)
def test_a_damaged_record_of_features_is_one_clear_error(run, corpus, tmp_path, text, says):
    folder = extract_features(extractor_of_run(run, "z"), read_manifest(corpus), tmp_path / "f", progress=False)
    (folder / "features.json").write_text(text, encoding="latin-1")
    with pytest.raises(FeaturesError, match=f"features.json: {says}"):
        open_features(folder)


def test_frames_name_the_run_that_made_them_wherever_its_folder_lies(run, corpus, tmp_path):
    """Results carry this: the page refuses those of another run or corpus. Spectral frames have no run."""
    manifest = read_manifest(corpus)
    moved = shutil.copytree(run, tmp_path / "moved")
    extractors = [extractor_of_run(run, "c"), DerivedExtractor(extractor_of_run(moved, "c"), cmvn=True)]
    extractors += [SpectralExtractor("mfcc")]
    origins = [
        Origin.of(open_features(extract_features(extractor, manifest, tmp_path / str(i), progress=False)))
        for i, extractor in enumerate(extractors)
    ]
    assert [origin.run for origin in origins] == [str(run), str(moved), None]
    assert origins[0].run_identity == origins[1].run_identity == config_digest(read_config(run / "config.toml"))
    assert origins[1].identity == f"{origins[0].identity}_cmvn"
    assert origins[2].run_identity is None
    assert {origin.corpus for origin in origins} == {manifest.digest()}


def test_frames_of_resampled_files_are_not_those_of_an_earlier_filter(tmp_path):
    """A folder from before files were resampled by soxr recorded `true`; it is refused instead of filled up."""
    manifest = read_manifest(make_corpus(tmp_path / "c", speakers=1, utterances=4, rate=8000))
    extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "f", resample=True, progress=False)
    record = tmp_path / "f" / "features.json"
    record.write_text(record.read_text().replace('"soxr"', "true"))
    with pytest.raises(FeaturesError, match="resample"):
        extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "f", resample=True, progress=False)
