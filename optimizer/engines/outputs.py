"""What a model makes of answers, as tensors."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch


class Outputs(NamedTuple):
    """Of the answers of some token sequences; all tensors have one shape, [sequences] or [examples, options].

    Attributes:
        losses: nats, summed over the answer's tokens: cross-entropy, or the divergence from a teacher if there is one.
        tokens: how many the answer has; 0 where an example has no such option.
        exact: whether greedy decoding would give exactly this answer.
    """

    losses: torch.Tensor
    tokens: torch.Tensor
    exact: torch.Tensor

    def part(self, start: int, stop: int) -> "Outputs":
        """Some of the sequences."""
        return Outputs(*(one[start:stop] for one in self))

    def summed(self) -> "Outputs":
        """As if every answer were one token, so that means per token are sums."""
        return self._replace(tokens=self.tokens.clamp(max=1))

    def by_example(self, sizes: Sequence[int]) -> "Outputs":
        """From [sequences] to [examples, options].

        Args:
            sizes: how many of the sequences, one after another, are the options of each example.
        """
        of = torch.tensor(sizes, device=self.losses.device)
        there = torch.arange(max(sizes), device=of.device) < of[:, None]
        return Outputs(*(one.new_zeros(there.shape).masked_scatter(there, one) for one in self))


#: Outputs -> losses, or one loss of all, and whether each example is right.
Measure = Callable[[Outputs], tuple[torch.Tensor, torch.Tensor]]
