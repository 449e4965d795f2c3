"""Probes of features whose answer is known."""

import contextlib
import copy
import dataclasses
import inspect
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
import torch
from sklearn import metrics
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.neural_network import MLPClassifier
from sklearn.preprocessing import StandardScaler

from cpc.features import Features, FeaturesError, open_features
from cpc.labels import LabelsError, PhoneLabels, num_labels
from cpc.probes import Options, ProbeError, Regression, Result, probe_column, probe_number, probe_phones, probe_speakers
from cpc.probes.frames import Sample, blocks, census_of, draw
from cpc.probes.hidden import fit_hidden_layer
from cpc.probes.result import ClassScore, Origin
from cpc.probes.scores import _over_frames, bootstrap, score

HOP, FIRST_CENTRE, DIM, NUM_PHONES = 160, 232, 6, 4
FAST = Options(Cs=(0.01, 1.0), max_iter=500)


class Corpus:
    """Random utterances with labels; their features are `signal` times a vector of phone and speaker, plus noise."""

    def __init__(self, signal: float, num_speakers: int = 3, num_each: int = 9, seed: int = 0) -> None:
        rng = np.random.default_rng(seed)
        phones, speakers = 3 * rng.normal(size=(2, 8, DIM))
        self.frames: dict[str, np.ndarray] = {}
        self.labels: dict[str, np.ndarray] = {}
        rows = []
        for s in range(num_speakers):
            for j in range(num_each):
                name, num_samples = f"{s}-{j}", int(rng.integers(8000, 16000))
                labels = np.repeat(rng.integers(0, NUM_PHONES, size=50), 5)[: num_labels(num_samples)]
                # Frame i, centred at 160 i + 232, is nearest to label i, centred at 160 i + 200.
                here = labels[: 1 + (num_samples - 465) // HOP]
                noise = rng.normal(size=(len(here), DIM))
                self.frames[name] = (signal * (phones[here] + speakers[s]) + noise).astype(np.float32)
                self.labels[name] = labels
                split = ("train", "train", "dev", "test")[j % 4]
                rows.append([f"{name}.wav", num_samples, 16000, f"speaker{s}", name, split])
        columns = ["path", "num_samples", "sample_rate", "speaker", "utterance", "split"]
        self.table = pandas.DataFrame(rows, columns=columns)

    def write(self, folder: Path) -> Features:
        """Write the features as `cpc features` would."""
        (folder / "frames").mkdir(parents=True)
        for name, frames in self.frames.items():
            np.save(folder / "frames" / f"{name}.npy", frames)
        self.table.to_csv(folder / "manifest.csv", index=False)
        geometry = {"sample_rate": 16000, "hop_samples": HOP, "first_centre_samples": FIRST_CENTRE}
        meta = {"source": "cpc", "layer": "c", "dim": DIM, "dtype": "float32", "complete": True} | geometry
        (folder / "features.json").write_text(json.dumps(meta))
        return open_features(folder)

    @property
    def phones(self) -> PhoneLabels:
        return PhoneLabels(self.labels)

    def of(self, split: str) -> list[str]:
        return list(self.table.loc[self.table["split"] == split, "utterance"])


def without_time(result: Result) -> Result:
    return replace(result, seconds=0.0)


def test_separable_classes_are_told_apart(tmp_path: Path) -> None:
    corpus = Corpus(signal=5)
    opened = corpus.write(tmp_path / "f")
    phones = probe_phones(opened, PhoneLabels(corpus.labels, names={0: "sil"}), FAST)
    assert phones.accuracy > 0.995
    assert phones.accuracy_interval[0] <= phones.accuracy <= phones.accuracy_interval[1]
    assert phones.num_unlabelled_frames == phones.num_unlabelled_utterances == 0
    assert phones.converged
    assert phones.warning is None
    assert [entry.name for entry in phones.per_class] == ["sil", "1", "2", "3"]
    speakers = probe_speakers(opened, FAST)
    assert speakers.accuracy > 0.995
    assert speakers.utterance_accuracy == 1.0
    assert speakers.features == Origin("cpc", "c", DIM, corpus=opened.manifest.digest())


def test_noise_scores_about_the_majority_class(tmp_path: Path) -> None:
    corpus = Corpus(signal=0, num_each=20)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.phones, FAST)
    truth = np.concatenate([corpus.labels[u][: len(corpus.frames[u])] for u in corpus.of("test")])
    train = np.concatenate([corpus.labels[u][: len(corpus.frames[u])] for u in corpus.of("train")])
    most = np.bincount(train).argmax()
    assert result.majority["accuracy"] == pytest.approx((truth == most).mean())
    assert abs(result.accuracy - result.majority["accuracy"]) < 0.08


def test_counts_and_accuracies_agree_with_each_other(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.3)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.phones, FAST)
    confusion = np.array(result.confusion)
    truth = np.concatenate([corpus.labels[u][: len(corpus.frames[u])] for u in corpus.of("test")])
    assert confusion.sum(axis=1).tolist() == np.bincount(truth).tolist() == [e.count for e in result.per_class]
    assert result.accuracy == pytest.approx(np.trace(confusion) / len(truth))
    assert result.per_class[1].accuracy == pytest.approx(confusion[1, 1] / confusion[1].sum())
    assert result.num_test_frames == result.num_evaluated_frames == len(truth)


