"""Shared explainers and packages under load: in 8 threads as alone, and memory that stays flat."""

import gc
import os
import random
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from torch.utils._pytree import tree_leaves

import fastxai
from fastxai import attr
from fastxai.core.engine import shortcut as prefix

from .models import EmbeddingModel, ResidualCNN, TextModel, mlp

pytestmark = pytest.mark.filterwarnings("ignore:max_samples")

THREADS = 8
AUTO = {"n_samples": "auto", "tolerance": 0.2, "max_samples": 120, "seed": 0}


@pytest.fixture(scope="module")
def packages(tmp_path_factory, native_package):
    """A folder with a program of torch's and one of native code."""
    folder, x, target = tmp_path_factory.mktemp("packages"), torch.zeros(2, 7), torch.tensor([0, 1])
    shap, background = attr.GradientShap(mlp()), torch.randn(3, 7)
    fastxai.export(
        shap, x, folder / "program.pt2", format="torch", target=target, baselines=background
    )
    shutil.copy(native_package, folder / "native.pt2")
    return folder


class Shared:
    """Explainers and packages. A call's number decides all about it."""

    def __init__(self, packages):
        torch.manual_seed(0)
        flat, image, text, ids = self.models = mlp(), ResidualCNN(), EmbeddingModel(), TextModel()
        # How to make some of its rows, and how many classes it knows.
        kinds = {
            flat: (lambda n: torch.randn(n, 7), 4),
            image: (lambda n: torch.randn(n, 2, 6, 5), 5),
            text: (lambda n: torch.randn(n, 5, 8), 3),
            ids: (lambda n: torch.randint(1, 50, (n, 5)), 3),
        }
        squares = (torch.arange(60) // 10).view(1, 2, 6, 5)
        background = torch.randn(3, 7)
        layer_ig = attr.LayerIntegratedGradients
        activation = attr.LayerActivation(text, text.norm)
        program, native = (fastxai.load(packages / f"{name}.pt2") for name in ("program", "native"))
        asked = [
            (flat, attr.IntegratedGradients(flat).explain, {"n_steps": 6}),
            (image, attr.IntegratedGradients(image).attribute, {"n_steps": 3}),
            (image, attr.Saliency(image).attribute, {}),
            (flat, attr.DeepLift(flat).explain, {}),
            (image, attr.DeepLift(image).attribute, {}),
            (text, attr.DeepLift(text).attribute, {}),
            (flat, attr.DeepLiftShap(flat).attribute, {"baselines": background}),
            (flat, attr.GradientShap(flat).attribute, {"baselines": background, "seed": 0}),
            (image, attr.NoiseTunnel(attr.Saliency(image)).attribute, {"seed": 0}),
            (image, attr.GuidedBackprop(image).attribute, {}),
            (image, attr.GuidedGradCam(image, image.body).attribute, {}),
            (image, attr.LayerGradCam(image, image.body).attribute, {}),
            (image, attr.LayerGradientXActivation(image, [image.stem, image.body]).attribute, {}),
            (image, layer_ig(image, [image.norm, image.body]).attribute, {"n_steps": 3}),
            (ids, layer_ig(ids, ids.embedding).attribute, {"n_steps": 3, "baselines": 0}),
            (text, lambda x, target: activation.attribute(x), {}),
            (image, attr.FeatureAblation(image).attribute, {"feature_mask": squares}),
            (image, attr.Occlusion(image).attribute, {"sliding_window_shapes": (2, 3, 5)}),
            (flat, attr.KernelShap(flat).explain, {"n_samples": 20, "seed": 0}),
            (ids, attr.KernelShap(ids).attribute, {"n_samples": 16, "seed": 0}),
            (flat, attr.Lime(flat).explain, {"n_samples": 20, "seed": 0}),
            (flat, attr.ShapleyValueSampling(flat).attribute, {"n_samples": 3, "seed": 0}),
            (flat, attr.KernelShap(flat).explain, AUTO),
            (flat, attr.Lime(flat, attr.Ridge()).attribute, AUTO),
            (flat, program, {"seed": 0}),
            (flat, lambda x, target: native(x), {}),
        ]
        self.questions = [(*kinds[model], ask, arguments) for model, ask, arguments in asked]

    def inputs(self, number):
        """What call ``number`` is about: which question, rows, a target for each, a seed."""
        chance = random.Random(number)
        torch.manual_seed(number)
        rows, classes, _, _ = self.questions[which := number % len(self.questions)]
        x = rows(chance.randint(1, 3))
        return which, x, torch.randint(classes, (len(x),)), chance.randint(0, 9)

    def answer(self, which, x, target, seed):
        """All tensors that the call returns."""
        _, _, ask, arguments = self.questions[which]
        found = ask(x, target=target, **arguments | ({"seed": seed} if "seed" in arguments else {}))
        fields = vars(found).values() if isinstance(found, attr.Explanation) else found
        return [leaf for leaf in tree_leaves(list(fields)) if isinstance(leaf, torch.Tensor)]

    def left(self):
        """All that is on the models, to be compared."""
        modules = [m for model in self.models for m in model.modules()]
        hooks = [(*m._forward_hooks, *m._forward_pre_hooks, *m._backward_hooks) for m in modules]
        return hooks, [dict(m.__dict__) for m in modules]


@pytest.mark.parametrize("each", [40, pytest.param(250, marks=pytest.mark.slow)])
def test_many_threads_are_told_what_one_is_told(packages, monkeypatch, each):
    """To the last bit, also where the models' first operations are done on few rows for all."""
    monkeypatch.setattr(prefix, "WORTH", 1)
    shared = Shared(packages)
    calls = [shared.inputs(number) for number in range(THREADS * each)]
    expected = [shared.answer(*call) for call in calls]
    assert all(expected)
    left, state = shared.left(), torch.get_rng_state()
    wrong, start = [], threading.Barrier(THREADS)

    def work(i):
        start.wait()
        for number in range(i, len(calls), THREADS):
            try:
                found = shared.answer(*calls[number])
                pairs = zip(found, expected[number], strict=True)
                fine = all(torch.equal(*pair) for pair in pairs)
            except BaseException as error:
                fine, found = False, error
            if not fine:
                wrong.append((number, calls[number], expected[number], found))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(THREADS)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-4)  # seconds: threads take turns in the middle of everything
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert wrong == []
    assert shared.left() == left and torch.equal(torch.get_rng_state(), state)


