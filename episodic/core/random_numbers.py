"""Counter-based random numbers: a pure function `(seed, purpose, index) -> bits`.

There is no state. Episode i is the same whether it is drawn individually or in a batch, from the
start or after resuming, on a CPU or a GPU. The generator applies a mixing function to a counter, in
64-bit integer arithmetic (SplitMix64).

Source: Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014.
https://doi.org/10.1145/2660193.2660195
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor

__all__ = [
    "dirichlet",
    "generator",
    "integers_below",
    "key",
    "random_bits",
    "sample_distinct",
    "uniform",
]

GAMMA_ATTEMPTS = 16
"""Proposals per gamma variate. Each is rejected with a probability below 5 %."""


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


_GAMMA, _M1, _M2 = (
    _signed(c) for c in (0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
)


def key(seed: int, purpose: str) -> int:
    """Derive the 64-bit key of a purpose, as a signed integer.

    Args:
        seed: Seed of the run.
        purpose: What the numbers are used for, such as "train".
    """
    return int.from_bytes(
        hashlib.sha256(f"{seed}/{purpose}".encode()).digest()[:8], "little", signed=True
    )


def generator(seed: int, purpose: str) -> torch.Generator:
    """Create a torch generator (CPU) for numbers that are drawn once, such as initial weights."""
    return torch.Generator().manual_seed(key(seed, purpose))


def _shift(z: Tensor, bits: int) -> Tensor:
    # An int64 shift extends the sign; the mask clears it.
    return (z >> bits) & ((1 << (64 - bits)) - 1)


def _mix(z: Tensor) -> Tensor:
    z = (z ^ _shift(z, 30)) * _M1
    z = (z ^ _shift(z, 27)) * _M2
    return z ^ _shift(z, 31)


def random_bits(key: int, index: Tensor, count: int) -> Tensor:
    """Draw 64 random bits for each index and position.

    Args:
        key: From `key`.
        index: int64 `(episodes,)`.
        count: Numbers per index.

    Returns:
        int64 `(episodes, count)`.
    """
    stream = _mix(key + _GAMMA * (index + 1))
    return _mix(stream[:, None] + _GAMMA * torch.arange(1, count + 1, device=index.device))


def integers_below(bits: Tensor, n: Tensor | int) -> Tensor:
    """Convert random 64-bit integers to uniform integers from 0 to n - 1.

    n must be below 2**31. The bias is below n / 2**32.
    """
    return (_shift(bits, 32) * n) >> 32


def uniform(bits: Tensor, low: float, high: float) -> Tensor:
    """Convert random 64-bit integers to uniform float64 numbers in [low, high)."""
    return low + (high - low) * (_shift(bits, 11).double() * 2.0**-53)


def dirichlet(key: int, index: Tensor, alpha: float, k: int) -> Tensor:
    """Draw points of the symmetric Dirichlet distribution.

    Args:
        key: From `key`.
        index: int64 `(episodes,)`.
        alpha: Concentration, greater than 0. The larger, the more equal the shares.
        k: Number of shares.

    Returns:
        float64 `(episodes, k)`, shares that sum to 1.

    Source: normalized gamma variates by rejection (Marsaglia, Tsang: A Simple Method for Generating
    Gamma Variables, 2000, sections 3 and 6). https://doi.org/10.1145/358407.358414
    """
    bits = random_bits(key, index, k * (3 * GAMMA_ATTEMPTS + 1)).view(len(index), k, -1)
    numbers = 1 - uniform(bits, 0, 1)  # from (0, 1]
    radius, angle, threshold = numbers[..., 1:].chunk(3, -1)
    normal = (-2 * radius.log()).sqrt() * (2 * math.pi * angle).cos()
    shape = (alpha if alpha >= 1 else alpha + 1) - 1 / 3
    cubed = (1 + normal / math.sqrt(9 * shape)) ** 3
    log_density = normal.square() / 2 + shape * (1 - cubed + cubed.clamp_min(1e-300).log())
    accepted = (cubed > 0) & (threshold.log() < log_density)
    first = accepted.byte().argmax(-1, keepdim=True)
    log_gamma = (shape * cubed.gather(-1, first)[..., 0]).log()
    if alpha < 1:
        log_gamma = log_gamma + numbers[..., 0].log() / alpha
    return log_gamma.softmax(-1)


def sample_distinct(bits: Tensor, n: Tensor | int, k: int) -> Tensor:
    """Sample k distinct integers below n in random order.

    All ordered selections are equally likely. The cost does not depend on n.

    Args:
        bits: Random 64-bit integers `(..., k)`. The upper halves select, the lower halves shuffle.
        n: Exclusive upper bound, at least k: an integer, or a tensor of shape `(...)`.
        k: Number of integers to sample.

    Returns:
        int64 `(..., k)`.

    Source: Robert Floyd's algorithm (Bentley, Floyd: Programming Pearls: A Sample of Brilliance,
    1987), followed by a shuffle.
    """
    last = (n if isinstance(n, int) else n[..., None]) - k + torch.arange(k, device=bits.device)
    candidate = integers_below(bits, last + 1)
    chosen = torch.empty_like(bits)
    for i in range(k):
        seen = (chosen[..., :i] == candidate[..., i : i + 1]).any(-1)
        chosen[..., i] = torch.where(seen, last[..., i], candidate[..., i])
    return chosen.gather(-1, (bits << 32).argsort(dim=-1, stable=True))
