"""How alike models see the data: linear CKA of their residual streams, layer by layer.

Linear CKA (Kornblith et al. 2019, arXiv 1905.00414) by the unbiased estimate of HSIC (Nguyen et al. 2021, arXiv
2010.15327): the plain one goes to 1 for any two models that are wider than there are rows. It is a cosine of U-centred
Gram matrices (Székely and Rizzo 2014), which are all that is kept of a model.
"""

from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from datagen.batches import IGNORED, Encoded, pack
from optimizer.blame.sides import Sides
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients

#: Rows that are looked at, over all terms, and tokens of a forward pass that keeps every layer's output.
ROWS, _TOKENS = 256, 1024


def sample(sides: Sides) -> list[Encoded]:
    """The first rows of every kind, as many of each."""
    by_kind = dict(zip(sides.kinds, sides.objective.terms, strict=True))
    each = max(1, ROWS // len(by_kind))
    return [one for term in by_kind.values() for one in term.examples[:each]]


@torch.no_grad()
def residuals(engine: ScoringEngine, examples: Sequence[Encoded]) -> torch.Tensor:
    """The residual stream where an answer is begun, with the weights that are applied.

    Args:
        examples: prompts with answers.

    Returns:
        [layers, examples, width], float64, on the CPU: the stream after each decoder layer, after the last one with
        the final norm.
    """
    inner = cast(Any, engine.model).base_model
    found: list[torch.Tensor] = []
    order: list[int] = []
    for batch in pack(examples, _TOKENS):
        places = (batch.labels != IGNORED).int().argmax(1) - 1  # of the prompt's last token
        streams = inner(
            input_ids=batch.inputs.to(engine.device), use_cache=False, output_hidden_states=True
        ).hidden_states
        rows = torch.arange(len(places), device=engine.device)
        kept = [stream[rows, places.to(engine.device)] for stream in streams[1:]]
        found.append(torch.stack(kept).double().cpu())
        order += batch.index
    return torch.cat(found, 1)[:, torch.tensor(order).argsort()]


def centred_gram(features: torch.Tensor) -> torch.Tensor:
    """The U-centred Gram matrix of rows, [rows, rows].

    Args:
        features: [rows, width] of at least four rows.
    """
    rows = len(features)
    # Centred first: the U-centred matrix is the same, and large means would cost digits.
    features = features - features.mean(0)
    products = (features @ features.T).fill_diagonal_(0.0)
    sums = products.sum(1, keepdim=True)
    made = products - sums / (rows - 2) - sums.T / (rows - 2) + products.sum() / ((rows - 1) * (rows - 2))
    return made.fill_diagonal_(0.0)


def cka(one: torch.Tensor, other: torch.Tensor) -> float:
    """CKA of two models from their U-centred Gram matrices; 0 where either sees no difference between rows."""
    scale = (one.norm() * other.norm()).item()
    return (one * other).sum().item() / scale if scale > 0 else 0.0


def similarities(grams: Sequence[Sequence[torch.Tensor]]) -> Coefficients:
    """CKA of every pair of models in every layer, [layers, models, models].

    Args:
        grams: U-centred, by model and layer.
    """
    layers = zip(*grams, strict=True)
    return np.array([[[cka(one, other) for other in layer] for one in layer] for layer in layers])
