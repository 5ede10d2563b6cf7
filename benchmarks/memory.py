"""Peak memory of an explanation above the loaded model, each run in a fresh process (Linux).

``python benchmarks/memory.py fastxai 400`` prints megabytes for Integrated Gradients on ResNet-18,
batch 1, 400 steps; ``kernel_shap 1000000`` for KernelShap on an MLP, 49 groups, so many samples;
``text_fastxai 50`` for Layer Integrated Gradients at the embeddings of 128 words.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import models

MODEL = "ResNet-18 224²"
MLP = "MLP 784-512-256-10"


def resident(field: str) -> float:
    """Megabytes this process holds now (VmRSS) or held at its peak (VmHWM).

    Not getrusage: its ru_maxrss outlives exec, so a child would begin with its parent's peak.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def measure(what: str, count: int) -> float:
    """Runs in the child; ``what`` is ``captum`` or ``fastxai``, at its defaults, or a method."""
    if what.startswith("text_"):
        library = import_module(f"{what.removeprefix('text_')}.attr")
        text, inputs, target = models.load_text(batch=1)
        explain = library.LayerIntegratedGradients(text, text.embedding).attribute
        before = resident("VmRSS")
        explain(inputs, target=target, n_steps=count)
        return resident("VmHWM") - before
    if what == "kernel_shap":
        method = import_module("fastxai.attr").KernelShap
        model, inputs, target = models.load(MLP, batch=1)
        options = {"n_samples": count, "feature_mask": models.tiles(28, 4).reshape(1, 784)}
    else:
        method = import_module(f"{what}.attr").IntegratedGradients
        model, inputs, target = models.load(MODEL, batch=1)  # runs the model once
        options = {"n_steps": count}
    before = resident("VmRSS")
    method(model).attribute(inputs, target=target, **options)
    return resident("VmHWM") - before


def in_child(what: str, count: int) -> float:
    """Megabytes above the loaded model, measured in a process of its own."""
    command = [sys.executable, __file__, what, str(count)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # what can be imported here
    done = subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE)
    return float(done.stdout)


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2])))
