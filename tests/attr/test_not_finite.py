"""Outputs, inputs and numbers that are not the usual ones: infinite, missing, complex, halved."""

import warnings

import pytest
import torch
from torch import nn

from fastxai import ArgumentError, metrics
from fastxai.attr import (
    DeepLift,
    FeatureAblation,
    GuidedGradCam,
    IntegratedGradients,
    KernelShap,
    LayerGradientXActivation,
    LayerIntegratedGradients,
    LeastSquares,
    Lime,
    LimeBase,
    NoiseTunnel,
    Occlusion,
    Saliency,
    ShapleyValues,
    ShapleyValueSampling,
    get_exp_kernel_similarity_function,
)

from ..methods import METHODS

# Those that compare outputs, but for one that takes other rows for an example's and one that takes
# one number for the batch; and their variants.
COMPARING = {
    **{
        name: (method.kind, method.options(torch.zeros(1, 8)))
        for name, method in METHODS.items()
        if method.compares and name not in ("FeaturePermutation", "LimeBase")
    },
    "shared": (KernelShap, {"n_samples": 60, "tier": "shared", "seed": 0}),
    "accurate": (KernelShap, {"n_samples": 60, "tier": "accurate", "seed": 0}),
    "auto": (KernelShap, {"n_samples": "auto", "max_samples": 60, "seed": 0}),
    "least squares": (lambda f: Lime(f, LeastSquares()), {"n_samples": 40, "seed": 0}),
    "wide windows": (Occlusion, {"sliding_window_shapes": (3,)}),
}


def saturated(x):  # [B, 8] -> [B]
    return torch.logit(torch.sigmoid(x.sum(1))) + x.square().sum(1)


