"""Small models that the tests explain, and models that log what they saw."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def mlp() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(7, 16), nn.ReLU(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, 4)
    ).eval()


class ResidualCNN(nn.Module):
    """Convolutions with a residual connection, batch norm and an in-place ReLU."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.stem = nn.Conv2d(2, 6, 3, padding=1)
        self.norm = nn.BatchNorm2d(6)
        self.body = nn.Conv2d(6, 6, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)
        self.head = nn.Linear(6, 5)
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # [N, 2, H, W] -> [N, 5]
        x = self.relu(self.norm(self.stem(x)))
        x = self.relu(x + self.body(x))
        return self.head(x.mean((2, 3)))


class EmbeddingModel(nn.Module):
    """A token model that takes embeddings, [N, T, D], as float inputs, and an attention mask."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.norm = nn.LayerNorm(8)
        self.head = nn.Linear(8, 3)
        self.eval()

    def forward(self, x: Tensor, padding: Tensor | None = None) -> Tensor:
        mixed, _ = self.attention(x, x, x, key_padding_mask=padding, need_weights=False)
        return self.head(torch.tanh(self.norm(x + mixed)).mean(1))


class TextModel(nn.Module):
    """A transformer encoder over ids of words, [N, T] -> [N, 3], with a padding mask [N, T]."""

    def __init__(self, width: int = 16, layers: int = 2) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.embedding = nn.Embedding(50, width)
        self.position = nn.Parameter(torch.randn(9, width) / 4)
        layer = nn.TransformerEncoderLayer(width, 2, 2 * width, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
        self.head = nn.Linear(width, 3)
        self.eval()

    def forward(self, ids: Tensor, padding: Tensor | None = None) -> Tensor:
        x = self.embedding(ids) + self.position[: ids.shape[1]]
        return self.head(self.encoder(x, src_key_padding_mask=padding).mean(1))


class Encoder(nn.Module):
    """A transformer encoder over vectors, [N, T, 4] -> [N, 3]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(6)
        self.embedding = nn.Linear(4, 8)
        layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, activation="gelu")
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(8, 3)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embedding(x)).mean(1))


class TwoInputs(nn.Module):
    """Two inputs of different shapes, an optional extra tensor of the batch and a number."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.left, self.right = nn.Linear(4, 6), nn.Linear(6, 6)
        self.head = nn.Linear(6, 3)
        self.eval()

    def forward(
        self, a: Tensor, b: Tensor, shift: Tensor | None = None, scale: float = 1.0
    ) -> Tensor:  # [N, 4], [N, 2, 3] -> [N, 3]
        h = torch.tanh(self.left(a)) * torch.sigmoid(self.right(b.flatten(1)))
        if shift is not None:
            h = h * (1 + shift)
        return self.head(h) * scale


class Segmenter(nn.Module):
    """Outputs with more than two dimensions: [N, 3, L]."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(4)
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.eval()

    def forward(self, x: Tensor) -> Tensor:  # [N, 2, L] -> [N, 3, L]
        return torch.tanh(self.conv(x))


class Exact(nn.Module):
    """Elementwise operations, and a sum in one order: a row's output is the same bits in any batch.

    [N, *F] -> [N, 3], float64; ``scale`` is a layer of two channels, [N, 1, *F] -> [N, 2, *F].
    """

    class Scale(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, dtype=torch.float64))

        def forward(self, x: Tensor) -> Tensor:
            return x * self.weight.view(2, *[1] * (x.dim() - 2)) + 0.1

    def __init__(self, features: int) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.scale, self.relu = self.Scale(), nn.ReLU()
        self.weight = nn.Parameter(torch.randn(2 * features, 3, dtype=torch.float64))
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        h = self.relu(self.scale(x if x.dim() > 2 else x[:, None])).flatten(1).unbind(1)
        total = torch.zeros_like(h[0][:, None] * self.weight[0])
        for i, weight in enumerate(self.weight):
            four = h[i] * (1 + h[i - 1]) * (1 - h[i - 3]) * (1 + h[i - 5])
            total = total + four[:, None] * weight
        return total


def one_number(x: Tensor) -> Tensor:  # [N, *F] -> [N]
    """A function, not a module, with one number a row."""
    return (x.flatten(1).sin() * x.flatten(1).cumsum(1)).sum(1)


class Logged:
    """Wraps a model and notes the shape of every batch that it is called with."""

    def __init__(self, model, fail_above: int | None = None, error: Exception | None = None):
        self.model, self.fail_above, self.error = model, fail_above, error
        self.rows: list[int] = []  # of each call that succeeded
        self.tried = 0

    def __call__(self, *args):
        self.tried += 1
        if self.fail_above is not None and args[0].shape[0] > self.fail_above:
            raise self.error
        self.rows.append(args[0].shape[0])
        return self.model(*args)
