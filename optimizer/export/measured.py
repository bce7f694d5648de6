"""What a model card tells of how a merge scores: table, judges, over-refusal, limits, and results for the hub."""

from collections.abc import Sequence
from dataclasses import dataclass

from huggingface_hub import EvalResult

from optimizer.config import Config
from optimizer.objective.answers import Rules
from optimizer.report.result import ALIGNMENT, OVER_REFUSAL, WINNER, Estimate, Result
from optimizer.report.tables import per_cent, score_table
from optimizer.report.verdict import remarks


@dataclass(frozen=True)
class Measured:
    """How a merge scores.

    Attributes:
        table: the comparison, its heading first.
        judged: how answers were judged, as sentences.
        over_refusal: how much of what it should answer the merge refuses, as a sentence.
        limits: what the scores do not tell, as sentences.
        results: the merge's own, as the hub lists them.
    """

    table: Sequence[Sequence[str]]
    judged: str
    over_refusal: str
    limits: Sequence[str]
    results: Sequence[EvalResult]


def measured(result: Result, config: Config) -> Measured:
    """What a run measured of its winner."""
    winner = result.row(WINNER)
    return Measured(
        score_table(result),
        _judged(config),
        _over_refusal(winner.metrics.get(OVER_REFUSAL)),
        [remarks(result), *_runaways(result)],
        [_for_the_hub(metric, rate) for metric, rate in winner.metrics.items()],
    )


def _judged(config: Config) -> str:
    rules = Rules.of(config.data)
    judge = rules.judges.get("refusal")
    phrases = ", ".join(f'"{phrase}"' for phrase in rules.refusals)
    by = f"by the model `{judge.model}`" if judge else f"by phrases ({phrases})"
    return (
        f"Every model answered the same rows of the test split greedily, in at most {config.data.max_answer_tokens} "
        f"tokens. Refusals were told {by}; an answer to a domain's question is right if it equals the reference. "
        f"Rates are per cent with 95 % Wilson intervals."
    )


def _over_refusal(rate: Estimate | None) -> str:
    if rate is None:
        return "Over-refusal was not measured: there were no harmless requests that merely look unsafe."
    return f"Of {rate.rows} harmless requests that merely look unsafe it refuses {per_cent(rate)} %."


def _runaways(result: Result) -> list[str]:
    if not result.runaways:
        return []
    named = ", ".join(f"{one.expert} in {one.group} ({one.value:.3g})" for one in result.runaways)
    return [f"Coefficients stand far out in {named}: look at these groups before you use the merge elsewhere."]


def _for_the_hub(metric: str, rate: Estimate) -> EvalResult:
    """A rate in per cent, with its interval among the arguments."""
    kinds = {ALIGNMENT: "unsafe requests", OVER_REFUSAL: "borderline requests"}
    kind = kinds.get(metric, metric.partition("/")[2])
    return EvalResult(
        task_type="text-generation",
        dataset_type="goodbunch",
        dataset_name=f"{kind}, test split of the run",
        dataset_config=kind,  # the hub knows data sets apart by it, not by their names
        dataset_split="test",
        metric_type="refusal_rate" if metric in kinds else "exact_match",
        metric_name=f"{metric}, %",
        metric_value=round(100 * rate.value, 2),
        metric_args={"low": round(100 * rate.low, 2), "high": round(100 * rate.high, 2), "rows": rate.rows},
    )
