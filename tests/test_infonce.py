"""Negatives and InfoNCE against loop oracles; what the schemes may and may not hold."""

import dataclasses
import typing

import pytest
import torch

from cpc.config import NegativeSet
from cpc.infonce import Negatives, NegativesError, Rule, Scheme, bound_kind, infonce
from cpc.infonce.negatives import draw
from tests import reference

SCHEMES = typing.get_args(Scheme)
# Two speakers with two utterances each, one utterance with two windows; two windows are padded.
SPEAKER, UTTERANCE, FRAMES = [0, 0, 0, 1, 1], [7, 7, 8, 9, 3], [9, 9, 6, 9, 4]
WHOSE = {"speaker": SPEAKER, "utterance": UTTERANCE}
K, D = 3, 5


def batch(dtype=torch.float64, scale=1.0):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(5, 9, D, generator=generator, dtype=dtype)
    predictions = scale * torch.randn(K, 5, 9, D, generator=generator, dtype=dtype)
    return z.requires_grad_(), predictions.requires_grad_()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_each_scheme_admits_exactly_its_set(scheme):
    """Indices, not values: for every anchor and step the candidates but for the positive are the oracle's set."""
    negatives = Negatives.of(scheme, FRAMES, WHOSE)
    assert sorted(b for rows in negatives.groups for b in rows) == list(range(5))
    for rows in negatives.groups:
        allowed = negatives.admitted(rows, 9)
        for i, b in enumerate(rows):
            candidates = {(rows[place // 9], place % 9) for place in allowed[i].nonzero().flatten().tolist()}
            for k in range(1, K + 1):
                for t in range(FRAMES[b] - k):
                    expected = reference.negatives_of(scheme, SPEAKER, UTTERANCE, FRAMES, b, t, k)
                    assert candidates - {(b, t + k)} == expected
                    assert ((b, t + k) in candidates) == negatives.includes_positive


@pytest.mark.parametrize("scheme", SCHEMES)
def test_infonce_equals_the_loop_oracle_in_value_and_gradient(scheme):
    z, predictions = batch()
    result = infonce(z, predictions, Negatives.of(scheme, FRAMES, WHOSE))
    expected = reference.infonce(z, predictions, scheme, SPEAKER, UTTERANCE, FRAMES)
    for ours, theirs in zip(result[:4], expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-5, rtol=1e-5)
    weights = torch.tensor([1.0, -2.0, 0.5])  # every step's loss has a gradient of its own
    ours = torch.autograd.grad((result.losses * weights).sum(), [z, predictions])
    theirs = torch.autograd.grad((expected[0] * weights).sum(), [z, predictions])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_blocks_change_nothing(scheme, monkeypatch):
    """However few scores are held at once, losses and gradients stay."""
    outcomes = []
    for size in (1, 100, 10**6):
        monkeypatch.setattr("cpc.infonce.pool.block_scores", lambda device, size=size: size)
        z, predictions = batch()
        result = infonce(z, predictions, Negatives.of(scheme, FRAMES, WHOSE))
        outcomes.append([*result[:4], *torch.autograd.grad(result.losses.sum(), [z, predictions])])
    for other in outcomes[1:]:
        for a, b in zip(outcomes[0], other, strict=True):
            torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 1e-2)])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_embedding_bags_score_as_the_product_does(scheme, dtype, tolerance, monkeypatch):
    """Few of many candidates are scored one by one; losses and gradients are those of the product with all."""
    outcomes = []
    for many_to_one in (0, 10**6):
        monkeypatch.setattr("cpc.infonce.drawn._MANY_TO_ONE", many_to_one)
        z, predictions = (x.detach().to(dtype).requires_grad_() for x in batch())
        negatives = Negatives.of(scheme, FRAMES, WHOSE, num_negatives=3, seed=4)
        result = infonce(z, predictions, negatives)
        weights = torch.tensor([1.0, -2.0, 0.5])
        outcomes.append([*result[:4], *torch.autograd.grad((result.losses * weights).sum(), [z, predictions])])
    for bags, product in zip(*outcomes, strict=True):
        torch.testing.assert_close(bags, product, atol=tolerance, rtol=tolerance)


