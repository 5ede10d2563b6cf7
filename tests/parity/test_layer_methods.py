"""Captum 0.9.0 beside fastxai: methods of layers."""

import captum.attr
import pytest
import torch
from torch import nn

import fastxai

from ..models import ResidualCNN, TextModel, TwoInputs, mlp
from .test_gradient_methods import F32, assert_same

torch.manual_seed(11)
IDS = torch.randint(1, 50, (3, 6))
INPUTS = (torch.randn(3, 4), torch.randn(3, 2, 3))


class Deep(nn.Module):
    """Convolutions without in-place operations, upon which Captum's integrated gradients fail."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(7)
        self.stem, self.body = nn.Conv2d(2, 6, 3, padding=1), nn.Conv2d(6, 4, 3)
        self.split, self.head = self.Split(), nn.Linear(2, 3)
        self.eval()

    class Split(nn.Module):
        def forward(self, x):
            return x[:, :2], x[:, 2:].exp()

    def forward(self, x, scale=None):
        left, right = self.split(torch.relu(self.body(torch.relu(self.stem(x)))))
        y = (left * right).mean((2, 3))
        return self.head(y if scale is None else y * scale)


MLP, CNN, TEXT, TWO, DEEP = mlp(), ResidualCNN(), TextModel(), TwoInputs(), Deep()
IMAGES = torch.randn(3, 2, 6, 5)

# forward_func, layer, inputs, arguments that every method takes
CASES = {
    "mlp": (MLP, MLP[0], torch.randn(3, 7), {"target": 2}),
    "mlp, ReLU": (MLP, MLP[1], torch.randn(3, 7), {"target": [0, 3, 1]}),
    "mlp, last": (MLP, MLP[4], torch.randn(3, 7), {"target": torch.tensor([0, 3, 1])}),
    "mlp, whole": (MLP, MLP, torch.randn(3, 7), {"target": 2}),
    "mlp, list of one": (MLP, [MLP[2]], torch.randn(3, 7), {"target": (2,)}),
    "function": (lambda x: MLP(x).exp(), MLP[2], torch.randn(3, 7), {"target": 2}),
    "one row": (MLP, MLP[2], torch.randn(1, 7), {"target": [3]}),
    "cnn": (DEEP, DEEP.stem, IMAGES, {"target": 1}),
    "cnn, tuple": (DEEP, DEEP.split, IMAGES, {"target": 1}),
    "cnn, extra tensor": (
        DEEP,
        DEEP.body,
        IMAGES,
        {"target": 1, "additional_forward_args": torch.rand(3, 2)},
    ),
    "residual cnn": (CNN, CNN.body, IMAGES, {"target": 4}),
    "residual cnn, head": (CNN, CNN.head, IMAGES, {"target": 4}),
    "words": (TEXT, TEXT.embedding, IDS, {"target": 1}),
    "words, layer": (TEXT, TEXT.encoder.layers[0], IDS, {"target": 1}),
    "words, inside a layer": (TEXT, TEXT.encoder.layers[1].linear1, IDS, {"target": 1}),
    "two inputs": (TWO, TWO.left, INPUTS, {"target": 2}),
    "two inputs, list": (TWO, [TWO.right, TWO.left], INPUTS, {"target": 2}),
    "two inputs, extra arguments": (
        TWO,
        [TWO.left, TWO.right],
        INPUTS,
        {"target": [0, 1, 2], "additional_forward_args": (torch.rand(3, 6), 2.5)},
    ),
    "two inputs, None": (
        TWO,
        TWO.head,
        INPUTS,
        {"target": 1, "additional_forward_args": (None, 0.5)},
    ),
}


@pytest.fixture(params=CASES, ids=lambda name: name.replace(" ", "-").replace(",", ""))
def case(request):
    return CASES[request.param]


def both(name, function, layer, *args, **kwargs):
    """A method's results in both libraries, without graphs."""
    detached = []
    for library in (fastxai, captum.attr):
        method = getattr(library, name)(function, layer, **kwargs.get("made_with", {}))
        asked = {k: v for k, v in kwargs.items() if k != "made_with"}
        found = method.attribute(*args, **asked)
        detached.append(torch.utils._pytree.tree_map(torch.Tensor.detach, found))
    return detached


