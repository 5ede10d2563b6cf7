"""Perturbation methods: bad input gets a clear error that names the argument."""

import numpy as np
import pytest
import torch

from fastxai import ArgumentError
from fastxai.attr import (
    FeatureAblation,
    FeaturePermutation,
    KernelShap,
    Occlusion,
    ShapleyValues,
    ShapleyValueSampling,
)
from fastxai.attr.lime import Lime

from ..models import Logged, Segmenter, TwoInputs, mlp
from .test_perturbation import METHODS as NEEDED

X = torch.randn(3, 7)
MASK = torch.arange(7)[None]
METHODS = list(NEEDED)
WITH_MASK = [method for method in METHODS if method is not Occlusion]
WITH_BASELINES = [method for method in METHODS if method is not FeaturePermutation]
SEEDED = [method for method, needed in NEEDED.items() if "seed" in needed]
SAMPLING = [ShapleyValueSampling, KernelShap, Lime]


def limit_for(method, perturbations):
    """perturbations_per_eval for so many perturbations of three rows."""
    return perturbations and perturbations * (3 if method in (KernelShap, Lime) else 1)


def refused(method, inputs, arguments, message):
    """An error that begins with the message, before the model has been called."""
    logged = Logged(mlp())
    arguments = {"target": 0, **NEEDED[method], **arguments}
    for limit in (None, 1):
        with pytest.raises(ArgumentError, match=f"^{message}"):
            method(logged).attribute(inputs, **{"perturbations_per_eval": limit, **arguments})
    assert logged.tried == 0


INPUTS = {
    "list": ([X], {}, "inputs: expected a torch.Tensor or a tuple of them, got a list"),
    "words": (np.array(["a", "b"]), {}, "inputs: expected numbers, got values such as"),
    "nothing": ((), {}, "inputs: expected at least one tensor"),
    "not a tensor": ((X, 3), {}, r"inputs\[1\]: expected a torch.Tensor, got a int"),
    "no batch": (torch.tensor(1.0), {}, "inputs: expected a batch dimension"),
    "sparse": (X.to_sparse(), {}, "inputs: expected a dense tensor"),
    "devices": ((X, X.to("meta")), {}, r"inputs\[1\]: expected the device of inputs\[0\], cpu"),
    "float target": (X, {"target": 1.0}, "target: expected an int"),
    "bool target": (X, {"target": True}, "target: expected an int"),
    "text target": (X, {"target": "cat"}, "target: expected an int"),
    "float tensor": (X, {"target": torch.tensor([1.0, 2, 3])}, "target: expected integers"),
    "2-D tensor": (X, {"target": torch.ones(3, 1).long()}, "target: expected one dimension"),
    "short tensor": (X, {"target": torch.tensor([1, 2])}, "target: expected one for each of 3"),
    "long list": (X, {"target": [1, 2, 3, 0]}, "target: expected one for each of 3 rows, got 4"),
    "ragged list": (X, {"target": [(1,), (1, 2), 0]}, "target: expected tuples of one length"),
    "limit 0": (X, {"perturbations_per_eval": 0}, "perturbations_per_eval: .* at least 1, got 0"),
    "limit -1": (X, {"perturbations_per_eval": -1}, "perturbations_per_eval: .* got -1"),
    "limit 1.5": (X, {"perturbations_per_eval": 1.5}, "perturbations_per_eval: .* got 1.5"),
    "limit 2.0": (X, {"perturbations_per_eval": 2.0}, "perturbations_per_eval: .* got 2.0"),
    "limit True": (X, {"perturbations_per_eval": True}, "perturbations_per_eval: .* got True"),
    "limit text": (X, {"perturbations_per_eval": "2"}, "perturbations_per_eval: .* integer"),
}


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", INPUTS)
def test_inputs_targets_and_limits(method, name):
    refused(method, *INPUTS[name])


ONE_BATCH = [m for m in METHODS if m not in (FeatureAblation, FeaturePermutation)]


@pytest.mark.parametrize("method", ONE_BATCH)
def test_batch_sizes(method):
    refused(method, (X, X[:2]), {}, r"inputs\[1\]: expected the batch size of inputs\[0\], 3")


