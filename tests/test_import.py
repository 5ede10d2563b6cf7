"""``import fastxai`` is light, and what is loaded later looks as if it were there."""

import subprocess
import sys

import pytest

import fastxai

# Unless torch itself imports them when it is imported.
HEAVY = [
    "captum",
    "lime",
    "matplotlib",
    "networkx",
    "pandas",
    "safetensors",
    "scipy",
    "shap",
    "sklearn",
    "sympy",
    "torch._dynamo",
    "torch._functorch",
    "torch._inductor",
    "torch.export",
    "torch.fx.experimental.proxy_tensor",
    "torch.onnx",
    "torch.utils.cpp_extension",
    "torch.utils.tensorboard",
    "torchvision",
    "tqdm",
    "transformers",
]

EXPLAIN = """
model, x = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU()).eval(), torch.rand(2, 3)
torch.autograd.grad(model(x.requires_grad_()).sum(), x, torch.ones(()))  # imports sympy
before |= sys.modules.keys()
fastxai.IntegratedGradients(model).attribute(x, target=1)
fastxai.DeepLift(model).attribute(x, target=1)
fastxai.KernelShap(model).explain(x, target=1, n_samples=6)
fastxai.Lime(model).attribute(x, target=1, n_samples=6)
fastxai.FeatureAblation(model).attribute(x, target=1)
own = lambda rows: torch.nn.functional.gelu(rows @ torch.ones(3, 4)).cumsum(1)
fastxai.KernelShap(own).explain(x, target=1, n_samples=6)
fastxai.IntegratedGradients(own).explain(x, target=1)
fastxai.KernelShap(lambda rows: rows.sum(1)).explain(numpy.ones((2, 3)), n_samples=6)
"""


def told(code):
    """What another process prints."""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("then", ["", EXPLAIN], ids=["importing", "explaining"])
def test_no_heavy_module_is_imported(then):
    code = f"""
import sys, numpy, torch
before = set(sys.modules)
import fastxai, fastxai.attr, fastxai.metrics, fastxai.ops
{then}
print(sorted(set({HEAVY}) & (sys.modules.keys() - before)))
"""
    assert told(code) == "[]\n"


def test_everything_public_is_listed_and_there():
    assert set(fastxai.__all__) <= set(dir(fastxai))
    assert all(getattr(fastxai, name) is not None for name in fastxai.__all__)
    with pytest.raises(AttributeError, match="module 'fastxai' has no attribute 'exports'"):
        _ = fastxai.exports
    assert not hasattr(fastxai, "exports")
