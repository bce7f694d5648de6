"""Coefficients that have run away: so far out that someone should look at them before the merge is used."""

import math

import numpy as np
from scipy.stats import median_abs_deviation

from optimizer.report.result import CoefficientTable, Runaway

#: Median absolute deviations beyond the median, and the magnitude, that a runaway is beyond.
DEVIATIONS, MAGNITUDE = 6.0, 3.0

#: How many are told.
MOST = 10

#: Share of the search's range within which a coefficient is at its end: samplers stop a rounding short of it.
_AT_END = 1e-6


def runaways(table: CoefficientTable, low: float = -math.inf, high: float = math.inf) -> list[Runaway]:
    """The coefficients that have run away, the largest first.

    A coefficient has run away if its magnitude is beyond 3 and beyond the median of all magnitudes by more than six
    median absolute deviations, or if it is at an end of the range that was searched, where it was held back.

    Large ones are no mistake in themselves: a final norm's may well reach 11. But a group whose coefficient hardly
    matters on the search's data is free to drift, and may matter elsewhere.

    Args:
        low: end of the range that was searched; none for a merge that no search suggested.
        high: its other end.
    """
    values = np.array(table.values)
    sizes = np.abs(values)
    beyond = np.median(sizes) + DEVIATIONS * median_abs_deviation(sizes, axis=None)
    near = _AT_END * (high - low) if math.isfinite(high - low) else 0.0
    away = (sizes > max(beyond, MAGNITUDE)) | (values <= low + near) | (values >= high - near)
    places = sorted(np.argwhere(away).tolist(), key=lambda place: -sizes[tuple(place)])
    return [
        Runaway(expert=table.experts[row], group=table.groups[column], value=values[row, column])
        for row, column in places[:MOST]
    ]
