"""What one explanation does beside its model, counted: operations of torch and calls of Python.

Where a model is small this is what an explanation costs, and a benchmark on a busy machine would
not see it grow. The numbers may only fall: whoever saves some enters what is left.
"""

import sys

import pytest
import torch
from torch import nn

import fastxai
from fastxai.core.footprint import Footprint
from fastxai.ops import native, reference

pytestmark = pytest.mark.skipif(
    native.backend() is reference, reason="the counts are those of the compiled library"
)

torch.manual_seed(0)
ROWS, IMAGES, SERIES = torch.randn(4, 12), torch.randn(4, 3, 8, 8), torch.randn(4, 5, 3)
IDS, TARGET = torch.randint(1, 20, (4, 6)), torch.tensor([0, 2, 1, 2])


def tabular(activation):
    layers = nn.Linear(12, 16), activation(), nn.Linear(16, 8), activation(), nn.Linear(8, 3)
    return nn.Sequential(*layers)


def convolutional():
    layers = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 3)
    return nn.Sequential(*layers)


def words():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    return nn.Sequential(nn.Embedding(20, 8), layer, nn.Flatten(), nn.Linear(48, 3))


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.lstm, self.head = nn.LSTM(3, 8, batch_first=True), nn.Linear(8, 3)

    def forward(self, x):
        return self.head(self.lstm(x)[0][:, -1])


SELU, RELU, IMAGE, TEXT, LSTM = (
    model.eval().requires_grad_(False)
    for model in (tabular(nn.SELU), tabular(nn.ReLU), convolutional(), words(), Recurrent())
)
TIMES = torch.arange(5)[None, :, None]
FEW = {"nt_samples": 3, "seed": 0}
# The explainer, its model, inputs and arguments; then what may be beside one pass of the model,
# forward and for methods of gradients backward: operations of torch, and functions of fastxai.
TABLE = {
    "Saliency": (fastxai.Saliency(RELU), RELU, ROWS, {}, 19, 62),
    "InputXGradient": (fastxai.InputXGradient(RELU), RELU, ROWS, {}, 19, 62),
    "GuidedBackprop": (fastxai.GuidedBackprop(RELU), RELU, ROWS, {}, 18, 86),
    "Deconvolution": (fastxai.Deconvolution(RELU), RELU, ROWS, {}, 14, 86),
    "DeepLift, ReLU": (fastxai.DeepLift(RELU), RELU, ROWS, {}, 47, 180),
    "DeepLift, SELU": (fastxai.DeepLift(SELU), SELU, ROWS, {}, 57, 186),
    "DeepLift, attention": (fastxai.DeepLift(TEXT[1:]), TEXT[1:], TEXT[0](IDS), {}, 281, 605),
    "DeepLiftShap": (fastxai.DeepLiftShap(SELU), SELU, ROWS, {"baselines": ROWS[:2] / 2}, 91, 212),
    "IntegratedGradients": (fastxai.IntegratedGradients(SELU), SELU, ROWS, {}, 24, 104),
    "NoiseTunnel": (fastxai.NoiseTunnel(fastxai.Saliency(SELU)), SELU, ROWS, FEW, 31, 125),
    "LayerActivation": (fastxai.LayerActivation(SELU, SELU[2]), SELU, ROWS, None, 10, 106),
    "LayerGradientXActivation": (
        fastxai.LayerGradientXActivation(SELU, SELU[2]), SELU, ROWS, {}, 15, 107,
    ),
    "LayerDeepLift": (fastxai.LayerDeepLift(SELU, SELU[2]), SELU, ROWS, {}, 80, 371),
    "LayerDeepLiftShap": (
        fastxai.LayerDeepLiftShap(SELU, SELU[2]), SELU, ROWS, {"baselines": ROWS[:2] / 2}, 109, 393,
    ),
    "LayerGradientShap": (
        fastxai.LayerGradientShap(SELU, SELU[2]), SELU, ROWS,
        {"baselines": ROWS[:2] / 2, "seed": 0}, 94, 321,
    ),
    "LayerGradCam": (fastxai.LayerGradCam(IMAGE, IMAGE[0]), IMAGE, IMAGES, {}, 21, 114),
    "GuidedGradCam": (fastxai.GuidedGradCam(IMAGE, IMAGE[0]), IMAGE, IMAGES, {}, 50, 188),
    "LayerIntegratedGradients": (
        fastxai.LayerIntegratedGradients(TEXT, TEXT[0]), TEXT, IDS, {"n_steps": 5}, 237, 388,
    ),
    "KernelShap": (
        fastxai.KernelShap(SELU), SELU, ROWS, {"n_samples": 80, "seed": 0}, 108, 240,
    ),
    "FeatureAblation": (
        fastxai.FeatureAblation(LSTM), LSTM, SERIES, {"feature_mask": TIMES}, 126, 234,
    ),
}  # fmt: skip


class Operations(Footprint):  # which nobody takes for a tracer
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += 1
        return func(*args, **(kwargs or {}))


def operations(call):
    """How many operations of torch there are in the call."""
    with Operations([]) as counted:
        call()
    return counted.count


def functions(call):
    """How many calls of functions of fastxai there are in the call."""
    count, ours = 0, fastxai.__path__[0]

    def see(frame, event, _):
        nonlocal count
        name, file = frame.f_code.co_name, frame.f_code.co_filename
        # Comprehensions are functions in some versions of Python and not in others.
        count += event == "call" and file.startswith(ours) and not name.endswith("comp>")

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        call()
    finally:
        sys.setprofile(before)
    return count


def one_pass(model, inputs, backward):
    if not (backward and inputs.is_floating_point()):
        with torch.no_grad():
            model(inputs)
        return
    leaf = inputs.clone().requires_grad_()
    y = model(leaf)
    torch.autograd.grad(y, leaf, torch.ones_like(y))


@pytest.mark.parametrize("name", TABLE)
def test_an_explanation_does_little_beside_its_model(name):
    explainer, model, inputs, arguments, most_operations, most_functions = TABLE[name]
    asked = {} if arguments is None else {"target": TARGET, **arguments}

    def explain():
        explainer.attribute(inputs, **asked)

    explain()  # what is looked up once is there
    backward = not isinstance(explainer, fastxai.KernelShap | fastxai.FeatureAblation)
    backward = backward and arguments is not None
    own = operations(lambda: one_pass(model, inputs, backward))
    beside = operations(explain) - own
    assert beside <= most_operations, f"{beside} operations of torch beside the model's {own}"
    called = functions(explain)
    assert called <= most_functions, f"{called} functions of fastxai"
