"""Trains two small models, explains test rows by several methods, and times the explaining.

``python examples/demo.py --out demo_output`` needs no network: scikit-learn ships both data sets.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

import matplotlib
import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_digits
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from torch import Tensor, nn

import fastxai

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))
from competitors import integrated_gradients
from interleave import differences, interleave, ratios
from models import mlp

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import SubFigure

POSITIVE, NEGATIVE, NEUTRAL = "#DD6B20", "#3182CE", "#888888"  # as fastxai.plot has them
SIGNS = LinearSegmentedColormap.from_list(
    "signs", ["#17406d", NEGATIVE, "#f7f7f7", POSITIVE, "#8a3a08"]
)
TOP_FEATURES = 12


@dataclass(frozen=True)
class Task:
    """A trained model and the rows kept from it."""

    name: str
    model: nn.Module
    x: Tensor  # [N, *F] test rows as the model takes them
    y: Tensor  # [N] true classes
    raw: np.ndarray  # [N, F] test rows in the data's own units
    features: Sequence[str]
    classes: Sequence[str]

    def predictions(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Predicted class and its probability for each row, both [N]."""
        with torch.no_grad():
            probability, predicted = self.model(x).softmax(1).max(1)
        return predicted, probability


def train(model: nn.Module, x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3, weight_decay=1e-2)
    for _ in range(epochs):
        for batch in torch.randperm(len(x)).split(64):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return model.eval()


def digits() -> Task:
    """A convolutional network on scikit-learn's 8x8 digits."""
    data = load_digits()
    model = nn.Sequential(
        *(nn.Conv2d(1, 32, 3, padding=1), nn.ReLU()),
        *(nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 4 * 4, 10)),
    )
    raw, raw_test, y, y_test = train_test_split(
        data.data, torch.tensor(data.target), random_state=0, stratify=data.target
    )
    x, x_test = (
        torch.tensor(r / 16, dtype=torch.float32).view(-1, 1, 8, 8) for r in (raw, raw_test)
    )
    names = [str(digit) for digit in data.target_names]
    return Task(
        "digits, CNN", train(model, x, y, 15), x_test, y_test, raw_test, data.feature_names, names
    )


def tumours() -> Task:
    """A multilayer perceptron on scikit-learn's breast cancer data, standardised."""
    data = load_breast_cancer()
    raw, raw_test, y, y_test = train_test_split(
        data.data, torch.tensor(data.target), random_state=0, stratify=data.target
    )
    scaler = StandardScaler().fit(raw)
    x, x_test = (torch.tensor(scaler.transform(r), dtype=torch.float32) for r in (raw, raw_test))
    return Task(
        "breast cancer, MLP",
        train(mlp(30, 64, 64, 2), x, y, 30),
        x_test,
        y_test,
        raw_test,
        list(data.feature_names),
        list(data.target_names),
    )


def report(task: Task) -> None:
    """Prints accuracy, and whether the attributions of all test rows add up as they promise to."""
    predicted, _ = task.predictions(task.x)
    accuracy = (predicted == task.y).double().mean()
    found = fastxai.IntegratedGradients(task.model).explain(task.x, target=predicted, n_steps=200)
    change = (found.outputs - found.baseline_outputs).abs().mean()
    error = found.convergence_delta.abs().max()
    print(f"{task.name}: accuracy {accuracy:.1%} on {len(task.x)} test rows")
    print(
        f"  attributions add up to F(x) - F(baseline), {change:.1f} on average, within {error:.1g}"
    )


def explain(task: Task, rows: Tensor) -> tuple[Tensor, list[str]]:
    """Attributions to the predicted class, and a title for each row."""
    predicted, probability = task.predictions(task.x[rows])
    values = fastxai.IntegratedGradients(task.model).attribute(
        task.x[rows], target=predicted, n_steps=200
    )
    titles = [
        f"predicted {task.classes[p]}, true {task.classes[t]}\nprobability {q:.1%}"
        for p, q, t in zip(predicted, probability.tolist(), task.y[rows], strict=True)
    ]
    return values, titles