def test_utterances_are_decided_by_the_mean_logit(tmp_path: Path) -> None:
    """An utterance is right although most of its frames are wrong, when the logits of the others are large enough."""
    corpus = Corpus(signal=5, num_speakers=2)
    name = corpus.of("test")[0]
    other = next(u for u in corpus.of("test") if u.split("-")[0] != name.split("-")[0])
    loud, quiet = corpus.frames[name].mean(0), corpus.frames[other].mean(0)
    half = (loud + quiet) / 2
    frames = np.tile(half + 0.2 * (quiet - loud), (10, 1))  # just on the wrong side of the middle
    frames[:3] = half + 3 * (loud - quiet)
    corpus.frames[name] = frames.astype(np.float32)
    corpus.frames = {u: x for u, x in corpus.frames.items() if u not in corpus.of("test") or u == name}
    corpus.table = corpus.table[corpus.table["utterance"].isin(corpus.frames)]
    result = probe_speakers(corpus.write(tmp_path / "f"), FAST)
    assert result.accuracy == pytest.approx(0.3)
    assert result.utterance_accuracy == 1.0


def test_with_a_hidden_layer_an_utterance_is_decided_by_its_frames_and_not_by_their_mean() -> None:
    """The class of the outer frames has frames on both sides of the other, so their mean lies in the other."""
    rng = np.random.default_rng(0)
    x = rng.uniform(-3, 3, (2000, 1)).astype(np.float32)
    model = MLPClassifier((16,), random_state=0, max_iter=100, tol=0.0, n_iter_no_change=100)
    with pytest.warns(ConvergenceWarning):
        model.fit(x, np.where(np.abs(x[:, 0]) > 1.5, 7, 3))
    frames = np.array([[-2.5], [2.5]], dtype=np.float32)
    assert model.predict(frames).tolist() == [7, 7]
    assert model.predict(frames.mean(axis=0, keepdims=True)).tolist() == [3]
    assert _over_frames(model, frames) == 7
    ends = np.array([[-3.0], [0.0], [3.0]], dtype=np.float32)
    summed = np.sum([np.log(np.maximum(model.predict_proba(frame[None])[0], 1e-30)) for frame in ends], axis=0)
    assert _over_frames(model, ends) == model.classes_[summed.argmax()]


def test_the_draw_is_bounded_labelled_and_repeatable(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.5)
    opened = corpus.write(tmp_path / "f")
    first = probe_phones(opened, corpus.phones, replace(FAST, max_frames=400))
    assert (first.num_train_frames, first.num_dev_frames) == (400, 100)
    assert first.num_available_train_frames == sum(len(corpus.frames[u]) for u in corpus.of("train"))
    assert without_time(probe_phones(opened, corpus.phones, replace(FAST, max_frames=400))) == without_time(first)
    other = probe_phones(opened, corpus.phones, replace(FAST, max_frames=400, seed=1))
    assert without_time(replace(other, seed=0)) != without_time(first)

    corpus.table = corpus.table.sample(frac=1, random_state=0)
    shuffled = corpus.write(tmp_path / "shuffled")
    assert without_time(probe_phones(shuffled, corpus.phones, replace(FAST, max_frames=400))) == without_time(first)


def test_every_train_frame_is_equally_likely_to_be_drawn_and_none_twice(tmp_path: Path) -> None:
    corpus = Corpus(signal=0)
    count = 0
    for name in sorted(corpus.of("train")):  # each frame holds its own index
        corpus.frames[name][:, 0] = np.arange(count, count + len(corpus.frames[name]))
        count += len(corpus.frames[name])
    opened = corpus.write(tmp_path / "f")

    def targets(utterance: str) -> np.ndarray:
        return np.where(np.arange(len(corpus.frames[utterance])) % 2, 7, -1)

    census = census_of(opened, "train", sorted(corpus.of("train")), targets)
    hits = np.zeros(count)
    for seed in range(40):
        x, y = draw(opened, census, targets, 300, (seed, 0))
        assert len(set(x[:, 0])) == len(x) == 300
        assert set(y) == {7}
        hits[x[:, 0].astype(int)] += 1
    local = np.concatenate([np.arange(len(corpus.frames[u])) for u in census.utterances])
    assert hits[local % 2 == 0].sum() == 0
    halves = np.array_split(hits[local % 2 == 1], 2)
    assert halves[0].mean() == pytest.approx(halves[1].mean(), rel=0.1)
    everything, _ = draw(opened, census, targets, 10**6, (0, 0))
    assert everything[:, 0].astype(int).tolist() == np.flatnonzero(local % 2 == 1).tolist()


