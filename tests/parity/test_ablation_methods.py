"""Captum 0.9.0's FeatureAblation, Occlusion and FeaturePermutation beside fastxai's.

Captum is asked for one perturbation a call, its default, where it is right more often than with
several. Numbers are compared in float64 where Captum has them: blocks of another size round
otherwise.
"""

import copy

import captum.attr
import pytest
import torch
from torch import nn

import fastxai

from ..models import ResidualCNN, Segmenter, TwoInputs, mlp, one_number
from .test_gradient_methods import CASES, assert_same, double

EXACT = {"rtol": 1e-10, "atol": 1e-12}
F32 = {"rtol": 1e-4, "atol": 1e-6}  # Captum's Occlusion rounds to float32 on the way
LIMITS = [None, 1, 2, 7, 1000]
METHODS = ["FeatureAblation", "Occlusion", "FeaturePermutation"]


def roll(x, chosen):
    """A shuffle that both libraries can do: every example gets its neighbour's value."""
    return torch.where(chosen, x.roll(1, 0), x)


def randn(*shape):
    torch.manual_seed(sum(shape))
    return torch.randn(*shape, dtype=torch.float64)


def assert_like_captum(name, model, inputs, limits=LIMITS, tolerance=EXACT, options=(), **rest):
    """The same from both libraries; ``options`` are for the constructor."""
    theirs = getattr(captum.attr, name)(copy.deepcopy(model), *options).attribute(inputs, **rest)
    for limit in limits:
        ours = getattr(fastxai.attr, name)(model, *options)
        found = ours.attribute(inputs, **rest, perturbations_per_eval=limit)
        assert type(found) is type(theirs)
        torch.testing.assert_close(found, theirs, check_dtype=name != "Occlusion", **tolerance)


def windows_for(inputs):
    """A window of two along every feature dimension that has room."""
    shapes = [tuple(min(2, n) for n in x.shape[1:]) for x in as_tuple(inputs)]
    return tuple(shapes) if isinstance(inputs, tuple) else shapes[0]


def as_tuple(inputs):
    return inputs if isinstance(inputs, tuple) else (inputs,)


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def case(request):
    model, inputs, arguments = CASES[request.param]
    arguments = {name: double(value) for name, value in arguments.items()}
    return double(model), double(inputs), arguments


def test_feature_ablation(case):
    model, inputs, arguments = case
    assert_like_captum("FeatureAblation", model, inputs, **arguments)


def test_occlusion(case):
    model, inputs, arguments = case
    windows = windows_for(inputs)
    if windows == ():  # fails in Captum; there is just one thing that it can mean
        found = fastxai.attr.Occlusion(model).attribute(inputs, (), **arguments)
        expected = captum.attr.FeatureAblation(model).attribute(inputs, **arguments)
        torch.testing.assert_close(found, expected, **EXACT)
        return
    assert_like_captum(
        "Occlusion", model, inputs, tolerance=F32, sliding_window_shapes=windows, **arguments
    )


@pytest.mark.filterwarnings("ignore:Feature Permutation. one example")
def test_feature_permutation(case):
    model, inputs, arguments = case
    assert_like_captum("FeaturePermutation", model, inputs, options=[roll], **arguments)


# What a row's answer, or a batch's, may look like.
ROW_OUTPUTS = {
    "[B]": one_number,
    "[B, 1]": lambda x: one_number(x)[:, None],
    "[B, C]": mlp().double(),
    "[B, C, D]": lambda x: x[:, :, None] * x[:, None, :2].exp(),
    "[B, 1, 1]": lambda x: one_number(x)[:, None, None],
    "integers": lambda x: (10 * x).round().sum(1).long(),
}
BATCH_OUTPUTS = {
    "[]": lambda x: one_number(x).mean(),
    "[1]": lambda x: one_number(x).mean()[None],
    "[k]": lambda x: x.std(0)[:5],
    "[B], not of rows": lambda x: x.std(0)[:3],
    "[1, k]": lambda x: x.std(0)[None],
    "[k, l]": lambda x: x.T @ x,
    "float": lambda x: float(one_number(x).mean()),
    "int": lambda x: int((10 * x).sum()),
}


@pytest.mark.parametrize("name", ROW_OUTPUTS)
def test_outputs_of_rows(name):
    model, x = ROW_OUTPUTS[name], randn(3, 7)
    assert_like_captum("FeatureAblation", model, x)
    assert_like_captum("Occlusion", model, x, tolerance=F32, sliding_window_shapes=(3,))
    assert_like_captum("FeaturePermutation", model, x, options=[roll])


