"""KernelShap with kriging."""

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from fastxai.attr import KernelShap, _shapley_game
from fastxai.core.checks import ArgumentError
from fastxai.core.coalition_bits import unpack
from fastxai.core.estimate.designs import kriging_design
from fastxai.core.estimate.kriging import Kriging
from tests import oracles
from tests.models import Logged

TIERS = pytest.mark.parametrize("tier", ["shared", "accurate"])


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


class Products(nn.Module):
    """Products of three features for each of two outputs; one row is some work."""

    def __init__(self, features: int = 12, work: int = 0):
        super().__init__()
        self.terms = nn.Linear(features, 40).double()
        self.work = nn.Parameter(torch.randn(work, work).double()) if work else None
        self.log: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        self.log.append(len(x))
        y = self.terms(x).tanh()
        extra = 0.0
        if self.work is not None:
            extra = 0 * (x[:, :1].expand(-1, len(self.work)) @ self.work).sum(1, keepdim=True)
        return (
            torch.stack([y[:, :20].prod(1) + y.sum(1), (y[:, ::2] * y[:, 1::2]).sum(1)], 1) + extra
        )


@pytest.fixture
def products() -> Products:
    torch.manual_seed(0)
    return Products().eval()


@TIERS
def test_values_are_those_of_kriging_on_its_design(tier, products):
    x, baseline = randn(3, 12), randn(1, 12, seed=1)
    found = KernelShap(products).explain(
        x, baselines=baseline, target=1, n_samples=84, tier=tier, seed=5
    )
    design = kriging_design(12, 84, 5)
    z = unpack(design.bits, 12)
    rows = torch.where(z[:, None], x, baseline)  # [N, 3, 12]
    values = products(rows.flatten(0, 1))[:, 1].view(len(z), 3).detach()
    ends = (products(part)[:, 1].detach() for part in (baseline.expand(3, -1), x))
    phi, errors = Kriging(design).solve(values, *ends, tier == "accurate", True)
    torch.testing.assert_close(found.values, phi.T)
    torch.testing.assert_close(found.standard_errors, errors.T)
    assert found.tier == tier and "84 samples" in repr(found) and f"{tier} tier" in repr(found)
    assert found.convergence_delta.abs().max() < 1e-12


@TIERS
def test_attribute_gives_the_values_of_explain(tier, products):
    options = {"n_samples": 84, "tier": tier, "seed": 5, "background": randn(4, 12, seed=1)}
    shap, x = KernelShap(products), randn(3, 12)
    assert torch.equal(shap.attribute(x, **options), shap.explain(x, **options).values)
    assert torch.equal(shap.attribute(x, **options), shap.attribute(x, **options))


@TIERS
def test_all_outputs_and_rows_by_themselves(tier, products):
    options = {"n_samples": 84, "tier": tier, "seed": 5}
    shap, x = KernelShap(products), randn(3, 12)
    together = shap.explain(x, **options)
    for i in range(3):
        for target in range(2):
            alone = shap.explain(x[i : i + 1], target=target, **options)
            torch.testing.assert_close(alone.values[0], together.values[i, target])
            torch.testing.assert_close(
                alone.standard_errors[0], together.standard_errors[i, target]
            )


def test_masks_float32_and_answers_for_the_batch():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(24, 32), nn.ReLU(), nn.Linear(32, 2))
    mask = torch.arange(24).view(1, 24) // 2
    options = {"feature_mask": mask, "n_samples": 80, "tier": "accurate", "seed": 1}
    x = torch.randn(2, 24)
    found = KernelShap(model).attribute(x, target=1, **options)
    assert found.dtype == torch.float32 and torch.equal(found[:, ::2], found[:, 1::2])
    exact = KernelShap(model.double()).attribute(x.double(), target=1, **options)
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-4)
    batch = KernelShap(lambda x: model(x)[:, 1].sum()).attribute(x.double(), **options)
    assert batch.shape == (1, 24)
    torch.testing.assert_close(batch[0, ::2].sum(), exact[:, ::2].sum())