def test_dev_and_test_are_not_seen_by_scaler_or_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Shifting and scaling dev and test changes neither the mean nor the scale nor the coefficients."""
    fitted: list[Any] = []
    monkeypatch.setattr("cpc.probes.linear.score", lambda *a: fitted.append((a[3], copy.deepcopy(a[4]))) or score(*a))
    corpus, one_c = Corpus(signal=0.5), Options(Cs=(0.1,), max_iter=500)
    before = probe_phones(corpus.write(tmp_path / "a"), corpus.phones, one_c)
    for name in corpus.of("dev") + corpus.of("test"):
        corpus.frames[name] = 7 * corpus.frames[name] + 100
    after = probe_phones(corpus.write(tmp_path / "b"), corpus.phones, one_c)
    (scaler, model), (scaler_after, model_after) = fitted
    train = np.concatenate([corpus.frames[u] for u in sorted(corpus.of("train"))]).astype(np.float64)
    assert scaler.mean_ == pytest.approx(train.mean(axis=0))
    assert scaler.scale_ == pytest.approx(train.std(axis=0))
    assert np.array_equal(scaler.mean_, scaler_after.mean_)
    assert np.array_equal(scaler.scale_, scaler_after.scale_)
    assert np.array_equal(model.coef_, model_after.coef_)
    assert before.accuracy != after.accuracy


def test_c_is_chosen_on_dev_and_never_on_test(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.2)
    options = Options(Cs=(1e-5, 1e-3, 1.0), max_iter=500)
    opened = corpus.write(tmp_path / "f")
    honest = probe_phones(opened, corpus.phones, options)
    best = max(honest.dev_accuracy.values())
    assert honest.dev_accuracy[f"{honest.C:g}"] == best
    assert len(set(honest.dev_accuracy.values())) > 1
    rng = np.random.default_rng(0)
    permuted = {u: rng.permutation(v) if u in corpus.of("test") else v for u, v in corpus.labels.items()}
    blind = probe_phones(opened, PhoneLabels(permuted), options)
    assert (blind.C, blind.dev_accuracy) == (honest.C, honest.dev_accuracy)
    assert blind.accuracy < honest.accuracy


def test_the_chosen_classifier_is_the_one_that_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is not the last one fitted: if every C is perfect on dev, the smallest is chosen, and it is scored."""
    scored: list[Any] = []
    monkeypatch.setattr("cpc.probes.linear.score", lambda *a: scored.append(a[4]) or score(*a))
    corpus = Corpus(signal=8)
    opened = corpus.write(tmp_path / "f")
    options = Options(Cs=(0.1,), max_iter=500, evaluate="dev")
    alone = probe_phones(opened, corpus.phones, options)
    result = probe_phones(opened, corpus.phones, replace(options, Cs=(10.0, 0.1)))
    assert result.dev_accuracy == {"0.1": 1.0, "10": 1.0}
    assert result.C == 0.1
    assert np.array_equal(scored[0].coef_, scored[1].coef_)
    assert (result.accuracy, result.evaluate, result.num_test_frames) == (1.0, "dev", 0)
    assert alone.num_iterations == result.num_iterations


def test_evaluating_on_dev_never_opens_a_test_utterance(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    opened = corpus.write(tmp_path / "f")
    for name in corpus.of("test"):
        (opened.folder / "frames" / f"{name}.npy").unlink()
    assert probe_phones(opened, corpus.phones, replace(FAST, evaluate="dev")).accuracy > 0.5
    with pytest.raises(FeaturesError, match="no such file"):
        probe_phones(opened, corpus.phones, FAST)


def test_too_few_iterations_are_reported_in_the_result_and_not_as_a_warning(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.phones, Options(Cs=(1.0,), max_iter=2, tol=1e-6))
    assert (result.converged, result.num_iterations) == (False, 2)
    assert "largest derivative" in result.warning
    assert "not converged within max_iter 2: largest derivative" in str(result)


def test_a_phone_that_train_never_had_counts_as_wrong_and_is_reported(tmp_path: Path) -> None:
    corpus = Corpus(signal=5)
    name = corpus.of("test")[0]
    corpus.labels[name] = np.full_like(corpus.labels[name], 30)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.phones, FAST)
    assert result.num_unseen_class_frames == len(corpus.frames[name])
    assert result.per_class[-1] == ClassScore(
        id=30, name="30", seen=False, count=len(corpus.frames[name]), accuracy=0.0
    )
    assert result.accuracy == pytest.approx(1 - len(corpus.frames[name]) / result.num_test_frames, abs=0.01)


def test_labels_are_matched_by_time_and_frames_without_one_are_counted(tmp_path: Path) -> None:
    """These features start 5 labels late and end after the labels, so they match them by time alone."""
    corpus = Corpus(signal=5)
    left_out = corpus.of("train")[:2]
    for name in left_out:
        del corpus.labels[name]
    for name, frames in corpus.frames.items():
        corpus.frames[name] = np.concatenate([frames[5:], np.zeros((10, DIM), np.float32)])
    opened = corpus.write(tmp_path / "f")
    opened.meta["first_centre_samples"] = FIRST_CENTRE + 5 * HOP
    result = probe_phones(opened, corpus.phones, FAST)
    outside = 0
    for name, labels in corpus.labels.items():
        outside += sum(5 + i >= len(labels) for i in range(len(corpus.frames[name])))
    assert result.num_unlabelled_frames == outside > 0
    assert result.num_unlabelled_utterances == 2
    assert result.unlabelled_utterances == sorted(left_out)
    assert "left out: 2 utterances" in str(result)
    assert result.accuracy > 0.9