def report_memory(packages, calls, every):
    """Prints how many objects Python knows and the resident megabytes, again and again."""
    shared = Shared(Path(packages))
    for number in range(calls + 1):
        call = shared.inputs(number)
        if number % 99:
            shared.answer(*call)
        else:  # threads come and go
            thread = threading.Thread(target=shared.answer, args=call)
            thread.start()
            thread.join()
        if number > 0 and number % every == 0:
            gc.collect()
            pages = int(Path("/proc/self/statm").read_text().split()[1])
            megabytes = pages * os.sysconf("SC_PAGE_SIZE") / 1e6
            print(number, len(gc.get_objects()), f"{megabytes:.1f}", flush=True)


@pytest.mark.parametrize(
    ("calls", "every"), [(1500, 250), pytest.param(5000, 500, marks=pytest.mark.slow)]
)
def test_memory_is_flat(packages, calls, every):
    code = f"from tests.test_stress import *; report_memory({str(packages)!r}, {calls}, {every})"
    command = [sys.executable, "-W", "ignore", "-c", code]
    told = subprocess.run(
        command,
        cwd=Path(__file__).parents[1],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    ).stdout
    lines = [[float(word) for word in line.split()] for line in told.splitlines()]
    (_, objects, megabytes), (last, objects_then, megabytes_then) = lines[1], lines[-1]
    assert last == calls, told
    assert objects_then - objects < 50, told  # a list for each call would be 1000, or 4000
    assert megabytes_then - megabytes < 3, told  # 3 kilobytes for each, or one, would be more
