"""The contrastive losses against loop oracles and other libraries; blocks, precision, and what is refused."""

import doctest
import itertools
import math

import info_nce as info_nce_pytorch
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning import losses as metric_learning
from torch.nn import functional as F

from cpc.losses import (
    EmbeddingError,
    LearnableTemperature,
    contrastive,
    info_nce,
    info_nce_logits,
    labelled,
    mutual_information_bound,
    nt_xent,
    sup_con,
)
from tests import reference

CASES = settings(max_examples=200, deadline=None, derandomize=True)
SEEDS, SIZES, DIMS = st.integers(0, 2**31), st.integers(1, 9), st.integers(1, 6)
TEMPERATURES = st.floats(0.1, 2)  # below, pytorch-metric-learning leaves losses that round to 0 out of its mean


def rows(seed, *shapes, dtype=torch.float32):
    """Random embeddings, none near the origin, where the gradient of a cosine is unbounded."""
    generator = torch.Generator().manual_seed(seed)
    out = []
    for shape in shapes:
        x = torch.randn(shape, generator=generator, dtype=torch.float64)
        x = (
            x
            * (0.5 + torch.rand((*shape[:-1], 1), generator=generator, dtype=torch.float64))
            / x.norm(dim=-1, keepdim=True)
        )
        out.append(x.to(dtype).requires_grad_())
    return out


def assert_alike(ours, theirs, inputs, tolerance=1e-5):
    """Check that two losses have the same value and the same gradients."""
    torch.testing.assert_close(ours, theirs.to(ours), atol=tolerance, rtol=tolerance)
    gradients = (torch.autograd.grad(x, inputs, retain_graph=True) if x.requires_grad else None for x in (ours, theirs))
    for a, b in zip(*(g or [torch.zeros_like(x) for x in inputs] for g in gradients), strict=True):
        torch.testing.assert_close(a, b.to(a), atol=tolerance, rtol=tolerance)


# --- other libraries


@CASES
@given(SEEDS, SIZES, DIMS, TEMPERATURES, st.sampled_from(["mean", "sum", "none"]))
def test_info_nce_equals_info_nce_pytorch_with_negatives_from_the_batch(seed, n, dim, temperature, reduction):
    query, positive = inputs = rows(seed, (n, dim), (n, dim))
    ours = info_nce(query, positive, None, temperature, reduction=reduction)
    theirs = info_nce_pytorch.info_nce(query, positive, None, temperature, reduction)
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=1e-5)
    assert_alike(ours.sum(), theirs.sum(), inputs, 2e-5 if reduction != "mean" else 1e-5)


@CASES
@given(SEEDS, SIZES, SIZES, DIMS, TEMPERATURES, st.sampled_from(["paired", "unpaired"]))
def test_info_nce_equals_info_nce_pytorch_with_given_negatives(seed, n, m, dim, temperature, mode):
    query, positive, negatives = inputs = rows(seed, (n, dim), (n, dim), (n, m, dim) if mode == "paired" else (m, dim))
    ours = info_nce(query, positive, negatives, temperature, negative_mode=mode)
    theirs = info_nce_pytorch.info_nce(query, positive, negatives, temperature, negative_mode=mode)
    if m == 1 and mode == "paired" and n == 1:
        theirs = theirs.reshape(())
    assert_alike(ours, theirs, inputs)


LABELS = st.lists(st.integers(-2, 3), min_size=1, max_size=10)  # repeated labels, labels of one row, a single label


@CASES
@given(SEEDS, LABELS, DIMS, TEMPERATURES)
def test_nt_xent_equals_pytorch_metric_learning(seed, labels, dim, temperature):
    (x,) = inputs = rows(seed, (len(labels), dim), dtype=torch.float64)
    labels = torch.tensor(labels)
    assert_alike(nt_xent(x, labels, temperature), metric_learning.NTXentLoss(temperature)(x, labels), inputs)


