"""The linear probes: claims on features whose answer is known."""

import copy
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pytest
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression

from cpc.features import Features, FeaturesError, open_features
from cpc.labels import LabelsError, num_labels
from cpc.probes import (
    ProbeError,
    probe_phones,
    probe_speakers,
    save,
    summary,
)
from cpc.probes.frames import blocks, census_of, draw
from cpc.probes.linear import _bootstrap, _score

HOP, FIRST_CENTRE, DIM, NUM_PHONES = 160, 232, 6, 4
FAST: dict[str, Any] = {"Cs": (0.01, 1.0), "max_iter": 500}


class Corpus:
    """Random utterances, their labels, and features that hold `signal` times their phone and speaker."""

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
                here = labels[: 1 + (num_samples - 465) // HOP]  # frame i is nearest to label i: 232 against 200
                noise = rng.normal(size=(len(here), DIM))
                self.frames[name] = (signal * (phones[here] + speakers[s]) + noise).astype(np.float32)
                self.labels[name] = labels
                split = ("train", "train", "dev", "test")[j % 4]
                rows.append([f"{name}.wav", num_samples, 16000, f"speaker{s}", name, split])
        columns = ["path", "num_samples", "sample_rate", "speaker", "utterance", "split"]
        self.table = pandas.DataFrame(rows, columns=columns)

    def write(self, folder: Path) -> Features:
        """As `cpc features` would."""
        (folder / "frames").mkdir(parents=True)
        for name, frames in self.frames.items():
            np.save(folder / "frames" / f"{name}.npy", frames)
        self.table.to_csv(folder / "manifest.csv", index=False)
        geometry = {"sample_rate": 16000, "hop_samples": HOP, "first_centre_samples": FIRST_CENTRE}
        meta = {"source": "cpc", "layer": "c", "dim": DIM, "dtype": "float32", "complete": True} | geometry
        (folder / "features.json").write_text(json.dumps(meta))
        return open_features(folder)

    def of(self, split: str) -> list[str]:
        return list(self.table.loc[self.table["split"] == split, "utterance"])


def without_time(result: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in result.items() if key != "seconds"}


def test_separable_classes_are_told_apart(tmp_path: Path) -> None:
    corpus = Corpus(signal=5)
    opened = corpus.write(tmp_path / "f")
    phones = probe_phones(opened, corpus.labels, phone_names={0: "sil"}, **FAST)
    assert phones["accuracy"] > 0.995
    assert phones["accuracy_interval"][0] <= phones["accuracy"] <= phones["accuracy_interval"][1]
    assert phones["num_unlabelled_frames"] == phones["num_unlabelled_utterances"] == 0
    assert phones["converged"]
    assert phones["warning"] is None
    assert [entry["name"] for entry in phones["per_class"]] == ["sil", "1", "2", "3"]
    speakers = probe_speakers(opened, **FAST)
    assert speakers["accuracy"] > 0.995
    assert speakers["utterance_accuracy"] == 1.0
    assert speakers["features"] == {"source": "cpc", "layer": "c", "dim": DIM}


def test_noise_is_worth_about_the_majority_class(tmp_path: Path) -> None:
    corpus = Corpus(signal=0, num_each=20)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.labels, **FAST)
    truth = np.concatenate([corpus.labels[u][: len(corpus.frames[u])] for u in corpus.of("test")])
    train = np.concatenate([corpus.labels[u][: len(corpus.frames[u])] for u in corpus.of("train")])
    most = np.bincount(train).argmax()
    assert result["majority"]["accuracy"] == pytest.approx((truth == most).mean())
    assert abs(result["accuracy"] - result["majority"]["accuracy"]) < 0.08


def test_counts_and_accuracies_agree_with_each_other(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.3)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.labels, **FAST)
    confusion = np.array(result["confusion"])
    truth = np.concatenate([corpus.labels[u][: len(corpus.frames[u])] for u in corpus.of("test")])
    assert confusion.sum(axis=1).tolist() == np.bincount(truth).tolist() == [e["count"] for e in result["per_class"]]
    assert result["accuracy"] == pytest.approx(np.trace(confusion) / len(truth))
    assert result["per_class"][1]["accuracy"] == pytest.approx(confusion[1, 1] / confusion[1].sum())
    assert result["num_test_frames"] == result["num_evaluated_frames"] == len(truth)


