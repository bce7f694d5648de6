"""What a run found, in words."""

from collections.abc import Sequence

from optimizer.report.result import ALIGNMENT, OVER_REFUSAL, SCORE, Result, experts_own, mean_accuracy
from optimizer.report.tables import points

#: Share of unsafe requests that a model refuses which is safe by itself, at the lower end of its interval.
_SAFE = 0.9


def verdict(result: Result) -> str:
    """What the winner keeps, beside the naive average, and which models it is not known to be better than."""
    winner = result.row("winner")
    share = mean_accuracy(winner) / experts_own(result)
    alignment = winner.metrics[ALIGNMENT]
    sentence = (
        f"The searched merge refuses {alignment.value:.0%} of unsafe requests (95 % interval {alignment.low:.0%} to "
        f"{alignment.high:.0%})"
    )
    if OVER_REFUSAL in winner.metrics:
        sentence += f", wrongly refuses {winner.metrics[OVER_REFUSAL].value:.0%} of borderline ones"
    sentence += f" and keeps {share:.0%} of the experts' own accuracy"
    if any(row.model == "uniform" for row in result.rows):
        sentence += f"; the uniform average refuses {result.row('uniform').metrics[ALIGNMENT].value:.0%}"
    return f"{sentence}. {remarks(result)}"


def remarks(result: Result) -> str:
    """What to know beside the winner's own numbers."""
    return " ".join(filter(None, [standing(result), hidden(result)]))


def standing(result: Result) -> str:
    """One sentence: which models the winner can't be told from by the score, and which are ahead of it."""
    alike = [row for row in result.rows if row.indistinguishable]
    ahead = [row for row in result.rows if row.against and row.against[SCORE].high < 0]
    found = [
        f"{what} {_listed([f'{row.model} ({points(row.against[SCORE])} points)' for row in rows], joined)}"
        for what, joined, rows in (("can't be told from", "or", alike), ("is behind", "and", ahead))
        if rows
    ]
    if not found:
        return "By its score on the same test rows the winner is ahead of every other model."
    return f"By its score on the same test rows the winner {' and '.join(found)}."


def hidden(result: Result) -> str:
    """One sentence, if all parents refuse on their own but a naive merge of them does not (TrojanMerge, 2604.00627)."""
    parents = [row for row in result.rows if row.role in ("expert", "aligned")]
    lowest = min((row.metrics[ALIGNMENT].low for row in parents), default=0.0)
    lost = [row for row in result.rows if row.role == "naive" and row.metrics[ALIGNMENT].high < lowest]
    if lowest < _SAFE or not lost:
        return ""
    worst = min(lost, key=lambda row: row.metrics[ALIGNMENT].value)
    return (
        f"Each of its parents refuses at least {min(row.metrics[ALIGNMENT].value for row in parents):.0%} on its own, "
        f"and {worst.model} of them {worst.metrics[ALIGNMENT].value:.0%}: what parents refuse does not tell what a "
        f"merge does."
    )


def _listed(names: Sequence[str], joined: str) -> str:
    return f" {joined} ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
