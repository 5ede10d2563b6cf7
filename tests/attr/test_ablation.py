"""FeatureAblation, Occlusion and FeaturePermutation against oracles, and how they treat a model."""

import itertools

import numpy as np
import pytest
import torch

from fastxai.attr import FeatureAblation, FeaturePermutation, Occlusion

from ..models import EmbeddingModel, Logged, ResidualCNN, TwoInputs, mlp, one_number

EXACT = {"rtol": 1e-12, "atol": 1e-12}
CLOSE = {"rtol": 1e-10, "atol": 1e-10}
LIMITS = [None, 1, 2, 5, 1000]


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def drops_one_by_one(model, inputs, baselines, masks):
    """What a loop over examples and groups finds: the output's fall, at each feature."""
    found = [torch.zeros_like(x) for x in inputs]
    for b in range(inputs[0].shape[0]):
        x = [x[b : b + 1] for x in inputs]
        own = [mask[b % mask.shape[0]][None].expand_as(a) for mask, a in zip(masks, x, strict=True)]
        for group in torch.cat([mask.flatten() for mask in own]).unique():
            chosen = [mask == group for mask in own]
            changed = [
                torch.where(c, baseline[b % baseline.shape[0]], a)
                for c, baseline, a in zip(chosen, baselines, x, strict=True)
            ]
            drop = (model(*x) - model(*changed)).item()
            for total, c in zip(found, chosen, strict=True):
                total[b : b + 1][c] = drop
    return tuple(found)


def occlude_one_by_one(model, x, baseline, window, strides):
    """The mean fall over the windows that cover a feature, window after window."""
    total, covered = torch.zeros_like(x), torch.zeros_like(x)
    steps = [
        range(0, max(size - w, 0) + step, step)
        for size, w, step in zip(x.shape[1:], window, strides, strict=True)
    ]
    for corner in itertools.product(*steps):
        place = (slice(None), *(slice(c, c + w) for c, w in zip(corner, window, strict=True)))
        changed = x.clone()
        changed[place] = baseline.expand_as(x)[place]
        drop = (model(x) - model(changed)).detach()
        total[place] += drop.view(-1, *[1] * (x.dim() - 1))
        covered[place] += 1
    assert covered.min() > 0
    return total / covered


@pytest.mark.parametrize("limit", LIMITS)
def test_linear_models_have_closed_forms(limit):
    w, x, baseline, mask = randn(6), randn(4, 6), randn(1, 6), torch.tensor([5, 0, 5, 2, 2, 2])

    def model(x):
        return x @ w + 3

    each = w * (x - baseline)
    found = FeatureAblation(model).attribute(x, baseline, perturbations_per_eval=limit)
    torch.testing.assert_close(found, each, **EXACT)
    found = FeatureAblation(model).attribute(
        x, baseline, feature_mask=mask, perturbations_per_eval=limit
    )
    grouped = torch.stack([each[:, mask == group].sum(1) for group in mask], 1)
    torch.testing.assert_close(found, grouped, **EXACT)
    found = Occlusion(model).attribute(x, (2,), 2, baseline, perturbations_per_eval=limit)
    pairs = each.view(4, 3, 2).sum(2, keepdim=True).expand(4, 3, 2).reshape(4, 6)
    torch.testing.assert_close(found, pairs, **EXACT)
    swapped = FeaturePermutation(model).attribute(x[:2], perturbations_per_eval=limit)
    torch.testing.assert_close(swapped, w * (x[:2] - x[:2].flip(0)), **EXACT)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize("masks_per_row", [False, True])