@CASES
@given(SEEDS, LABELS, DIMS, TEMPERATURES)
def test_sup_con_equals_pytorch_metric_learning(seed, labels, dim, temperature):
    (x,) = inputs = rows(seed, (len(labels), dim), dtype=torch.float64)
    labels = torch.tensor(labels)
    assert_alike(sup_con(x, labels, temperature), metric_learning.SupConLoss(temperature)(x, labels), inputs)


@CASES
@given(SEEDS, st.integers(1, 5), st.integers(2, 4), DIMS, TEMPERATURES)
def test_logits_of_each_positive_give_nt_xent_with_the_items_as_labels(seed, n, views, dim, temperature):
    (x,) = inputs = rows(seed, (views * n, dim))
    logits, labels = info_nce_logits(x, views, temperature)
    assert logits.shape == (views * n * (views - 1), 1 + views * (n - 1))
    assert_alike(F.cross_entropy(logits, labels), nt_xent(x, torch.arange(n).repeat(views), temperature), inputs)


# --- loop oracles


def logits_oracle(scores, num_items, num_views, positives):
    """Rows of logits whose first entry is the target, from the scores of features stacked view by view."""
    found = []
    for anchor in range(num_views * num_items):
        item, view = anchor % num_items, anchor // num_items
        own = [scores[anchor][v * num_items + item] for v in range(num_views) if v != view]
        others = [scores[anchor][j] for j in range(num_views * num_items) if j % num_items != item]
        found += [own + others] if positives == "first" else [[score, *others] for score in own]
    return found


@pytest.mark.parametrize("positives", ["each", "first"])
@CASES
@given(SEEDS, st.integers(1, 5), st.integers(2, 4), TEMPERATURES)
def test_logits_equal_the_loop_oracle(positives, seed, n, views, temperature):
    (x,) = rows(seed, (views * n, 3), dtype=torch.float64)
    logits, labels = info_nce_logits(x, views, temperature, similarity="dot", positives=positives)
    expected = torch.tensor(logits_oracle((x @ x.T / temperature).tolist(), n, views, positives), dtype=torch.float64)
    torch.testing.assert_close(logits, expected)
    assert labels.tolist() == [0] * len(expected)


def test_both_kinds_of_logits_agree_with_two_views_and_differ_with_three():
    (x,) = rows(0, (15, 8))
    each, first = (info_nce_logits(x, 3, positives=positives) for positives in ("each", "first"))
    assert (each[0].shape, first[0].shape) == ((30, 13), (15, 14))
    assert F.cross_entropy(*first).item() != pytest.approx(F.cross_entropy(*each).item(), abs=1e-3)
    each, first = (info_nce_logits(x[:14], 2, positives=positives) for positives in ("each", "first"))
    assert torch.equal(each[0], first[0])
    assert torch.equal(each[1], first[1])