def test_the_softmax_is_over_candidates_not_contexts():
    """One context that scores everything high must not lower the others' losses."""
    z, predictions = batch()
    base = infonce(z, predictions, Negatives.of("mixed_speaker", FRAMES, WHOSE))
    shifted = predictions.detach().clone()
    shifted[:, 0, 0] = 0  # this anchor's candidates are now all alike: its loss is log N, the rest is unchanged
    other = infonce(z, shifted, Negatives.of("mixed_speaker", FRAMES, WHOSE))
    anchors = torch.tensor([sum(max(0, n - k) for n in FRAMES) for k in (1, 2, 3)])
    for k in range(3):
        expected = reference.infonce(z, shifted, "mixed_speaker", SPEAKER, UTTERANCE, FRAMES)[0][k]
        torch.testing.assert_close(other.losses[k].double(), expected, atol=1e-5, rtol=1e-5)
    assert ((base.losses - other.losses).abs() * anchors < 50).all()


@pytest.mark.parametrize("scheme", SCHEMES)
def test_drawn_negatives_are_members_of_the_set_and_never_the_positive(scheme):
    """With orthogonal latents each score names its latent, so the drawn set shows in the gradient of z."""
    total = sum(FRAMES)
    z = torch.zeros(5, 9, total)
    place = {}
    for b, n in enumerate(FRAMES):
        for t in range(n):
            place[b, t] = len(place)
            z[b, t, place[b, t]] = 1
    for b, t, k in [(0, 0, 1), (1, 8 - 3, 3), (2, 2, 2), (4, 1, 1)]:
        predictions = torch.zeros(K, 5, 9, total)
        predictions.requires_grad_()
        negatives = Negatives.of(scheme, FRAMES, WHOSE, num_negatives=400, seed=5)
        result = infonce(z, predictions, negatives)
        (gradient,) = torch.autograd.grad(result.losses[k - 1], predictions)
        pushed = {where for where, i in place.items() if gradient[k - 1, b, t, i] > 0}
        assert pushed == reference.negatives_of(scheme, SPEAKER, UTTERANCE, FRAMES, b, t, k)
        assert gradient[k - 1, b, t, place[b, t + k]] < 0


def test_drawing_is_uniform_over_all_but_the_positive():
    ranks = torch.tensor([0, 3, 6, -1]).repeat_interleave(3000)[:, None]
    drawn = draw(ranks, torch.full_like(ranks, 7), 20, torch.Generator().manual_seed(0))
    for row, column in enumerate([0, 3, 6, -1]):
        counts = torch.bincount(drawn[3000 * row : 3000 * (row + 1)].flatten(), minlength=7).double() / 60000
        expected = torch.full((7,), 1 / (7 - (column >= 0)), dtype=torch.float64)
        if column >= 0:
            expected[column] = 0
        torch.testing.assert_close(counts, expected, atol=0.008, rtol=0)


def test_drawn_infonce_has_n_equal_to_one_plus_the_negatives():
    z, predictions = batch()
    negatives = Negatives.of("mixed_speaker", FRAMES, WHOSE, num_negatives=11)
    result = infonce(z, torch.zeros_like(predictions), negatives)
    torch.testing.assert_close(result.losses, torch.full((3,), 12.0).log())
    torch.testing.assert_close(result.log_n, torch.full((3,), 12.0).log())
    assert torch.equal(result.bounds, result.log_n - result.losses)


@pytest.mark.parametrize("many_to_one", [0, 10**6])
def test_drawn_gradient_equals_finite_differences(many_to_one, monkeypatch):
    monkeypatch.setattr("cpc.infonce.drawn._MANY_TO_ONE", many_to_one)  # 0: by embedding bags
    z, predictions = batch()

    def loss(z, predictions):
        negatives = Negatives.of("same_speaker", FRAMES, WHOSE, num_negatives=4, seed=3)
        return infonce(z, predictions, negatives).losses.sum().double()

    grads = torch.autograd.grad(loss(z, predictions), [z, predictions])
    for x, grad in zip((z, predictions), grads, strict=True):
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(2), dtype=x.dtype)
        with torch.no_grad():
            plus, minus = ([z + s * direction if y is z else y for y in (z, predictions)] for s in (1e-3, -1e-3))
            if x is predictions:
                plus, minus = ([z, predictions + s * direction] for s in (1e-3, -1e-3))
            difference = (loss(*plus) - loss(*minus)) / 2e-3
        torch.testing.assert_close((grad * direction).sum(), difference, atol=2e-3, rtol=2e-3)


