"""Random numbers that depend on what they are for, not on when, where or in what order they are drawn."""

import hashlib

import torch

_STEP = 1 << 16

#: SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195): increment, and multipliers of its mixing.
_INCREMENT = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST = 31


def uniform(purpose: str, count: int, device: torch.device) -> torch.Tensor:
    """Numbers in [0, 1), the same for the same purpose on every device and in every process.

    Args:
        purpose: what they are for; another text gives other numbers.
        count: how many; fewer are the beginning of more.
        device: where they are made.

    Returns:
        float32, [count], multiples of 2**-24.
    """
    key = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:8], "little")
    drawn = torch.empty(count, dtype=torch.float32, device=device)
    for begin in range(0, count, _STEP):
        end = min(count, begin + _STEP)
        # 64-bit integers wrap around in torch on every device, which is the arithmetic that the generator needs.
        state = torch.arange(begin + 1, end + 1, dtype=torch.int64, device=device) * _signed(_INCREMENT) + _signed(key)
        for shift, factor in _ROUNDS:
            state = (state ^ _shifted(state, shift)) * _signed(factor)
        drawn[begin:end] = _shifted(state ^ _shifted(state, _LAST), 40).float() * 2.0**-24
    return drawn


def _shifted(state: torch.Tensor, by: int) -> torch.Tensor:
    """A logical right shift; torch's keeps the sign."""
    return (state >> by) & ((1 << (64 - by)) - 1)


def _signed(number: int) -> int:
    number &= (1 << 64) - 1
    return number - (1 << 64) if number >= 1 << 63 else number