@CASES
@given(SEEDS, st.integers(1, 8), st.floats(0.05, 3))
def test_the_gradient_of_a_score_is_p_minus_1_for_the_positive_and_p_for_a_negative(seed, n, scale):
    """With unit vectors as keys, the queries are the scores."""
    scores = (
        scale * torch.randn(n, n, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ).requires_grad_()
    unit = torch.eye(n, dtype=torch.float64)
    value, gradient = reference.info_nce(scores.tolist(), range(n))
    first, first_gradient = reference.info_nce(scores.tolist(), [0] * n)
    cases = [(info_nce(scores, unit, None, 1.0, similarity="dot"), value, gradient)]
    if n > 1:
        paired = unit[1:].expand(n, -1, -1)
        for negatives, mode in ((unit[1:], "unpaired"), (paired, "paired")):
            loss = info_nce(scores, unit[:1].expand(n, -1), negatives, 1.0, negative_mode=mode, similarity="dot")
            cases.append((loss, first, first_gradient))
    for loss, expected, slopes in cases:
        (ours,) = torch.autograd.grad(loss, scores)
        torch.testing.assert_close(loss.item(), expected, atol=1e-6, rtol=0)
        torch.testing.assert_close(ours, torch.tensor(slopes, dtype=torch.float64), atol=1e-6, rtol=0)


@CASES
@given(SEEDS, LABELS, st.sampled_from(["nt_xent", "sup_con"]))
def test_labelled_losses_equal_the_loop_oracle(seed, labels, name):
    """The slope g_ij of a score s_ij = x_i · x_j acts on both rows: dL/dX = (G + Gᵀ) X."""
    (x,) = rows(seed, (len(labels), 4), dtype=torch.float64)
    value, slopes = getattr(reference, name)((x @ x.T).tolist(), labels)
    loss = getattr(labelled, name)(x, torch.tensor(labels), 1.0, similarity="dot")
    (gradient,) = torch.autograd.grad(loss, x)
    slopes = torch.tensor(slopes, dtype=torch.float64)
    torch.testing.assert_close(loss.item(), value, atol=1e-6, rtol=0)
    torch.testing.assert_close(gradient, (slopes + slopes.T) @ x.detach(), atol=1e-6, rtol=0)


def test_symmetric_is_the_mean_of_both_directions():
    query, positive = rows(0, (7, 5), (7, 5))
    both = (info_nce(query, positive) + info_nce(positive, query)) / 2
    assert_alike(info_nce(query, positive, symmetric=True), both, [query, positive])


@pytest.mark.parametrize("module", [contrastive, labelled])
def test_the_examples_in_the_docstrings_hold(module):
    result = doctest.testmod(module)
    assert result.attempted > 0
    assert result.failed == 0


@pytest.mark.parametrize("loss", [nt_xent, sup_con])
def test_reductions_agree_for_anchors_with_and_without_positives(loss):
    (x,) = rows(3, (6, 4))
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    each, total, mean = (loss(x, labels, reduction=r) for r in ("none", "sum", "mean"))
    terms = 3 * 2 + 2 if loss is nt_xent else 5
    assert each[-1] == 0
    torch.testing.assert_close(each.sum(), total)
    torch.testing.assert_close(total / terms, mean)


# --- blocks


OPTIONS = {
    "in the batch": lambda x, y, **o: info_nce(x, y, **o),
    "symmetric": lambda x, y, **o: info_nce(x, y, symmetric=True, **o),
    "unpaired": lambda x, y, **o: info_nce(x, y, y[:9].roll(1, 0), **o),
    "paired": lambda x, y, **o: info_nce(
        x, y, torch.stack([x.roll(1, 0), y.roll(1, 0)], 1), negative_mode="paired", **o
    ),
    "nt_xent": lambda x, y, **o: nt_xent(torch.cat([x, y]), torch.arange(23).repeat(2) % 5, **o),
    "sup_con": lambda x, y, **o: sup_con(torch.cat([x, y]), torch.arange(23).repeat(2) % 5, **o),
}


@pytest.mark.parametrize("name", OPTIONS)
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_blocks_change_nothing(name, reduction):
    """Value and gradients, including the temperature's, stay the same whether or not the blocks divide the rows."""
    inputs = [*rows(1, (23, 6), (23, 6)), torch.tensor(0.2, requires_grad=True)]
    plain = OPTIONS[name](*inputs[:2], temperature=inputs[2], reduction=reduction)
    weights = torch.linspace(1, -1, plain.numel()).view(plain.shape) / plain.numel()
    for chunk_size in (1, 5, 23, 1000):
        by_blocks = OPTIONS[name](*inputs[:2], temperature=inputs[2], reduction=reduction, chunk_size=chunk_size)
        assert by_blocks.shape == plain.shape
        assert_alike((weights * by_blocks).sum(), (weights * plain).sum(), inputs)


def test_blocks_keep_no_scores_for_the_backward_pass():
    """The memory that autograd keeps grows with N, not with N²."""
    saved = {}
    for n in (64, 128):
        x, y = rows(0, (n, 4), (n, 4))
        for chunk_size in (None, 8):
            sizes = []
            with torch.autograd.graph.saved_tensors_hooks(lambda t, s=sizes: s.append(t.numel()) or t, lambda t: t):
                info_nce(x, y, chunk_size=chunk_size)
            saved[n, chunk_size] = max(sizes)
    assert saved[128, None] == 4 * saved[64, None]
    assert saved[128, 8] == 2 * saved[64, 8]


# --- precision


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPTIONS)
def test_half_precision_loses_nothing_beyond_the_rounding_of_the_inputs(dtype, name):
    """Scores are float32, so the loss is that of the rounded embeddings, also under autocast."""
    x, y = rows(2, (23, 6), (23, 6))
    half = [v.detach().to(dtype).requires_grad_() for v in (x, y)]
    full = [v.detach().float().requires_grad_() for v in half]
    for similarity, temperature in (("cosine", 0.01), ("dot", 0.05)):
        options = {"similarity": similarity, "temperature": temperature}
        expected = OPTIONS[name](*full, **options)
        with torch.autocast("cpu", dtype):
            ours = OPTIONS[name](*half, **options)
        assert ours.dtype == torch.float32
        torch.testing.assert_close(ours, expected)
        for a, b in zip(torch.autograd.grad(ours, half), torch.autograd.grad(expected, full), strict=True):
            assert a.dtype == dtype
            torch.testing.assert_close(a.float(), b, rtol=0.01, atol=0.01)


