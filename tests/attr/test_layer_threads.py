"""Many threads on one model and the same explainers: the same bits as in one thread."""

import threading

import pytest
import torch
from torch import nn

from fastxai import (
    DeepLift,
    GuidedBackprop,
    GuidedGradCam,
    IntegratedGradients,
    KernelShap,
    LayerActivation,
    LayerGradCam,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)

from ..models import ResidualCNN, TextModel


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def left(model):
    """All that is on the model, to be compared."""
    return [
        (dict(m.__dict__), [dict(h) for h in (m._forward_hooks, m._forward_pre_hooks)])
        for m in model.modules()
    ]


def questions_to_a_cnn():
    model = ResidualCNN()
    layer_ig = LayerIntegratedGradients(model, model.body)
    to_input = LayerIntegratedGradients(model, [model.norm, model.body])
    cam, activation = LayerGradCam(model, model.body), LayerActivation(model, model.norm)
    product = LayerGradientXActivation(model, [model.stem, model.body])
    ig, shap = IntegratedGradients(model), KernelShap(model)
    lift, guided = DeepLift(model), GuidedBackprop(model)
    guided_cam = GuidedGradCam(model, model.body)
    mask = (torch.arange(60) // 10).reshape(1, 2, 6, 5)
    return model, torch.randn(8, 2, 2, 6, 5), [
        lambda x: layer_ig.attribute(x, 0.1, 1, n_steps=6),
        lambda x: to_input.attribute(x, target=2, n_steps=3, attribute_to_layer_input=True)[1],
        lambda x: cam.attribute(x, 3),
        lambda x: activation.attribute(x),
        lambda x: product.attribute(x, 1)[0],
        lambda x: ig.attribute(x, target=1, n_steps=6),
        lambda x: lift.attribute(x, target=1),
        lambda x: guided.attribute(x, 1),
        lambda x: guided_cam.attribute(x, 1),
        lambda x: shap.attribute(x, target=1, feature_mask=mask, n_samples=20, seed=3),
    ]  # fmt: skip


def questions_to_a_text_model():
    model = TextModel()
    inner = model.encoder.layers[1].linear1
    layer_ig = LayerIntegratedGradients(model, model.embedding)
    deep = LayerIntegratedGradients(model, inner)
    activation, shap = LayerActivation(model, inner), KernelShap(model)
    return model, torch.randint(1, 50, (8, 2, 5)), [
        lambda ids: layer_ig.attribute(ids, 0, 1, n_steps=5),
        lambda ids: deep.attribute(ids, 0, 1, n_steps=5),
        lambda ids: activation.attribute(ids),
        lambda ids: shap.attribute(ids, 0, target=1, n_samples=20, seed=3),
    ]  # fmt: skip


@pytest.mark.parametrize("questions", [questions_to_a_cnn, questions_to_a_text_model])
def test_the_same_bits_as_in_one_thread(one_thread, questions):
    model, inputs, ask = questions()
    before = left(model)
    expected = [[question(x) for question in ask] for x in inputs]
    wrong, errors = [], []

    def work(i):
        try:
            for n in range(50):
                k = (n + i) % len(ask)
                if not torch.equal(ask[k](inputs[i]), expected[i][k]):
                    wrong.append((i, k))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (wrong, errors) == ([], [])
    assert left(model) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_errors_in_the_middle_leave_nothing_and_disturb_no_one(one_thread, error):
    """Half of the threads ask a model that fails after its layers were called."""

    class Fails(nn.Module):
        def forward(self, x):
            if getattr(fail, "now", False):
                raise error("here")
            return x

    fail = threading.local()
    model = nn.Sequential(ResidualCNN(), Fails())
    stem, body, x = model[0].stem, model[0].body, torch.randn(2, 2, 6, 5)
    methods = [
        LayerIntegratedGradients(model, [stem, body], affine_prefix=False),
        LayerGradCam(model, body),
        LayerActivation(model, stem),
    ]
    # The stem feeds the body, but not alone: both are explained.
    ask = [
        lambda: methods[0].attribute(x, target=1, n_steps=3)[1],
        lambda: methods[1].attribute(x, 1),
        lambda: methods[2].attribute(x),
    ]
    before, expected = left(model), [question() for question in ask]
    wrong = []

    def work(failing):
        fail.now = failing
        for n in range(20):
            try:
                fine = torch.equal(ask[n % 3](), expected[n % 3]) and not failing
            except error:
                fine = failing
            if not fine:
                wrong.append(failing)

    threads = [threading.Thread(target=work, args=(i % 2 == 1,)) for i in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    assert left(model) == before
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert not any(m.training for m in model[0].modules())