def test_float16_features_and_two_classes_work(tmp_path: Path) -> None:
    corpus = Corpus(signal=5, num_speakers=2)
    corpus.frames = {name: frames.astype(np.float16) for name, frames in corpus.frames.items()}
    result = probe_speakers(corpus.write(tmp_path / "f"), FAST)
    assert (result.utterance_accuracy, result.num_classes) == (1.0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_an_error_that_names_utterance_and_frame(tmp_path: Path, value: float) -> None:
    for split in ("train", "test"):
        corpus = Corpus(signal=1)
        name = corpus.of(split)[1]
        corpus.frames[name][3, 2] = value
        with pytest.raises(ProbeError, match=f"{name}, frame 3: NaN or infinite"):
            probe_speakers(corpus.write(tmp_path / split), FAST)


def test_missing_splits_are_an_error_that_says_how_to_make_them(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    corpus.table["split"] = corpus.table["split"].replace("dev", "train")
    with pytest.raises(ProbeError, match=r"no dev utterances.*splits: test, train.*cpc manifest --split"):
        probe_phones(corpus.write(tmp_path / "dev"), corpus.phones)
    corpus.table["split"] = ""
    with pytest.raises(ProbeError, match=r"no train utterances.*splits: none"):
        probe_speakers(corpus.write(tmp_path / "empty"))
    del corpus.table["split"]
    with pytest.raises(ProbeError, match=r"splits: none"):
        probe_speakers(corpus.write(tmp_path / "none"))


def test_a_speaker_outside_train_is_an_error(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    corpus.table.loc[corpus.table["speaker"] == "speaker1", "split"] = "test"
    with pytest.raises(ProbeError, match=r"1 of 3 speakers of test \(e\.g\. speaker1\).*--split utterance"):
        probe_speakers(corpus.write(tmp_path / "f"))


def test_labels_that_do_not_fit_are_errors(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    opened = corpus.write(tmp_path / "f")
    with pytest.raises(LabelsError, match="another corpus"):
        probe_phones(opened, PhoneLabels({"x": np.zeros(3, np.int16)}))
    with pytest.raises(ProbeError, match="no labelled frame in test"):
        probe_phones(opened, PhoneLabels({u: v for u, v in corpus.labels.items() if u not in corpus.of("test")}))
    with pytest.raises(ProbeError, match="only one phone"):
        probe_phones(opened, PhoneLabels({u: np.zeros_like(v) for u, v in corpus.labels.items()}))
    corpus.labels["0-0"] = corpus.labels["0-0"][:-1]
    with pytest.raises(LabelsError, match=r"0-0: .* labels, expected"):
        probe_phones(opened, corpus.phones)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"max_frames": 2}, "max_frames: got 2, expected at least 4, or 0"),
        ({"hidden": 0}, "hidden: got 0"),
        ({"Cs": ()}, "Cs: got"),
        ({"Cs": (0.0,)}, "Cs: got"),
        ({"seed": -1}, "seed: got -1"),
        ({"evaluate": "train"}, "evaluate: got 'train', allowed: test, dev"),
        ({"classifier": "svm"}, "classifier: got 'svm', allowed: linear, mlp"),
        ({"classifier": "mlp", "max_frames": 0}, "only the linear classifier"),
    ],
)
def test_values_out_of_range_and_conflicting_options_are_errors(options: dict[str, Any], expected: str) -> None:
    with pytest.raises(ProbeError, match=expected):
        Options(**options)


def test_every_option_is_documented_for_the_command_line() -> None:
    """The command line is made from the class: a string below each field is its help text."""
    import tyro

    with pytest.raises(SystemExit) as exit_, contextlib.redirect_stdout(io.StringIO()) as shown:
        tyro.cli(Options, args=["--help"])
    assert exit_.value.code == 0
    text = " ".join(re.sub("[│╭╮╰╯─]", " ", shown.getvalue()).split())
    fields = inspect.getsource(Options).split("def __post_init__")[0]
    for name in (f.name for f in dataclasses.fields(Options)):
        documented = re.search(rf'    {name}: .*\n    """(\S+ \S+)', fields)
        assert documented is not None, name
        assert documented[1] in text, name


def test_a_result_is_saved_as_json_and_summarised(tmp_path: Path) -> None:
    corpus = Corpus(signal=5)
    opened = corpus.write(tmp_path / "f")
    told: list[str] = []
    result = probe_speakers(opened, FAST, progress=told.append)
    result.save(tmp_path / "out" / "speaker.json")
    assert Result.read(tmp_path / "out" / "speaker.json") == result
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["speaker.json"]
    text = str(result)
    assert "speaker: 100.0 % of test utterances right" in text
    assert "not converged" not in text
    assert "left out" not in text
    assert len(told) == 4


def test_the_bootstrap_interval_is_that_of_a_known_spread() -> None:
    """400 utterances of equal length, half of them all right and half all wrong, give 0.5 ± 1.96 · 0.5 / 20."""
    correct, total = np.tile([0, 10], 200), np.full(400, 10)
    low, high = bootstrap(correct, total, seed=0)
    assert (low, high) == (pytest.approx(0.451, abs=0.01), pytest.approx(0.549, abs=0.01))


def test_the_bootstrap_by_cluster_resamples_clusters_whole() -> None:
    """10 speakers of 40 utterances, half of them entirely right, give the interval of 10 draws, not of 400."""
    correct, total = np.repeat([0, 10], 200), np.full(400, 10)
    speakers = [f"s{i // 40}" for i in range(400)]
    low, high = bootstrap(correct, total, 0, speakers)
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        picked = rng.integers(10, size=10)
        means.append(np.mean([1.0 if s >= 5 else 0.0 for s in picked]))
    assert (low, high) == (pytest.approx(np.percentile(means, 2.5)), pytest.approx(np.percentile(means, 97.5)))
    assert high - low > 0.5


def test_the_interval_resamples_speakers_if_none_of_them_is_in_train(tmp_path: Path) -> None:
    corpus = Corpus(signal=1, num_speakers=6)
    result = probe_phones(corpus.write(tmp_path / "shared"), corpus.phones, FAST)
    assert (result.interval_clusters, result.num_interval_clusters) == ("utterance", len(corpus.of("test")))
    of = {"speaker0": "dev", "speaker1": "test", "speaker2": "test"}
    corpus.table["split"] = [of.get(s, "train") for s in corpus.table["speaker"]]
    result = probe_phones(corpus.write(tmp_path / "apart"), corpus.phones, FAST)
    assert (result.interval_clusters, result.num_interval_clusters) == ("speaker", 2)
    assert "resamples 2 speakers, none of them in train" in str(result)
    assert "the interval is too narrow: it resamples only 2 speakers" in str(result)