def draw_digits(figure: SubFigure, task: Task) -> None:
    mistakes = (task.predictions(task.x)[0] != task.y).nonzero()[:1, 0]
    firsts = torch.stack([(task.y == digit).nonzero()[0, 0] for digit in range(8)])
    rows = torch.cat([firsts[: 8 - len(mistakes)], mistakes])
    values, titles = explain(task, rows)
    limit = values.abs().max().item()
    axes = figure.subplots(2, len(rows))
    for column, (row, value, title) in enumerate(zip(rows, values, titles, strict=True)):
        above, below = axes[:, column]
        above.imshow(task.x[row, 0], cmap="gray_r")
        above.set_title(title, fontsize=9)
        image = below.imshow(value[0], cmap=SIGNS, vmin=-limit, vmax=limit)
        below.contour(task.x[row, 0], levels=[0.5], colors="black", linewidths=1)
        for ax in (above, below):
            ax.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("test image")
    axes[1, 0].set_ylabel("attribution")
    bar = figure.colorbar(image, ax=axes, aspect=25, pad=0.01)
    bar.set_label("contribution to its logit (baseline: empty image)", fontsize=9)
    figure.suptitle(
        "Digits: what speaks for the predicted class (orange) and against it (blue)", fontsize=12
    )


def draw_features(
    ax: Axes,
    task: Task,
    row: int,
    values: Tensor,  # [F]
    errors: Tensor | None = None,  # [F]
) -> None:
    by_size = values.abs().argsort(descending=True)
    top, rest = by_size[:TOP_FEATURES], by_size[TOP_FEATURES:]
    labels = [f"{task.features[i]} = {task.raw[row, i]:.4g}" for i in top.tolist()]
    bars = [*values[top].tolist(), values[rest].sum().item()]
    colours = [POSITIVE if bar > 0 else NEGATIVE for bar in bars[:-1]] + [NEUTRAL]
    reach = None if errors is None else [*(2 * errors[top]).tolist(), 0]
    drawn = ax.barh(
        [*labels, f"the other {len(rest)} features"], bars, xerr=reach, color=colours, capsize=3
    )
    ax.bar_label(drawn, [f"{bar:+.2f}".replace("-", "−") for bar in bars], padding=4, fontsize=9)
    ax.axvline(0, color="black", linewidth=0.8)
    ax.invert_yaxis()
    ax.margins(x=0.12, y=0.02)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)


def draw_tumour(ax: Axes, task: Task) -> None:
    row = first_malignant(task)
    values, (title,) = explain(task, torch.tensor([row]))
    draw_features(ax, task, row, values[0])
    ax.set_xlabel("contribution to the predicted class's logit (baseline: the average patient)")
    ax.set_title("Breast cancer, one tumour: " + title.replace("\n", ", "), fontsize=12)


def first_malignant(task: Task) -> int:
    return int((task.y == list(task.classes).index("malignant")).nonzero()[0])


def by_four_methods(task: Task, row: int) -> dict[str, Tensor]:
    """Contribution of each pixel to the predicted class's logit, [1, 8, 8] for each method."""
    x = task.x[row : row + 1]
    target = task.predictions(x)[0]
    pixels = x[0].numel()
    lime = fastxai.attr.Lime(task.model, interpretable_model=fastxai.attr.LeastSquares())
    return {
        "Integrated Gradients\n200 steps": fastxai.IntegratedGradients(task.model).attribute(
            x, target=target, n_steps=200
        ),
        f"KernelShap\n{16 * pixels} samples": fastxai.attr.KernelShap(task.model).attribute(
            x, target=target, n_samples=16 * pixels, seed=0
        ),
        f"Lime, least squares\n{16 * pixels} samples": lime.attribute(
            x, target=target, n_samples=16 * pixels, seed=0
        ),
        "Occlusion\n2 × 2 windows": fastxai.attr.Occlusion(task.model).attribute(
            x, (1, 2, 2), target=target
        ),
    }


