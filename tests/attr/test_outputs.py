"""Models that return more than one tensor, or something else."""

import collections
import dataclasses

import pytest
import torch
from torch import nn

import fastxai
from fastxai import DeepLift, FeatureAblation, IntegratedGradients, KernelShap, Saliency
from fastxai.attr import GuidedBackprop
from fastxai.core.checks import ArgumentError

from .test_conversion import X, classifier, net


@dataclasses.dataclass
class Found:
    logits: torch.Tensor
    hidden: torch.Tensor


Named = collections.namedtuple("Named", "first second")


class Returning(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.inner, self.form = net(), form

    def forward(self, x):
        return self.form(self.inner(x))


ONE = {
    "logits": lambda y: Found(y, y * 2),
    "dict with logits": lambda y: {"loss": y * 3, "logits": y},
    "one tensor in a dict": lambda y: {"scores": y, "count": 3},
    "a tuple of one": lambda y: (y,),
    "a tuple with None": lambda y: (y, None),
}
SEVERAL = {
    "a tuple": (lambda y: (y * 2, y), 1),
    "from the end": (lambda y: (y * 2, y), -1),
    "a dict": (lambda y: {"a": y * 2, "b": y}, "b"),
    "a dataclass": (lambda y: Found(y * 2, y), "hidden"),
    "a named tuple": (lambda y: Named(y * 2, y), "second"),
    "a place in a dict": (lambda y: {"a": y * 2, "b": y}, 1),
}
METHODS = (IntegratedGradients, DeepLift, KernelShap, FeatureAblation, GuidedBackprop)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", ONE)
def test_outputs_with_one_tensor(method, form):
    x = torch.from_numpy(X).float()
    expected = method(net()).attribute(x, target=1)
    torch.testing.assert_close(method(Returning(ONE[form])).attribute(x, target=1), expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("form", SEVERAL)
def test_outputs_of_several_tensors(method, form):
    make, output = SEVERAL[form]
    model, x = Returning(make), torch.from_numpy(X).float()
    expected = method(net()).attribute(x, target=1)
    torch.testing.assert_close(method(model, output=output).attribute(x, target=1), expected)
    function = method(lambda x: model(x), output=output)
    torch.testing.assert_close(function.attribute(x, target=1), expected)


def test_packages_of_models_with_several_outputs(tmp_path):
    x = torch.from_numpy(X).float()
    expected = IntegratedGradients(net()).attribute(x, target=1)
    for i, explainer in enumerate(
        [
            IntegratedGradients(Returning(lambda y: Found(y, y * 2)).eval()),
            IntegratedGradients(Returning(lambda y: (y * 2, y)).eval(), output=1),
        ]
    ):
        path = tmp_path / f"{i}.pt2"
        fastxai.export(explainer, x, path, format="torch", target=1)
        _, found, *_ = fastxai.load(path)(x)
        torch.testing.assert_close(found, expected)


def test_refused_outputs():
    x = torch.from_numpy(X).float()
    several = Returning(lambda y: {"a": y, "b": y})
    with pytest.raises(ArgumentError, match="output='a' or 'b'"):
        KernelShap(several).attribute(x, target=0)
    for output in ("c", 2, -3):
        with pytest.raises(ArgumentError, match=r"output: .*'a', 'b'"):
            Saliency(several, output=output).attribute(x, target=0)
    for output in (1.5, True, ("a",)):
        with pytest.raises(ArgumentError, match="output"):
            Saliency(several, output=output)
    with pytest.raises(ArgumentError, match="labels"):
        KernelShap(classifier().predict).attribute(X)
    for found in ([1.0, 2.0, 3.0], None, "text", {}):
        with pytest.raises(ArgumentError, match="forward_func"):
            FeatureAblation(lambda z, found=found: found).attribute(X)
    with pytest.raises(ArgumentError, match=r"forward_func.*estimator"):
        KernelShap(3)
    with pytest.raises(ArgumentError, match=r"target: expected outputs \[B, C\]"):
        KernelShap(lambda z: z.sum(1)).attribute(x, target="argmax")
