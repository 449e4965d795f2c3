"""Frames that are derived from an extractor's: CMVN and context, against loops."""

import numpy as np
import pytest

from cpc.data import read_audio, read_manifest
from cpc.features import DerivedExtractor, FeaturesError, SpectralExtractor, extract_features, open_features


def waveform_of(corpus, i=0):
    manifest = read_manifest(corpus)
    return read_audio(manifest.audio_path(i), sample_rate=16000)


def test_cmvn_gives_every_dimension_of_an_utterance_zero_mean_and_unit_variance(corpus):
    derived = DerivedExtractor(SpectralExtractor("mfcc"), cmvn=True)
    (frames,) = derived.frames_of([waveform_of(corpus)])
    np.testing.assert_allclose(frames.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(frames.std(0), 1, atol=1e-4)


def test_a_context_stacks_every_second_neighbour_and_repeats_the_ends(corpus):
    plain = SpectralExtractor("mfcc")
    derived = DerivedExtractor(plain, context_frames=4)
    (x,), (stacked,) = plain.frames_of([waveform_of(corpus)]), derived.frames_of([waveform_of(corpus)])
    assert stacked.shape == (len(x), derived.dim) == (len(x), 5 * 39)
    for t in (0, 1, 7, len(x) - 3, len(x) - 1):
        for tap, offset in enumerate((-4, -2, 0, 2, 4)):
            expected = x[min(max(t + offset, 0), len(x) - 1)]
            np.testing.assert_array_equal(stacked[t, 39 * tap : 39 * (tap + 1)], expected)


def test_a_dimension_that_does_not_vary_becomes_0_under_cmvn():
    class Constant(SpectralExtractor):
        def frames_of(self, waveforms):
            return [np.full((5, 39), 3.0, np.float32) for _ in waveforms]

    assert (DerivedExtractor(Constant("mfcc"), cmvn=True).frames_of([np.zeros(1000, np.float32)])[0] == 0).all()


def test_a_file_in_blocks_equals_the_file_at_once(corpus):
    derived = DerivedExtractor(SpectralExtractor("mfcc"), cmvn=True, context_frames=8)
    waveform = waveform_of(corpus)
    (whole,) = derived.frames_of([waveform])
    blocks = [waveform[i : i + 3000] for i in range(0, len(waveform), 3000)]
    np.testing.assert_allclose(np.concatenate(list(derived.frames(blocks))), whole, atol=1e-4)


def test_derived_features_are_told_apart_on_disk(corpus, tmp_path):
    """Nobody takes normalised frames for plain ones: another source, and another identity."""
    manifest = read_manifest(corpus)
    derived = DerivedExtractor(SpectralExtractor("mfcc"), cmvn=True, context_frames=8)
    opened = open_features(extract_features(derived, manifest, tmp_path / "f", progress=False))
    assert (opened.source, opened.dim) == ("mfcc_cmvn_context8", 351)
    with pytest.raises(FeaturesError, match=r"holds other features: source was \"mfcc_cmvn_context8\", is \"mfcc\""):
        extract_features(SpectralExtractor("mfcc"), manifest, tmp_path / "f", progress=False)


def test_frames_derived_from_those_on_disk_equal_those_of_the_sound(corpus, tmp_path, monkeypatch):
    """The sound is not read again; frames of another kind are refused."""
    manifest = read_manifest(corpus)
    plain = SpectralExtractor("mfcc")
    derived = DerivedExtractor(plain, cmvn=True, context_frames=8)
    direct = open_features(extract_features(derived, manifest, tmp_path / "direct", progress=False))
    stored = open_features(extract_features(plain, manifest, tmp_path / "mfcc", progress=False))
    other = open_features(extract_features(SpectralExtractor("logmel"), manifest, tmp_path / "logmel", progress=False))
    monkeypatch.setattr("cpc.features.extract.read_audio", None)
    derived.stored = stored
    read = open_features(extract_features(derived, manifest, tmp_path / "read", progress=False))
    assert read.meta == direct.meta
    assert all(np.array_equal(read.frames(u), direct.frames(u)) for u in manifest.utterances)
    derived.stored = other
    with pytest.raises(FeaturesError, match="does not derive from these frames"):
        extract_features(derived, manifest, tmp_path / "wrong", progress=False)


@pytest.mark.parametrize("context", [-2, 3])
def test_a_context_that_cannot_be_stacked_is_refused(context):
    with pytest.raises(FeaturesError, match=f"context: got {context}, expected 0 or a positive multiple of 2"):
        DerivedExtractor(SpectralExtractor("mfcc"), context_frames=context)