def draw_methods(figure: SubFigure, task: Task) -> None:
    rows = [int((task.y == digit).nonzero()[0, 0]) for digit in (3, 5)]
    found = [by_four_methods(task, row) for row in rows]
    limit = max(value.abs().max().item() for values in found for value in values.values())
    axes = figure.subplots(len(rows), 1 + len(found[0]))
    for line, row, values in zip(axes, rows, found, strict=True):
        line[0].imshow(task.x[row, 0], cmap="gray_r")
        line[0].set_ylabel(f"predicted {task.classes[int(task.predictions(task.x[[row]])[0])]}")
        for ax, value in zip(line[1:], values.values(), strict=True):
            image = ax.imshow(value[0, 0], cmap=SIGNS, vmin=-limit, vmax=limit)
            ax.contour(task.x[row, 0], levels=[0.5], colors="black", linewidths=1)
        for ax in line:
            ax.set(xticks=[], yticks=[])
    for ax, title in zip(axes[0], ["test image", *found[0]], strict=True):
        ax.set_title(title, fontsize=10)
    bar = figure.colorbar(image, ax=axes, aspect=30, pad=0.01)
    bar.set_label("contribution to the logit (baseline: empty image)", fontsize=9)
    figure.suptitle("Two digits, four methods, one scale", fontsize=12)


def draw_sampled(ax: Axes, task: Task, samples: int) -> None:
    row = first_malignant(task)
    x = task.x[row : row + 1]
    found = fastxai.attr.KernelShap(task.model).explain(
        x, target=task.predictions(x)[0], n_samples=samples, seed=0
    )
    draw_features(ax, task, row, found.values[0], found.standard_errors[0])
    ax.set_xlabel("contribution to the predicted class's logit ± two standard errors")
    ax.set_title(f"The same tumour by KernelShap from {samples} model rows", fontsize=12)


def draw(path: Path, images: Task, table: Task) -> None:
    figure = plt.figure(figsize=(12, 8.6), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    above, below = figure.subfigures(2, 1, height_ratios=[1, 1.25], hspace=0.05)
    draw_digits(above, images)
    draw_tumour(below.subplots(), table)
    figure.savefig(path, dpi=150)


def draw_page_of_methods(path: Path, images: Task, table: Task) -> None:
    figure = plt.figure(figsize=(12, 10), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.12, h_pad=0.12)
    above, below = figure.subfigures(2, 1, height_ratios=[1.15, 1], hspace=0.05)
    draw_methods(above, images)
    draw_sampled(below.subplots(), table, samples=150)
    figure.savefig(path, dpi=150)


def print_times(task: Task, batch: int) -> None:
    x = task.x[:batch]
    competitors = integrated_gradients(task.model, x, task.predictions(x)[0])
    errors = differences(competitors)
    seconds = interleave(competitors, 20, Random(0))
    times = ratios(seconds, "bare")
    print(f"\n{task.name}: {len(x)} rows, 50 steps   median ms  times bare  differs from Captum by")
    absent = {"Captum": "not installed", "Captum tuned": "not installed"}
    absent["fastxai native"] = fastxai.build_info().reason
    for name in ("bare", "Captum", "Captum tuned", "fastxai fallback", "fastxai native"):
        if name not in times:
            print(f"  {name:<18} {absent[name]}")
            continue
        error = f"{errors[name]:.0e}" if "Captum" in times and name in errors else ""
        print(f"  {name:<34} {1e3 * median(seconds[name]):>9.2f} {times[name]:>11.2f}  {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--out", type=Path, default=Path("demo_output"), help="the picture's folder"
    )
    out = parser.parse_args().out
    torch.manual_seed(0)
    images, table = digits(), tumours()
    for task in (images, table):
        report(task)
    out.mkdir(parents=True, exist_ok=True)
    draw(out / "integrated_gradients.png", images, table)
    draw_page_of_methods(out / "methods.png", images, table)
    print(f"Wrote {out / 'integrated_gradients.png'} and {out / 'methods.png'}")
    for task in (images, table):
        print_times(task, batch=16)
    print("\nbare: the model's own forward and backward passes over the same rows, best chunk.")
    print("Differences are shares of the largest attribution.")


if __name__ == "__main__":
    main()