@pytest.mark.parametrize("method", WITH_MASK)
def test_no_feature_at_all(method):
    refused(method, X[:, :0], {}, "inputs: expected at least one feature")
    empty = torch.empty(1, 0, dtype=torch.long)
    refused(method, X[:, :0], {"feature_mask": empty}, "feature_mask: expected at least one feat")


BASELINES = {
    "shape": (X, {"baselines": X[:, :3]}, "baselines: expected the input's shape"),
    "rows": (X, {"baselines": X[:2]}, "baselines: expected the input's shape"),
    "features": (X, {"baselines": torch.zeros(8)}, "baselines: expected the input's shape"),
    "dimensions": (X, {"baselines": X[None]}, "baselines: expected the input's shape"),
    "count": (X, {"baselines": (0, 0)}, "baselines: expected one for each of the 1 inputs, got 2"),
    "one for two": ((X, X), {"baselines": 0.5}, "baselines: expected one for each of the 2 inputs"),
    "second": ((X, X), {"baselines": (0, X[:2])}, r"baselines\[1\]: expected the input's shape"),
    "kind": (X, {"baselines": "zero"}, "baselines: expected a number or a torch.Tensor"),
    "words": (X, {"baselines": ["a"]}, "baselines: expected numbers, got values such as"),
    "none of two": ((X, X), {"baselines": (0, None)}, r"baselines\[1\]: expected a number or"),
    "device": (X, {"baselines": X.to("meta")}, "baselines: expected the input's device"),
}


@pytest.mark.parametrize("method", WITH_BASELINES)
@pytest.mark.parametrize("name", BASELINES)
def test_baselines(method, name):
    inputs, arguments, message = BASELINES[name]
    if method is Occlusion and isinstance(inputs, tuple):
        arguments = {**arguments, "sliding_window_shapes": ((2,), (2,))}
    refused(method, inputs, arguments, message)


MASKS = {
    "short": (
        X,
        MASK[:, :6],
        r"feature_mask: expected a shape that broadcasts .* got shape \(1, 6",
    ),
    "rows": (X, MASK.expand(2, 7), "feature_mask: expected a shape that broadcasts"),
    "dimensions": (X, MASK[None], "feature_mask: expected a shape that broadcasts"),
    "transposed": (X, MASK.T, "feature_mask: expected a shape that broadcasts"),
    "fractions": (X, MASK + 0.5, "feature_mask: expected whole numbers, got others"),
    "NaN": (X, MASK * torch.nan, "feature_mask: expected whole numbers, got others"),
    "large fractions": (X, MASK * 2.0**40, r"feature_mask: expected ids below 2\*\*31"),
    "bool": (X, MASK > 3, "feature_mask: expected integer ids, got torch.bool"),
    "complex": (X, MASK.to(torch.complex64), "feature_mask: expected integer ids, got torch.comp"),
    "negative": (X, MASK - 1, "feature_mask: expected ids of at least 0, got -1"),
    "huge": (X, MASK + 2**31, "feature_mask: expected ids below 2[*][*]31, got 2147483654"),
    "words": (X, list("abcdefg"), "feature_mask: expected whole numbers"),
    "array of fractions": (X, np.arange(7)[None] / 2, "feature_mask: expected whole numbers"),
    "number": (X, 0, "feature_mask: expected an integer torch.Tensor, got int"),
    "empty": (X, MASK[:, :0], "feature_mask: expected a shape that broadcasts"),
    "empty tuple": (X, (), "feature_mask: expected one for each of the 1 inputs, got 0"),
    "two for one": (X, (MASK, MASK), "feature_mask: expected one for each of the 1 inputs, got 2"),
    "one for two": ((X, X), MASK, "feature_mask: expected one for each of the 2 inputs, got 1"),
    "second shape": ((X, X), (MASK, MASK[:, :3]), r"feature_mask\[1\]: expected a shape"),
    "second negative": ((X, X), (MASK, -MASK), r"feature_mask\[1\]: expected ids of at least 0"),
    "None of two": ((X, X), (MASK, None), r"feature_mask\[1\]: expected an integer torch.Tensor"),
}


@pytest.mark.parametrize("method", WITH_MASK)
@pytest.mark.parametrize("name", MASKS)
def test_feature_masks(method, name):
    inputs, mask, message = MASKS[name]
    refused(method, inputs, {"feature_mask": mask}, message)