@pytest.mark.parametrize("name", BATCH_OUTPUTS)
def test_outputs_for_the_batch(name):
    # Captum refuses more than one perturbation a call here; for us the limit changes nothing.
    model, x = BATCH_OUTPUTS[name], randn(3, 7)
    assert_like_captum("FeatureAblation", model, x)
    assert_like_captum("FeatureAblation", model, x, baselines=0.3, feature_mask=torch.arange(7) % 3)
    assert_like_captum("Occlusion", model, x, tolerance=F32, sliding_window_shapes=(3,))
    assert_like_captum("FeaturePermutation", model, x, options=[roll])


@pytest.mark.parametrize(
    "name",
    [name for name in BATCH_OUTPUTS if name not in ("[k]", "[B], not of rows")],  # std of one
)
def test_outputs_for_a_batch_of_one(name):
    model = {"[1, k]": lambda x: x[:1].sin()}.get(name, BATCH_OUTPUTS[name])
    assert_like_captum("FeatureAblation", model, randn(1, 7))
    assert_like_captum("Occlusion", model, randn(1, 7), tolerance=F32, sliding_window_shapes=(3,))


def test_targets_of_outputs_for_the_batch():
    x = randn(3, 7)
    assert_like_captum("FeatureAblation", lambda x: x.std(0)[None], x, target=2)
    assert_like_captum("FeatureAblation", lambda x: x.std(0)[None], x, target=torch.tensor([-1]))
    assert_like_captum("FeatureAblation", lambda x: x.T @ x, x, target=4)
    assert_like_captum("FeatureAblation", lambda x: (x.T @ x)[None], x, target=(4, 1))


def test_several_outputs_of_a_tuple_of_inputs():
    inputs = (randn(3, 4), randn(3, 2, 3))
    model = TwoInputs().double()
    assert_like_captum("FeatureAblation", model, inputs)
    assert_like_captum(
        "Occlusion", model, inputs, tolerance=F32, sliding_window_shapes=((2,), (1, 2))
    )
    assert_like_captum("FeaturePermutation", model, inputs, options=[roll])


@pytest.mark.parametrize("method", METHODS)
def test_outputs_that_are_not_numbers(method):
    # Captum fails for truth values, and lets unsigned numbers wrap: 0 - 1 is 255.
    x, options = randn(4, 7), [roll] if method == "FeaturePermutation" else []
    rest = {"sliding_window_shapes": (2,)} if method == "Occlusion" else {}

    def above(x):
        return x[:, 1:].sum(1) > x[:, 0]

    explain = getattr(captum.attr, method)
    expected = explain(lambda x: above(x).long(), *options).attribute(x, **rest)
    assert (expected < 0).any() and (expected > 0).any()
    for dtype in (torch.bool, torch.uint8):
        ours = getattr(fastxai.attr, method)(lambda x, d=dtype: above(x).to(d), *options)
        assert_same(ours.attribute(x, **rest), expected)


# For inputs [3, 2, 6, 5].
MASKS = {
    "superpixels": torch.arange(30).reshape(1, 1, 6, 5) // 7,
    "without leading dimensions": torch.arange(30).reshape(6, 5) % 4,
    "columns": torch.tensor([2, 0, 1, 0, 2]),
    "channels": torch.arange(2).reshape(1, 2, 1, 1),
    "one group": torch.zeros(1, 1, 1, 1, dtype=torch.long),
    "one number": torch.tensor(3),
    "gaps": torch.arange(30).reshape(1, 1, 6, 5) // 7 * 1000 + 5,
    "every feature": torch.randperm(60, generator=torch.Generator().manual_seed(0)).view(
        1, 2, 6, 5
    ),
    "for each row": torch.arange(180).reshape(3, 2, 6, 5) * 7 % 11,
    "for each row, broadcast": torch.arange(18).reshape(3, 1, 6, 1) // 5,
    "for each row, other ids": torch.arange(3).reshape(3, 1, 1, 1) * 4,
    "int32": torch.arange(30, dtype=torch.int32).reshape(1, 1, 6, 5) // 7,
    "uint8": (torch.arange(30).reshape(1, 1, 6, 5) * 8).to(torch.uint8),
}


