"""How alike the sources are: cosines and norms of their task vectors by layer, one tensor in memory at a time."""

from dataclasses import dataclass

import numpy as np
import torch

from optimizer.bunch import Bunch
from optimizer.merging.gram import gram
from optimizer.merging.space import Coefficients, Space


@dataclass(frozen=True)
class TaskVectorSimilarity:
    """Of task vectors.

    Attributes:
        norms: Euclidean, [groups, experts].
        cosines: of every pair, [groups, experts, experts]; 0 where one of the two is nothing.
    """

    norms: Coefficients
    cosines: Coefficients


def task_vector_similarity(bunch: Bunch, space: Space) -> TaskVectorSimilarity:
    """Norms and cosines of the experts' task vectors in each of a space's groups, whose tensors are whole.

    Every tensor's inner products are taken in float64 and added up, so no task vector is ever held as a whole.
    """
    products = np.zeros((len(space.groups), len(space.experts), len(space.experts)))
    with torch.no_grad():
        for place, name in enumerate(space.tensors):
            base = bunch.base.tensor(name)
            if base.dtype.is_floating_point:
                found = gram([expert.tensor(name) for expert in bunch.experts], base)
                products[space.shares[:, place].argmax()] += found.numpy()
    norms = np.sqrt(np.diagonal(products, axis1=1, axis2=2))
    scale = norms[:, :, None] * norms[:, None, :]
    cosines = np.divide(products, scale, out=np.zeros_like(products), where=scale > 0)
    return TaskVectorSimilarity(norms, np.clip(cosines, -1.0, 1.0))
