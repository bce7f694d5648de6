"""Conversations to padded batches of token ids, for training and for scoring."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import torch

#: Label of a token that no loss is taken on.
IGNORED = -100

#: What a further batch costs, as tokens of padding that may be taken to save one; more on a GPU, less on a CPU.
_BATCH = 128

#: Prompt ids and answer ids.
Encoded = tuple[list[int], list[int]]


@dataclass(frozen=True)
class Batch:
    """Examples padded to one width.

    Attributes:
        inputs: token ids, [examples, width].
        labels: the answer's token ids where they stand in `inputs`, `IGNORED` elsewhere, [examples, width].
        index: which examples these are, [examples].
    """

    inputs: torch.Tensor
    labels: torch.Tensor
    index: tuple[int, ...]

    @cached_property
    def places(self) -> torch.Tensor:
        """Where answer tokens are told from, one before where they stand, in the flattened inputs, [answer tokens]."""
        told = torch.nn.functional.pad(self.labels[:, 1:] != IGNORED, (0, 1))
        return told.flatten().nonzero()[:, 0]

    @cached_property
    def wanted(self) -> torch.Tensor:
        """The answer tokens, [answer tokens]."""
        return self.labels.flatten()[self.places + 1]

    @cached_property
    def tokens(self) -> torch.Tensor:
        """How many answer tokens each example has, [examples]."""
        return (self.labels[:, 1:] != IGNORED).sum(1)


def pad(examples: Sequence[Encoded], index: Sequence[int]) -> Batch:
    """One batch of some of the examples."""
    chosen = [examples[i] for i in index]
    width = max(len(prompt) + len(answer) for prompt, answer in chosen)
    inputs = torch.zeros(len(chosen), width, dtype=torch.long)
    labels = torch.full((len(chosen), width), IGNORED)
    for k, (prompt, answer) in enumerate(chosen):
        end = len(prompt) + len(answer)
        inputs[k, :end] = torch.tensor(prompt + answer)
        labels[k, len(prompt) : end] = torch.tensor(answer)
    return Batch(inputs, labels, tuple(index))


def pack(examples: Sequence[Encoded], tokens: int = 4096) -> list[Batch]:
    """All examples, sorted by length and cut into batches where padding and further batches together cost least.

    Args:
        tokens: per batch at most, padding included (one longer example still makes a batch).
    """
    lengths = [len(prompt) + len(answer) for prompt, answer in examples]
    order = sorted(range(len(examples)), key=lambda i: (lengths[i], i))
    # The least cost of the first so many examples, and where their last batch begins.
    least: list[tuple[int, int]] = [(0, 0)]
    for end, last in enumerate(order, 1):
        most = max(1, tokens // max(1, lengths[last]))
        begins = range(max(0, end - most), end)
        least.append(min((least[begin][0] + lengths[last] * (end - begin) + _BATCH, begin) for begin in begins))
    batches, end = [], len(order)
    while end:
        begin = least[end][1]
        batches.append(pad(examples, order[begin:end]))
        end = begin
    return batches[::-1]