def test_perfect_and_useless_predictions():
    """Predictions along their positive win always; equal scores never count as won."""
    z = torch.nn.functional.one_hot(torch.arange(12)).float().view(2, 6, 12)
    predictions = torch.zeros(1, 2, 6, 12)
    negatives = Negatives.of("mixed_speaker", [6, 6])
    useless = infonce(z, predictions, negatives)
    assert useless.accuracies == 0
    assert useless.win_rates == 0
    predictions[0, :, :-1] = 50 * z[:, 1:]
    perfect = infonce(z, predictions, negatives)
    assert perfect.accuracies == 1
    assert perfect.win_rates == 1
    assert perfect.losses < 1e-6


def test_scores_do_not_overflow_in_half_precision():
    z, predictions = batch(torch.bfloat16, scale=100.0)
    result = infonce(300 * z, 300 * predictions, Negatives.of("mixed_speaker", FRAMES, WHOSE))
    assert result.losses.dtype == torch.float32
    assert torch.isfinite(result.losses).all()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(result.losses.mean(), [z, predictions]))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_bf16_inputs_are_scored_exactly_and_their_gradients_are_within_its_precision(scheme):
    """The scores of bf16 latents are sums in float32; only what is returned in bf16 is rounded to it."""
    z, predictions = batch(torch.bfloat16)
    z = (z + 10).detach().requires_grad_()  # a mean that all latents share, as after ReLU
    result = infonce(z, predictions, Negatives.of(scheme, FRAMES, WHOSE))
    wide = [x.detach().double().requires_grad_() for x in (z, predictions)]
    expected = reference.infonce(*wide, scheme, SPEAKER, UTTERANCE, FRAMES)
    torch.testing.assert_close(result.losses.double(), expected[0], atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(result.losses.sum(), [z, predictions])
    theirs = torch.autograd.grad(expected[0].sum(), wide)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.double() - b).abs().max() < 2**-7 * b.abs().max()


@pytest.mark.parametrize(
    ("scheme", "speaker", "utterance", "frames"),
    [
        ("mixed_speaker_excl", [0, 1], [4, 4], [9, 9]),
        ("same_speaker_excl", [0, 1], [3, 4], [9, 9]),
        ("same_speaker_excl", [0, 0], [3, 3], [9, 9]),
        ("mixed_speaker_excl", [0], [4], [9]),
    ],
)
def test_an_empty_set_is_an_error_that_names_scheme_and_batch(scheme, speaker, utterance, frames):
    with pytest.raises(NegativesError, match=f"{scheme}.*batch of {len(speaker)} windows"):
        Negatives.of(scheme, frames, {"speaker": speaker, "utterance": utterance})


def test_a_step_without_anchor_is_an_error():
    z, predictions = batch()
    with pytest.raises(NegativesError, match=r"step 3 of 3 has no anchor"):
        infonce(z, predictions, Negatives.of("mixed_speaker", [3, 3, 2, 3, 3], WHOSE))


def test_padded_frames_take_no_part():
    """Whatever stands in padded frames, losses stay and their gradient is zero."""
    z, predictions = batch()
    with torch.no_grad():
        z[4, 4:] = 1e3
        predictions[:, 2, 6:] = -1e3
    result = infonce(z, predictions, Negatives.of("same_speaker", FRAMES, WHOSE))
    expected = reference.infonce(z, predictions, "same_speaker", SPEAKER, UTTERANCE, FRAMES)
    torch.testing.assert_close(result.losses.double(), expected[0], atol=1e-5, rtol=1e-5)
    d_z, d_predictions = torch.autograd.grad(result.losses.sum(), [z, predictions])
    assert not d_z[4, 4:].any()
    assert not d_predictions[:, 2, 6:].any()


def test_only_unseen_negatives_of_any_speaker_bound_the_mutual_information():
    excl, same_excl = Rule.of("mixed_speaker_excl"), Rule.of("same_speaker_excl")
    assert bound_kind([excl], "mixed") == "I(x;c)"
    assert bound_kind([excl], "by_speaker") == "conditional"
    assert bound_kind([same_excl], "by_speaker") == "conditional"
    assert bound_kind([Rule(different=("speaker",))], "mixed") == "conditional"
    for scheme in ("mixed_speaker", "same_speaker", "current_sequence"):
        assert bound_kind([Rule.of(scheme)], "mixed") == "none"
        assert bound_kind([excl, Rule.of(scheme)], "mixed") == "none"  # a mean bounds no more than its weakest part