IMAGE = torch.randn(2, 2, 6, 5)
WINDOWS = {  # inputs, windows, strides, message
    "too large": (X, (8,), None, r"sliding_window_shapes: expected at most .* \(7,\), got \(8,\)"),
    "too large image": (IMAGE, (2, 6, 6), None, "sliding_window_shapes: expected at most"),
    "zero": (X, (0,), None, "sliding_window_shapes: expected a tuple of positive int"),
    "negative": (X, (-2,), None, "sliding_window_shapes: expected a tuple of positive int"),
    "float": (X, (2.0,), None, "sliding_window_shapes: expected a tuple of positive int"),
    "bool": (X, (True,), None, "sliding_window_shapes: expected a tuple of positive int"),
    "int": (X, 2, None, "sliding_window_shapes: expected a tuple of positive int, got 2"),
    "list": (X, [2], None, "sliding_window_shapes: expected a tuple of positive int"),
    "None": (X, None, None, "sliding_window_shapes: expected a tuple of positive int"),
    "short": (IMAGE, (3, 3), None, "sliding_window_shapes: expected one for each of 3 feature dim"),
    "long": (X, (2, 2), None, "sliding_window_shapes: expected one for each of 1 feature dim"),
    "empty": (X, (), None, "sliding_window_shapes: expected one for each of 1 feature dimensions"),
    "two for one": (X, ((2,), (2,)), None, "sliding_window_shapes: expected a tuple of positive"),
    "one for two": ((X, X), ((2,),), None, "sliding_window_shapes: expected .* 2 inputs, got 1"),
    "bare for two": ((X, X), (2,), None, "sliding_window_shapes: expected .* 2 inputs, got 1"),
    "list for two": ((X, X), [(2,), (2,)], None, "sliding_window_shapes: expected a tuple, got li"),
    "second": ((X, X), ((2,), (9,)), None, r"sliding_window_shapes\[1\]: expected at most"),
    "stride zero": (X, (2,), 0, "strides: expected a tuple of positive int"),
    "stride negative": (X, (2,), (-1,), "strides: expected a tuple of positive int"),
    "stride float": (X, (2,), 1.0, "strides: expected a tuple of positive int, got 1.0"),
    "stride bool": (X, (2,), True, "strides: expected a tuple of positive int"),
    "stride list": (X, (2,), [1], "strides: expected a tuple of positive int"),
    "stride length": (IMAGE, (2, 2, 2), (1, 1), "strides: expected one for each of 3 feature dim"),
    "stride larger": (
        X,
        (2,),
        3,
        r"strides: expected at most the window's shape \(2,\), .* got \(3",
    ),
    "one stride larger": (IMAGE, (2, 3, 3), (1, 2, 4), "strides: expected at most the window's"),
    "strides of two": ((X, X), ((2,), (2,)), (1,), "strides: expected .* 2 inputs, got 1"),
    "second stride": ((X, X), ((2,), (2,)), (1, 3), r"strides\[1\]: expected at most the window"),
}


@pytest.mark.parametrize("name", WINDOWS)
def test_windows_and_strides(name):
    inputs, windows, strides, message = WINDOWS[name]
    refused(Occlusion, inputs, {"sliding_window_shapes": windows, "strides": strides}, message)


def test_windows_have_to_be_given():
    with pytest.raises(TypeError, match="sliding_window_shapes"):
        Occlusion(mlp()).attribute(X, target=0)


@pytest.mark.parametrize("seed", [1.5, True, "1", torch.tensor(1.5)])
@pytest.mark.parametrize("method", SEEDED)
def test_seeds(method, seed):
    refused(method, X, {"seed": seed}, "seed: expected an integer or None")


@pytest.mark.parametrize("n", [0, -3, 1.5, True, "20", None])
@pytest.mark.parametrize("method", SAMPLING)
def test_numbers_of_samples(method, n):
    refused(method, X, {"n_samples": n}, "n_samples: expected an integer of at least [12]")