def test_half_precision_neither_overflows_nor_loses_the_positive():
    """1000 · 1000 · 64 exceeds float16; a positive 1/1000 above its negatives vanishes in bfloat16."""
    large = torch.full((4, 64), 1000.0, dtype=torch.float16)
    torch.testing.assert_close(info_nce(large, large, similarity="dot").item(), math.log(4))
    keys = torch.eye(2, dtype=torch.bfloat16)
    query = torch.tensor([[512.0, 511.0], [511.0, 512.0]], dtype=torch.float32)
    loss = info_nce(query, keys, None, 0.01, similarity="dot")
    assert loss < 1e-6
    near = torch.tensor([[1.0, 0.0], [1.0, 2**-7]], dtype=torch.bfloat16)  # two keys that bfloat16 can just distinguish
    assert info_nce(near, near, None, 1e-5) < 0.1


@pytest.mark.parametrize("temperature", [0.01, 1e-4])
def test_a_low_temperature_is_stable(temperature):
    x, y = rows(5, (16, 4), (16, 4))
    double = [v.detach().double().requires_grad_() for v in (x, y)]
    for call in OPTIONS.values():
        x_, y_ = (F.pad(v, (0, 0, 0, 7), value=1.0) for v in (x, y))
        a, b = (F.pad(v, (0, 0, 0, 7), value=1.0) for v in double)
        loss = call(x_, y_, temperature=temperature)
        torch.testing.assert_close(loss.double(), call(a, b, temperature=temperature), rtol=1e-4, atol=1e-3)
        assert all(g.isfinite().all() for g in torch.autograd.grad(loss, [x, y]))


OFFSET = 1000.0  # of one coordinate: it adds 1e6 to every dot product, where float32 resolves 1/16


@pytest.mark.parametrize("chunk_size", [None, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_an_offset_that_all_scores_share_costs_no_digits(name, chunk_size):
    """The other coordinates are multiples of 1/4, so the scores are exact with and without the offset of 1e6."""
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-4, 5, (23, 6), generator=generator) / 2 for _ in range(2))
    near = [v.clone().requires_grad_() for v in (x, y)]
    far = [F.pad(v, (0, 1), value=OFFSET).requires_grad_() for v in (x, y)]
    options = {"temperature": 1.0, "similarity": "dot", "chunk_size": chunk_size}
    expected, loss = OPTIONS[name](*near, **options), OPTIONS[name](*far, **options)
    assert 0.1 < expected.item() < 20
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    for a, b in zip(torch.autograd.grad(loss, far), torch.autograd.grad(expected, near), strict=True):
        torch.testing.assert_close(a[:, :-1], b, rtol=1e-5, atol=1e-6)


