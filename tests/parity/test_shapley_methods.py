"""Captum 0.9.0's ShapleyValues, ShapleyValueSampling and KernelShap beside fastxai's.

The three have one target, which Captum's ShapleyValues reaches: the same numbers are asked of
fastxai's ShapleyValues, and of the others where they are exact. Captum's own samples are random;
of them the form is compared, and for additive models, where any sample tells all, the numbers.
Captum gives float32 whatever the outputs are.
"""

import copy

import captum.attr
import pytest
import torch

import fastxai

from ..models import ResidualCNN, Segmenter, TwoInputs, mlp, one_number
from .test_gradient_methods import CASES, double

F32 = {"rtol": 1e-4, "atol": 1e-5, "check_dtype": False}
LIMITS = [None, 1, 7]
METHODS = ["ShapleyValues", "ShapleyValueSampling", "KernelShap"]


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def as_tuple(value):
    return value if isinstance(value, tuple) else (value,)


def exact(name, model):
    """Our method and what makes it exact for at most 5 groups of features."""
    rest = {"KernelShap": {"n_samples": 32, "seed": 0}, "ShapleyValues": {}}
    return getattr(fastxai.attr, name)(model), rest[name]


def assert_like_captum(model, inputs, limits=LIMITS, **arguments):
    """ShapleyValues and an enumerating KernelShap equal Captum's ShapleyValues."""
    theirs = captum.attr.ShapleyValues(copy.deepcopy(model)).attribute(inputs, **arguments)
    for name, limit in [("ShapleyValues", limit) for limit in limits] + [("KernelShap", None)]:
        method, rest = exact(name, model)
        found = method.attribute(inputs, **arguments, **rest, perturbations_per_eval=limit)
        assert type(found) is type(theirs)
        if name == "KernelShap":  # one number a row is one, kept dimension or not
            found = tuple(
                f.reshape(t.shape) for f, t in zip(as_tuple(found), as_tuple(theirs), strict=True)
            )
            found = found if isinstance(theirs, tuple) else found[0]
        torch.testing.assert_close(found, theirs, **F32)
    return theirs


def few_groups(inputs):
    """A mask of at most four groups, shared by the tensors of a tuple."""
    masks = tuple(
        (torch.arange(x[0].numel()).view(1, *x.shape[1:]) * 5 % 3) + i
        for i, x in enumerate(as_tuple(inputs))
    )
    return masks if isinstance(inputs, tuple) else masks[0]


@pytest.mark.parametrize("name", CASES)
def test_shapley_values(name):
    model, inputs, arguments = CASES[name]
    arguments = {name: double(value) for name, value in arguments.items()}
    model, inputs = double(model), double(inputs)
    assert_like_captum(model, inputs, feature_mask=few_groups(inputs), **arguments)


OUTPUTS = {
    "[B]": one_number,
    "[B, 1]": lambda x: one_number(x)[:, None],
    "[B, C]": lambda x: x.cumsum(1).sin()[:, 1:],
    "[B, C, D]": lambda x: x.sin()[:, :, None] * x[:, None, :2].exp(),
    "integers": lambda x: (10 * x.prod(1)).round().long(),
    "[]": lambda x: one_number(x).mean(),
    "[1]": lambda x: one_number(x).mean()[None],
}


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("rows", [1, 3])
def test_outputs(name, rows):
    assert_like_captum(OUTPUTS[name], randn(rows, 4))
    assert_like_captum(
        OUTPUTS[name], randn(rows, 4), baselines=0.3, feature_mask=torch.tensor([0, 1, 2, 0])
    )


@pytest.mark.parametrize("form", [float, lambda y: y.item() > 0.5, lambda y: int(10 * y)])
def test_outputs_that_are_no_tensors(form):
    # Captum fails for truth values.
    def model(x):
        return torch.as_tensor(form(one_number(x).mean())).double()

    expected = captum.attr.ShapleyValues(model).attribute(randn(3, 4))
    for name in ("ShapleyValues", "KernelShap"):
        method, rest = exact(name, lambda x: form(one_number(x).mean()))
        found = method.attribute(randn(3, 4), **rest)
        torch.testing.assert_close(found.reshape(1, 4), expected.reshape(1, 4), **F32)