AUTO = {
    "a word": ({"n_samples": "all"}, "n_samples: expected an integer of at least [12] or 'auto'"),
    "no tolerance": ({"tolerance": 0}, "tolerance: expected a finite number above 0, got 0"),
    "a word for it": ({"tolerance": "1%"}, "tolerance: expected a finite number above 0, got '1%'"),
    "none at most": ({"max_samples": 0}, "max_samples: expected an integer of at least [12]"),
    "a number too": ({"n_samples": 9, "max_samples": 20}, "max_samples: expected none beside"),
}


@pytest.mark.parametrize("case", AUTO)
@pytest.mark.parametrize("method", SAMPLING)
def test_samples_by_tolerance(method, case):
    arguments, message = AUTO[case]
    refused(method, X, {"n_samples": "auto", **arguments}, message)


def test_a_design_that_grows_is_not_to_be_chosen():
    auto = {"n_samples": "auto", "design": "leverage"}
    refused(KernelShap, X, auto, "design: expected None with samples by tolerance, got 'leverage'")


class Refit:
    def fit(self, data):
        raise AssertionError

    def representation(self):
        raise AssertionError


CUSTOM = {
    "similarity_func": lambda *args, **kwargs: 1.0,
    "perturb_func": lambda x, **kwargs: torch.ones(1, 7),
    "interpretable_model": Refit(),
}


@pytest.mark.parametrize("name", CUSTOM)
def test_without_standard_errors_there_is_no_tolerance(name):
    logged = Logged(mlp())
    with pytest.raises(ArgumentError, match="n_samples: expected a number: standard errors"):
        Lime(logged, **{name: CUSTOM[name]}).attribute(X, target=0, n_samples="auto")
    assert logged.tried == 0


def test_kernel_shap_needs_both_ends_of_the_game():
    refused(KernelShap, X, {"n_samples": 1}, "n_samples: expected an integer of at least 2, got 1")


DESIGNS = {
    "name": ({"design": "sobol"}, "design: expected design to be one of .* got 'sobol'"),
    "kind": ({"design": 3}, "design: expected the name of a design, got int"),
    "too few for all": ({"design": "enumeration", "n_samples": 127}, r"design: .* 2\^7 sam"),
}


@pytest.mark.parametrize("name", DESIGNS)
def test_designs(name):
    arguments, message = DESIGNS[name]
    refused(KernelShap, X, arguments, message)


BACKGROUNDS = {
    "width": (X, torch.zeros(4, 6), r"background: .* of shape \(7,\), got shape \(4, 6\)"),
    "dimensions": (X, torch.zeros(4, 7, 1), "background: expected at least one row"),
    "no batch": (X, torch.zeros(7), "background: expected at least one row"),
    "a number": (X, 0.0, "background: expected a torch.Tensor, got float"),
    "list": (X, [X], "background: expected a torch.Tensor, got list"),
    "empty": (X, torch.zeros(0, 7), "background: expected at least one row"),
    "count": (X, (X, X), "background: expected one for each of 1 inputs, got 2"),
    "one for two": ((X, X), X, "background: expected one for each of 2 inputs, got 1"),
    "numbers of rows": ((X, X), (X, X[:2]), r"background\[1\]: expected .* as many for each input"),
    "device": (X, X.to("meta"), "background: expected the input's device"),
}


@pytest.mark.parametrize("name", BACKGROUNDS)
def test_backgrounds(name):
    inputs, background, message = BACKGROUNDS[name]
    refused(KernelShap, inputs, {"background": background}, message)


def test_background_or_baselines():
    arguments = {"background": X, "baselines": 0}
    refused(KernelShap, X, arguments, "background: expected no baselines beside it")


def test_too_many_players_for_all_coalitions():
    x = torch.ones(2, 26)
    refused(ShapleyValues, x, {}, "feature_mask: expected at most 25 groups .* got 26 groups")
    arguments = {"feature_mask": torch.arange(26) * 3}
    refused(ShapleyValues, x, arguments, "feature_mask: expected at most 25 groups")