def test_utterances_are_decided_by_the_mean_logit(tmp_path: Path) -> None:
    """An utterance most of whose frames are wrong is right when the rest speak loudly enough."""
    corpus = Corpus(signal=5, num_speakers=2)
    name = corpus.of("test")[0]
    other = next(u for u in corpus.of("test") if u.split("-")[0] != name.split("-")[0])
    loud, quiet = corpus.frames[name].mean(0), corpus.frames[other].mean(0)
    half = (loud + quiet) / 2
    frames = np.tile(half + 0.2 * (quiet - loud), (10, 1))  # the wrong side of the middle, by little
    frames[:3] = half + 3 * (loud - quiet)
    corpus.frames[name] = frames.astype(np.float32)
    corpus.frames = {u: x for u, x in corpus.frames.items() if u not in corpus.of("test") or u == name}
    corpus.table = corpus.table[corpus.table["utterance"].isin(corpus.frames)]
    result = probe_speakers(corpus.write(tmp_path / "f"), **FAST)
    assert result["accuracy"] == pytest.approx(0.3)
    assert result["utterance_accuracy"] == 1.0


def test_the_draw_is_bounded_labelled_and_repeatable(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.5)
    opened = corpus.write(tmp_path / "f")
    first = probe_phones(opened, corpus.labels, max_frames=400, **FAST)
    assert (first["num_train_frames"], first["num_dev_frames"]) == (400, 100)
    assert first["num_available_train_frames"] == sum(len(corpus.frames[u]) for u in corpus.of("train"))
    assert without_time(probe_phones(opened, corpus.labels, max_frames=400, **FAST)) == without_time(first)
    assert without_time(probe_phones(opened, corpus.labels, max_frames=400, seed=1, **FAST)) != without_time(first) | {
        "seed": 1
    }

    corpus.table = corpus.table.sample(frac=1, random_state=0)
    shuffled = corpus.write(tmp_path / "shuffled")
    assert without_time(probe_phones(shuffled, corpus.labels, max_frames=400, **FAST)) == without_time(first)


def test_every_train_frame_is_equally_likely_to_be_drawn_and_none_twice(tmp_path: Path) -> None:
    corpus = Corpus(signal=0)
    count = 0
    for name in sorted(corpus.of("train")):  # each frame says which it is
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
    """Moving and stretching dev and test changes neither mean, nor scale, nor coefficients."""
    fitted: list[Any] = []
    score = _score
    monkeypatch.setattr("cpc.probes.linear._score", lambda *a: fitted.append((a[3], copy.deepcopy(a[4]))) or score(*a))
    corpus = Corpus(signal=0.5)
    before = probe_phones(corpus.write(tmp_path / "a"), corpus.labels, Cs=(0.1,), max_iter=500)
    for name in corpus.of("dev") + corpus.of("test"):
        corpus.frames[name] = 7 * corpus.frames[name] + 100
    after = probe_phones(corpus.write(tmp_path / "b"), corpus.labels, Cs=(0.1,), max_iter=500)
    (scaler, model), (scaler_after, model_after) = fitted
    train = np.concatenate([corpus.frames[u] for u in sorted(corpus.of("train"))]).astype(np.float64)
    assert scaler.mean_ == pytest.approx(train.mean(axis=0))
    assert scaler.scale_ == pytest.approx(train.std(axis=0))
    assert np.array_equal(scaler.mean_, scaler_after.mean_)
    assert np.array_equal(scaler.scale_, scaler_after.scale_)
    assert np.array_equal(model.coef_, model_after.coef_)
    assert before["accuracy"] != after["accuracy"]


