"""Probes of one vector for each utterance: the mean of its frames, and their deviation."""

from dataclasses import asdict, replace

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.preprocessing import StandardScaler

from cpc.probes import Options, ProbeError, Regression, Result, probe_column, probe_number, probe_phones, probe_speakers
from tests.test_probes import DIM, Corpus

FAST = Options(Cs=(0.1,), max_iter=500, tol=1e-6)
POOL = {
    "mean": lambda frames: [values.mean() for values in frames.T],
    "mean_deviation": lambda frames: [f(values) for f in (np.mean, np.std) for values in frames.T],
}


def vectors_of(corpus, split, pooling):
    """Pool by a loop over dimensions; return (U, D) or (U, 2 · D), and the speakers."""
    utterances = sorted(corpus.of(split))
    return np.array([POOL[pooling](corpus.frames[u].astype(float)) for u in utterances]), [u[0] for u in utterances]


@pytest.mark.parametrize("pooling", POOL)
def test_a_pooled_probe_is_logistic_regression_of_each_utterances_vector(tmp_path, pooling):
    """It agrees with scikit-learn's on vectors that are pooled by hand, utterance by utterance."""
    corpus = Corpus(signal=0.01, num_each=24)
    opened = corpus.write(tmp_path / "f")
    result = probe_column(opened, "speaker", replace(FAST, pooling=pooling))
    x, y = vectors_of(corpus, "train", pooling)
    scaler = StandardScaler().fit(x)
    model = LogisticRegression(C=0.1, max_iter=500, tol=1e-6).fit(scaler.transform(x), y)
    x, y = vectors_of(corpus, "test", pooling)
    expected = (model.predict(scaler.transform(x)) == y).mean()
    assert 0.4 < expected < 1
    assert result.utterance_accuracy == result.accuracy == pytest.approx(expected)
    assert (result.num_train_frames, result.num_evaluated_frames) == (36, 18)
    assert result.features.dim == x.shape[1] == DIM * (1 + (pooling == "mean_deviation"))
    assert result.pooling == pooling
    assert result == replace(
        probe_speakers(opened, replace(FAST, pooling=pooling)), seconds=result.seconds, **confusions(result)
    )


def confusions(result):
    return {name: getattr(result, name) for name in ("confusion", "utterance_confusion", "unlabelled_utterances")}


def test_the_deviation_tells_apart_what_the_mean_does_not(tmp_path):
    """Classes whose frames have the same means and other deviations."""
    corpus = Corpus(signal=0, num_each=40)
    for utterance, frames in corpus.frames.items():
        frames -= frames.mean(axis=0)
        frames *= 1 + int(utterance[0])
    opened = corpus.write(tmp_path / "f")
    found = {p: probe_column(opened, "speaker", replace(FAST, pooling=p)).utterance_accuracy for p in POOL}
    assert found["mean_deviation"] == 1
    assert found["mean"] < 0.6


def test_the_summary_of_a_pooled_result_counts_utterances_and_is_read_back(tmp_path):
    opened = Corpus(signal=1).write(tmp_path / "f")
    result = probe_column(opened, "speaker", replace(FAST, pooling="mean"))
    assert "frames" not in str(result)
    assert "3 classes; 6 test utterances; 15 of 15 train utterances" in str(result)
    result.save(tmp_path / "r.json")
    assert Result.read(tmp_path / "r.json") == result


def test_a_pooled_regression_is_ridge_regression_of_each_utterances_vector(tmp_path):
    corpus = Corpus(signal=0, num_each=24)
    rng = np.random.default_rng(1)
    age = {utterance: float(rng.integers(20, 80)) for utterance in corpus.frames}
    for utterance, frames in corpus.frames.items():
        frames *= age[utterance] / 50  # so the deviation tells the age
    corpus.table["age"] = [str(age[u]) for u in corpus.table["utterance"]]
    opened = corpus.write(tmp_path / "f")
    result = probe_number(opened, "age", replace(FAST, pooling="mean_deviation"))
    x, _ = vectors_of(corpus, "train", "mean_deviation")
    scaler = StandardScaler().fit(x)
    model = Ridge(alpha=10).fit(scaler.transform(x), [age[u] for u in sorted(corpus.of("train"))])
    x, _ = vectors_of(corpus, "test", "mean_deviation")
    expected = model.score(scaler.transform(x), [age[u] for u in sorted(corpus.of("test"))])
    assert (result.r2, result.utterance_r2) == pytest.approx((expected, expected), abs=1e-4)
    assert expected > 0.5
    assert "by frame" not in str(result)
    result.save(tmp_path / "r.json")
    assert Regression.read(tmp_path / "r.json") == result


def test_phones_are_not_pooled(tmp_path):
    corpus = Corpus(signal=1)
    with pytest.raises(ProbeError, match="pooling: got mean, but an utterance has many phones"):
        probe_phones(corpus.write(tmp_path / "f"), corpus.phones, replace(FAST, pooling="mean"))


def test_an_unknown_pooling_is_refused():
    with pytest.raises(ProbeError, match="pooling: got 'max', allowed: mean, mean_deviation"):
        Options(pooling="max")


def test_records_from_before_there_was_pooling_stay_valid():
    """What a record says of options without pooling has no key that earlier records lack."""
    assert asdict(FAST).keys() - FAST.identity().keys() == {"pooling"}
    assert replace(FAST, pooling="mean").identity() == asdict(replace(FAST, pooling="mean"))
