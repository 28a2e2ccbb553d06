"""Random numbers as a function of where they are used: `(seed, purpose, index) -> draws`.

Nothing here has a state. Episode `i` is the same whether it is drawn alone or in a batch, first or after a restart, on CPU or
GPU, because the generator is a counter run through a mixing function in 64-bit integer arithmetic (SplitMix64: Steele, Lea,
Flood, 'Fast splittable pseudorandom number generators', 2014, https://doi.org/10.1145/2660193.2660195).
"""

from __future__ import annotations

import hashlib

import torch
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_GAMMA, _M1, _M2 = (
    _signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def key(seed: int, purpose: str) -> int:
    """A 64-bit key (as a signed integer) for one purpose, as in `key(0, "train")`."""
    return int.from_bytes(
        hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little", signed=True
    )


def generator(seed: int, purpose: str) -> torch.Generator:
    """A torch generator (CPU) for what is drawn once, such as initial weights."""
    return torch.Generator().manual_seed(key(seed, purpose))


def _shift(z: Tensor, bits: int) -> Tensor:
    return (z >> bits) & (
        (1 << (64 - bits)) - 1
    )  # int64 shifts keep the sign; the mask takes it off


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


def random_bits(key: int, index: Tensor, count: int) -> Tensor:
    """64 random bits each: index int64 `(episodes,)` -> `(episodes, count)`."""
    stream = _mix(key + _GAMMA * (index + 1))
    return _mix(stream[:, None] + _GAMMA * torch.arange(1, count + 1, device=index.device))


def integers_below(bits: Tensor, n: Tensor | int) -> Tensor:
    """Integers uniform in 0 .. n-1 from 64 random bits each (n < 2**31; the bias is below n / 2**32)."""
    return (_shift(bits, 32) * n) >> 32


def uniform(bits: Tensor, low: float, high: float) -> Tensor:
    """Float64 uniform in [low, high) from 64 random bits each."""
    return low + (high - low) * (_shift(bits, 11).double() * 2.0**-53)


def sample_distinct(bits: Tensor, n: Tensor | int, k: int) -> Tensor:
    """k distinct integers below n in random order: every ordered selection is equally likely.

    Robert Floyd's algorithm (Bentley, Floyd, 'Programming pearls: a sample of brilliance', 1987) and a shuffle: the work does
    not grow with n.

    bits: `(..., k)` 64 random bits each; the upper half picks, the lower half shuffles
    n: how many to choose from, at least k; a number or a tensor of shape `(...)`
    """
    last = (n if isinstance(n, int) else n[..., None]) - k + torch.arange(k, device=bits.device)
    candidate = integers_below(bits, last + 1)
    chosen = torch.empty_like(bits)
    for i in range(k):
        seen = (chosen[..., :i] == candidate[..., i : i + 1]).any(-1)
        chosen[..., i] = torch.where(seen, last[..., i], candidate[..., i])
    return chosen.gather(-1, (bits << 32).argsort(dim=-1, stable=True))