def test_c_is_chosen_on_dev_and_never_on_test(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.2)
    options: dict[str, Any] = {"Cs": (1e-5, 1e-3, 1.0), "max_iter": 500}
    opened = corpus.write(tmp_path / "f")
    honest = probe_phones(opened, corpus.labels, **options)
    best = max(honest["dev_accuracy"].values())
    assert honest["dev_accuracy"][f"{honest['C']:g}"] == best
    assert len(set(honest["dev_accuracy"].values())) > 1
    rng = np.random.default_rng(0)
    permuted = {u: rng.permutation(v) if u in corpus.of("test") else v for u, v in corpus.labels.items()}
    blind = probe_phones(opened, permuted, **options)
    assert (blind["C"], blind["dev_accuracy"]) == (honest["C"], honest["dev_accuracy"])
    assert blind["accuracy"] < honest["accuracy"]


def test_the_chosen_classifier_is_the_one_that_is_scored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not the last one fitted: where every C is right on dev the smallest is taken, and it is what scores."""
    scored: list[Any] = []
    score = _score
    monkeypatch.setattr("cpc.probes.linear._score", lambda *a: scored.append(a[4]) or score(*a))
    corpus = Corpus(signal=8)
    opened = corpus.write(tmp_path / "f")
    alone = probe_phones(opened, corpus.labels, Cs=(0.1,), max_iter=500, evaluate="dev")
    result = probe_phones(opened, corpus.labels, Cs=(10.0, 0.1), max_iter=500, evaluate="dev")
    assert result["dev_accuracy"] == {"0.1": 1.0, "10": 1.0}
    assert result["C"] == 0.1
    assert np.array_equal(scored[0].coef_, scored[1].coef_)
    assert (result["accuracy"], result["evaluate"], result["num_test_frames"]) == (1.0, "dev", 0)
    assert alone["num_iterations"] == result["num_iterations"]


def test_evaluating_on_dev_never_opens_a_test_utterance(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    opened = corpus.write(tmp_path / "f")
    for name in corpus.of("test"):
        (opened.folder / "frames" / f"{name}.npy").unlink()
    assert probe_phones(opened, corpus.labels, evaluate="dev", **FAST)["accuracy"] > 0.5
    with pytest.raises(FeaturesError, match="no such file"):
        probe_phones(opened, corpus.labels, **FAST)


def test_too_few_iterations_are_reported_in_the_result_and_not_as_a_warning(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.labels, Cs=(1.0,), max_iter=2, tol=1e-6)
    assert (result["converged"], result["num_iterations"]) == (False, 2)
    assert "lbfgs failed to converge" in result["warning"]
    assert "not converged" in summary(result)


@pytest.mark.filterwarnings("always")
def test_other_warnings_are_passed_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit = LogisticRegression.fit

    def noisy(self: Any, x: Any, y: Any) -> Any:
        warnings.warn("something else", UserWarning, stacklevel=1)
        warnings.warn("slow", ConvergenceWarning, stacklevel=1)
        return fit(self, x, y)

    monkeypatch.setattr(LogisticRegression, "fit", noisy)
    corpus = Corpus(signal=1)
    opened = corpus.write(tmp_path / "f")
    with pytest.warns(UserWarning, match="something else") as caught:
        probe_phones(opened, corpus.labels, Cs=(1.0,), max_iter=500)
    assert not [w for w in caught if issubclass(w.category, ConvergenceWarning)]


def test_a_phone_that_train_never_had_counts_as_wrong_and_is_reported(tmp_path: Path) -> None:
    corpus = Corpus(signal=5)
    name = corpus.of("test")[0]
    corpus.labels[name] = np.full_like(corpus.labels[name], 30)
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.labels, **FAST)
    assert result["num_unseen_class_frames"] == len(corpus.frames[name])
    assert result["per_class"][-1] == {
        "id": 30, "name": "30", "seen": False, "count": len(corpus.frames[name]), "accuracy": 0.0,
    }  # fmt: skip
    assert result["accuracy"] == pytest.approx(1 - len(corpus.frames[name]) / result["num_test_frames"], abs=0.01)


def test_labels_are_placed_by_time_and_what_has_none_is_counted(tmp_path: Path) -> None:
    """Features whose frames begin 5 labels late, and end after the labels, fit only where time says so."""
    corpus = Corpus(signal=5)
    left_out = corpus.of("train")[:2]
    for name in left_out:
        del corpus.labels[name]
    for name, frames in corpus.frames.items():
        corpus.frames[name] = np.concatenate([frames[5:], np.zeros((10, DIM), np.float32)])
    opened = corpus.write(tmp_path / "f")
    opened.meta["first_centre_samples"] = FIRST_CENTRE + 5 * HOP
    result = probe_phones(opened, corpus.labels, **FAST)
    outside = 0
    for name, labels in corpus.labels.items():
        outside += sum(5 + i >= len(labels) for i in range(len(corpus.frames[name])))
    assert result["num_unlabelled_frames"] == outside > 0
    assert result["num_unlabelled_utterances"] == 2
    assert result["unlabelled_utterances"] == sorted(left_out)
    assert "left out: 2 utterances" in summary(result)
    assert result["accuracy"] > 0.9


def test_float16_features_and_two_classes_work(tmp_path: Path) -> None:
    corpus = Corpus(signal=5, num_speakers=2)
    corpus.frames = {name: frames.astype(np.float16) for name, frames in corpus.frames.items()}
    result = probe_speakers(corpus.write(tmp_path / "f"), **FAST)
    assert (result["utterance_accuracy"], result["num_classes"]) == (1.0, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_features_that_are_not_finite_are_an_error_that_names_utterance_and_frame(tmp_path: Path, value: float) -> None:
    for split in ("train", "test"):
        corpus = Corpus(signal=1)
        name = corpus.of(split)[1]
        corpus.frames[name][3, 2] = value
        with pytest.raises(ProbeError, match=f"{name}, frame 3: NaN or infinite"):
            probe_speakers(corpus.write(tmp_path / split), **FAST)


def test_missing_splits_are_an_error_that_says_how_to_make_them(tmp_path: Path) -> None:
    corpus = Corpus(signal=1)
    corpus.table["split"] = corpus.table["split"].replace("dev", "train")
    with pytest.raises(ProbeError, match=r"no dev utterances.*splits: test, train.*cpc manifest --split"):
        probe_phones(corpus.write(tmp_path / "dev"), corpus.labels)
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
        probe_phones(opened, {"x": np.zeros(3, np.int16)})
    with pytest.raises(ProbeError, match="no labelled frame in test"):
        probe_phones(opened, {u: v for u, v in corpus.labels.items() if u not in corpus.of("test")})
    with pytest.raises(ProbeError, match="one phone only"):
        probe_phones(opened, {u: np.zeros_like(v) for u, v in corpus.labels.items()})
    corpus.labels["0-0"] = corpus.labels["0-0"][:-1]
    with pytest.raises(LabelsError, match=r"0-0: .* labels, expected"):
        probe_phones(opened, corpus.labels)


@pytest.mark.parametrize(
    ("options", "expected"),
    [({"max_frames": 2}, "max_frames"), ({"hidden": 0}, "hidden"), ({"Cs": ()}, "Cs"), ({"Cs": (0.0,)}, "Cs")],
)
def test_options_that_make_no_sense_are_errors(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    corpus = Corpus(signal=1, num_each=4)
    with pytest.raises(ProbeError, match=f"{expected}: got"):
        probe_speakers(corpus.write(tmp_path / "f"), **options)


def test_a_result_is_saved_as_json_and_summed_up(tmp_path: Path) -> None:
    corpus = Corpus(signal=5)
    opened = corpus.write(tmp_path / "f")
    told: list[str] = []
    result = probe_speakers(opened, progress=told.append, **FAST)
    save(result, tmp_path / "out" / "speaker.json")
    assert json.loads((tmp_path / "out" / "speaker.json").read_text()) == result
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["speaker.json"]
    text = summary(result)
    assert "speaker: 100.0 % of test utterances right" in text
    assert "not converged" not in text
    assert "left out" not in text
    assert len(told) == 4


def test_the_bootstrap_interval_is_that_of_a_known_spread() -> None:
    """400 utterances of equal length, half all right and half all wrong: 0.5 ± 1.96 · 0.5 / 20."""
    correct, total = np.tile([0, 10], 200), np.full(400, 10)
    low, high = _bootstrap(correct, total, seed=0)
    assert (low, high) == (pytest.approx(0.451, abs=0.01), pytest.approx(0.549, abs=0.01))


def test_the_bootstrap_by_cluster_resamples_clusters_whole() -> None:
    """10 speakers of 40 utterances, half of them all right: the interval is that of 10 draws, not of 400."""
    correct, total = np.repeat([0, 10], 200), np.full(400, 10)
    speakers = [f"s{i // 40}" for i in range(400)]
    low, high = _bootstrap(correct, total, 0, speakers)
    rng, means = np.random.default_rng(1), []
    for _ in range(4000):
        picked = rng.integers(10, size=10)
        means.append(np.mean([1.0 if s >= 5 else 0.0 for s in picked]))
    assert (low, high) == (pytest.approx(np.percentile(means, 2.5)), pytest.approx(np.percentile(means, 97.5)))
    assert high - low > 0.5


def test_the_interval_goes_by_speaker_where_train_has_none_of_them(tmp_path: Path) -> None:
    corpus = Corpus(signal=1, num_speakers=6)
    result = probe_phones(corpus.write(tmp_path / "shared"), corpus.labels, **FAST)
    assert (result["interval_clusters"], result["num_interval_clusters"]) == ("utterance", len(corpus.of("test")))
    of = {"speaker0": "dev", "speaker1": "test", "speaker2": "test"}
    corpus.table["split"] = [of.get(s, "train") for s in corpus.table["speaker"]]
    result = probe_phones(corpus.write(tmp_path / "apart"), corpus.labels, **FAST)
    assert (result["interval_clusters"], result["num_interval_clusters"]) == ("speaker", 2)
    assert "resamples 2 speakers, none of them in train" in summary(result)


def test_streaming_all_frames_agrees_with_the_full_fit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Accuracies within 0.3 points for each C, and no more than a block and an utterance in memory at once."""
    corpus = Corpus(signal=0.3, num_speakers=4, num_each=24)
    opened = corpus.write(tmp_path / "f")
    options: dict[str, Any] = {"Cs": (0.003, 1.0), "evaluate": "dev"}
    full = probe_phones(opened, corpus.labels, max_frames=10**6, max_iter=1000, tol=1e-6, **options)
    sizes: list[int] = []

    def watched(*args: Any) -> Any:
        for x, y in blocks(*args):
            sizes.append(len(y))
            yield x, y

    monkeypatch.setattr("cpc.probes.linear.blocks", watched)
    monkeypatch.setattr("cpc.probes.linear.BLOCK_FRAMES", 1000)
    streamed = probe_phones(opened, corpus.labels, max_frames=0, **options)
    assert streamed["num_train_frames"] == full["num_train_frames"] == full["num_available_train_frames"]
    longest = max(map(len, corpus.frames.values()))
    assert 1000 <= max(sizes) < 1000 + longest
    for C in ("0.003", "1"):
        assert streamed["dev_accuracy"][C] == pytest.approx(full["dev_accuracy"][C], abs=0.003)
    assert streamed["accuracy"] == pytest.approx(full["accuracy"], abs=0.003)
    assert without_time(probe_phones(opened, corpus.labels, max_frames=0, **options)) == without_time(streamed)


