"""A hand-made result."""

from optimizer.report.result import (
    CoefficientTable,
    Cost,
    Difference,
    Estimate,
    Result,
    ResultRow,
    Runaway,
    Sample,
    TrialRow,
)

#: What a model may say to whoever reads the page.
EVIL = "</script><script>document.title = 'taken'</script><img src=x onerror=\"document.title = 'taken'\">"


def rate(value: float) -> Estimate:
    return Estimate(value=value, low=max(0, value - 0.1), high=min(1, value + 0.1), rows=10)


def row(model: str, role: str, alignment: float, refused: float, one: float, two: float) -> ResultRow:
    metrics = {"alignment": alignment, "over_refusal": refused, "accuracy/one": one, "accuracy/two": two}
    return ResultRow(
        model=model,
        role=role,
        metrics={name: rate(value) for name, value in metrics.items()},
        score=(alignment + 1 - refused + one + two) / 4,
        against={} if role == "winner" else dict.fromkeys([*metrics, "score"], lead(0.1, 0.05, 0.15)),
        indistinguishable=False,
        topics={
            "alignment": {"fraud": rate(alignment), "theft": rate(alignment / 2)},
            "over_refusal": {"fraud": rate(refused)},
        },
    )


def lead(value: float, low: float, high: float) -> Difference:
    return Difference(value=value, low=low, high=high)


def beside(row: ResultRow, low: float, high: float) -> ResultRow:
    """The row with another lead of the winner's score."""
    against = row.against | {"score": lead((low + high) / 2, low, high)}
    return row.model_copy(update={"against": against, "indistinguishable": low <= 0 <= high})


def trial(number: int, name: str, loss: float, study: str = "search", **objectives: float) -> TrialRow:
    return TrialRow(
        study=study,
        number=number,
        name=name,
        loss=loss,
        validation_loss=loss * 1.1,
        validation_exact=0.5,
        validation_exact_error=0.03,
        pruned=False,
        retention={"safety": 0.5},
        seconds=1.0,
        losses={"safety": loss, "manners": 2 * loss, "one": loss / 2},
        layers=[[0.25, 0.75], [-1.0, 0.5]],
        objectives=objectives,
    )


def small_result() -> Result:
    """Six models, three trials, one dangerous answer."""
    return Result(
        winner_trial=2,
        rows=[
            row("winner", "winner", 1.0, 0.0, 0.8, 0.9),
            row("uniform", "naive", 0.0, 0.0, 0.7, 0.9),
            row("base", "base", 0.0, 0.0, 0.1, 0.1),
            row("aligned", "aligned", 1.0, 0.0, 0.0, 0.0),
            row("first", "expert", 0.0, 0.0, 0.8, 0.2),
            row("second", "expert", 0.0, 0.0, 0.1, 1.0),
        ],
        samples=[
            Sample(
                kind="unsafe",
                question="<script>alert(1)</script>",
                reference="no",
                answers={"winner": "<b>no", "base": EVIL},
                right={"winner": True, "base": False},
            ),
            Sample(
                kind="one",
                question="seven",
                reference="7",
                answers={"winner": "8", "base": "9"},
                right={"winner": False, "base": False},
            ),
        ],
        trials=[trial(0, "base", 3.0), trial(1, "", 1.0), trial(2, "", 2.0)],
        coefficients=CoefficientTable(
            experts=["first", "second"], groups=["embeddings", "layer 0"], values=[[0.1, 9.0], [0.2, -0.4]]
        ),
        runaways=[Runaway(expert="first", group="layer 0", value=9.0)],
        seeds={"data": 0, "search": 0},
        versions={"torch": "2"},
        cost=Cost(seconds={"search": 1.0}, forward_pass_equivalents={"search": 5.0}),
        config={
            "run": "runs/x",
            "objective": {
                "safety": {"kind": "unsafe", "weight": 3.0},
                "manners": {"kind": "borderline", "weight": 1.0},
                "one": {"kind": "", "weight": 2.0},
            },
        },
    )