@pytest.mark.parametrize("baselines_per_row", [False, True])
def test_feature_ablation_equals_a_loop(limit, masks_per_row, baselines_per_row):
    rows = 5
    generator = torch.Generator().manual_seed(2)
    m, k = (rows if masks_per_row else 1), (rows if baselines_per_row else 1)
    inputs = (randn(rows, 3, 2), randn(rows, 4), randn(rows, 1, 2, 2))
    masks = tuple(
        torch.randint(9, (m, *x.shape[1:]), generator=generator) * 3 for x in inputs
    )  # shared ids, with gaps
    baselines = tuple(randn(k, *x.shape[1:]) for x in inputs)

    def model(*inputs):
        return one_number(torch.cat([x.flatten(1) for x in inputs], 1))

    found = FeatureAblation(model).attribute(
        inputs, baselines, feature_mask=masks, perturbations_per_eval=limit
    )
    expected = drops_one_by_one(model, inputs, baselines, masks)
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize("limit", LIMITS)
@pytest.mark.parametrize(
    ("shape", "window", "strides"),
    [
        ((9,), (4,), (3,)),
        ((7, 6), (3, 2), (2, 2)),
        ((7, 6), (7, 4), (1, 3)),
        ((2, 5, 4), (1, 3, 3), (1, 3, 2)),
        ((2, 2, 3, 4), (2, 1, 2, 3), (2, 1, 1, 3)),
    ],
)
def test_occlusion_equals_a_loop(limit, shape, window, strides):
    x, baseline = randn(3, *shape), randn(1, *shape)
    found = Occlusion(one_number).attribute(
        x, window, strides, baseline, perturbations_per_eval=limit
    )
    torch.testing.assert_close(
        found, occlude_one_by_one(one_number, x, baseline, window, strides), **CLOSE
    )


def test_occlusion_of_a_tuple_leaves_the_other_inputs_alone():
    a, b = randn(3, 5), randn(3, 2, 4)

    def model(a, b):
        return one_number(a) * one_number(b)

    found = Occlusion(model).attribute((a, b), ((2,), (1, 3)), (2, (1, 2)))
    of_a = occlude_one_by_one(lambda a: model(a, b), a, torch.zeros(1, 5).double(), (2,), (2,))
    of_b = occlude_one_by_one(
        lambda b: model(a, b), b, torch.zeros(1, 2, 4).double(), (1, 3), (1, 2)
    )
    torch.testing.assert_close(found, (of_a, of_b), **CLOSE)


