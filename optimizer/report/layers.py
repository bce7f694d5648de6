"""Groups along the depth of a model: which layer each falls into, and what they are called on an axis."""

import re
from collections.abc import Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np

from optimizer.merging.groups import group_of
from optimizer.merging.space import Coefficients

#: Labels that fit along an axis.
LABELS = 60


class Section(NamedTuple):
    """Neighbouring groups of one layer, or of what is outside the layers.

    Attributes:
        name: `layer 3`, `embeddings`, ...
        start: its first group's place.
        stop: the place after its last group.
    """

    name: str
    start: int
    stop: int


def sections(groups: Sequence[str]) -> list[Section]:
    """The layers that groups in depth order fall into."""
    found, start = [], 0
    for name, members in groupby(groups, _section):
        stop = start + len(list(members))
        found.append(Section(name, start, stop))
        start = stop
    return found


def _section(group: str) -> str:
    """The layer of a group; a group that is no part of a layer is its own."""
    if "." in group:  # a tensor
        return group_of("layer")(group)
    layer = re.match(r"layer \d+", group)
    return layer.group() if layer else group


def ticks(groups: Sequence[str]) -> dict[float, str]:
    """Place -> label along the groups' axis: every group where that can be read, else the middle of every layer."""
    if len(groups) <= LABELS:
        return {float(place): short(group) for place, group in enumerate(groups)}
    layers = sections(groups)
    apart = -(-len(layers) // LABELS)
    return {(section.start + section.stop - 1) / 2: section.name for section in layers[::apart]}


def short(group: str) -> str:
    """A tensor's name without what all of them share."""
    return group.removeprefix("model.").removesuffix(".weight").replace("layers.", "")


def layer_means(groups: Sequence[str], coefficients: Coefficients) -> list[list[float]]:
    """The mean coefficient of each expert's groups in each layer, [experts, layers].

    Args:
        groups: in depth order.
        coefficients: [experts, groups].
    """
    starts = [section.start for section in sections(groups)]
    sums = np.add.reduceat(coefficients, starts, axis=1)
    return (sums / np.diff([*starts, len(groups)])).round(4).tolist()  # type: ignore[no-any-return]