@pytest.mark.parametrize("name", MASKS)
def test_feature_masks(name):
    model, x, arguments = ResidualCNN().double(), randn(3, 2, 6, 5), {"feature_mask": MASKS[name]}
    arguments["target"] = [0, 4, 2]
    baseline = randn(3, 2, 6, 5)
    assert_like_captum("FeatureAblation", model, x, baselines=baseline, **arguments)
    assert_like_captum("FeaturePermutation", model, x, options=[roll], **arguments)


@pytest.mark.parametrize("name", [name for name in MASKS if not name.startswith("for each row")])
def test_feature_masks_and_several_outputs(name):
    model, x = Segmenter().double(), randn(3, 2, 5)
    mask = MASKS[name]
    mask = mask if mask.dim() < 2 else mask[..., :1, :].reshape(1, -1, mask.shape[-1])
    assert_like_captum("FeatureAblation", model, x, feature_mask=mask)


@pytest.mark.parametrize("limit", LIMITS)
def test_masks_for_each_row_and_several_outputs(limit):
    # Captum fails: its masks have B rows and its attributions B·C.
    model, x = Segmenter().double(), randn(3, 2, 5)
    mask = torch.arange(30).reshape(3, 2, 5) * 7 % 4
    theirs = captum.attr.FeatureAblation(model)
    rows = [theirs.attribute(x[i : i + 1], feature_mask=mask[i : i + 1]) for i in range(3)]
    found = fastxai.attr.FeatureAblation(model).attribute(
        x, feature_mask=mask, perturbations_per_eval=limit
    )
    torch.testing.assert_close(found, torch.cat(rows), **EXACT)


@pytest.mark.parametrize(
    "masks",
    [
        (torch.arange(4), torch.arange(6).view(1, 2, 3)),  # all ids shared
        (torch.tensor([[0, 0, 1, 1]]), torch.tensor([2, 3, 3])),
        (torch.tensor([[7, 0, 7, 3]]), torch.tensor([[[3, 3, 9], [0, 9, 9]]])),  # some, with gaps
        (torch.tensor(1), torch.tensor(1)),
        (torch.tensor([[0], [1], [0]]), torch.arange(18).view(3, 2, 3) % 5),  # for each row
        (torch.arange(12).view(3, 4) % 5, torch.tensor([[[0]], [[2]], [[1]]])),
    ],
)
def test_feature_masks_of_a_tuple_share_their_ids(masks):
    model, inputs = TwoInputs().double(), (randn(3, 4), randn(3, 2, 3))
    arguments = {"feature_mask": masks, "target": [0, 1, 2]}
    assert_like_captum("FeatureAblation", model, inputs, baselines=(0.5, -1), **arguments)
    assert_like_captum("FeaturePermutation", model, inputs, options=[roll], **arguments)


BASELINES = {
    "none": None,
    "zero": 0,
    "number": 0.3,
    "scalar tensor": torch.tensor(0.7).double(),
    "tensor": randn(3, 2, 6, 5),
    "one row": randn(1, 2, 6, 5),
    "one row without the batch": randn(2, 6, 5),
    "channel means": randn(1, 2, 1, 1),
    "one for each row": randn(3, 1, 1, 1),
    "transposed": randn(5, 6, 2, 3).permute(3, 2, 1, 0),
}


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("in_tuple", [False, True])
def test_baselines(name, in_tuple):
    model, x, baselines = ResidualCNN().double(), randn(3, 2, 6, 5), BASELINES[name]
    if in_tuple:
        x, baselines = (x,), None if baselines is None else (baselines,)
    arguments = {"baselines": baselines, "target": 1}
    mask = {"feature_mask": MASKS["for each row"]}
    assert_like_captum("FeatureAblation", model, x, **arguments, limits=[None, 1])
    assert_like_captum("FeatureAblation", model, x, **arguments, **mask, limits=[None, 1])
    assert_like_captum(
        "Occlusion", model, x, sliding_window_shapes=(2, 3, 2), **arguments, tolerance=F32
    )


@pytest.mark.parametrize("baselines", [(0.5, randn(3, 2, 3)), (randn(1, 4), -1), (randn(4), None)])
def test_baselines_of_a_tuple(baselines):
    model, inputs = TwoInputs().double(), (randn(3, 4), randn(3, 2, 3))
    if baselines[1] is None:  # Captum's message: baseline must be provided
        with pytest.raises(AssertionError, match=r"^baselines\[1\]: expected"):
            fastxai.attr.FeatureAblation(model).attribute(inputs, baselines, 1)
        return
    arguments = {"baselines": baselines, "target": 1}
    assert_like_captum("FeatureAblation", model, inputs, **arguments)
    windows = ((2,), (2, 2))
    assert_like_captum(
        "Occlusion", model, inputs, sliding_window_shapes=windows, **arguments, tolerance=F32
    )


