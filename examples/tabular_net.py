"""What a small net has learned about diabetes from ten measurements of 442 patients.

The table comes with scikit-learn; ``pip install pandas safetensors`` for frames and files. The net
standardises its inputs itself, so explanations are of kg/m² and mmHg, not of standard deviations.
"""

import argparse
from pathlib import Path

import torch
from matplotlib.figure import Figure
from sklearn.datasets import load_diabetes
from torch import nn

import fastxai
import fastxai.plot

NAMES = {"bmi": "body mass index", "bp": "blood pressure", "s1": "cholesterol", "s2": "LDL"}
NAMES |= {"s3": "HDL", "s4": "cholesterol / HDL", "s5": "log triglycerides", "s6": "glucose"}


class Net(nn.Module):
    """How far the disease will have gone in a year, [B], from measurements [B, 10]."""

    def __init__(self, x: torch.Tensor, y: torch.Tensor) -> None:
        super().__init__()
        for name, value in {"mean": x.mean(0), "spread": x.std(0)}.items():
            self.register_buffer(name, value)
        self.layers = nn.Sequential(nn.Linear(10, 32), nn.Softplus(), nn.Linear(32, 1))
        self.start, self.scale = y.mean().item(), y.std().item()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.start + self.scale * self.layers((x - self.mean) / self.spread)[:, 0]


def trained(x: torch.Tensor, y: torch.Tensor) -> Net:
    net = Net(x, y)
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.01, weight_decay=0.3)
    for _ in range(300):
        optimizer.zero_grad()
        ((net(x) - y) / net.scale).square().mean().backward()
        optimizer.step()
    return net.eval()


def main(out: Path) -> dict[str, fastxai.Explanation]:
    torch.manual_seed(0)
    table, progress = load_diabetes(return_X_y=True, as_frame=True, scaled=False)
    table = table.rename(columns=NAMES)
    known, new, average = table[:342], table[342:], table[:342].mean()
    y = torch.tensor(progress.to_numpy(), dtype=torch.float32)
    net = trained(torch.tensor(known.to_numpy(), dtype=torch.float32), y[:342])

    exact = fastxai.ShapleyValues(net).explain(new, average)
    path = fastxai.IntegratedGradients(net).explain(new, average, n_steps=50)
    left = (torch.tensor(exact.outputs) - y[342:]).square().mean() / y[342:].var()
    print(f"The net explains {1 - left:.0%} of the variance among {len(new)} other patients.")
    sums = exact.values.sum(1) - (exact.outputs - exact.baseline_outputs)
    print(f"Shapley values add up to its outputs within {abs(sums).max():.1e},")
    print(f"Integrated Gradients within {abs(path.convergence_delta).max():.1e}.")
    patient = int(exact.outputs.argmax())
    some = [
        fastxai.KernelShap(net).explain(new[patient : patient + 1], average, n_samples=n, seed=0)
        for n in (24, 48, 96, 192)
    ]
    far, told = abs(some[0].values[0] - exact.values[patient]), some[0].standard_errors[0]
    print(f"With 24 calls instead of 1024: off by {far.max():.1f}, told {told.max():.1f}.")

    out.mkdir(parents=True, exist_ok=True)
    exact.save(out / "tabular_net.safetensors")
    exact = fastxai.Explanation.load(out / "tabular_net.safetensors")
    figure = Figure(figsize=(17, 4.6), layout="constrained")
    bars, points, lines = figure.subplots(1, 3)
    name = {"target_names": "progress of the disease"}
    fastxai.plot.bar(exact, ax=bars, **name).set_title("All new patients")
    fastxai.plot.scatter(exact, "body mass index", color_by="age", ax=points, **name)
    fastxai.plot.convergence(some, ax=lines, **name).set_title("One patient, by KernelShap")
    figure.savefig(out / "tabular_net.png", dpi=80)
    return {"exact": exact, "path": path, "sampled": some[0]}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "out")
    main(parser.parse_args().out)