@pytest.mark.parametrize("shape", [(3,), (5,), (2, 3), (3, 2)])
def test_outputs_for_the_batch_of_more_than_one_number(shape):
    # Captum takes one number for the batch at most; each by itself, then.
    x, weights = randn(3, 4), randn(shape[0] * shape[-1], 4)

    def one(x, i):
        return one_number(x * weights[i]).mean()

    def model(x):
        count = torch.Size(shape).numel()
        return torch.stack([one(x, i) for i in range(count)]).reshape(shape)

    each = [
        captum.attr.ShapleyValues(lambda x, i=i: one(x, i)).attribute(x)
        for i in range(torch.Size(shape).numel())
    ]
    expected = torch.stack(each).reshape(*shape, 4)
    for name in ("ShapleyValues", "KernelShap"):
        method, rest = exact(name, model)
        torch.testing.assert_close(method.attribute(x, **rest), expected, **F32)


MASKS = {  # for inputs [3, 2, 6, 5]
    "superpixels": torch.arange(30).reshape(1, 1, 6, 5) // 8,
    "without leading dimensions": torch.arange(30).reshape(6, 5) % 4,
    "columns": torch.tensor([2, 0, 1, 0, 2]),
    "channels": torch.arange(2).reshape(1, 2, 1, 1),
    "one group": torch.zeros(1, 1, 1, 1, dtype=torch.long),
    "for each row": torch.arange(180).reshape(3, 2, 6, 5) * 7 % 4,
    "for each row, broadcast": torch.arange(18).reshape(3, 1, 6, 1) // 5,
    "for each row, other ids": torch.arange(3).reshape(3, 1, 1, 1),
    "int32": torch.arange(30, dtype=torch.int32).reshape(1, 1, 6, 5) // 8,
}


@pytest.mark.parametrize("name", MASKS)
def test_feature_masks(name):
    model, x = ResidualCNN().double(), randn(3, 2, 6, 5)
    mask, baseline = MASKS[name], randn(3, 2, 6, 5)
    arguments = {"target": [0, 4, 2], "feature_mask": mask}
    expected = assert_like_captum(model, x, baselines=baseline, **arguments)
    # Gaps only name the groups. (Captum runs through all ids, and calls the model for each.)
    for method, rest in (exact("ShapleyValues", model), exact("KernelShap", model)):
        gaps = {**arguments, "feature_mask": mask * 1000 + 5}
        torch.testing.assert_close(
            method.attribute(x, baselines=baseline, **gaps, **rest), expected, **F32
        )


@pytest.mark.parametrize(
    "masks",
    [
        (torch.tensor([[0, 0, 1, 1]]), torch.tensor([[[2, 3, 3]]])),
        (torch.tensor([[2, 0, 2, 3]]), torch.tensor([[[3, 3, 1], [0, 1, 1]]])),
        (torch.tensor([[0], [1], [0]]), torch.arange(18).view(3, 2, 3) % 4),
    ],
)
def test_feature_masks_of_a_tuple_share_their_ids(masks):
    model, inputs = TwoInputs().double(), (randn(3, 4), randn(3, 2, 3))
    arguments = {"feature_mask": masks, "target": [0, 1, 2], "baselines": (0.5, -1)}
    assert_like_captum(model, inputs, **arguments)


@pytest.mark.parametrize(
    "baselines", [None, 0, 0.3, randn(3, 2, 5), randn(1, 2, 5), torch.tensor(0.7).double()]
)
@pytest.mark.parametrize("in_tuple", [False, True])
def test_baselines(baselines, in_tuple):
    model, x, mask = Segmenter().double(), randn(3, 2, 5), torch.arange(10).view(1, 2, 5) % 4
    if isinstance(baselines, torch.Tensor) and baselines.dim() == 0:
        theirs = baselines.item()  # fails in Captum
        found = fastxai.attr.ShapleyValues(model).attribute(x, baselines, feature_mask=mask)
        expected = fastxai.attr.ShapleyValues(model).attribute(x, theirs, feature_mask=mask)
        torch.testing.assert_close(found, expected)
        return
    if in_tuple:
        x, mask, baselines = (x,), (mask,), None if baselines is None else (baselines,)
    assert_like_captum(model, x, baselines=baselines, feature_mask=mask, target=(1, 3))