def test_streaming_all_frames_agrees_with_the_full_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies agree within 0.3 points for each C, and memory holds a block and an utterance at most."""
    corpus = Corpus(signal=0.3, num_speakers=4, num_each=24)
    opened = corpus.write(tmp_path / "f")
    options = Options(Cs=(0.003, 1.0), evaluate="dev", max_frames=0, tol=3e-3)
    full = probe_phones(opened, corpus.phones, replace(options, max_frames=10**6, max_iter=1000, tol=1e-6))
    sizes: list[int] = []

    def watched(*args: Any) -> Any:
        for x, y in blocks(*args):
            sizes.append(len(y))
            yield x, y

    monkeypatch.setattr("cpc.probes.training.blocks", watched)
    monkeypatch.setattr("cpc.probes.training.BLOCK_FRAMES", 1000)
    streamed = probe_phones(opened, corpus.phones, options)
    assert streamed.num_train_frames == full.num_train_frames == full.num_available_train_frames
    longest = max(map(len, corpus.frames.values()))
    assert 1000 <= max(sizes) < 1000 + longest
    for C in ("0.003", "1"):
        assert streamed.dev_accuracy[C] == pytest.approx(full.dev_accuracy[C], abs=0.003)
    assert streamed.accuracy == pytest.approx(full.accuracy, abs=0.003)
    assert (streamed.converged, streamed.warning) == (True, None)
    assert without_time(probe_phones(opened, corpus.phones, options)) == without_time(streamed)


def test_streaming_that_ends_too_early_is_reported_as_not_converged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One epoch of a few updates leaves a gradient above tol; the result and its text say so."""
    monkeypatch.setattr("cpc.probes.streaming.EPOCHS", 1)
    monkeypatch.setattr("cpc.probes.streaming.MIN_STEPS", 1)
    corpus = Corpus(signal=0.3)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.phones, Options(Cs=(1.0,), max_frames=0, tol=3e-3))
    assert (result.converged, result.num_iterations) == (False, 1)
    assert result.warning is not None
    assert re.fullmatch(r"largest gradient \d\.\de-0\d after 1 epochs, tol 0.003", result.warning)
    assert f"not converged: {result.warning}" in str(result)


def test_the_gradient_of_streaming_is_that_of_the_objective_over_all_frames() -> None:
    """A loop over frames gives the same largest derivative of mean loss + |W|² / (2 C n), for each C by itself."""
    import torch

    from cpc.probes.frames import Sample
    from cpc.probes.streaming import Stream, _Classifiers

    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(37, DIM)).astype(np.float32), rng.integers(3, size=37)
    stream = Stream(lambda epoch: iter([Sample(x[:20], y[:20]), Sample(x[20:], y[20:])]), 37, np.arange(3))
    Cs = (0.1, 2.0)
    classifiers = _Classifiers(Cs, DIM, stream)
    with torch.no_grad():
        classifiers.w.copy_(torch.from_numpy(rng.normal(size=(2, DIM, 3))))
    found = classifiers.gradients(stream.batches(0, 8), 37)
    for i, C in enumerate(Cs):
        w = classifiers.w[i].detach().numpy().astype(np.float64)
        of_w, of_b = w / (C * 37), np.zeros(3)
        for row, label in zip(x, y, strict=True):
            p = np.exp(row @ w) / np.exp(row @ w).sum()
            of_w += np.outer(row, p - np.eye(3)[label]) / 37
            of_b += (p - np.eye(3)[label]) / 37
        assert found[i] == pytest.approx(max(np.abs(of_w).max(), np.abs(of_b).max()), rel=1e-4)


def test_blocks_hold_every_labelled_frame_once_in_an_order_that_depends_on_the_seed(tmp_path: Path) -> None:
    corpus = Corpus(signal=1, num_each=8)
    for number, name in enumerate(corpus.frames):
        corpus.frames[name][:, 0] = 1000 * number + np.arange(len(corpus.frames[name]))
    opened = corpus.write(tmp_path / "f")
    train = sorted(corpus.of("train"))

    def targets(utterance: str) -> np.ndarray:
        return np.where(np.arange(len(corpus.frames[utterance])) % 3 == 0, 1, -1)

    census = census_of(opened, "train", train, targets)
    expected = sorted(x for u in train for x in corpus.frames[u][::3, 0].tolist())
    orders = []
    for seed in ((0, 1), (0, 2)):
        seen = np.concatenate([x[:, 0] for x, _ in blocks(opened, census, targets, 50, seed)])
        assert sorted(seen.tolist()) == expected
        orders.append(seen.tolist())
    assert orders[0] != orders[1]


def test_one_hidden_layer_learns_what_no_linear_classifier_can(tmp_path: Path) -> None:
    """The phone is the sign of a product of two dimensions."""
    corpus = Corpus(signal=0, num_each=48)
    rng = np.random.default_rng(0)
    for name, frames in corpus.frames.items():
        frames[:] = rng.normal(size=frames.shape)
        labels = corpus.labels[name][: len(frames)]
        frames[:, 0] = np.abs(frames[:, 0]) * np.where(labels % 2, np.sign(frames[:, 1]), -np.sign(frames[:, 1]))
        corpus.labels[name] = corpus.labels[name] % 2
    opened = corpus.write(tmp_path / "f")
    options = replace(FAST, classifier="mlp", hidden=16)
    linear_, mlp = (probe_phones(opened, corpus.phones, o) for o in (FAST, options))
    assert linear_.accuracy < 0.6
    assert mlp.accuracy > 0.8
    assert (mlp.classifier, mlp.hidden, mlp.C) == ("mlp", 16, None)
    assert "16 hidden units, epoch" in str(mlp)
    assert without_time(probe_phones(opened, corpus.phones, options)) == without_time(mlp)


def blobs(labels, num_frames, seed):
    """Frames around a point of their own for each label, and where they belong."""
    rng = np.random.default_rng(seed)
    y = rng.choice(labels, num_frames)
    points = np.random.default_rng(0).normal(size=(max(labels) + 1, 6))
    return Sample((points[y] * 3 + rng.normal(size=(num_frames, 6))).astype(np.float32), y)