def takes_numbers(layer, to_input):
    """Whether what the layer takes can be differentiated."""
    return not (to_input and layer is TEXT.embedding)


@pytest.mark.parametrize("to_input", [False, True])
def test_layer_activation(case, to_input):
    function, layer, inputs, arguments = case
    extra = arguments.get("additional_forward_args")
    ours, theirs = both(
        "LayerActivation", function, layer, inputs, extra, attribute_to_layer_input=to_input
    )
    assert_same(ours, theirs, **F32)


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("multiply", [False, True])
def test_layer_gradient_x_activation(case, to_input, multiply):
    function, layer, inputs, arguments = case
    if takes_numbers(layer, to_input):
        ours, theirs = both(
            "LayerGradientXActivation",
            function,
            layer,
            inputs,
            **arguments,
            attribute_to_layer_input=to_input,
            made_with={"multiply_by_inputs": multiply, "memory_efficient": multiply},
        )
        assert_same(ours, theirs, **F32)


@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("add_up", [False, True])
def test_layer_grad_cam(case, to_input, relu, add_up):
    function, layer, inputs, arguments = case
    if takes_numbers(layer, to_input) and not isinstance(layer, list):
        ours, theirs = both(
            "LayerGradCam",
            function,
            layer,
            inputs,
            **arguments,
            attribute_to_layer_input=to_input,
            relu_attributions=relu,
            attr_dim_summation=add_up,
        )
        assert_same(ours, theirs, **F32)


