"""Optimisers: who updates what, Muon against the singular value decomposition, the schedule."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from cpc.config import OptimConfig
from cpc.model import CPC, Autoregressor, Encoder, Predictor
from cpc.train import Muon, build_optimisers, declared_maps, learning_rate, orthogonalise
from cpc.train.optim import OptimiserError

OPTIONS = OptimConfig(lr=1.0, betas=(0.9, 0.99), eps=1e-8, weight_decay=0.1, momentum=0.95)


def network(norm="channel") -> CPC:
    torch.manual_seed(0)
    return CPC(Encoder(12, norm=norm), Autoregressor(12, 8), Predictor(8, 12, 3), tau=1.0)


def test_biases_and_gains_are_not_decayed():
    (optimiser,) = build_optimisers(network(), replace(OPTIONS, name="adamw"))
    decayed, free = optimiser.param_groups
    assert decayed["weight_decay"] == 0.1
    assert all(p.ndim > 1 for p in decayed["params"])
    assert free["weight_decay"] == 0
    assert all(p.ndim == 1 for p in free["params"])


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest_each_parameter_once():
    model = network()
    adamw, muon = build_optimisers(model, replace(OPTIONS, name="muon"))
    names = {p: name for name, p in model.named_parameters()}
    of_muon = {names[p]: group["num_maps"] for group in muon.param_groups for p in group["params"]}
    assert of_muon == {
        **{f"g_enc.convs.{i}.weight": 1 for i in (1, 2, 3, 4)},
        "g_ar.rnn.weight_ih_l0": 3, "g_ar.rnn.weight_hh_l0": 3, "W.weight": 3,
    }  # fmt: skip
    of_adamw = {names[p] for group in adamw.param_groups for p in group["params"]}
    assert of_adamw == set(names.values()) - set(of_muon)


@pytest.mark.parametrize("shape", [(3, 8, 20), (2, 20, 8), (1, 7, 7)])
def test_orthogonalise_keeps_singular_vectors_and_brings_singular_values_near_one(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    y = orthogonalise(x)
    for before, after in zip(x, y, strict=True):
        u, s, vt = torch.linalg.svd(before, full_matrices=False)
        in_its_basis = u.T @ after @ vt.T
        torch.testing.assert_close(in_its_basis, in_its_basis.diag().diag(), atol=2e-4, rtol=0)
        large = s > 0.02 * s.square().sum().sqrt()
        assert ((in_its_basis.diag() > 0.6) & (in_its_basis.diag() < 1.25))[large].all()


def test_muon_moves_each_matrix_as_if_it_were_alone():
    """Matrices of one shape are orthogonalised side by side; none of them shows in another's step."""
    torch.manual_seed(0)
    matrices = [torch.nn.Parameter(torch.randn(6, 3)) for _ in range(3)]
    gradients = [torch.randn(6, 3) for _ in matrices]

    def step(places):
        moved = {i: torch.nn.Parameter(matrices[i].detach().clone()) for i in places}
        for i, p in moved.items():
            p.grad = gradients[i].clone()
        maps = {p: 2 if i else 1 for i, p in moved.items()}  # the first is one map of another shape
        Muon(maps, lr=0.1, momentum=0.9, weight_decay=0.1, dtype=torch.float32).step()
        return moved

    together = step([0, 1, 2])
    for i in together:
        torch.testing.assert_close(together[i], step([i])[i])


def test_orthogonalising_in_bf16_is_close():
    x = torch.randn(2, 16, 40, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(orthogonalise(x, torch.bfloat16), orthogonalise(x), atol=0.03, rtol=0)


def test_muon_moves_each_map_of_a_stack_as_if_it_stood_alone():
    generator = torch.Generator().manual_seed(0)
    start, gradients = torch.randn(6, 5, generator=generator), torch.randn(3, 6, 5, generator=generator)
    stacked = nn.Parameter(start.clone())
    apart = [nn.Parameter(half.clone()) for half in start.chunk(2)]
    options = dict(lr=0.1, momentum=0.9, weight_decay=0.1, dtype=torch.float32)
    together, alone = Muon({stacked: 2}, **options), Muon(dict.fromkeys(apart, 1), **options)
    for gradient in gradients:
        stacked.grad = gradient.clone()
        for p, half in zip(apart, gradient.chunk(2), strict=True):
            p.grad = half.clone()
        together.step()
        alone.step()
    torch.testing.assert_close(stacked.detach(), torch.cat(apart).detach())


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has no Muon")
@pytest.mark.parametrize("shape", [(12, 30), (30, 12)])
def test_muon_of_one_map_equals_torchs_within_the_precision_of_bf16(shape):
    generator = torch.Generator().manual_seed(0)
    ours, theirs = (nn.Parameter(torch.ones(shape)) for _ in range(2))
    one = Muon({ours: 1}, lr=0.1, momentum=0.95, weight_decay=0.1, dtype=torch.bfloat16)
    two = torch.optim.Muon([theirs], lr=0.1, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw")
    for _ in range(4):
        ours.grad = torch.randn(shape, generator=generator)
        theirs.grad = ours.grad.clone()
        one.step()
        two.step()
    step = 0.1 * 0.2 * 30**0.5 * 12**-0.5  # about the size of one entry's change
    assert (ours - theirs).abs().max() < 0.1 * step * 4
    assert (ours - 1).abs().max() > step


def test_the_weights_of_an_lstm_stack_four_maps():
    assert set(declared_maps(Autoregressor(5, 8, "lstm")).values()) == {4}


def test_muon_refuses_a_matrix_that_no_module_declares():
    """A new layer must say what its weight is; AdamW would otherwise train it without a word."""
    model = nn.Sequential(network(), nn.Linear(4, 3))
    with pytest.raises(OptimiserError, match=r"does not know the weight 1\.weight \(3, 4\); give its module a method"):
        build_optimisers(model, replace(OPTIONS, name="muon"))
    assert len(build_optimisers(model, replace(OPTIONS, name="adamw"))) == 1


def test_the_schedule_rises_linearly_then_falls_along_half_a_cosine():
    options = OptimConfig(lr=1.0, warmup_updates=10, schedule="cosine")
    rates = [learning_rate(u, options, 110) for u in range(110)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == rates[10] == 1.0
    assert rates[60] == pytest.approx(0.5)
    assert 0 < rates[109] < 1e-3
    assert learning_rate(110, options, 110) == 0  # one update after the last
    assert learning_rate(99, replace(options, schedule="constant"), 110) == 1.0


def test_the_linear_schedule_falls_by_the_same_amount_each_update_to_its_last_step_above_0():
    options = OptimConfig(lr=1.0, warmup_updates=10, schedule="linear")
    rates = [learning_rate(u, options, 110) for u in range(10, 110)]
    assert rates == pytest.approx([1 - i / 100 for i in range(100)])
