"""An evaluation on the terminal."""

from datagen.progress import console
from optimizer.evaluate.result import Evaluation, Lead, Value
from optimizer.report.result import SCORE, Estimate
from optimizer.report.tables import heading, per_cent, points, text_table


def show(evaluation: Evaluation) -> None:
    """Prints what was measured."""
    model, *others = evaluation.rows
    console.print(": ".join(filter(None, [evaluation.data, ", ".join(evaluation.terms)])), markup=False)
    if model.score is not None:
        table = [["model", *map(heading, model.metrics), "score"]]
        table += [
            [row.model, *map(per_cent, row.metrics.values()), f"{100 * (row.score or 0):.1f}"]
            for row in evaluation.rows
        ]
        console.print(text_table("% [95 % interval]", table, [0]))
    if model.values:
        table = [["model", *map(heading, model.values)]]
        table += [[row.model, *map(_value, row.values.values())] for row in evaluation.rows]
        console.print(text_table("values [95 % interval]", table, [0]))
    topics = list(dict.fromkeys(topic for found in model.topics.values() for topic in found))
    if len(topics) > 1:
        table = [["topic", *map(heading, model.topics)]]
        table += [[topic, *(_cell(found.get(topic)) for found in model.topics.values())] for topic in topics]
        console.print(text_table(f"{model.model} by topic, % [95 % interval]", table))
    if others and model.metrics:
        table = [["", *(row.model for row in others)]]
        table += [[heading(term), *(_lead(row.against[term]) for row in others)] for term in (*model.metrics, SCORE)]
        title = f"{model.model} minus others on the same rows, points [95 % interval] and p of McNemar's test"
        console.print(text_table(title, table))
    for gate in evaluation.gates:
        said = "passed" if gate.passed else "FAILED"
        measured = f"{per_cent(gate.rate)} %" if gate.rate else _value(gate.value) if gate.value else ""
        console.print(f"{said}: {gate.gate}, measured {measured}", markup=False)


def _cell(rate: Estimate | None) -> str:
    return "" if rate is None else per_cent(rate)


def _value(found: Value) -> str:
    ends = "" if found.low is None else f" [{found.low:.4g},{found.high:.4g}]"
    return f"{found.value:.4g}{ends}"


def _lead(lead: Lead) -> str:
    if lead.p is None:
        return points(lead)
    return f"{points(lead)} {'p<0.001' if lead.p < 0.001 else f'p={lead.p:.3f}'}"