def test_extra_arguments():
    x, shift = randn(3, 4), randn(3, 4)

    def model(x, shift, power, kind):
        return getattr(x.abs() ** power * shift, kind)().cumprod(1)

    assert_like_captum(model, x, additional_forward_args=(shift, 2, "tanh"), target=[0, 1, 2])
    # Captum's KernelShap fails for one that is not in a tuple.
    assert_like_captum(lambda x, s: one_number(x * s), x, additional_forward_args=shift)
    assert_like_captum(lambda x, p: one_number(x.abs() ** p), x, additional_forward_args=1.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", METHODS)
def test_floating_point_types(name, dtype):
    model, x = mlp().to(dtype), randn(3, 7).to(dtype)
    mask = torch.tensor([0, 1, 2, 3, 3, 2, 1])
    expected = captum.attr.ShapleyValues(model).attribute(x, target=1, feature_mask=mask)
    rest = {"n_samples": 3000, "seed": 0} if name != "ShapleyValues" else {}
    found = getattr(fastxai.attr, name)(model).attribute(x, target=1, feature_mask=mask, **rest)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    half = dtype in (torch.float16, torch.bfloat16)
    tolerance = {"rtol": 0.1, "atol": 0.02} if half else {"rtol": 1e-3, "atol": 1e-5}
    if name == "ShapleyValueSampling":
        tolerance["atol"] = 0.02
    torch.testing.assert_close(found, expected, check_dtype=False, **tolerance)


def test_integer_and_boolean_inputs():
    words, embedding = torch.arange(12).reshape(3, 4) * 7 % 50, randn(50, 8)
    assert_like_captum(lambda x: embedding[x].cumsum(1).prod(1), words, target=1)
    assert_like_captum(lambda x: embedding[x].cumsum(1).prod(1), words, target=1, baselines=49)
    assert_like_captum(lambda x: one_number(x.double()), words % 2 == 0)
    for baselines in (0.5, torch.tensor([[0.25, 3, -0.5, 1]]).double()):
        # Captum rounds the number down to an integer.
        theirs = captum.attr.ShapleyValues(one_number).attribute(words.double(), baselines)
        for name in ("ShapleyValues", "KernelShap"):
            method, rest = exact(name, lambda x: one_number(x.double()))
            torch.testing.assert_close(method.attribute(words, baselines, **rest), theirs, **F32)


def additive(x):
    return (x.flatten(1).sin() * torch.arange(1, x[0].numel() + 1)).sum(1)


FORMS = {  # model, inputs, arguments: what is additive gives any sample the same answer
    "one number": (additive, randn(3, 5), {}),
    "one row": (additive, randn(1, 5), {}),
    "kept dimension": (lambda x: additive(x)[:, None], randn(3, 5), {}),
    "target": (
        lambda x: torch.stack([additive(x), x.sum(1)], 1),
        randn(3, 5),
        {"target": [0, 1, 0]},
    ),
    "for the batch": (lambda x: additive(x).mean(), randn(3, 5), {}),
    "for the batch, number": (lambda x: float(additive(x).mean()), randn(3, 5), {}),
    "mask": (additive, randn(3, 2, 3), {"feature_mask": torch.tensor([[[0, 1, 2]]])}),
    "mask with gaps": (additive, randn(3, 2, 3), {"feature_mask": torch.tensor([[[1], [4]]])}),
    "mask for each row": (additive, randn(3, 4), {"feature_mask": torch.arange(12).view(3, 4) % 5}),
    "tuple": (
        lambda a, b: additive(a) - additive(b),
        (randn(3, 4), randn(3, 2, 1)),
        {"baselines": (0.5, randn(1, 2, 1))},
    ),
    "tuple, shared groups": (
        lambda a, b: additive(a) - additive(b),
        (randn(3, 4), randn(3, 2, 1)),
        {"feature_mask": (torch.tensor([[0, 1, 2, 3]]), torch.tensor([[[2], [4]]]))},
    ),
}


@pytest.mark.filterwarnings("ignore:Minimum element in feature mask is not 0")  # Captum's
@pytest.mark.parametrize("whole_shape", [True, False])
@pytest.mark.parametrize("name", FORMS)
def test_kernel_shap_comes_in_captums_form(name, whole_shape):
    model, inputs, arguments = FORMS[name]
    arguments = {**arguments, "n_samples": 200, "return_input_shape": whole_shape}
    torch.manual_seed(0)
    theirs = captum.attr.KernelShap(model).attribute(inputs, **arguments)
    for limit in LIMITS:
        ours = fastxai.attr.KernelShap(model)
        found = ours.attribute(inputs, **arguments, perturbations_per_eval=limit, seed=1)
        assert type(found) is type(theirs)
        # Captum weighs the ends of the game a million times more, where they hold for us.
        torch.testing.assert_close(found, theirs, rtol=1e-3, atol=1e-3, check_dtype=False)


@pytest.mark.parametrize("name", FORMS)
def test_shapley_value_sampling_comes_in_captums_form(name):
    model, inputs, arguments = FORMS[name]
    if "gaps" in name or name == "mask for each row":
        arguments = {**arguments, "feature_mask": arguments["feature_mask"].contiguous()}
    torch.manual_seed(0)
    theirs = captum.attr.ShapleyValueSampling(model).attribute(inputs, **arguments, n_samples=3)
    for limit in LIMITS:
        ours = fastxai.attr.ShapleyValueSampling(model)
        found = ours.attribute(
            inputs, **arguments, n_samples=3, perturbations_per_eval=limit, seed=1
        )
        assert type(found) is type(theirs)
        torch.testing.assert_close(found, theirs, **F32)


@pytest.mark.parametrize("name", METHODS)
def test_batch_norm_in_train_mode_sees_the_batch_again_and_again_and_is_not_trained(name):
    model, x = ResidualCNN().double().train(), randn(3, 2, 6, 5)
    mask, before = torch.arange(30).view(1, 1, 6, 5) // 10, copy.deepcopy(model.state_dict())
    theirs = captum.attr.ShapleyValues(copy.deepcopy(model))
    expected = theirs.attribute(x, target=1, feature_mask=mask)
    method, rest = getattr(fastxai.attr, name)(model), {}
    if name == "ShapleyValueSampling":
        rest = {"n_samples": 2, "seed": 0}  # of 3 groups, a pair of orders is not all
    elif name == "KernelShap":
        rest = {"n_samples": 8}
    found = method.attribute(x, target=1, feature_mask=mask, **rest)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    if name != "ShapleyValueSampling":
        torch.testing.assert_close(found, expected, **F32)


def test_positional_arguments_stand_in_captums_order():
    inputs, shift, model = (randn(3, 4), randn(3, 2, 3)), randn(3, 6), TwoInputs().double()
    masks = (torch.tensor([[0, 0, 1, 1]]), torch.tensor([[[1, 2, 2]]]))
    question = (inputs, (0.1, 0.2), 1, (shift, 2.0), masks)
    expected = captum.attr.ShapleyValues(model).attribute(*question, 1, False)
    found = fastxai.attr.ShapleyValues(model).attribute(*question, 1, False)
    torch.testing.assert_close(found, expected, **F32)
    found = fastxai.attr.ShapleyValueSampling(model).attribute(*question, 2000, 50, False)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.02, check_dtype=False)
    found = fastxai.attr.KernelShap(model).attribute(*question, 8, 50, True, False)
    torch.testing.assert_close(found, expected, **F32)


@pytest.mark.parametrize("name", METHODS)
def test_what_captum_code_asks_of_a_method(name):
    ours, theirs = getattr(fastxai.attr, name)(mlp()), getattr(captum.attr, name)(mlp())
    assert ours.get_name() == theirs.get_name()
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert isinstance(ours, fastxai.attr.PerturbationAttribution)
    with pytest.raises(NotImplementedError):
        ours.attribute_future()


@pytest.mark.parametrize("name", METHODS)
def test_inside_captums_noise_tunnel(name):
    x, results = randn(2, 4), []
    rest = {} if name == "ShapleyValues" else {"n_samples": 300}
    for library in (fastxai.attr, captum.attr):
        tunnel = captum.attr.NoiseTunnel(getattr(library, name)(additive))
        torch.manual_seed(5)
        results.append(tunnel.attribute(x, nt_samples=3, **rest))
    torch.testing.assert_close(*results, rtol=1e-3, atol=1e-3, check_dtype=False)
