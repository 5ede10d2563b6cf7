"""Coalitions as bits: each player is a bit of 64-bit words."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import numpy as np
import torch
from torch import Tensor

P = ParamSpec("P")


R = TypeVar("R")


def on_cpu(function: Callable[P, R]) -> Callable[P, R]:
    """Lets a function make its tensors on the CPU, whatever ``torch.set_default_device`` says."""

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        if torch.get_default_device().type == "cpu":
            return function(*args, **kwargs)
        with torch.device("cpu"):
            return function(*args, **kwargs)

    return call


@on_cpu
def positions(bits: Tensor, among: Tensor) -> Tensor:
    """Where the coalitions [n, W] are among others [N, W], which are distinct: [n]; -1 if not."""
    both = torch.cat([among, bits]).numpy()
    keys = np.ascontiguousarray(both).view([("", both.dtype)] * both.shape[1])[:, 0]
    order = np.argsort(keys[: len(among)])
    place = np.searchsorted(keys[: len(among)], keys[len(among) :], sorter=order)
    found = order[np.minimum(place, len(among) - 1)]
    return torch.from_numpy(np.where(keys[found] == keys[len(among) :], found, -1))


@on_cpu
def all_coalitions(players: int) -> Tensor:
    """All 2^M coalitions, [2^M, 1]: row n has the bits of the number n."""
    return torch.arange(1 << players).unsqueeze(1)


def pack(present: Tensor) -> Tensor:
    """Bits [..., W] int64 of coalitions given as [..., M] bool."""
    octets = np.packbits(present.numpy(), axis=-1, bitorder="little")
    padded = np.zeros((*octets.shape[:-1], 8 * _words(present.shape[-1])), np.uint8)
    padded[..., : octets.shape[-1]] = octets
    return torch.from_numpy(padded.view("<i8").astype(np.int64, copy=False))


def unpack(bits: Tensor, players: int) -> Tensor:
    """Coalitions as [N, M] bool, of bits [N, W] int64."""
    octets = bits.contiguous().numpy().astype("<i8", copy=False).view(np.uint8)
    present = np.unpackbits(octets, axis=1, count=players, bitorder="little")
    return torch.from_numpy(present.view(np.bool_))


def subset_sizes(bits: Tensor) -> Tensor:
    """How many players each coalition has: [N] int64, of bits [N, W]."""
    x = bits - ((bits >> 1) & 0x5555555555555555)  # bits of each pair counted in the pair
    x = (x & 0x3333333333333333) + ((x >> 2) & 0x3333333333333333)
    x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0F
    return ((x * 0x0101010101010101) >> 56).sum(1)


def _words(players: int) -> int:
    return -(-players // 64)


def single(players_of_rows: Tensor, players: int) -> Tensor:
    """Coalitions of one player each, [N, W], of players [N]."""
    bits = torch.zeros(players_of_rows.shape[0], _words(players), dtype=torch.int64)
    word = (players_of_rows // 64).unsqueeze(1)
    return bits.scatter_(1, word, (1 << (players_of_rows % 64)).unsqueeze(1))


def complement(bits: Tensor, players: int) -> Tensor:
    everyone = torch.full((_words(players),), -1)
    if players % 64:
        everyone[-1] = (1 << players % 64) - 1
    return bits ^ everyone


def paired(bits: Tensor, players: int) -> Tensor:
    """Each row [P, W] and its complement, [2 * P, W]."""
    return torch.stack([bits, complement(bits, players)], 1).flatten(0, 1)