# Feature shape, window, strides.
WINDOWS = [
    ((7,), (1,), None),
    ((7,), (3,), None),
    ((7,), (3,), 2),
    ((7,), (3,), (3,)),  # the last window is cut off
    ((7,), (2,), 2),  # likewise
    ((7,), (7,), None),
    ((7,), (7,), 9),  # larger than the window, which covers everything
    ((6, 5), (2, 2), 2),
    ((6, 5), (4, 3), (3, 2)),
    ((6, 5), (6, 1), (7, 1)),
    ((6, 5), (5, 4), 4),
    ((6, 5), (2, 3), (2,)),  # one stride for all dimensions
    ((2, 6, 5), (2, 3, 3), (5, 2, 3)),
    ((2, 6, 5), (1, 6, 2), None),
    ((2, 6, 5), (2, 4, 4), 3),
    ((3, 2, 4, 3), (2, 1, 3, 2), (1, 1, 2, 2)),
    ((7,), ((3,),), None),  # in a tuple, though the input is not
    ((7,), ((3,),), (2,)),
    ((6, 5), (2, 3), ((2, 1),)),
]


@pytest.mark.parametrize(("shape", "window", "strides"), WINDOWS)
@pytest.mark.parametrize("in_tuple", [False, True])
def test_windows_and_strides(shape, window, strides, in_tuple):
    x = randn(2, *shape)
    assert_like_captum(
        "Occlusion",
        one_number,
        (x,) if in_tuple else x,
        sliding_window_shapes=window,
        strides=strides,
        baselines=0.4,
        tolerance=F32,
    )


@pytest.mark.parametrize(
    ("windows", "strides"),
    [
        (((2,), (2, 2), (1,)), None),
        (((4,), (1, 3), (3,)), (1, 1, 2)),
        (((3,), (2, 1), (2,)), ((2,), (2, 1), 1)),
        (((1,), (2, 3), (5,)), (1, (5, 3), (7,))),
    ],
)
def test_windows_and_strides_of_a_tuple(windows, strides):
    inputs = (randn(3, 4), randn(3, 2, 3), randn(3, 5))
    model = TwoInputs().double()
    assert_like_captum(
        "Occlusion",
        lambda a, b, c: model(a, b) * c.cumsum(1).sin()[:, 1:4],
        inputs,
        sliding_window_shapes=windows,
        strides=strides,
        target=[0, 2, 1],
        tolerance=F32,
    )


def test_one_stride_for_all_inputs_of_a_tuple():
    # As documented ("an int ... for each input"), where Captum wants a tuple.
    inputs, model = (randn(3, 4), randn(3, 2, 3)), TwoInputs().double()
    windows = ((2,), (2, 2))
    found = fastxai.attr.Occlusion(model).attribute(inputs, windows, 2, target=0)
    expected = captum.attr.Occlusion(model).attribute(inputs, windows, (2, 2), target=0)
    torch.testing.assert_close(found, expected, check_dtype=False, **F32)


EXTRA = {
    "tensor of the batch": lambda x, shift: (x * shift).sin(),
    "number": lambda x, power: x.abs() ** power,
    "text and None": lambda x, kind, nothing: getattr(x, kind)(),
    "list": lambda x, powers: sum(x.abs() ** p for p in powers),
    "all kinds": lambda x, shift, power, kind: getattr(x.abs() ** power * shift, kind)(),
}
EXTRA_ARGUMENTS = {
    "tensor of the batch": randn(3, 7),
    "number": 1.5,
    "text and None": ("sin", None),
    "list": [1.5, 3],
    "all kinds": (randn(3, 1), 2, "tanh"),
}


