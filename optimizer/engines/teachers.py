"""What a source says where answers stand, kept small, and how far a merge is from it."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch

from datagen.batches import Encoded

#: Tokens that are kept of each distribution.
TOP = 128


class Top(NamedTuple):
    """Distributions over the next token: the likeliest tokens, and all others as if they were one.

    The divergence of two distributions that are coarsened alike is never above the true one, and is the true one where
    all tokens are kept.

    Attributes:
        tokens: ids, [answer tokens, kept].
        logs: log-probabilities of these, and last of all others together unless there are none,
            [answer tokens, kept (+ 1)].
    """

    tokens: torch.Tensor
    logs: torch.Tensor

    @classmethod
    def of(cls, logits: torch.Tensor, most: int = TOP) -> "Top":
        """What is kept.

        Args:
            logits: [answer tokens, vocabulary].
            most: tokens that are kept of each.
        """
        logs = logits.log_softmax(-1)
        tokens = logs.topk(min(most, logs.shape[-1])).indices
        return cls(tokens.int(), _coarse(logs, tokens))

    def split(self, sizes: Sequence[int]) -> "list[Top]":
        """Some answer tokens after another."""
        parts = (torch.split(one, list(sizes)) for one in self)
        return [Top(tokens, logs) for tokens, logs in zip(*parts, strict=True)]


def divergence(tops: Sequence[Top], logits: torch.Tensor) -> torch.Tensor:
    """KL(kept || others) at every answer token, nats, [answer tokens].

    Args:
        tops: of one sequence after another.
        logits: of the same answer tokens, [answer tokens, vocabulary].
    """
    tokens, logs = (torch.cat(parts) for parts in zip(*tops, strict=True))
    return (logs.exp() * (logs - _coarse(logits.log_softmax(-1), tokens.long()))).sum(-1)


def _coarse(logs: torch.Tensor, tokens: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of some tokens, and of all others together."""
    kept = logs.gather(-1, tokens)
    if tokens.shape[-1] == logs.shape[-1]:
        return kept
    others = logs.scatter(-1, tokens, -torch.inf).logsumexp(-1, keepdim=True)
    return torch.cat([kept, others], -1)


class Teacher:
    """A source that a merge is to speak like, on a term's answers.

    What it says is known once an engine was asked for it, and kept, about a kilobyte for each answer token: it depends
    on the source and the answers alone.

    Args:
        source: its name.
        examples: whose answers are meant.
    """

    def __init__(self, source: str, examples: Sequence[Encoded]) -> None:
        self.source = source
        self.examples = examples
        self.tops: Sequence[Top] = ()


#: Number of a sequence -> its teacher, and which of the teacher's examples it is; others are held against the answer.
Teachers = Mapping[int, tuple[Teacher, int]]
