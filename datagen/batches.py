"""Conversations to padded batches of token ids, for training and for scoring."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

#: Label of a token that no loss is taken on.
IGNORED = -100

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
    """All examples, sorted by length so that little is padding.

    Args:
        tokens: per batch at most, padding included (one longer example still makes a batch).
    """
    lengths = [len(prompt) + len(answer) for prompt, answer in examples]
    batches, current = [], list[int]()
    for i in sorted(range(len(examples)), key=lambda i: (lengths[i], i)):
        if current and lengths[i] * (len(current) + 1) > tokens:
            batches.append(pad(examples, current))
            current = []
        current.append(i)
    return [*batches, pad(examples, current)] if current else batches