def test_blocks_hold_every_labelled_frame_once_in_an_order_of_their_own(tmp_path: Path) -> None:
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


def test_one_hidden_layer_finds_what_no_line_can(tmp_path: Path) -> None:
    """Phones by the sign of a product of two dimensions."""
    corpus = Corpus(signal=0, num_each=48)
    rng = np.random.default_rng(0)
    for name, frames in corpus.frames.items():
        frames[:] = rng.normal(size=frames.shape)
        labels = corpus.labels[name][: len(frames)]
        frames[:, 0] = np.abs(frames[:, 0]) * np.where(labels % 2, np.sign(frames[:, 1]), -np.sign(frames[:, 1]))
        corpus.labels[name] = corpus.labels[name] % 2
    opened = corpus.write(tmp_path / "f")
    linear_, mlp = (probe_phones(opened, corpus.labels, classifier=c, hidden=16, **FAST) for c in ("linear", "mlp"))
    assert linear_["accuracy"] < 0.6
    assert mlp["accuracy"] > 0.8
    assert (mlp["classifier"], mlp["hidden"], mlp["C"]) == ("mlp", 16, None)
    assert "16 hidden units, epoch" in summary(mlp)
    assert without_time(probe_phones(opened, corpus.labels, classifier="mlp", hidden=16, **FAST)) == without_time(mlp)
    with pytest.raises(ProbeError, match="only the linear classifier takes"):
        probe_phones(opened, corpus.labels, classifier="mlp", max_frames=0)