def bounds_of_white_noise(scheme: Scheme) -> torch.Tensor:
    """log N − L (K,) of predictions that score the latents of frames up to t low, where the latents are independent.

    x_{t+k} and c_t then share nothing: their mutual information is 0.
    """
    z = torch.randn(4, 60, 8192, generator=torch.Generator().manual_seed(0))
    predictions = -0.0005 * z.cumsum(1).expand(4, -1, -1, -1)  # the sum of what the context has seen
    return infonce(z, predictions, Negatives.of(scheme, [60] * 4, {"speaker": range(4)})).bounds


def test_negatives_that_c_has_seen_give_white_noise_a_bound_above_0():
    """c rules out its own past, so log N − L exceeds the true mutual information, 0: it is no bound."""
    assert bounds_of_white_noise("current_sequence").min() > 0.7
    assert bounds_of_white_noise("mixed_speaker").min() > 0.05


def test_unseen_negatives_give_white_noise_no_information():
    assert bounds_of_white_noise("mixed_speaker_excl").max() < 0


@pytest.mark.parametrize("num_negatives", [0, 3])
@pytest.mark.parametrize("offset", [0.0, 1e3, 1e6])
def test_an_offset_that_all_scores_share_changes_no_loss(num_negatives, offset):
    """Near 1e6, log(total) + peak − positive loses the logarithm; log(total) + (peak − positive) keeps it."""
    torch.manual_seed(0)
    scores = torch.randint(-8, 9, (1, 1, 6, 6)).double() / 4  # exact in float32, also beside 1e6
    # One-hot latents and an offset dimension: the prediction's entries are the scores.
    z = torch.cat([torch.eye(6), torch.ones(6, 1)], 1)[None]
    predictions = torch.cat([scores, torch.full((1, 1, 6, 1), offset)], 3).float()
    negatives = Negatives.of("mixed_speaker", [6], num_negatives=num_negatives, seed=1)
    plain = torch.cat([scores, torch.zeros(1, 1, 6, 1)], 3).float()
    shifted, expected = (infonce(z, p, negatives).losses for p in (predictions, plain))
    torch.testing.assert_close(shifted, expected, atol=2e-6, rtol=0)


def test_equal_scores_of_any_size_have_the_loss_of_a_guess():
    z, predictions = torch.full((1, 5, 1), 1e18), torch.full((1, 1, 5, 1), 1e18)
    result = infonce(z, predictions, Negatives.of("mixed_speaker", [5]))
    torch.testing.assert_close(result.losses, result.log_n)


# --- rules over columns and distances

COLUMNS = {"speaker": SPEAKER, "utterance": UTTERANCE, "room": [0, 0, 1, 1, 0]}
FIRST = [0.0, 11.5, 0.0, 3.0, 0.0]  # the second window of utterance 7 begins 11.5 frames after the first
RULES = [
    Rule(same=("room",)),
    Rule(different=("speaker",)),
    Rule(different=("utterance", "room")),
    Rule(same=("utterance",), min_distance=2),
    Rule(same=("utterance",), min_distance=1, max_distance=3),
    Rule(min_distance=2, max_distance=12),
    Rule(same=("speaker",), min_distance=2),
    *(Rule.of(scheme) for scheme in SCHEMES),
]


def of_rule(rule, **more):
    return Negatives.of(rule, FRAMES, COLUMNS, first_frame=FIRST, **more)


def by_definition(rule):
    return lambda *where: reference.negatives_of_rule(rule, COLUMNS, FRAMES, FIRST, *where[-3:])


@pytest.mark.parametrize("rule", RULES, ids=str)
@pytest.mark.parametrize("size", [1, 10**6])
def test_infonce_under_a_rule_equals_the_loop_oracle_in_value_and_gradient(rule, size, monkeypatch):
    monkeypatch.setattr("cpc.infonce.pool.block_scores", lambda device: size)
    z, predictions = batch()
    result = infonce(z, predictions, of_rule(rule))
    expected = reference.infonce(z, predictions, rule, SPEAKER, UTTERANCE, FRAMES, by_definition(rule))
    for ours, theirs in zip(result[:4], expected, strict=True):
        torch.testing.assert_close(ours.double(), theirs.double(), atol=1e-5, rtol=1e-5)
    ours = torch.autograd.grad(result.losses.sum(), [z, predictions])
    theirs = torch.autograd.grad(expected[0].sum(), [z, predictions])
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_the_five_names_are_rules(scheme):
    """Two independent definitions of the sets agree for every anchor and step."""
    rule = Rule.of(scheme)
    assert str(rule) == scheme
    for k in range(1, K + 1):
        for b in range(5):
            for t in range(FRAMES[b] - k):
                by_name = reference.negatives_of(scheme, SPEAKER, UTTERANCE, FRAMES, b, t, k)
                assert by_definition(rule)(b, t, k) == by_name


