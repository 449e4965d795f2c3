"""The logistic regression of probes against scikit-learn's own."""

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

from cpc.probes.logistic import fit_path


def correlated(num_classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Standardised frames whose directions differ by orders of magnitude, with one rare class."""
    rng = np.random.default_rng(seed)
    n, dim = 1200, 30
    y = 3 * rng.integers(num_classes - 1, size=n) + 1
    y[:5] = rare = 3 * num_classes
    x = rng.normal(size=(n, 6)) + rng.normal(size=(rare + 1, 6))[y]
    x = x @ rng.normal(size=(6, dim)) + 0.05 * rng.normal(size=(n, dim))
    return ((x - x.mean(0)) / x.std(0)).astype(np.float32), y


@pytest.mark.parametrize("num_classes", [2, 3, 8])
def test_every_c_has_the_optimum_of_scikit_learn(num_classes: int) -> None:
    x, y = correlated(num_classes)
    for C, found in fit_path(x, y, (1.0, 0.01, 0.1), max_iter=2000, tol=1e-5):
        theirs = LogisticRegression(C=C, tol=1e-8, max_iter=5000).fit(x.astype(np.float64), y)
        assert found.converged
        assert found.model.coef_ == pytest.approx(theirs.coef_, abs=1e-2 * np.abs(theirs.coef_).max())
        assert found.model.predict_proba(x) == pytest.approx(theirs.predict_proba(x), abs=2e-3)
        assert (found.model.predict(x) == theirs.predict(x)).mean() > 0.99


def test_the_strongest_regularisation_comes_first_and_each_fit_starts_from_the_one_before() -> None:
    x, y = correlated(8)
    path = list(fit_path(x, y, (1.0, 0.01, 1.0, 0.99), max_iter=500, tol=1e-4))
    assert [C for C, _ in path] == [0.01, 0.99, 1.0]
    assert path[2][1].num_iterations < path[1][1].num_iterations / 2


def test_a_path_takes_less_than_two_thirds_of_the_iterations_of_scikit_learn() -> None:
    x, y = correlated(8)
    theirs, Cs = LogisticRegression(tol=1e-4, max_iter=5000, warm_start=True), (0.01, 0.1, 1.0)
    ours = sum(found.num_iterations for _, found in fit_path(x, y, Cs, max_iter=2000, tol=1e-4))
    total = sum(int(theirs.set_params(C=C).fit(x, y).n_iter_.max()) for C in Cs)
    assert ours < total * 2 / 3, (ours, total)


def test_a_fit_that_stops_early_says_its_largest_derivative() -> None:
    x, y = correlated(3)
    ((_, found),) = fit_path(x, y, (1.0,), max_iter=2, tol=1e-6)
    assert (found.converged, found.num_iterations) == (False, 2)
    model = found.model
    p = model.predict_proba(x.astype(np.float64)) - (y[:, None] == model.classes_)
    by_hand = max(np.abs(p.T @ x / len(x) + model.coef_ / len(x)).max(), np.abs(p.mean(axis=0)).max())
    assert found.largest_derivative == pytest.approx(by_hand, rel=1e-3)
