"""Models answer, their answers are judged, rates are held against other models' and against gates."""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.stats import bootstrap

from datagen.engines.base import Engine, open_engine
from datagen.engines.local import LocalEngine
from datagen.progress import Bar
from optimizer.evaluate.gates import Gate
from optimizer.evaluate.plan import Plan
from optimizer.evaluate.result import EvaluatedRow, Evaluation, GateResult, Lead, Value
from optimizer.evaluate.subjects import Subject
from optimizer.evaluation import answers_of, estimate, rights, topics_of, verdicts_on
from optimizer.objective.task_terms import ask_tasks
from optimizer.paired import AT_ONCE, RESAMPLES, Outcomes, paired_differences, score, significance
from optimizer.report.result import SCORE, Difference
from optimizer.run import versions

if TYPE_CHECKING:
    from optimizer.harness.measuring import Found


def evaluate(plan: Plan, engine: Engine | None = None) -> Evaluation:
    """Lets the models of a plan answer, and measures.

    Args:
        engine: by default the one that the plan asks for.

    Raises:
        GoodbunchError: a model or the engine is not as it must be.
    """
    basis = plan.basis
    with ExitStack() as stack:
        opened = engine or stack.enter_context(open_engine(basis.engine, basis.tokenizers))
        for subject in plan.subjects:
            subject.check(opened, basis.engine.kind)
        opened.check(judge.model for judge in plan.judges)

        def use(subject: Subject) -> None:
            subject.use(opened, basis.engine, basis.tokenizers, stack)

        found: dict[str, dict[str, Found]] = {}
        with Bar("answering", len(plan.subjects)) as bar:

            def on_model(name: str) -> None:
                found[name] = _asked(plan, opened)
                bar.advance(name)

            answers = answers_of(opened, use, plan.subjects, plan.tests, basis.max_answer_tokens, on_model)
        verdicts = verdicts_on(opened, plan.terms, plan.tests, answers, basis.rules)
    return _measured(plan, {name: rights(own) for name, own in verdicts.items()}, found)


def _asked(plan: Plan, engine: Engine) -> "dict[str, Found]":
    """What the model in use comes to in the tasks."""
    if not plan.tasks:
        return {}
    if not isinstance(engine, LocalEngine):
        raise TypeError(f"tasks must be asked of an engine that takes token ids, but {type(engine).__name__} does not")
    return ask_tasks(plan.tasks, engine)


def _measured(
    plan: Plan, verdicts: Mapping[str, Mapping[str, Sequence[bool]]], found: "Mapping[str, Mapping[str, Found]]"
) -> Evaluation:
    """Rates, leads and gates.

    Args:
        verdicts: model -> term -> outcomes of its answers.
        found: model -> task -> what it came to.
    """
    plain = [term.name for term in plan.tasks if all(_is_plain(own[term.name]) for own in found.values())]
    outcomes = {
        name: {**own, **{task: [value == 1 for value in found[name][task].each] for task in plain}}
        for name, own in verdicts.items()
    }
    values = {
        name: {task: _value(one, plan.basis.seed) for task, one in own.items() if task not in plain}
        for name, own in found.items()
    }
    model, *others = (subject.name for subject in plan.subjects)
    held = {name: outcomes[name] for name in others}
    rated = bool(outcomes[model])
    differences = paired_differences(outcomes[model], held, plan.weights, plan.basis.seed, plan.faults) if rated else {}
    rows = [
        _row(plan, subject, outcomes[subject.name], outcomes[model], differences.get(subject.name, {}))
        for subject in plan.subjects
    ]
    rows = [row.model_copy(update={"values": values[row.model]}) for row in rows]
    return Evaluation(
        data=str(plan.folder or ""),
        terms=[term.written for term in plan.every],
        rows=rows,
        gates=[_held(gate, rows[0]) for gate in plan.gates],
        engine=plan.basis.engine,
        max_answer_tokens=plan.basis.max_answer_tokens,
        seed=plan.basis.seed,
        versions=versions(),
    )


def _held(gate: Gate, row: EvaluatedRow) -> GateResult:
    """What becomes of a gate."""
    rate, value = row.metrics.get(gate.term), row.values.get(gate.term)
    measured = row.values[gate.term].value if rate is None else rate.value
    return GateResult(gate=gate.written, rate=rate, value=value, passed=gate.passes(measured))


def _row(
    plan: Plan, subject: Subject, own: Outcomes, model: Outcomes, differences: Mapping[str, Difference]
) -> EvaluatedRow:
    """One model's row.

    Args:
        own: outcomes of its answers.
        model: those of the evaluated model.
        differences: the evaluated model minus this one.
    """
    metrics = {term: estimate(sum(some), len(some)) for term, some in own.items()}
    return EvaluatedRow(
        model=subject.name,
        reference=subject.reference,
        metrics=metrics,
        score=score({term: one.value for term, one in metrics.items()}, plan.weights, plan.faults) if metrics else None,
        topics=topics_of(plan.terms, plan.tests, own),
        against={
            term: Lead(**difference.model_dump(), p=None if term == SCORE else significance(model[term], own[term]))
            for term, difference in differences.items()
        },
    )


def _is_plain(found: "Found") -> bool:
    """Whether every doc is right or wrong."""
    return bool(found.each) and all(value in (0, 1) for value in found.each)


def _value(found: "Found", seed: int) -> Value:
    """A value with its interval, if it is a mean over docs."""
    if len(found.each) < 2:
        return Value(value=found.value, rows=found.rows)
    ends: Any = bootstrap(
        (np.array(found.each),), np.mean, n_resamples=RESAMPLES, batch=AT_ONCE, method="percentile", rng=seed
    ).confidence_interval
    return Value(value=found.value, low=float(ends.low), high=float(ends.high), rows=found.rows)