@pytest.mark.parametrize("name", EXTRA)
def test_extra_arguments(name):
    x, arguments = randn(3, 7), {"additional_forward_args": EXTRA_ARGUMENTS[name], "target": 2}
    mask = {"feature_mask": torch.arange(7) // 2}  # so that other features than the target count
    assert_like_captum("FeatureAblation", EXTRA[name], x, **arguments, **mask)
    assert_like_captum("FeaturePermutation", EXTRA[name], x, options=[roll], **arguments, **mask)
    assert_like_captum(
        "Occlusion", EXTRA[name], x, sliding_window_shapes=(4,), **arguments, tolerance=F32
    )


@pytest.mark.parametrize("weights", [randn(7, 2), randn(1, 7), torch.tensor(3.0).double()])
def test_extra_tensors_without_the_batch_dimension(weights):
    # With several perturbations a call Captum repeats them like any other tensor.
    def model(x, weights):
        return (
            (x * weights).sum(1) if weights.dim() < 2 or len(weights) == 1 else (x @ weights)[:, 0]
        )

    arguments = {"additional_forward_args": weights}
    assert_like_captum("FeatureAblation", model, randn(3, 7), **arguments)
    assert_like_captum("FeaturePermutation", model, randn(3, 7), options=[roll], **arguments)


class Words(nn.Module):
    """Takes indices of words, [N, T] int64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(6)
        self.embedding, self.head = nn.Embedding(50, 8), nn.Linear(8, 3)
        self.double()

    def forward(self, words):
        return self.head(torch.tanh(self.embedding(words)).cumsum(1).prod(1))


def test_integer_inputs():
    words, padding = torch.arange(15).reshape(3, 5) * 7 % 50, torch.tensor([[1, 2, 3, 4, 5]])
    arguments = {"target": [0, 1, 2], "additional_forward_args": None}
    for baselines in (None, 49, padding, torch.tensor(3)):
        assert_like_captum("FeatureAblation", Words(), words, baselines=baselines, **arguments)
    assert_like_captum("FeaturePermutation", Words(), words, options=[roll], **arguments)
    assert_like_captum(
        "Occlusion",
        Words(),
        words,
        sliding_window_shapes=(2,),
        baselines=4,
        tolerance=F32,
        target=1,
    )


@pytest.mark.parametrize("baselines", [0.5, torch.tensor([[0.25, 3, -0.5, 1]]), torch.tensor(0.1)])
@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_integer_inputs_and_fractional_baselines(baselines, dtype):
    x = (torch.arange(12) % 5).reshape(3, 4).to(dtype)
    model = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 1))
    assert_like_captum(
        "FeatureAblation", lambda x: model(x.float()), x, baselines=baselines, tolerance=F32
    )


def test_boolean_inputs():
    x = torch.tensor([[True, False, True, True], [False, False, True, False]])
    other = torch.tensor([[False, True, True, False]])

    def model(x):
        return one_number(x.double())

    for baselines in (None, True, False, 1, other):
        assert_like_captum("FeatureAblation", model, x, baselines=baselines)
        assert_like_captum(
            "Occlusion", model, x, sliding_window_shapes=(2,), baselines=baselines, tolerance=F32
        )
    assert_like_captum("FeaturePermutation", model, x, options=[roll])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_floating_point_types(dtype):
    model, x, baseline = mlp().to(dtype), randn(3, 7).to(dtype), randn(1, 7).to(dtype)
    half = dtype != torch.float32
    tolerance = {"rtol": 0.05, "atol": 0.02 if dtype == torch.bfloat16 else 4e-3} if half else F32
    arguments = {"baselines": baseline, "target": 1, "tolerance": tolerance}
    assert_like_captum("FeatureAblation", model, x, **arguments)
    assert_like_captum("Occlusion", model, x, sliding_window_shapes=(2,), **arguments)
    del arguments["baselines"]
    assert_like_captum("FeaturePermutation", model, x, options=[roll], **arguments)


def test_results_are_exact_and_wide_where_the_outputs_are():
    # Captum's Occlusion comes back in float32 whatever the outputs are.
    x = randn(3, 7)
    for method, rest in (("FeatureAblation", {}), ("Occlusion", {"sliding_window_shapes": (1,)})):
        found = getattr(fastxai.attr, method)(one_number).attribute(x, **rest)
        assert found.dtype == torch.float64
        expected = captum.attr.FeatureAblation(one_number).attribute(x)
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("name", METHODS)
def test_a_batch_of_no_examples(name):
    x, options = torch.empty(0, 2, 6, 5), [roll] if name == "FeaturePermutation" else []
    rest = {"sliding_window_shapes": (2, 2, 2)} if name == "Occlusion" else {}
    calls = []

    def model(x):
        calls.append(x)
        return ResidualCNN()(x)

    found = getattr(fastxai.attr, name)(model, *options).attribute(x, target=0, **rest)
    expected = getattr(captum.attr, name)(ResidualCNN(), *options).attribute(x, target=0, **rest)
    assert_same(found, expected)
    assert calls == []
    if name != "Occlusion":
        for mask in (MASKS["superpixels"], torch.empty(0, 2, 6, 5, dtype=torch.long)):
            found = getattr(fastxai.attr, name)(model, *options).attribute(x, feature_mask=mask)
            assert_same(found, expected)


@pytest.mark.parametrize("name", METHODS)
def test_inputs_of_any_strides(name):
    model, options = ResidualCNN().double(), [roll] if name == "FeaturePermutation" else []
    rest = {"sliding_window_shapes": (2, 3, 3)} if name == "Occlusion" else {}
    for x in (
        randn(6, 5, 3, 2).permute(2, 3, 0, 1),
        randn(3, 2, 12, 10)[:, :, ::2, ::2],
        randn(1, 2, 6, 5).expand(3, 2, 6, 5),
        randn(3, 2, 6, 5).to(memory_format=torch.channels_last),
        randn(3, 2, 6, 5).requires_grad_(),
    ):
        assert_like_captum(
            name, model, x, limits=[None, 2], options=options, target=1, tolerance=F32, **rest
        )


def test_a_tensor_without_features_beside_one_with():
    def model(a, b):
        return a.sum(1) + one_number(b)

    assert_like_captum("FeatureAblation", model, (randn(3, 0), randn(3, 4)))
    assert_like_captum("FeaturePermutation", model, (randn(3, 0), randn(3, 4)), options=[roll])


@pytest.mark.parametrize("name", METHODS)
def test_batch_norm_in_train_mode_sees_the_batch_again_and_again_and_is_not_trained(name):
    model, x = ResidualCNN().double().train(), randn(3, 2, 6, 5)
    options = [roll] if name == "FeaturePermutation" else []
    rest = {"sliding_window_shapes": (2, 3, 3)} if name == "Occlusion" else {}
    before = copy.deepcopy(model.state_dict())
    assert_like_captum(
        name, model, x, limits=[None, 1], options=options, target=1, tolerance=F32, **rest
    )
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
    trained = getattr(fastxai.attr, name)(model, *options).attribute(x, target=1, **rest)
    resting = getattr(fastxai.attr, name)(model.eval(), *options).attribute(x, target=1, **rest)
    assert (trained - resting).abs().max() > 1e-3  # it does make a difference


def test_positional_arguments_stand_in_captums_order():
    inputs, shift, model = (randn(3, 4), randn(3, 2, 3)), randn(3, 6), TwoInputs().double()
    masks = (torch.arange(4), torch.arange(6).view(1, 2, 3))
    pairs = [
        ("FeatureAblation", [], (inputs, (0.1, 0.2), 1, (shift, 2.0), masks, 1, False)),
        ("FeaturePermutation", [roll], (inputs, 1, (shift, 2.0), masks, 1, False)),
        (
            "Occlusion",
            [],
            (inputs, ((2,), (1, 2)), (2, (1, 2)), (0.1, 0.2), 1, (shift, 2.0), 1, False),
        ),
    ]
    for name, options, arguments in pairs:
        found = getattr(fastxai.attr, name)(model, *options).attribute(*arguments)
        expected = getattr(captum.attr, name)(model, *options).attribute(*arguments)
        torch.testing.assert_close(found, expected, check_dtype=False, **F32)


@pytest.mark.parametrize("name", METHODS)
def test_what_captum_code_asks_of_a_method(name):
    ours, theirs = getattr(fastxai.attr, name)(mlp()), getattr(captum.attr, name)(mlp())
    assert ours.get_name() == theirs.get_name()
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    assert ours.forward_func is not None and isinstance(ours, fastxai.attr.PerturbationAttribution)
    with pytest.raises(NotImplementedError):
        ours.attribute_future()


@pytest.mark.parametrize("kind", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("name", METHODS)
def test_inside_captums_noise_tunnel(name, kind):
    x, results = randn(3, 7), []
    options = [roll] if name == "FeaturePermutation" else []
    rest = {"sliding_window_shapes": (2,)} if name == "Occlusion" else {}
    for library in (fastxai.attr, captum.attr):
        tunnel = captum.attr.NoiseTunnel(getattr(library, name)(mlp().double(), *options))
        torch.manual_seed(5)
        results.append(tunnel.attribute(x, nt_type=kind, nt_samples=4, target=1, **rest))
    torch.testing.assert_close(*results, check_dtype=False, **F32)
