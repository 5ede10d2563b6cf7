"""Models the benchmarks explain: seeded, untrained, in eval mode; and inputs for each.

Their weights are frozen, as in production, but for one case of each table.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import torch
from torch import Tensor, nn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut (He et al., 2015), laid out as in torchvision."""

    def __init__(self, channels_in: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.downsample: nn.Module = nn.Identity()
        if stride != 1 or channels_in != channels:
            self.downsample = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.relu(self.bn1(self.conv1(x)))
        residual = self.bn2(self.conv2(residual))
        return self.relu(residual + self.downsample(x))


class ResNet18(nn.Sequential):
    """[B, 3, 224, 224] -> [B, 1000]."""

    def __init__(self) -> None:
        stem = nn.Sequential(
            nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False),
            nn.BatchNorm2d(64),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
        )
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        stages = [
            nn.Sequential(BasicBlock(before, width, stride), BasicBlock(width, width, 1))
            for before, width, stride in widths
        ]
        super().__init__(stem, *stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, 1000))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")


class Transformer(nn.Module):
    """A two-layer encoder that takes embeddings: [B, T, D] -> [B, 10]."""

    def __init__(self, width: int = 128, heads: int = 4, layers: int = 2) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(width, heads, 4 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x).mean(1))


class TextEncoder(nn.Module):
    """A four-layer encoder over ids of words: [B, T] -> [B, 10]."""

    def __init__(self, words: int = 5000, tokens: int = 128, width: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width)
        self.position = nn.Parameter(torch.randn(tokens, width) / 10)
        self.transformer = Transformer(width, layers=4)

    def on_embeddings(self, x: Tensor) -> Tensor:  # [B, T, D]
        return self.transformer(x + self.position[: x.shape[1]])

    def forward(self, ids: Tensor) -> Tensor:
        return self.on_embeddings(self.embedding(ids))


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers of these widths with ReLU between them: [B, widths[0]] -> [B, widths[-1]]."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


# name -> (what builds the model, shape of one input row)
MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "MLP 784-512-256-10": (lambda: mlp(784, 512, 256, 10), (784,)),
    "ResNet-18 224²": (ResNet18, (3, 224, 224)),
    "transformer, 2 layers": (Transformer, (32, 128)),
    "tabular MLP 30-64-64-2": (lambda: mlp(30, 64, 64, 2), (30,)),
    "wide MLP 10000-256-64-2": (lambda: mlp(10_000, 256, 64, 2), (10_000,)),
}


_TRAINABLE = ", weights require grad"


def trainable(name: str) -> str:
    """The name for :func:`load` of the same model with weights that require gradients."""
    return name + _TRAINABLE


def tiles(size: int, tile: int) -> Tensor:
    """Ids of the square tiles of a square image, [size, size]."""
    at = torch.arange(size) // tile
    return at[:, None] * (size // tile) + at[None, :]


def load(name: str, batch: int, device: str = "cpu") -> tuple[nn.Module, Tensor, Tensor]:
    """Returns the model, normally distributed inputs [batch, *F] and predicted classes [batch]."""
    build, features = MODELS[name.removesuffix(_TRAINABLE)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = build().eval().to(device).requires_grad_(name.endswith(_TRAINABLE))
        inputs = torch.randn(batch, *features).to(device)
    with torch.no_grad():
        return model, inputs, model(inputs).argmax(1)


def load_text(
    batch: int, tokens: int = 128, frozen: bool = True
) -> tuple[TextEncoder, Tensor, Tensor]:
    """Returns the model, random ids [batch, tokens] and predicted classes [batch]."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = TextEncoder(tokens=tokens).eval().requires_grad_(not frozen)
        ids = torch.randint(1, 5000, (batch, tokens))
    with torch.no_grad():
        return model, ids, model(ids).argmax(1)