@pytest.mark.filterwarnings("ignore:Multiple layers provided")
@pytest.mark.parametrize("to_input", [False, True])
@pytest.mark.parametrize("multiply", [False, True])
def test_layer_integrated_gradients(case, to_input, multiply):
    function, layer, inputs, arguments = case
    if takes_numbers(layer, to_input):
        ours, theirs = both(
            "LayerIntegratedGradients",
            function,
            layer,
            inputs,
            **arguments,
            n_steps=7,
            return_convergence_delta=True,
            attribute_to_layer_input=to_input,
            made_with={"multiply_by_inputs": multiply},
        )
        assert_same(ours, theirs, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("method", fastxai.core.estimate.quadrature.METHODS)
@pytest.mark.parametrize("limit", [None, 3, 7, 1000])
def test_integration_arguments(method, limit):
    ours, theirs = both(
        "LayerIntegratedGradients",
        TEXT,
        TEXT.embedding,
        IDS,
        target=1,
        n_steps=6,
        method=method,
        internal_batch_size=limit,
    )
    assert_same(ours, theirs, **F32)


@pytest.mark.filterwarnings("ignore:Multiple layers provided")
@pytest.mark.parametrize(
    "baselines",
    [None, (0, 0.25), (torch.randn(3, 4), 1), (torch.randn(1, 4), torch.randn(3, 2, 3))],
    ids=["none", "numbers", "tensor and number", "one row and all"],
)
def test_baselines_are_those_of_the_inputs(baselines):
    ours, theirs = both(
        "LayerIntegratedGradients",
        TWO,
        [TWO.left, TWO.right],
        INPUTS,
        baselines,
        target=1,
        return_convergence_delta=True,
    )
    assert_same(ours, theirs, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("baselines", [7, torch.full((1, 6), 7), torch.randint(50, (3, 6))])
def test_baselines_of_words(baselines):
    ours, theirs = both("LayerIntegratedGradients", TEXT, TEXT.embedding, IDS, baselines, target=1)
    assert_same(ours, theirs, **F32)


def test_positional_arguments_stand_in_captums_order():
    ours, theirs = both(
        "LayerIntegratedGradients",
        TWO,
        TWO.left,
        INPUTS,
        (0.1, 0.2),
        1,
        (torch.rand(3, 6), 2.0),
        12,
        "riemann_left",
        9,
        True,
        True,
        None,
    )
    assert_same(ours, theirs, rtol=1e-4, atol=2e-6)
    ours, theirs = both("LayerGradientXActivation", TWO, TWO.left, INPUTS, 1, None, True, None)
    assert_same(ours, theirs, **F32)
    ours, theirs = both("LayerGradCam", CNN, CNN.body, IMAGES, 1, None, True, True, False, None)
    assert_same(ours, theirs, **F32)


class WithReLUModules(nn.Module):
    """Images and a line beside them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(8)
        self.first, self.relu = nn.Conv2d(2, 6, 3, padding=1), nn.ReLU()
        self.second, self.last = nn.Conv2d(6, 4, 3, 2), nn.ReLU()
        self.head = nn.Linear(4, 3)
        self.eval()

    def forward(self, x, line=None, scale=1.0):
        y = self.last(self.second(self.relu(self.first(x)))).mean((2, 3))
        return self.head(y if line is None else y * line.mean(2)) * scale


GUIDED = WithReLUModules()


@pytest.mark.filterwarnings("ignore:Setting backward hooks", "ignore:Input Tensor")
@pytest.mark.filterwarnings("ignore:Couldn't appropriately", "ignore:.*non-full backward hook")
@pytest.mark.parametrize("mode", ["nearest", "bilinear"])
@pytest.mark.parametrize("to_input", [False, True])
def test_guided_grad_cam(mode, to_input):
    for layer in (GUIDED.second, GUIDED.first):
        arguments = {"interpolate_mode": mode, "attribute_to_layer_input": to_input}
        ours, theirs = both(
            "GuidedGradCam", GUIDED, layer, IMAGES, [0, 2, 1], (None, 2.0), **arguments
        )
        assert_same(ours, theirs, **F32)
        pair = (IMAGES, torch.rand(3, 4, 5))
        ours, theirs = both("GuidedGradCam", GUIDED, layer, pair, 1, **arguments)
        assert ours[1].shape == (0,)  # a line is no image
        assert_same(ours, theirs, **F32)


def test_hooks_of_the_layer_count():
    model = mlp()
    model[2].register_forward_hook(lambda module, args, output: output * 3)
    model[2].register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    for to_input in (False, True):
        for name, arguments in [
            ("LayerActivation", {}),
            ("LayerGradientXActivation", {"target": 1}),
            ("LayerIntegratedGradients", {"target": 1}),
        ]:
            ours, theirs = both(
                name, model, model[2], torch.ones(2, 7), **arguments,
                attribute_to_layer_input=to_input,
            )  # fmt: skip
            assert_same(ours, theirs, **F32)


@pytest.mark.parametrize("mode", ["nearest", "area", "bilinear", "bicubic"])
def test_interpolate(mode):
    x = torch.randn(2, 1, 3, 4)
    for dims in ((6, 5), 7):
        ours = fastxai.LayerAttribution.interpolate(x, dims, mode)
        assert_same(ours, captum.attr.LayerAttribution.interpolate(x, dims, mode))


def test_token_reference():
    arguments = {"sequence_length": 5, "device": torch.device("cpu")}
    ours = fastxai.TokenReferenceBase(reference_token_idx=3).generate_reference(**arguments)
    theirs = captum.attr.TokenReferenceBase(reference_token_idx=3).generate_reference(**arguments)
    assert_same(ours, theirs, rtol=0, atol=0)


@pytest.mark.parametrize(
    "name",
    [
        "GuidedGradCam",
        "LayerActivation",
        "LayerGradientXActivation",
        "LayerGradCam",
        "LayerIntegratedGradients",
    ],
)
def test_what_captum_code_asks_of_a_method(name):
    made = [getattr(library, name)(MLP, MLP[0]) for library in (fastxai.attr, captum.attr)]
    ours, theirs = made
    assert ours.get_name() == theirs.get_name()
    assert ours.has_convergence_delta() == theirs.has_convergence_delta()
    if name == "GuidedGradCam":
        ours, theirs = ours.grad_cam, theirs.grad_cam
    assert ours.layer is theirs.layer and ours.device_ids == theirs.device_ids
    assert isinstance(ours, fastxai.LayerAttribution)
    if "GradCam" not in name:  # Captum's raises an error
        assert ours.multiplies_by_inputs == theirs.multiplies_by_inputs
    with pytest.raises(NotImplementedError):
        ours.attribute_future()
