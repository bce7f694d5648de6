"""How a row's answer is measured: a term's metric, by the name it has in a config.

A metric looks at one token sequence per example, the prompt with the answer, or at several, the prompt with the answer
and with each of its alternatives. It gives a loss, which is minimised, and says whether the example counts as right.
Log-likelihoods are means per token unless the term says otherwise: sums would favour whatever is short, and a refusal
is shorter than most answers.
"""

from dataclasses import dataclass

import torch

from optimizer.engines.outputs import Measure, Outputs
from optimizer.registry import Registry


@dataclass(frozen=True)
class Metric:
    """How an example is measured.

    Attributes:
        name: in configs.
        measure: a pure function from outputs [examples, options], the answer first, to losses [examples] and whether
            each is right, for scores and inside a gradient step alike.
        alternatives: how many of a row's it looks at, the first ones; None for all.
        taught: whether it holds the merge against a source instead of the answer.
        differentiable: whether its loss has a useful gradient.
    """

    name: str
    measure: Measure
    alternatives: int | None = 0
    taught: bool = False
    differentiable: bool = True


def per_token(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy of the answer's tokens, or divergence from a teacher; right is what greedy decoding gives."""
    each = outputs.losses / outputs.tokens
    return each[:, 0], outputs.exact[:, 0]


def exact_match(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """0 where greedy decoding would give the answer, else 1."""
    right = outputs.exact[:, 0]
    return 1 - right.to(outputs.losses.dtype), right


def preference(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """softplus(-margin), the margin being by how much the answer is likelier than its alternative; right if it is.

    This is -log sigmoid(margin), as DPO (arXiv 2305.18290) has it, with SimPO's mean log-likelihoods (arXiv
    2405.14734). The margin itself has no greatest value: a merge would gain without end by making one alternative
    ever less likely, at the cost of all else.
    """
    each = outputs.losses / outputs.tokens
    margin = each[:, 1] - each[:, 0]
    return torch.nn.functional.softplus(-margin), margin > 0


def multiple_choice(outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy of a softmax over the options' log-likelihoods; right if the answer is likelier than all others.

    With sums in place of means this counts what lm-eval calls `acc`; its `acc_norm` divides by characters.
    """
    there = outputs.tokens > 0
    likelihoods = (-outputs.losses / outputs.tokens.clamp(min=1)).masked_fill(~there, -torch.inf)
    right = (likelihoods[:, :1] > likelihoods[:, 1:]).all(1)
    return -likelihoods.log_softmax(1)[:, 0], right


METRICS = Registry[Metric](
    "metric",
    [
        Metric("loss", per_token),
        Metric("kl", per_token, taught=True),
        Metric("margin", preference, alternatives=1),
        Metric("choice", multiple_choice, alternatives=None),
        Metric("exact", exact_match, differentiable=False),
    ],
)