class TestDefault:
    @pytest.mark.usefixtures("independent_rows")
    def test_a_small_model_is_not_worth_it_and_is_not_asked_about_its_work(self, products):
        found = KernelShap(products).explain(randn(1, 12), target=0, n_samples=84)
        assert found.tier == "fast"
        fast = KernelShap(products).explain(
            randn(1, 12), target=0, n_samples=84, tier="fast", seed=1
        )
        same = KernelShap(products).explain(randn(1, 12), target=0, n_samples=84, seed=1)
        assert torch.equal(fast.values, same.values)
        assert sum(products.log) == 3 * 84

    @pytest.mark.usefixtures("independent_rows")
    def test_a_large_model_is_asked_about_its_work_once(self):
        model = Products(work=4000).eval()
        shap, x = KernelShap(model, affine_prefix=False), randn(2, 12)
        found = [shap.explain(x, target=0, n_samples=60, seed=seed) for seed in range(2)]
        assert [f.tier for f in found] == ["accurate"] * 2
        assert sum(model.log) == 2 * 2 * 60 + 1

    @pytest.mark.usefixtures("independent_rows")
    @pytest.mark.parametrize(("work", "tier"), [(0, "fast"), (4000, "accurate")])
    def test_a_function_is_counted_like_the_module_that_it_calls(self, work, tier):
        model, log = Products(work=work).eval(), []
        x, options = randn(2, 12), {"n_samples": 84, "seed": 1}
        function = KernelShap(lambda x: log.append(len(x)) or model(x)[:, 0])
        found = [function.explain(x, **options) for _ in range(2)]
        assert [f.tier for f in found] == [tier] * 2
        assert sum(log) == 2 * 2 * 84 + 1  # a row to count
        same = KernelShap(model).attribute(x, target=0, tier=tier, **options)
        torch.testing.assert_close(found[0].values, same)

    @pytest.mark.parametrize(("each", "tier"), [(1, "fast"), (2000, "accurate")])
    def test_what_leaves_torch_is_judged_by_the_size_of_its_rows(self, each, tier):
        x = randn(1, 12 * each)
        options = {"n_samples": 84, "feature_mask": torch.arange(12 * each)[None] // each}
        found = KernelShap(lambda x: torch.from_numpy(x.numpy()[:, 0])).explain(x, **options)
        assert found.tier == tier

    @pytest.mark.parametrize("n_samples", [12, 29, 4096])
    def test_too_few_and_all_coalitions_are_for_the_regression(self, n_samples, products):
        options = {"target": 0, "n_samples": n_samples, "seed": 0}
        shap, x = KernelShap(lambda x: products(x)), randn(1, 12)
        if n_samples == 12:
            with pytest.warns(UserWarning, match="n_samples: 12 coalitions do not determine"):
                found = shap.explain(x, tier="accurate", **options)
        else:
            found = shap.explain(x, tier=None if n_samples > 29 else "accurate", **options)
            expected = KernelShap(products).attribute(x, tier="fast", **options)
            if n_samples == 4096:
                torch.testing.assert_close(found.values, expected)
        assert found.tier == ("accurate" if n_samples == 29 else "fast")


@pytest.mark.usefixtures("independent_rows")
@TIERS
def test_by_tolerance(tier):
    """Rows leave one by one; the samples of earlier rounds serve later ones."""
    linear = oracles.second_order(randn(16), torch.zeros(16, 16).double())
    games = [linear, *(oracles.of_degree(16, degree, 30, seed=degree) for degree in (2, 4, 6))]

    def model(x: Tensor) -> Tensor:
        return torch.cat([games[int(row[-1])].value(row[None, :-1] > 0.5) for row in x])

    x = torch.cat([torch.ones(4, 16), torch.arange(4.0)[:, None]], 1).double()
    baseline = torch.cat([torch.zeros(4, 16), torch.arange(4.0)[:, None]], 1).double()
    mask = torch.cat([torch.arange(16), torch.tensor([0])])[None]
    logged = Logged(model)
    options = {"baselines": baseline, "feature_mask": mask, "tolerance": 0.02, "tier": tier}
    found = KernelShap(logged).explain(x, n_samples="auto", seed=3, **options)
    assert (found.reached <= 0.02).all() and found.tier == tier
    assert (found.samples[:2] == 80).all() and found.samples[3] >= found.samples[2] > 80
    assert sum(logged.rows) <= found.samples.sum()
    for values, game in zip(found.values, games, strict=True):
        off = (values[:-1] - game.shapley).abs().max()
        assert off <= 4 * 0.02 * (game.shapley.max() - game.shapley.min())


def test_by_tolerance_the_tier_is_for_most_samples():
    x = randn(1, 12)
    for max_samples, expected in [(120, "accurate"), (700, "shared"), (None, "fast")]:
        shap = KernelShap(Products(work=4000).eval())
        options = {"n_samples": "auto", "tolerance": 1e-9, "max_samples": max_samples, "seed": 1}
        with pytest.warns(UserWarning, match="max_samples"):
            assert shap.explain(x, target=0, **options).tier == expected


@pytest.mark.library
@TIERS
def test_stopping_by_tolerance_does_not_spoil_the_intervals(tier):
    inside = []
    for seed in range(60):
        game = oracles.of_degree(14, 5, 40, seed % 20)
        found = KernelShap(lambda x, g=game: g.value(x > 0.5)).explain(
            torch.ones(1, 14).double(), n_samples="auto", tolerance=0.05, tier=tier, seed=seed
        )
        off = (found.values[0] - game.shapley).abs()
        inside.append(off <= 1.96 * found.standard_errors[0] + 1e-9)
    assert torch.cat(inside).double().mean() >= 0.93


@TIERS
def test_a_factorisation_that_fails_is_told(tier, products, monkeypatch):
    def fail(*_: object) -> None:
        raise torch.linalg.LinAlgError("no convergence")

    x, options = randn(2, 12), {"target": 0, "n_samples": 84, "seed": 11}
    design = _shapley_game.FOR_KRIGING
    monkeypatch.setattr(_shapley_game, "_kept_kriging", fail)
    with pytest.warns(UserWarning, match="tier: a factorisation failed, .* fast tier"):
        found = KernelShap(products).explain(x, tier=tier, **options)
    assert found.tier == "fast"
    plan, fit = _shapley_game.regression_of(12, 11, design, 84)
    assert plan.name == "hadamard and leverage" and fit.determined
    torch.testing.assert_close(found.values.sum(1), products(x)[:, 0] - products(0 * x)[:, 0])


def test_bad_names_are_told_before_any_call(products):
    with pytest.raises(ArgumentError, match=r"tier: expected None or one of .*, got 'slow'"):
        KernelShap(products).attribute(randn(1, 12), target=0, n_samples=84, tier="slow")
    assert not products.log