def test_windows_as_large_as_a_feature_are_feature_ablation():
    model, x, baseline = ResidualCNN().double(), randn(3, 2, 6, 5), randn(1, 2, 6, 5)
    found = Occlusion(model).attribute(x, (1, 1, 1), None, baseline, target=2)
    expected = FeatureAblation(model).attribute(x, baseline, target=2)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_windows_side_by_side_are_feature_groups():
    model, x = ResidualCNN().double(), randn(3, 2, 6, 4)
    mask = (torch.arange(6) // 3)[:, None] * 2 + torch.arange(4) // 2
    found = Occlusion(model).attribute(x, (2, 3, 2), (2, 3, 2), target=2)
    expected = FeatureAblation(model).attribute(x, feature_mask=mask, target=2)
    torch.testing.assert_close(found, expected, **CLOSE)


def test_what_the_model_ignores_gets_nothing():
    x = randn(4, 6)

    def model(x):
        return x[:, 1] * x[:, 3]

    for found in (
        FeatureAblation(model).attribute(x, 0.5),
        FeaturePermutation(model).attribute(x, seed=0),
        Occlusion(model).attribute(x, (1,), baselines=0.5),
    ):
        assert (found[:, [0, 2, 4, 5]] == 0).all() and (found[:, [1, 3]] != 0).any()


def test_an_input_at_its_baseline_gets_nothing():
    x = randn(4, 7)
    model = mlp().double()
    zeros = torch.zeros_like(x)
    for found in (
        FeatureAblation(model).attribute(x, x, target=1),
        Occlusion(model).attribute(x, (3,), baselines=x, target=1),
    ):
        torch.testing.assert_close(found, zeros, rtol=0, atol=1e-14)


@pytest.mark.parametrize("method", [FeatureAblation, Occlusion, FeaturePermutation])
def test_infinite_and_missing_baselines_touch_only_their_features(method):
    # A selection, not input · (1 − mask) + baseline · mask, which would make NaN of 0 · inf.
    x = randn(3, 4)
    x[0, 0] = float("inf")
    arguments = {Occlusion: {"sliding_window_shapes": (1,)}}.get(method, {})
    with pytest.warns(UserWarning, match="^inputs: NaN or infinite values in rows 0"):
        found = method(lambda x: x[:, 1:].cumsum(1).prod(1)).attribute(x, **arguments)
    assert found.isfinite().all()


class Recorder:
    """A model that keeps every row it sees, and answers one number a row."""

    def __init__(self):
        self.rows = []

    def __call__(self, *inputs):
        self.rows.append(tuple(x.detach().clone() for x in inputs))
        return sum(x.flatten(1).double().sum(1) for x in inputs)

    def blocks(self, batch):
        """All inputs seen after the first B rows, each [R, B, *F_i]."""
        inputs = [torch.cat(parts) for parts in zip(*self.rows, strict=True)]
        return [x[batch:].view(-1, batch, *x.shape[1:]) for x in inputs]


@pytest.mark.usefixtures("independent_rows")
@pytest.mark.parametrize("batch", [2, 3, 4])
def test_every_permutation_but_the_identity_is_as_likely(batch):
    features = 3000
    seen = Recorder()
    x = torch.arange(batch).double()[:, None].expand(batch, features)
    FeaturePermutation(seen).attribute(x, seed=3)
    (changed,) = seen.blocks(batch)  # [features, B, features]
    orders = changed.diagonal(dim1=0, dim2=2).T.long().tolist()  # of each feature
    counts = dict.fromkeys(itertools.permutations(range(batch)), 0)
    for order in orders:
        counts[tuple(order)] += 1
    assert counts.pop(tuple(range(batch))) == 0
    share = features / len(counts)
    for count in counts.values():
        assert abs(count - share) <= 5 * share**0.5 * (len(counts) > 1)
    # and no other feature is touched
    changed.diagonal(dim1=0, dim2=2).copy_(x.T.T.expand(batch, features))
    assert (changed == x).all()


@pytest.mark.usefixtures("independent_rows")
def test_tensors_that_share_a_group_are_permuted_alike():
    rows, seen = 6, Recorder()
    number = torch.arange(rows).double()
    a, b = number[:, None].expand(rows, 3).clone(), number[:, None, None].expand(rows, 2, 2).clone()
    masks = (torch.tensor([0, 4, 4]), torch.tensor([[4, 9], [9, 9]]))
    FeaturePermutation(seen).attribute((a, b), feature_mask=masks, seed=1)
    of_a, of_b = seen.blocks(rows)  # [3 groups, 6, 3], [3 groups, 6, 2, 2]
    assert (of_a[0, :, 1:] == a[:, 1:]).all() and (of_b[0] == b).all()
    assert (of_a[0, :, 0] != number).any()
    shuffled = of_a[1, :, 1]
    assert shuffled.sort().values.equal(number) and not shuffled.equal(number)
    assert of_a[1, :, 2].equal(shuffled) and of_b[1, :, 0, 0].equal(shuffled)
    assert (of_a[1, :, 0] == number).all() and (of_b[1, :, 1] == b[:, 1]).all()
    assert (of_a[2] == a).all()
    assert of_b[2, :, 0, 1].equal(of_b[2, :, 1, 0]) and not of_b[2, :, 0, 1].equal(number)


def test_the_seed_decides_the_permutations():
    model, x = mlp().double(), randn(8, 7)
    permutation = FeaturePermutation(model)
    first = permutation.attribute(x, 1, seed=5)
    for limit in LIMITS:
        again = permutation.attribute(x, 1, perturbations_per_eval=limit, seed=5)
        torch.testing.assert_close(again, first, **CLOSE)
    assert not torch.allclose(permutation.attribute(x, 1, seed=6), first)
    torch.manual_seed(0)
    drawn = [permutation.attribute(x, 1) for _ in range(2)]
    assert not torch.allclose(*drawn)
    torch.manual_seed(0)
    torch.testing.assert_close(permutation.attribute(x, 1), drawn[0], rtol=0, atol=0)
    for seed in (0, -1, 2**63, np.int64(7)):
        assert permutation.attribute(x, 1, seed=seed).isfinite().all()


def test_a_random_perm_func_draws_as_it_would_by_itself():
    x, draws = randn(4, 3), []

    def permute(x, chosen):
        draws.append(torch.rand(()).item())
        return x.flip(0)

    torch.manual_seed(0)
    FeaturePermutation(one_number, permute).attribute(x)
    torch.manual_seed(0)
    assert draws == [torch.rand(()).item() for _ in range(3)]


@pytest.mark.parametrize("options", [[], [lambda x, chosen: x.flip(0) + 1]])
@pytest.mark.parametrize("model", [mlp(), lambda x: mlp()(x).sum(), lambda x: x[:, 0].tanh()])
def test_one_row_cannot_be_permuted(options, model):
    x, logged = torch.randn(1, 7), Logged(model)
    permutation = FeaturePermutation(logged, *options)
    with pytest.warns(UserWarning, match="^Feature Permutation: one example has none") as caught:
        found = permutation.attribute(x)
    assert caught[0].filename == __file__
    assert found.shape == (model(x).numel(), 7) and (found == 0).all()
    with pytest.warns(UserWarning, match="^Feature Permutation: one example has none"):
        explanation = permutation.explain(x)
    torch.testing.assert_close(explanation.outputs.flatten(), model(x).detach().flatten())


def test_perm_func_sees_the_inputs_and_what_to_permute():
    a, b = randn(3, 4), randn(3, 2, 2)
    masks, calls = (torch.tensor([0, 0, 1, 3]), torch.tensor([[1, 2], [2, 1]])), []

    def permute(x, chosen):
        calls.append((x.clone(), chosen))
        x.zero_()  # its own copy
        return x

    def model(a, b):
        return one_number(a) + one_number(b)

    found = FeaturePermutation(model, permute).attribute((a, b), feature_mask=masks)
    assert all(chosen.dtype == torch.bool and chosen.any() for _, chosen in calls)
    assert len(calls) == 3 + 2  # groups 0, 1, 3 of the first input and 1, 2 of the second
    for x, chosen in calls:
        assert torch.equal(x, a if x.dim() == 2 else b) and chosen.shape == (1, *x.shape[1:])
    gone = (one_number(a) + one_number(b)).view(3, 1)
    torch.testing.assert_close(found[0][:, 2:3], gone, **CLOSE)  # both tensors
    torch.testing.assert_close(found[0][:, 3:], one_number(a).view(3, 1), **CLOSE)


def batch_loss(x):
    return x.std(0).sum().sqrt()


@pytest.mark.parametrize("form", [lambda y: y, lambda y: y[None], lambda y: y[None, None], float])
@pytest.mark.parametrize("rows", [2, 3, 3000])
def test_a_model_that_answers_for_the_batch_sees_all_of_it(form, rows):
    x = randn(rows, 5)
    logged = Logged(lambda x: form(batch_loss(x)))
    found = FeatureAblation(logged).attribute(x)
    changed = x.expand(5, rows, 5).clone()
    changed[range(5), :, range(5)] = 0
    expected = batch_loss(x) - torch.stack([batch_loss(c) for c in changed])
    torch.testing.assert_close(found, expected[None], **CLOSE)
    assert set(logged.rows[-5:]) == {rows}


def test_extra_arguments_follow_their_rows_through_any_blocks():
    a, b, shift = randn(5, 4), randn(5, 2, 3), randn(5, 6)
    model, targets = TwoInputs().double(), [i % 3 for i in range(5)]
    rows = [
        FeatureAblation(model).attribute(
            (a[i : i + 1], b[i : i + 1]), (0.3, 0), targets[i], (shift[i : i + 1], 2.0)
        )
        for i in range(5)
    ]
    expected = tuple(torch.cat(parts) for parts in zip(*rows, strict=True))
    for limit in LIMITS:
        found = FeatureAblation(model).attribute(
            (a, b), (0.3, 0), targets, (shift, 2.0), perturbations_per_eval=limit
        )
        torch.testing.assert_close(found, expected, **CLOSE)


def test_a_transformer_with_its_words_as_groups():
    model, x = EmbeddingModel().double(), randn(3, 6, 8)
    padding = torch.tensor([[False] * 5 + [True], [False] * 4 + [True] * 2, [False] * 6])
    words = torch.arange(6)[:, None]
    found = FeatureAblation(model).attribute(
        x, target=1, additional_forward_args=padding, feature_mask=words
    )
    assert (found == found[..., :1]).all()
    for row, hidden in enumerate(padding):
        kept = x[row : row + 1].repeat(6, 1, 1)
        kept[range(6), range(6)] = 0
        hidden = hidden.expand(6, 6)
        expected = model(x[row : row + 1], hidden[:1])[:, 1] - model(kept, hidden)[:, 1]
        torch.testing.assert_close(found[row, :, 0], expected.detach(), **CLOSE)


def test_explanations_tell_the_outputs():
    model, x = mlp().double(), randn(3, 7)
    found = FeatureAblation(model).explain(x, 0.2, target=[0, 1, 2])
    torch.testing.assert_close(
        found.values, FeatureAblation(model).attribute(x, 0.2, [0, 1, 2]), **CLOSE
    )
    rows = torch.arange(3)
    torch.testing.assert_close(found.outputs, model(x)[rows, rows].detach())
    at_baseline = model(torch.full_like(x, 0.2))[rows, rows].detach()
    torch.testing.assert_close(found.baseline_outputs, at_baseline)
    assert found.convergence_delta is None and found.standard_errors is None
    assert found.method == "Feature Ablation" and 0 < found.seconds < 60

    found = Occlusion(model).explain(x, (2,), target=1)
    assert found.method == "Occlusion" and found.values.shape == (3, 7)
    torch.testing.assert_close(found.outputs, model(x)[:, 1].detach())

    found = FeaturePermutation(model).explain(x, target=1, seed=4)
    torch.testing.assert_close(
        found.values, FeaturePermutation(model).attribute(x, target=1, seed=4)
    )
    assert found.baseline_outputs is None


@pytest.mark.parametrize(
    ("model", "shape"),
    [(mlp().double(), (3, 4)), (batch_loss, (1,)), (lambda x: x.T @ x, (7, 7))],
)
def test_explanations_of_many_outputs_and_of_the_batch(model, shape):
    x = randn(3, 7) + 2
    found = FeatureAblation(model).explain(x, 0.2)
    expected = model(x).detach().reshape(shape)
    torch.testing.assert_close(found.outputs, expected, **CLOSE)
    at_baseline = model(torch.full_like(x, 0.2)).detach().reshape(shape)
    torch.testing.assert_close(found.baseline_outputs, at_baseline, **CLOSE)
    torch.testing.assert_close(found.values, FeatureAblation(model).attribute(x, 0.2), **CLOSE)


def test_unknown_arguments_are_told():
    x = randn(3, 7)
    for method in (FeatureAblation, FeaturePermutation):
        with pytest.warns(UserWarning, match=f"^{method.get_name()} ignores shade") as caught:
            method(one_number).attribute(x, shade=3)
        assert caught[0].filename == __file__
