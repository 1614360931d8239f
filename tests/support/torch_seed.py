"""torch's random numbers after a seed, where a test asks for very many of them."""

from __future__ import annotations


def seed_cpu(seed: int) -> None:
    """Seed torch's generator of the CPU as ``torch.manual_seed`` does, in microseconds.

    That function seeds the generators of all other devices, too. Of those that are not in use it formats the call stack
    for each seed, which under pytest takes longer than many a transform.
    """
    import torch  # here: other helpers are used where there is no torch

    torch.default_generator.manual_seed(seed)
