"""Where blame falls: the expert that costs most alignment, and the fewest of its layers that hold most of that."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from optimizer.blame.result import Attribution

#: The share that is most of something.
MOST = 0.8


class Suspect(NamedTuple):
    """An expert's cells that cost most alignment, to first order.

    Attributes:
        expert: its name.
        layers: in depth order.
        module: of these layers, if one holds most of their cost; else empty.
        share: of all that any cell costs.
    """

    expert: str
    layers: list[str]
    module: str
    share: float

    @property
    def groups(self) -> list[str]:
        """The layers, or the module in each of them."""
        return [f"{layer} {self.module}" for layer in self.layers] if self.module else self.layers


def suspect(experts: Sequence[str], layers: Attribution, modules: Attribution) -> Suspect | None:
    """Whom the first-order values blame; no one if no cell costs alignment."""
    costs = np.maximum(np.array(layers.alignment), 0.0)
    if not costs.any():
        return None
    expert = int(costs.sum(1).argmax())
    places = sorted(fewest(costs[expert].tolist()))
    named = [layers.groups[place] for place in places]
    module = _module(named, dict(zip(modules.groups, modules.alignment[expert], strict=True)))
    return Suspect(experts[expert], named, module, float(costs[expert, places].sum() / costs.sum()))


def fewest(costs: Sequence[float]) -> list[int]:
    """The fewest places that hold most of all costs, the largest first."""
    order = np.argsort(costs, kind="stable")[::-1]
    held = np.cumsum(np.array(costs)[order])
    return order[: int(np.searchsorted(held, MOST * held[-1] * (1 - 1e-12))) + 1].tolist()  # type: ignore[no-any-return]


def _module(layers: Sequence[str], by_module: dict[str, float]) -> str:
    """The module that holds most of the cost of all these layers; empty if none does, or one is no decoder layer."""
    costs: dict[str, float] = {}
    for group, cost in by_module.items():
        layer, _, module = group.rpartition(" ")
        if layer in layers and layer.startswith("layer "):
            costs[module] = costs.get(module, 0.0) + max(cost, 0.0)
    if not costs or not all(layer.startswith("layer ") for layer in layers):
        return ""
    most = max(costs, key=lambda module: costs[module])
    return most if costs[most] >= MOST * sum(costs.values()) > 0 else ""