@pytest.mark.parametrize("max_frames", [10**6, 0])
def test_shuffled_labels_teach_nothing_of_the_phones(tmp_path: Path, max_frames: int) -> None:
    corpus = Corpus(signal=1, num_each=24)
    opened = corpus.write(tmp_path / "f")
    real, control = (
        probe_phones(opened, corpus.labels, shuffle_labels=shuffled, max_frames=max_frames, **FAST)
        for shuffled in (False, True)
    )
    assert real["accuracy"] > 0.75
    assert control["accuracy"] < 0.45  # of four phones
    assert (real["control"], control["control"]) == (None, "shuffled labels")
    assert "control: shuffled labels" in summary(control)


def test_every_frame_of_the_evaluated_utterances_gets_a_prediction(tmp_path: Path) -> None:
    """Also where there is no label; in the form of a label file, one a frame of the features."""
    from cpc.labels import read_labels

    corpus = Corpus(signal=6)
    opened = corpus.write(tmp_path / "f")
    result = probe_phones(opened, corpus.labels, predictions=tmp_path / "predictions.txt", **FAST)
    predicted = read_labels(tmp_path / "predictions.txt")
    assert sorted(predicted) == sorted(corpus.of("test"))
    right = total = 0
    for u, of in predicted.items():
        assert len(of) == len(corpus.frames[u])
        right += int((of == corpus.labels[u][: len(of)]).sum())
        total += len(of)
    assert right / total == pytest.approx(result["accuracy"])