@pytest.mark.parametrize("labels", [[2, 9], [3, 4, 11, 30]])
@pytest.mark.parametrize("num_frames", [20, 3000])
def test_the_hidden_layers_estimator_predicts_as_the_network_that_was_fitted(labels, num_frames):
    """With two classes and with more, whatever their numbers, and with fewer frames than a batch."""
    train, dev = blobs(labels, num_frames, 1), blobs(labels, 500, 2)
    before, random = torch.get_num_threads(), torch.random.get_rng_state()
    (fit,) = fit_hidden_layer(train, dev, Options(classifier="mlp", hidden=16), lambda line: None)
    assert fit.dev_accuracy > (0.9 if num_frames > 20 else 0.5)
    assert (fit.model.predict(dev.x) == dev.y).mean() == pytest.approx(fit.dev_accuracy, abs=1e-9)
    assert fit.model.classes_.tolist() == labels
    assert torch.get_num_threads() == before
    assert torch.equal(torch.random.get_rng_state(), random)


def test_the_hidden_layer_in_bf16_is_as_good_as_in_float32(monkeypatch):
    train, dev = blobs([0, 1, 2, 3, 4], 3000, 1), blobs([0, 1, 2, 3, 4], 2000, 2)
    reached = []
    for precision in ("float32", "bf16"):
        monkeypatch.setattr("cpc.probes.hidden.resolve_precision", lambda *_, precision=precision: precision)
        (fit,) = fit_hidden_layer(train, dev, Options(classifier="mlp", hidden=16), lambda line: None)
        reached.append(fit.dev_accuracy)
    assert reached[0] == pytest.approx(reached[1], abs=0.01)
    assert min(reached) > 0.9


@pytest.mark.parametrize("max_frames", [10**6, 0])
def test_shuffled_labels_teach_nothing_about_phones(tmp_path: Path, max_frames: int) -> None:
    corpus = Corpus(signal=1, num_each=24)
    opened = corpus.write(tmp_path / "f")
    real, control = (
        probe_phones(opened, corpus.phones, replace(FAST, shuffle_labels=shuffled, max_frames=max_frames))
        for shuffled in (False, True)
    )
    assert real.accuracy > 0.75
    assert control.accuracy < 0.45  # there are four phones
    assert (real.control, control.control) == (None, "shuffled labels")
    assert "control with shuffled labels" in str(control)


def test_every_frame_of_the_evaluated_utterances_gets_a_prediction(tmp_path: Path) -> None:
    """Frames without a label get one too, and the file is a label file with one label per frame of the features."""
    from cpc.labels import read_labels

    corpus = Corpus(signal=6)
    opened = corpus.write(tmp_path / "f")
    result = probe_phones(opened, corpus.phones, FAST, predictions=tmp_path / "predictions.txt")
    predicted = read_labels(tmp_path / "predictions.txt")
    assert sorted(predicted) == sorted(corpus.of("test"))
    right = total = 0
    for u, of in predicted.items():
        assert len(of) == len(corpus.frames[u])
        right += int((of == corpus.labels[u][: len(of)]).sum())
        total += len(of)
    assert right / total == pytest.approx(result.accuracy)


def test_groups_of_phones_are_scored_like_a_loop_over_the_confusion_matrix(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.4)
    names = {0: "p", 1: "b", 2: "s", 3: "unheard"}
    of = {"p": {"manner": "plosive"}, "b": {"manner": "plosive"}, "s": {"manner": "fricative"}}
    result = probe_phones(corpus.write(tmp_path / "f"), PhoneLabels(corpus.labels, names, of), FAST)
    assert list(result.by) == ["manner"]
    by_manner = result.by["manner"]
    assert by_manner.unclassed == ["unheard"]
    assert result.confusion is not None
    expected: dict[tuple[str, str], int] = {}
    for i, row in enumerate(result.confusion):
        for j, count in enumerate(row):
            if i < 3 and j < 3:
                key = (of[names[i]]["manner"], of[names[j]]["manner"])
                expected[key] = expected.get(key, 0) + count
    classes = [entry.name for entry in by_manner.classes]
    assert classes == ["plosive", "fricative"]
    for i, a in enumerate(classes):
        assert by_manner.confusion[i] == [expected[a, b] for b in classes]
    plosive = by_manner.classes[0]
    confusion = np.array(result.confusion)
    assert plosive.count == confusion[:2].sum()
    assert plosive.accuracy == pytest.approx(confusion[:2, :2].sum() / confusion[:2].sum())
    assert plosive.phone_accuracy == pytest.approx((confusion[0, 0] + confusion[1, 1]) / confusion[:2].sum())


def test_the_bundled_phone_classes_cover_the_phones_of_our_corpora() -> None:
    from cpc.labels import PHONES, read_phone_classes

    of = read_phone_classes(Path(__file__).resolve().parents[1] / "data" / "phone_classes.csv")
    assert set(PHONES) | {"ax"} == set(of)
    assert all({"manner", "place", "voicing"} == set(classes) for classes in of.values())