def test_perm_func():
    with pytest.raises(ArgumentError, match=r"^perm_func: expected a callable or None, got 3"):
        FeaturePermutation(mlp(), 3)
    logged = Logged(mlp())
    with pytest.raises(ArgumentError, match=r"^seed: expected None, as perm_func decides"):
        FeaturePermutation(logged, lambda x, chosen: x.flip(0)).attribute(X, target=0, seed=3)
    assert logged.tried == 0
    for wrong in (
        lambda x: None,
        lambda x: x[:1],
        lambda x: x[:, :2],
        lambda x: [x],
        lambda x: x.T,
    ):
        with pytest.raises(
            ArgumentError, match=r"^perm_func: expected .* tensor of shape \(3, 7\)"
        ):
            FeaturePermutation(mlp(), lambda x, chosen, w=wrong: w(x)).attribute(X, target=0)


@pytest.mark.parametrize("method", METHODS)
def test_forward_func_must_be_callable(method):
    with pytest.raises(
        ArgumentError, match=r"^forward_func: expected a module or callable, .* got 3"
    ):
        method(3)


AFTER_A_CALL = {  # model, target, error, message
    "target 4": (mlp(), 4, IndexError, "target: 4 is out of range for dimension 1"),
    "target -5": (mlp(), -5, IndexError, "target: -5 is out of range"),
    "targets": (mlp(), [0, 9, 1], IndexError, "target: 9 is out of range"),
    "target tensor": (mlp(), torch.tensor([0, 1, -7]), IndexError, "target: -7 is out of range"),
    "long tuple": (mlp(), (1, 2), ArgumentError, "target: expected at most 1 indices .* got 2"),
    "no column": (lambda x: x.sum(1), 0, ArgumentError, "target: expected at most 0 indices"),
    "of the batch": (lambda x: x.sum(), 0, ArgumentError, "target: expected at most 0 indices"),
    "of each row": (
        lambda x: x.sum(0)[None],
        [0, 1, 2],
        ArgumentError,
        "target: expected one for the batch, as forward_func gives one answer for it",
    ),
    "tuple": (
        lambda x: (x.sum(1), x),
        None,
        ArgumentError,
        "forward_func: .* got a tuple with several; choose one",
    ),
    "dict": (lambda x: {"a": x, "b": x}, 0, ArgumentError, "forward_func: .* output='a' or 'b'"),
    "None": (lambda x: None, 0, ArgumentError, "forward_func: .* got a NoneType"),
    "list": (lambda x: x.tolist(), None, ArgumentError, "forward_func: .* got a list"),
    "text": (lambda x: "3", None, ArgumentError, "forward_func: .* got a str"),
}


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", AFTER_A_CALL)
def test_what_only_the_model_can_show(method, name, limit):
    model, target, error, message = AFTER_A_CALL[name]
    with pytest.raises(error, match=f"^{message}"):
        method(model).attribute(
            X, target=target, perturbations_per_eval=limit_for(method, limit), **NEEDED[method]
        )


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("method", METHODS)
def test_targets_of_more_dimensions(method, limit):
    x, arguments = torch.randn(3, 2, 7), dict(NEEDED[method])
    arguments["perturbations_per_eval"] = limit_for(method, limit)
    arguments |= {"sliding_window_shapes": (2, 2)} if method is Occlusion else {}
    with pytest.raises(IndexError, match=r"^target: 7 is out of range for dimension 2"):
        method(Segmenter()).attribute(x, target=(1, 7), **arguments)


@pytest.mark.parametrize("limit", [None, 1])
@pytest.mark.parametrize("method", WITH_MASK)
def test_one_answer_for_the_batch_and_a_mask_for_each_row(method, limit):
    masks = torch.arange(21).view(3, 7) % 4
    message = r"^feature_mask: expected one row for all examples, as forward_func gives one answer"
    for form in (lambda y: y, lambda y: y[None], float):
        logged = Logged(lambda x, f=form: f(x.sum()))
        with pytest.raises(ArgumentError, match=message):
            method(logged).attribute(
                X,
                feature_mask=masks,
                perturbations_per_eval=limit_for(method, limit),
                **NEEDED[method],
            )
        assert len(logged.rows) <= 2  # no perturbation
    inputs = (torch.randn(3, 4), torch.randn(3, 2, 3))
    masks = (torch.arange(4), torch.arange(3).view(3, 1, 1))
    with pytest.raises(ArgumentError, match=message):
        method(lambda a, b: TwoInputs()(a, b).mean()).attribute(
            inputs, feature_mask=masks, **NEEDED[method]
        )