@pytest.mark.filterwarnings("ignore:max_samples")
@pytest.mark.parametrize("name", COMPARING)
def test_an_infinite_output_is_told_once_and_stays_in_its_row(name):
    make, options = COMPARING[name]
    good = torch.randn(3, 8, generator=torch.Generator().manual_seed(1))
    x = torch.cat([good[:1], torch.full((1, 8), 20.0), good[1:]])
    assert saturated(x).isfinite().tolist() == [True, False, True, True]
    expected = make(saturated).attribute(good, **options)
    message = "forward_func: infinite outputs for rows 1 of the inputs;"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        found = make(saturated).attribute(x, perturbations_per_eval=3, **options)
    assert sum(str(warning.message).startswith(message) for warning in said) == 1
    assert not found[1].isfinite().all()
    torch.testing.assert_close(found[[0, 2, 3]], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", [IntegratedGradients, Saliency, DeepLift])
def test_gradients_that_are_no_numbers_name_their_rows(make):
    x = torch.tensor([[0.5, -1.0], [20.0, 20.0], [0.1, 0.2]])
    explainer = make(saturated)
    for call in (explainer.attribute, explainer.explain):
        with pytest.warns(UserWarning, match=r"NaN or infinite attributions in rows 1,"):
            call(x)
    with pytest.warns(UserWarning, match=r"^Noise Tunnel: NaN or infinite attributions in rows 1,"):
        NoiseTunnel(explainer).attribute(x, nt_samples=2, stdevs=0.0)


@pytest.mark.filterwarnings("error")
def test_missing_values_are_values_where_outputs_are_compared():
    """Trees have a branch for them: their attributions are as finite as the outputs."""
    x, b = torch.tensor([[1.0, torch.nan]]), torch.tensor([[torch.nan, 2.0]])
    for method in (FeatureAblation, KernelShap, ShapleyValues):
        found = method(lambda rows: rows.isnan().float() @ torch.tensor([3.0, 5.0]))
        assert found.attribute(x, b).tolist() == [[-3.0, 5.0]]


def test_large_halves_are_numbers():
    x = torch.full((2, 4), 3e4, dtype=torch.float16)  # whose sum is none
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        FeatureAblation(lambda x: x[:, 0]).attribute(x)


def test_complex_outputs_are_refused_by_name():
    x = torch.randn(2, 3, dtype=torch.complex64)
    with pytest.raises(ArgumentError, match=r"^forward_func: expected real outputs"):
        FeatureAblation(lambda x: x.sum(1)).attribute(x)


def kernels():
    for mode in ("cosine", "euclidean"):
        kernel = get_exp_kernel_similarity_function(mode, 2.0)
        yield kernel, f"{mode}, known"
        yield (lambda *args, kernel=kernel, **kwargs: kernel(*args, **kwargs)), f"{mode}, called"


@pytest.mark.parametrize("kernel", [k for k, _ in kernels()], ids=[name for _, name in kernels()])
def test_lime_of_missing_values(kernel):
    """The model is additive, so that least squares give w (x - b) whatever samples weigh."""
    w = torch.tensor([1.0, -2.0, 0.5, 3.0])
    x = torch.tensor([[1.0, torch.nan, 2.0, -1.0], [1.0, 1.0, 1.0, 1.0]])
    lime = Lime(lambda x: torch.nan_to_num(x) @ w, LeastSquares(), kernel)
    found = lime.attribute(x, n_samples=64, seed=0)
    torch.testing.assert_close(found, w * torch.nan_to_num(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kernel", [k for k, _ in kernels()], ids=[name for _, name in kernels()])
def test_lime_of_complex_inputs(kernel):
    """Turned by a right angle, a complex number is as far from another as it was."""
    generator = torch.Generator().manual_seed(0)
    x, b = (torch.randn(n, 5, dtype=torch.complex64, generator=generator) for n in (2, 1))
    lime = Lime(lambda z: z.abs().prod(1) + z.abs()[:, 0], LeastSquares(), kernel)
    found = lime.attribute(x, b, n_samples=32, seed=0)
    turned = lime.attribute(1j * x, 1j * b, n_samples=32, seed=0)
    torch.testing.assert_close(turned, found, rtol=1e-4, atol=1e-4)
    # And as far as a point of the plane, whose two coordinates belong together.
    plane = Lime(
        lambda z: torch.view_as_complex(z).abs().prod(1) + torch.view_as_complex(z).abs()[:, 0],
        LeastSquares(),
        kernel,
    )
    mask = torch.arange(5)[None, :, None].expand(1, 5, 2)
    flat, base = torch.view_as_real(x), torch.view_as_real(b)
    as_points = plane.attribute(flat, base, feature_mask=mask, n_samples=32, seed=0)
    torch.testing.assert_close(as_points[..., 0], found, rtol=1e-4, atol=1e-4)


def test_infidelity_of_complex_inputs():
    x = torch.randn(3, 4, dtype=torch.complex64, generator=torch.Generator().manual_seed(0))
    w = torch.randn(4, dtype=torch.complex64, generator=torch.Generator().manual_seed(1))
    linear = lambda z: (z * w.conj()).real.sum(1)  # noqa: E731
    removed = torch.tensor([True, False, True, False])
    perturb = lambda z: (z * removed, z * ~removed)  # noqa: E731
    gradient = w.expand(3, 4)  # the change is Re(conj(w) change)
    assert metrics.infidelity(linear, perturb, x, gradient).abs().max() < 1e-9
    assert metrics.infidelity(linear, perturb, x, 2 * gradient).min() > 1e-5


def test_scores_that_are_no_numbers_name_their_rows():
    x = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [3.0, 1.0]])
    perturb = lambda z: (0.1 * z, 0.9 * z)  # noqa: E731
    with pytest.warns(UserWarning, match="^infidelity: NaN or infinite for rows 1,"):
        found = metrics.infidelity(lambda z: z.log().sum(1), perturb, x, x)
    assert found.isfinite().tolist() == [True, False, True]


class Both(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.lin, self.out = nn.Conv2d(3, 4, 3), nn.Linear(5, 4), nn.Linear(4, 2)

    def forward(self, image, numbers):
        return self.out(torch.relu(self.conv(image)).mean((2, 3)) * torch.tanh(self.lin(numbers)))


@pytest.mark.parametrize("nt_type", ["smoothgrad", "smoothgrad_sq", "vargrad"])
def test_noise_tunnel_over_what_methods_return(nt_type):
    """Without noise the mean is the method's own result: in a tuple, a list, or empty."""
    model, x = Both().eval(), (torch.randn(2, 3, 8, 8), torch.randn(2, 5))
    layers = [model.conv, model.lin]
    for method in (
        GuidedGradCam(model, model.conv),  # which has nothing to say of the numbers
        LayerGradientXActivation(model, layers),
        LayerIntegratedGradients(model, layers),
    ):
        plain = method.attribute(x, target=1)
        found = NoiseTunnel(method).attribute(
            x, nt_type=nt_type, target=1, nt_samples=3, stdevs=0.0
        )
        assert type(found) is type(plain) and len(found) == len(plain)
        for got, own in zip(found, plain, strict=True):
            expected = {"smoothgrad": own, "smoothgrad_sq": own.square(), "vargrad": own * 0}
            torch.testing.assert_close(got, expected[nt_type], rtol=1e-5, atol=1e-6)


def test_samples_of_other_lengths():
    """Words that are left out; of a sum of word weights the surrogate finds these weights."""
    weight = torch.tensor([0.0, 1.0, -2.0, 3.0, 0.5])
    ids = torch.tensor([[1, 2, 3, 4]])
    generator = torch.Generator().manual_seed(0)
    method = LimeBase(
        lambda ids: weight[ids].sum(1),
        LeastSquares(),
        lambda *_, **__: 1.0,
        lambda ids, **_: torch.randint(0, 2, ids.shape, generator=generator),
        True,
        lambda z, ids, **_: ids[z.bool()].view(1, -1),
        None,
    )
    for limit in (None, 1, 7):
        found = method.attribute(ids, n_samples=60, perturbations_per_eval=limit)
        torch.testing.assert_close(found.float(), weight[ids], rtol=0, atol=1e-4)


@pytest.mark.parametrize("method", [KernelShap, Lime, ShapleyValueSampling, FeatureAblation])
def test_masks_of_whole_numbers_in_floating_point(method):
    x = torch.tensor([[1.0, 2.0, 3.0], [3.0, 5.0, 7.0]])
    mask = torch.zeros_like(x[:1])
    mask[0, 2] = 1
    options = {} if method is FeatureAblation else {"seed": 0}
    model = lambda z: z.sum(1).square()  # noqa: E731
    found = method(model).attribute(x, feature_mask=mask, **options)
    assert torch.equal(found, method(model).attribute(x, feature_mask=mask.long(), **options))


def test_inputs_of_one_number_a_row():
    model = nn.Sequential(nn.Tanh(), nn.Tanh()).eval()
    x = torch.randn(4)
    expected = model(x) - model(torch.zeros(4))  # one player has all
    for method in (KernelShap, ShapleyValues, FeatureAblation):
        torch.testing.assert_close(method(model).attribute(x), expected)


def test_occlusion_and_infidelity_under_autocast():
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 3)).eval()
    x = torch.randn(3, 1, 4, 4)
    options = {"sliding_window_shapes": (1, 2, 2), "target": 1}
    expected = Occlusion(model).attribute(x, **options)
    shift = torch.randn(x.shape)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Occlusion(model).attribute(x, **options)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02)
    # What is no business of the model's is as without: a forecast of what a sum of floats does.
    summed = lambda z: z.flatten(1).sum(1)  # noqa: E731
    perturb = lambda z: (shift, z - shift)  # noqa: E731
    with torch.autocast("cpu", dtype=torch.bfloat16):
        off = metrics.infidelity(summed, perturb, x, torch.ones_like(x), n_perturb_samples=1)
    assert off.max() < 1e-9