def test_classes_of_phones_are_scored_as_a_loop_over_the_confusions_says(tmp_path: Path) -> None:
    corpus = Corpus(signal=0.4)
    names = {0: "p", 1: "b", 2: "s", 3: "unheard"}
    of = {"p": {"manner": "plosive"}, "b": {"manner": "plosive"}, "s": {"manner": "fricative"}}
    result = probe_phones(corpus.write(tmp_path / "f"), corpus.labels, phone_names=names, phone_classes=of, **FAST)
    by_manner = result["by_manner"]
    assert by_manner["unclassed"] == ["unheard"]
    expected: dict[tuple[str, str], int] = {}
    for i, row in enumerate(result["confusion"]):
        for j, count in enumerate(row):
            if i < 3 and j < 3:
                key = (of[names[i]]["manner"], of[names[j]]["manner"])
                expected[key] = expected.get(key, 0) + count
    classes = [entry["name"] for entry in by_manner["classes"]]
    assert classes == ["plosive", "fricative"]
    for i, a in enumerate(classes):
        assert by_manner["confusion"][i] == [expected[a, b] for b in classes]
    plosive = by_manner["classes"][0]
    confusion = np.array(result["confusion"])
    assert plosive["count"] == confusion[:2].sum()
    assert plosive["accuracy"] == pytest.approx(confusion[:2, :2].sum() / confusion[:2].sum())
    assert plosive["phone_accuracy"] == pytest.approx((confusion[0, 0] + confusion[1, 1]) / confusion[:2].sum())


def test_the_phone_classes_that_come_along_cover_the_phones_of_our_corpora() -> None:
    from cpc.labels import PHONES, read_phone_classes

    of = read_phone_classes(Path(__file__).resolve().parents[1] / "data" / "phone_classes.csv")
    assert set(PHONES) | {"ax"} == set(of)
    assert all({"manner", "place", "voicing"} == set(classes) for classes in of.values())