class Changing:
    """Answers in another form from its second call on."""

    def __init__(self, first, later):
        self.first, self.later, self.calls = first, later, 0

    def __call__(self, x):
        self.calls += 1
        return self.first(x) if self.calls == 1 else self.later(x)


@pytest.mark.parametrize("limit", [None, 1, 2])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("first", "later"),
    [
        (lambda x: x[:, :4], lambda x: x[:, :3]),
        (lambda x: x[:, :4], lambda x: x.sum(1)),
        (lambda x: x.sum(1), lambda x: x[:, None].sum(2)),
        (lambda x: x[:, :4], lambda x: x[:-1, :4]),
        (lambda x: x.sum(1), lambda x: x.sum()),
        (lambda x: x.sum(1), lambda x: x.sum(1)[:2]),
    ],
)
def test_outputs_of_another_shape_in_another_call(method, first, later, limit):
    with pytest.raises(ArgumentError, match=r"^forward_func: expected .*, got (shape )?\("):
        method(Changing(first, later)).attribute(
            X, perturbations_per_eval=limit_for(method, limit), **NEEDED[method]
        )


@pytest.mark.parametrize("limit", [None, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_outputs_for_the_batch_of_another_shape_in_another_call(method, limit):
    changing = Changing(lambda x: x.sum(0)[:4], lambda x: x.sum(0)[: 5 + changing.calls % 2])
    with pytest.raises(ArgumentError, match=r"^forward_func: expected outputs of one shape"):
        method(changing).attribute(
            X, perturbations_per_eval=limit_for(method, limit), **NEEDED[method]
        )


@pytest.mark.parametrize("limit", [None, 1, 2])
@pytest.mark.parametrize("method", METHODS)
def test_outputs_that_are_nan_are_told_with_their_row(method, limit):
    x = torch.rand(3, 7) + 1
    arguments = {"perturbations_per_eval": limit, **NEEDED[method]}
    x[2] = -1

    def at_inputs(x):
        return x[:, :2].log()

    with pytest.raises(ArgumentError, match=r"^forward_func: expected numbers, got NaN for row 2"):
        method(at_inputs).attribute(x, **arguments)
    with pytest.raises(ArgumentError, match=r"^forward_func: expected numbers, got NaN for row 2"):
        method(at_inputs).attribute(x, target=1, **arguments)

    x[2] = 0
    x[1, 3] = 0.5
    x[1, :2] = 1.5  # rows that the others never become
    own = x[1]

    def when_perturbed(x):
        a_feature_gone = (x[:, 2:] != own[2:]).any(1) & (x[:, 0] == 1.5)
        return torch.where(a_feature_gone, float("nan"), x.sum(1))

    if method is not FeaturePermutation:  # which mixes the rows
        message = r"^forward_func: expected numbers, got NaN for row 1 of"
        with pytest.raises(ArgumentError, match=message):
            method(when_perturbed).attribute(x, **arguments)


@pytest.mark.parametrize("method", [FeatureAblation, Occlusion, FeaturePermutation])
def test_infinite_outputs_are_no_error(method):
    x = torch.tensor([[2.0] * 7, [-1.0] * 7, [0.5] * 7])

    def model(x):
        endless = (x[:, 0] > 1) | (x[:, 0] < 0)
        return torch.where(endless, x[:, 0].sign() * float("inf"), x.sum(1))

    mask = {"feature_mask": torch.arange(7).clamp(max=1)} if method in WITH_MASK else {}
    found = method(model).attribute(x, perturbations_per_eval=1, **mask, **NEEDED[method])
    assert found.shape == (3, 7) and not found.isfinite().all()


def test_a_nan_input_is_named_by_its_output():
    x = X.clone()
    x[1, 2] = float("nan")
    with pytest.raises(ArgumentError, match=r"^forward_func: expected numbers, got NaN for row 1"):
        FeatureAblation(mlp()).attribute(x, target=0)


@pytest.mark.parametrize("method", METHODS)
def test_errors_of_the_model_are_its_own(method):
    def failing(x):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match=r"^mat1 and mat2 shapes cannot be multiplied"):
        method(failing).attribute(X, **NEEDED[method])
