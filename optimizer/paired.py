"""Paired comparisons: how far the winner is ahead of other models that answered the same test rows.

Two models that answer the same rows are told apart far better by the rows on which they differ than by their own
intervals, which overlap long before the difference is lost in noise.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.stats import binomtest, bootstrap

from optimizer.report.result import OVER_REFUSAL, SCORE, Difference

#: Metric -> whether it came true for each of its rows.
Outcomes = Mapping[str, Sequence[bool]]

#: Resamples of a bootstrap, and how many are held at once.
RESAMPLES, AT_ONCE = 9999, 250

#: Digits that are kept: what is left of terms that cancel must not look like a difference.
DIGITS = 9


def score(rates: Mapping[str, float], weights: Mapping[str, float], faults: Collection[str] = (OVER_REFUSAL,)) -> float:
    """The weighted mean of all metrics, 1 - over-refusal among them: higher is better.

    Args:
        rates: metric -> value, 0 to 1.
        weights: of the same metrics.
        faults: metrics of which less is better.
    """
    good = {metric: 1 - rate if metric in faults else rate for metric, rate in rates.items()}
    return sum(weights[metric] * rate for metric, rate in good.items()) / sum(weights[metric] for metric in good)


def paired_differences(
    winner: Outcomes,
    others: Mapping[str, Outcomes],
    weights: Mapping[str, float],
    seed: int,
    faults: Collection[str] = (OVER_REFUSAL,),
) -> dict[str, dict[str, Difference]]:
    """The winner minus every other model: metric by metric, and of the score.

    Rows are resampled metric by metric, and with them the answers of both models. The interval is the percentiles of
    the bootstrap (Efron and Tibshirani 1993, chapter 13): unlike BCa's it is there where nothing varies, and then has
    no width; on outcomes such as these it covered the truth about as often as BCa's (92 to 97 % of the time).

    Args:
        others: of other models, on the same rows.
        weights: of the metrics in the score.
        seed: of the bootstrap.
        faults: metrics of which less is better.

    Returns:
        Model -> metric or `score` -> difference.
    """
    if not others:
        return {}
    total = sum(weights[metric] for metric in winner)
    signed = [(-1 if metric in faults else 1) * weights[metric] / total for metric in winner]
    # Per metric [models, rows]: 1 where the winner alone, -1 where the other alone.
    samples = [_minus(some, [other[metric] for other in others.values()]) for metric, some in winner.items()]

    def means(*drawn: npt.NDArray[np.int8], axis: int) -> npt.NDArray[np.float64]:
        every = [one.mean(axis) for one in drawn]
        every.append(sum((share * mean for share, mean in zip(signed, every, strict=True)), np.zeros(())))
        return np.stack(every).round(DIGITS)

    found: Any = bootstrap(
        samples, means, n_resamples=RESAMPLES, batch=AT_ONCE, axis=-1, method="percentile", rng=seed
    ).confidence_interval
    ends = (means(*samples, axis=-1), found.low, found.high)  # each [metrics, models]
    return {
        model: {
            name: Difference(value=value, low=low, high=high)
            for name, value, low, high in zip((*winner, SCORE), *(end[:, i].tolist() for end in ends), strict=True)
        }
        for i, model in enumerate(others)
    }


def significance(one: Sequence[bool], other: Sequence[bool]) -> float:
    """McNemar's exact test: how likely two equally good models would differ on rows so one-sidedly, or more so.

    Only rows that one of them alone gets right tell them apart; of equals each gets half of these
    (McNemar 1947, https://doi.org/10.1007/BF02295996).

    Args:
        one: whether a metric came true for each row.
        other: the same of another model.
    """
    alone = sum(mine and not theirs for mine, theirs in zip(one, other, strict=True))
    differing = sum(mine != theirs for mine, theirs in zip(one, other, strict=True))
    return float(binomtest(alone, differing).pvalue) if differing else 1.0


def _minus(winner: Sequence[bool], others: Sequence[Sequence[bool]]) -> npt.NDArray[np.int8]:
    differences = np.subtract([winner], others, dtype=np.int8)
    # scipy wants two rows at least; one row twice has the same mean however it is drawn.
    return differences if len(winner) > 1 else np.repeat(differences, 2, axis=1)