BASELINES = {
    "too large": 2**200,
    "too large a float": 1e300,
    "complex": 1j,
    "complex tensor": torch.zeros(3, 4, dtype=torch.complex64),
    "sparse": torch.zeros(3, 4).to_sparse(),
}


@pytest.mark.parametrize("baselines", BASELINES.values(), ids=BASELINES)
@pytest.mark.parametrize("method", [IntegratedGradients, FeatureAblation, KernelShap])
def test_baselines_that_no_input_can_hold(method, baselines):
    with pytest.raises(ArgumentError, match=r"^baselines: expected"):
        method(saturated).attribute(torch.randn(3, 4), baselines)


def test_large_integers_among_floats():
    found = FeatureAblation(lambda x: x.sum(1)).attribute(torch.ones(1, 2), 2**80)
    torch.testing.assert_close(found, torch.full((1, 2), 1.0 - 2.0**80))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda x: IntegratedGradients(saturated).attribute(x, n_steps=2**62), "n_steps"),
        (lambda x: KernelShap(saturated).attribute(x, n_samples=2**62), "n_samples"),
        (lambda x: NoiseTunnel(Saliency(saturated)).attribute(x, nt_samples=2**31), "nt_samples"),
        (lambda x: NoiseTunnel(Saliency(saturated)).attribute(x, [1]), "nt_type"),
        (lambda x: KernelShap(saturated).attribute(x, design=[1]), "design"),
        (lambda x: Lime(saturated, None, "kernel"), "similarity_func"),
        (lambda x: get_exp_kernel_similarity_function("cosine", "wide"), "kernel_width"),
        (lambda x: get_exp_kernel_similarity_function([1]), "distance_mode"),
        (
            lambda x: IntegratedGradients(saturated).compute_convergence_delta(None, x, x),
            "attributions",
        ),
        (
            lambda x: metrics.sensitivity_max(Saliency(saturated).attribute, x, norm_ord=[2]),
            "norm_ord",
        ),
    ],
)
def test_arguments_of_the_wrong_kind_are_named(call, name):
    with pytest.raises(ArgumentError, match=f"^{name}"):
        call(torch.randn(2, 4))


def test_limits_of_any_size():
    x = torch.randn(2, 4)
    one = IntegratedGradients(saturated)
    assert torch.equal(one.attribute(x, internal_batch_size=10**400), one.attribute(x))
    other = FeatureAblation(saturated)
    assert torch.equal(other.attribute(x, perturbations_per_eval=2**200), other.attribute(x))