def test_a_cosine_does_not_depend_on_the_lengths_even_if_they_are_extreme():
    x, y = rows(6, (5, 3), (5, 3))
    scale = torch.tensor([1e-30, 1e-10, 1.0, 1e10, 1e30])[:, None]
    torch.testing.assert_close(info_nce(x * scale, y), info_nce(x, y))


# --- temperature, bound


def test_the_temperature_is_learned_and_stays_above_its_floor_and_can_rise_again():
    temperature = LearnableTemperature(0.02)
    optimiser = torch.optim.Adam(temperature.parameters(), lr=0.1)
    x = rows(0, (8, 4))[0].detach()
    for positive in (x, x.roll(1, 0)):  # correct positives lower the temperature, wrong ones raise it
        for _ in range(50):
            optimiser.zero_grad()
            info_nce(x, positive, None, temperature()).backward()
            optimiser.step()
            assert temperature() >= 0.01 * (1 - 1e-6)
        assert (temperature().item() < 0.0101) == (positive is x)


@CASES
@given(SEEDS, st.integers(1, 20), st.floats(1e-3, 10))
def test_the_bound_is_never_above_log_n(seed, n, temperature):
    x, y = rows(seed, (n, 3), (n, 3))
    bound = mutual_information_bound(info_nce(x, y, None, temperature), n)
    assert bound.value <= bound.ceiling == math.log(n)


# --- what is refused


