"""Peak memory of Integrated Gradients above the loaded model, each run in a fresh process (Linux).

``python benchmarks/memory.py fastxai 400`` prints megabytes for ResNet-18, batch 1, 400 steps.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import models

MODEL = "ResNet-18 224²"


def resident(field: str) -> float:
    """Megabytes this process holds now (VmRSS) or held at its peak (VmHWM).

    Not getrusage: its ru_maxrss outlives exec, so a child would begin with its parent's peak.
    """
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = (line for line in lines if line.startswith(field))
    return int(line.split()[1]) * 1024 / 1e6


def measure(package: str, n_steps: int) -> float:
    """Runs in the child; ``package`` is ``captum`` or ``fastxai``, at its defaults."""
    method = import_module(f"{package}.attr").IntegratedGradients
    model, inputs, target = models.load(MODEL, batch=1)  # runs the model once
    before = resident("VmRSS")
    method(model).attribute(inputs, target=target, n_steps=n_steps)
    return resident("VmHWM") - before


def in_child(package: str, n_steps: int) -> float:
    """Megabytes above the loaded model, measured in a process of its own."""
    command = [sys.executable, __file__, package, str(n_steps)]
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}  # what can be imported here
    done = subprocess.run(command, env=env, check=True, text=True, stdout=subprocess.PIPE)
    return float(done.stdout)


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2])))