def test_a_saved_result_has_the_keys_that_older_versions_wrote(tmp_path: Path) -> None:
    """Each key has a line, groups of phones are under by_KIND, and only keys that the task lacks are left out."""
    corpus = Corpus(signal=1)
    opened = corpus.write(tmp_path / "f")
    classes = {name: {"manner": "a", "place": "b"} for name in "0123"}
    phones = probe_phones(opened, PhoneLabels(corpus.labels, classes=classes), FAST)
    phones.save(tmp_path / "phone.json")
    speakers = replace(probe_speakers(opened, FAST), num_left_out_utterances=3)
    speakers.save(tmp_path / "speaker.json")
    text = (tmp_path / "phone.json").read_text()
    keys = (
        "task evaluate classifier control interval_clusters num_interval_clusters accuracy accuracy_interval majority "
        "balanced_accuracy macro_f1 C dev_accuracy hidden converged num_iterations warning num_train_frames "
        "num_dev_frames num_test_frames num_evaluated_frames num_available_train_frames num_classes "
        "num_unlabelled_frames num_unlabelled_utterances num_unseen_class_frames max_frames seed max_iter tol seconds "
        "features per_class"
    )
    common = keys.split()
    of_phones = ["unlabelled_utterances", "confusion", "versions", "by_manner", "by_place"]
    assert list(json.loads(text)) == [*common, *of_phones]
    assert len(text.splitlines()) == len(common) + len(of_phones) + 2
    place = common.index("C")
    of_utterances = ["accuracy", "accuracy_interval", "balanced_accuracy", "macro_f1"]
    of_utterances = [f"utterance_{measure}" for measure in of_utterances]
    expected = [*common[:place], *of_utterances, *common[place:], "num_left_out_utterances", "versions"]
    assert list(json.loads((tmp_path / "speaker.json").read_text())) == expected
    assert Result.read(tmp_path / "phone.json") == phones
    assert Result.read(tmp_path / "speaker.json") == speakers


@pytest.mark.parametrize("classifier", ["linear", "mlp"])
@pytest.mark.parametrize("num_classes", [2, 3])
def test_any_column_is_probed_by_frame_and_by_utterance(tmp_path: Path, num_classes: int, classifier: str) -> None:
    """The measures are scikit-learn's of the same predictions; rows with an empty value are left out."""
    corpus = Corpus(signal=0.15, num_each=24, num_speakers=num_classes)
    corpus.table["call"] = corpus.table["speaker"].str.replace("speaker", "call")
    corpus.table.loc[[4, 6], "call"] = ""
    corpus.table.loc[3, "call"] = "call1"  # of test, which no classifier gets right, so that the measures differ
    opened = corpus.write(tmp_path / "f")
    options = replace(FAST, classifier=classifier)
    result = probe_column(opened, "call", options)
    assert result.task == "call"
    assert result.unlabelled_utterances == sorted(corpus.table["utterance"][[4, 6]])
    assert [entry.name for entry in result.per_class] == [f"call{i}" for i in range(num_classes)]

    for confusion, prefix in ((result.confusion, ""), (result.utterance_confusion, "utterance_")):
        true, guess = (np.repeat(i.ravel(), np.ravel(confusion)) for i in np.indices((num_classes, num_classes)))
        assert 0.4 < metrics.accuracy_score(true, guess) < 1  # else all measures are alike
        expected = {
            "accuracy": metrics.accuracy_score(true, guess),
            "balanced_accuracy": metrics.balanced_accuracy_score(true, guess),
            "macro_f1": metrics.f1_score(true, guess, average="macro"),
        }
        assert {name: getattr(result, prefix + name) for name in expected} == pytest.approx(expected)
    assert np.sum(result.utterance_confusion) == len(set(corpus.of("test")) - set(result.unlabelled_utterances))
    assert np.sum(result.confusion) == result.num_evaluated_frames
    assert (result.auc is None) == (result.utterance_auc is None) == (num_classes > 2)
    if num_classes == 2:
        assert result.accuracy < result.auc < result.utterance_auc <= 1  # more is known than the threshold tells
    assert "balanced accuracy (UAR)" in str(result)


def test_the_area_under_the_curve_is_scikit_learns(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.15, num_each=16, num_speakers=2)
    opened = corpus.write(tmp_path / "f")
    result = probe_column(opened, "speaker", FAST)
    speakers = probe_speakers(opened, FAST)
    assert (result.accuracy, result.auc, result.utterance_auc) == (
        speakers.accuracy,
        speakers.auc,
        speakers.utterance_auc,
    )
    sample = Sample(np.concatenate([corpus.frames[u] for u in corpus.of("train")]), np.array([]))
    assert len(sample.x) == result.num_train_frames
    model = LogisticRegression(C=result.C, max_iter=500)
    scaler = StandardScaler().fit(sample.x)
    y = {u: int(u[0]) for u in corpus.frames}
    model.fit(scaler.transform(sample.x), np.concatenate([[y[u]] * len(corpus.frames[u]) for u in corpus.of("train")]))
    margins = {u: model.decision_function(scaler.transform(corpus.frames[u])) for u in corpus.of("test")}
    by_frame = np.concatenate([[y[u]] * len(of) for u, of in margins.items()])
    assert result.auc == pytest.approx(metrics.roc_auc_score(by_frame, np.concatenate([*margins.values()])), abs=1e-3)
    means = [of.mean() for of in margins.values()]
    assert result.utterance_auc == pytest.approx(metrics.roc_auc_score([y[u] for u in margins], means), abs=1e-2)