X, LABEL = torch.ones(4, 3), torch.tensor([0, 0, 1, 1])
NAN = X.clone().index_put((torch.tensor(2), torch.tensor(1)), torch.tensor(math.nan))
ZERO = X.clone().index_fill(0, torch.tensor([3]), 0.0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: info_nce(X[0], X), r"query: got shape \(3,\), expected \(N, D\)"),
        (lambda: info_nce(X, X[:3]), r"positive: got shape \(3, 3\), expected \(4, 3\), as query"),
        (lambda: info_nce(X, X[:, :2]), r"positive: got shape \(4, 2\), expected \(4, 3\), as query"),
        (lambda: info_nce(X, X, X[:, :2]), r"negatives: got shape \(4, 2\), expected \(4, 3\), as query \(4, 3\)"),
        (lambda: info_nce(X, X, X[None]), r"negatives: got shape \(1, 4, 3\), expected \(N, D\)"),
        (lambda: info_nce(X, X, X, negative_mode="paired"), r"negatives: got shape \(4, 3\), expected \(N, M, D\)"),
        (lambda: info_nce(X, X, X[None], negative_mode="paired"), r"negatives: got .* expected \(4, 4, 3\), as query"),
        (lambda: info_nce(X[:0], X[:0]), r"query: got shape \(0, 3\), expected \(N, D\) with at least 1"),
        (lambda: info_nce(X, X, X[:0]), r"negatives: got shape \(0, 3\)"),
        (lambda: info_nce(X.long(), X), r"query: got torch.int64, expected floating point"),
        (lambda: info_nce(X, NAN), r"positive: got nan at \[2, 1\], expected finite"),
        (lambda: info_nce(X / 0, X), r"query: got inf at \[0, 0\], expected finite"),
        (lambda: info_nce(X, X, ZERO), r"negatives: got length 0 at \[3\], expected above 0 for a cosine"),
        (lambda: nt_xent(ZERO, LABEL), r"embeddings: got length 0 at \[3\], expected above 0"),
        (lambda: sup_con(NAN, LABEL), r"embeddings: got nan at \[2, 1\]"),
        (lambda: sup_con(X[:0], LABEL[:0]), r"embeddings: got shape \(0, 3\)"),
        (lambda: nt_xent(X, LABEL.float()), r"labels: got torch.float32, expected integers"),
        (lambda: sup_con(X, LABEL.bool()), r"labels: got torch.bool, expected integers"),
        (lambda: nt_xent(X, LABEL[:3]), r"labels: got shape \(3,\), expected \(4,\), one per row"),
        (lambda: info_nce(X, X, None, 0), r"temperature: got 0.0, expected above 0"),
        (lambda: sup_con(X, LABEL, -1.0), r"temperature: got -1.0, expected above 0"),
        (lambda: nt_xent(X, LABEL, math.nan), r"temperature: got nan, expected above 0"),
        (lambda: nt_xent(X, LABEL, torch.ones(2)), r"temperature: got shape \(2,\), expected one number"),
        (lambda: LearnableTemperature(0), r"temperature: got 0.0, expected above 0"),
        (lambda: LearnableTemperature(0.001), r"max_scale: got 100.0, expected at least 1 / temperature = 1000"),
        (lambda: info_nce(X, X, reduction="median"), r"reduction: got 'median', allowed: mean, sum, none"),
        (lambda: info_nce(X, X, similarity="l2"), r"similarity: got 'l2', allowed: cosine, dot"),
        (lambda: info_nce(X, X, X, negative_mode="each"), r"negative_mode: got 'each', allowed: unpaired, paired"),
        (
            lambda: info_nce(X, X, X, symmetric=True),
            r"symmetric: got True together with negatives, expected negatives=None",
        ),
        (lambda: info_nce(X, X, X, gather=True), r"gather: got True together with negatives, expected negatives=None"),
        (lambda: info_nce(X, X, gather=True), r"gather: got True without a process group"),
        (lambda: info_nce(X, X, chunk_size=0), r"chunk_size: got 0, expected at least 1"),
        (lambda: info_nce_logits(X, 3), r"n_views: got 3, expected at least 2 and a divisor of the 4 rows"),
        (lambda: info_nce_logits(X, 1), r"n_views: got 1, expected at least 2"),
        (lambda: info_nce_logits(X, positives="all"), r"positives: got 'all', allowed: each, first"),
        (lambda: mutual_information_bound(-0.5, 4), r"loss: got -0.5, expected finite values of at least 0"),
        (lambda: mutual_information_bound(0.5, 0), r"num_candidates: got 0, expected at least 1"),
    ],
)
def test_bad_arguments_are_refused_in_one_line_that_names_them(call, says):
    with pytest.raises(EmbeddingError, match="^" + says) as error:
        call()
    assert "\n" not in str(error.value)


def test_the_query_decides_the_precision():
    x, y = rows(0, (4, 3), (4, 3), dtype=torch.float64)
    assert info_nce(x, y.float(), y.float()).dtype == torch.float64
    assert info_nce(x.float(), y, y).dtype == torch.float32


def test_zero_vectors_are_allowed_under_a_dot_product():
    assert all(
        call(ZERO, ZERO, similarity="dot").isfinite() for call in (info_nce, lambda x, _, **o: nt_xent(x, LABEL, **o))
    )


@pytest.mark.parametrize("loss", [nt_xent, sup_con])
@pytest.mark.parametrize("labels", [[0, 1, 2], [4, 4, 4], [7]])
def test_loss_and_gradient_are_0_without_a_positive_or_without_a_negative(loss, labels):
    for chunk_size, reduction in itertools.product((None, 2), ("mean", "sum", "none")):
        (x,) = rows(0, (len(labels), 4))
        value = loss(x, torch.tensor(labels), reduction=reduction, chunk_size=chunk_size)
        assert value.shape == ((len(labels),) if reduction == "none" else ())
        value.sum().backward()
        assert (value == 0).all()
        assert (x.grad == 0).all()