@pytest.mark.parametrize("rule", RULES, ids=str)
def test_negatives_drawn_under_a_rule_are_members_of_its_set_and_cover_it(rule):
    """With orthogonal latents each score names its latent, so the drawn set shows in the gradient of z."""
    places = [(b, t) for b, n in enumerate(FRAMES) for t in range(n)]
    z = torch.zeros(5, 9, len(places))
    for i, (b, t) in enumerate(places):
        z[b, t, i] = 1
    for b, t, k in [(0, 0, 1), (1, 5, 3), (2, 2, 2), (4, 1, 1)]:
        predictions = torch.zeros(K, 5, 9, len(places), requires_grad=True)
        result = infonce(z, predictions, of_rule(rule, num_negatives=400, seed=5))
        (gradient,) = torch.autograd.grad(result.losses[k - 1], predictions)
        pushed = {where for i, where in enumerate(places) if gradient[k - 1, b, t, i] > 0}
        assert pushed == by_definition(rule)(b, t, k)


@pytest.mark.parametrize("num_negatives", [0, 400])
@pytest.mark.parametrize("rule", RULES[:6], ids=str)
def test_false_negatives_are_counted_where_both_classes_are_known(rule, num_negatives):
    labels = torch.randint(-1, 3, (5, 9), generator=torch.Generator().manual_seed(3))
    z, predictions = batch()
    negatives = dataclasses.replace(of_rule(rule, num_negatives=num_negatives), labels=labels)
    result = infonce(z, predictions, negatives)
    for k in range(1, K + 1):
        alike = known = 0.0
        for b in range(5):
            for t in range(FRAMES[b] - k):
                others = by_definition(rule)(b, t, k)
                pairs = [labels[i, j] == labels[b, t + k] for i, j in others if labels[i, j] >= 0 <= labels[b, t + k]]
                share = num_negatives / len(others) if num_negatives else 1  # of draws that meet each of the others
                alike, known = alike + share * sum(pairs), known + share * len(pairs)
        assert abs(result.false_negatives[k - 1] - alike / known) < (0.02 if num_negatives else 1e-6)
    assert infonce(z, predictions, of_rule(rule)).false_negatives is None


def test_labels_change_no_loss():
    z, predictions = batch()
    plain = of_rule(Rule(), num_negatives=5, seed=2)
    labelled = dataclasses.replace(plain, labels=torch.zeros(5, 9, dtype=torch.int64))
    assert torch.equal(infonce(z, predictions, plain).losses, infonce(z, predictions, labelled).losses)
    assert (infonce(z, predictions, labelled).false_negatives == 1).all()


def test_a_distance_that_leaves_an_anchor_without_negatives_is_an_error_with_the_way_out():
    Negatives.of(Rule(same=("utterance",), min_distance=4), [9])  # frame 4 has frames 0 and 8
    with pytest.raises(NegativesError, match=r"current_sequence_from_5.*min_distance below 5"):
        Negatives.of(Rule(same=("utterance",), min_distance=5), [9])


def test_a_column_that_the_batch_lacks_is_an_error_that_names_it():
    with pytest.raises(NegativesError, match="no column room in the batch; there are utterance, speaker"):
        Negatives.of(Rule(same=("room",)), FRAMES, WHOSE)


def test_columns_may_be_tensors_and_have_one_value_a_sequence():
    tensors = {name: torch.tensor(values) for name, values in WHOSE.items()}
    for scheme in SCHEMES:
        assert Negatives.of(scheme, FRAMES, tensors) == Negatives.of(scheme, FRAMES, WHOSE)
    with pytest.raises(NegativesError, match="column speaker: got 2 values for 5 sequences"):
        Negatives.of("same_speaker", FRAMES, {"speaker": [0, 1]})


def test_the_way_out_names_the_column_of_a_rule_of_ones_own():
    with pytest.raises(NegativesError, match=r"of 2 utterances and 1 images.*several images"):
        Negatives.of(Rule(different=("image",)), [4, 4], {"image": [0, 0]})


def test_a_rule_from_the_configuration_names_itself():
    assert str(Rule.of(NegativeSet(same=("speaker",), different=("utterance",)))) == "same_speaker_excl"
    assert str(Rule.of(NegativeSet(different=("room",), scheme="rule"))) == "different_room"
    assert str(Rule.of(NegativeSet("current_sequence", min_distance=3))) == "current_sequence_from_3"