def test_a_regression_recovers_a_number_that_the_frames_hold_linearly(tmp_path: Path) -> None:
    """R² and errors are scikit-learn's of a ridge regression fitted by hand; rows without a number are left out."""
    corpus = Corpus(signal=0.3, num_each=24)
    rng = np.random.default_rng(3)
    age = {u: float(rng.integers(20, 80)) for u in corpus.frames}
    for u, frames in corpus.frames.items():
        frames[:, 0] += 0.1 * age[u]
    corpus.table["age"] = [age[u] for u in corpus.table["utterance"]]
    corpus.table["age"] = corpus.table["age"].astype(object)
    corpus.table.loc[[3], "age"] = ""
    left_out = corpus.table["utterance"][3]
    opened = corpus.write(tmp_path / "f")
    result = probe_number(opened, "age", FAST)
    assert result.unlabelled_utterances == [left_out]

    def split(name: str) -> tuple[list[str], np.ndarray, np.ndarray]:
        names = [u for u in corpus.of(name) if u != left_out]
        x, y = [corpus.frames[u] for u in names], [[age[u]] * len(corpus.frames[u]) for u in names]
        return names, np.concatenate(x), np.concatenate(y)

    _, x, y = split("train")
    scaler = StandardScaler().fit(x)
    model = Ridge(alpha=1 / result.C).fit(scaler.transform(x), y)
    names, x, y = split("test")
    predicted = model.predict(scaler.transform(x))
    ends = np.cumsum([len(corpus.frames[u]) for u in names])
    means, truths = [part.mean() for part in np.split(predicted, ends[:-1])], [age[u] for u in names]
    expected = [metrics.r2_score(y, predicted), metrics.mean_absolute_error(y, predicted)]
    expected += [metrics.r2_score(truths, means), metrics.mean_absolute_error(truths, means)]
    assert [result.r2, result.mae, result.utterance_r2, result.utterance_mae] == pytest.approx(expected, rel=1e-4)
    assert 0 < result.r2 < result.utterance_r2 < 1
    assert result.utterance_r2_interval[0] < result.utterance_r2 < result.utterance_r2_interval[1]
    assert result.utterance_mae < result.mean_mae
    shuffled = probe_number(opened, "age", replace(FAST, shuffle_labels=True))
    assert shuffled.r2 < 0.05
    result.save(tmp_path / "age.json")
    assert Regression.read(tmp_path / "age.json") == result
    assert str(result).startswith("age: R² 0.")


def test_a_regression_of_what_is_no_number_is_refused(tmp_path: Path) -> None:
    opened = Corpus(signal=1).write(tmp_path / "f")
    with pytest.raises(ProbeError, match=r"speaker: 0-0 has 'speaker0', expected a number"):
        probe_number(opened, "speaker", FAST)
    with pytest.raises(ProbeError, match="a regression is linear"):
        probe_number(opened, "num_samples", replace(FAST, classifier="mlp"))
    with pytest.raises(ProbeError, match=r"sample_rate: all test utterances have one value"):
        probe_number(opened, "sample_rate", FAST)


@pytest.mark.parametrize("classifier", ["linear", "mlp"])
def test_two_classes_far_apart_have_a_perfect_curve(tmp_path: Path, classifier: str) -> None:
    """Probabilities round to 0 and 1, and the curve is that of the margins."""
    opened = Corpus(signal=50, num_speakers=2).write(tmp_path / "f")
    result = probe_column(opened, "speaker", replace(FAST, classifier=classifier, Cs=(100.0,)))
    assert (result.accuracy, result.auc, result.utterance_auc) == (1, 1, 1)


def test_a_class_that_train_lacks_counts_as_wrong(tmp_path: Path) -> None:
    corpus = Corpus(signal=5, num_each=12)
    corpus.table["call"] = corpus.table["speaker"]
    rare = corpus.table["utterance"] == corpus.of("test")[0]
    corpus.table.loc[rare, "call"] = "rare"
    result = probe_column(corpus.write(tmp_path / "f"), "call", FAST)
    frames = len(corpus.frames[corpus.of("test")[0]])
    assert result.num_unseen_class_frames == frames
    assert (result.per_class[0].name, result.per_class[0].seen) == ("rare", False)
    assert result.utterance_accuracy == 1 - 1 / len(corpus.of("test"))


def test_a_result_of_the_first_version_is_read(tmp_path: Path) -> None:
    """It knew one classifier, no control, and intervals by utterance."""
    corpus = Corpus(signal=1)
    path = tmp_path / "phone.json"
    probe_phones(corpus.write(tmp_path / "f"), corpus.phones, FAST).save(path)
    written = json.loads(path.read_text())
    later = ("classifier", "control", "interval_clusters", "num_interval_clusters", "hidden")
    path.write_text(json.dumps({key: value for key, value in written.items() if key not in later}))
    result = Result.read(path)
    assert (result.classifier, result.control, result.hidden) == ("linear", None, None)
    assert (result.interval_clusters, result.num_interval_clusters) == ("utterance", None)
    assert result.accuracy == written["accuracy"]
    str(result)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"accuracy": "high"}, r"accuracy: got 'high', expected a valid number"),
        ({"accuracy": None}, r"accuracy: got None, expected a valid number"),
        ({"task": 3}, r"task: got 3, expected a valid string"),
        ({"per_class": [{"id": 1}]}, r"per_class\.0\.name: field required"),
        ({"colour": "red"}, r"colour: unknown field"),
    ],
)
def test_a_file_that_is_no_result_is_refused_in_one_line_that_names_file_and_field(
    tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    corpus = Corpus(signal=1, num_each=4)
    path = tmp_path / "speaker.json"
    probe_speakers(corpus.write(tmp_path / "f"), FAST).save(path)
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(ProbeError, match=rf"speaker\.json: not the result of a probe: {expected}") as caught:
        Result.read(path)
    assert "\n" not in str(caught.value)


def test_files_that_hold_no_json_object_are_no_results(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    with pytest.raises(ProbeError, match=r"x\.json: no such result"):
        Result.read(path)
    for content, expected in (("{", "not JSON"), ("[1]", "got a list"), ("{}", "task: field required")):
        path.write_text(content)
        with pytest.raises(ProbeError, match=expected):
            Result.read(path)


def test_a_seed_of_any_size_works_for_every_classifier(tmp_path: Path) -> None:
    corpus = Corpus(signal=3, num_each=4)
    opened = corpus.write(tmp_path / "f")
    for classifier in ("linear", "mlp"):
        options = Options(classifier=classifier, hidden=4, seed=2**70 + 1, Cs=(1.0,), max_iter=500)  # type: ignore[arg-type]
        assert probe_speakers(opened, options).seed == 2**70 + 1
