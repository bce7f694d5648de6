"""Models answer, their answers are judged, rates are held against other models' and against gates."""

from collections import defaultdict
from collections.abc import Mapping
from contextlib import ExitStack

from datagen.data_config import SAFETY_KINDS
from datagen.engines.base import Engine, open_engine
from datagen.progress import Bar
from optimizer.evaluate.plan import Plan
from optimizer.evaluate.result import EvaluatedRow, Evaluation, GateResult, Lead
from optimizer.evaluate.subjects import Subject
from optimizer.evaluation import answers_of, estimate, rights, verdicts_on
from optimizer.objective.answer_terms import AnswerTerm
from optimizer.paired import Outcomes, paired_differences, score, significance
from optimizer.report.result import SCORE, Difference, Estimate
from optimizer.run import versions


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

        with Bar("answering", len(plan.subjects)) as bar:
            answers = answers_of(opened, use, plan.subjects, plan.tests, basis.max_answer_tokens, bar.advance)
        verdicts = verdicts_on(opened, plan.terms, plan.tests, answers, basis.rules)
    return _measured(plan, {name: rights(own) for name, own in verdicts.items()})


def _measured(plan: Plan, outcomes: Mapping[str, Outcomes]) -> Evaluation:
    model, *others = (subject.name for subject in plan.subjects)
    held = {name: outcomes[name] for name in others}
    differences = paired_differences(outcomes[model], held, plan.weights, plan.basis.seed, plan.faults)
    rows = [
        _row(plan, subject, outcomes[subject.name], outcomes[model], differences.get(subject.name, {}))
        for subject in plan.subjects
    ]
    rates = rows[0].metrics
    return Evaluation(
        data=str(plan.folder),
        terms=[term.written for term in plan.terms],
        rows=rows,
        gates=[
            GateResult(gate=gate.written, rate=rates[gate.term], passed=gate.passes(rates[gate.term].value))
            for gate in plan.gates
        ],
        engine=plan.basis.engine,
        max_answer_tokens=plan.basis.max_answer_tokens,
        seed=plan.basis.seed,
        versions=versions(),
    )


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
        score=score({term: one.value for term, one in metrics.items()}, plan.weights, plan.faults),
        topics={term.name: _by_topic(plan, term, own) for term in plan.terms if term.kind in SAFETY_KINDS},
        against={
            term: Lead(**difference.model_dump(), p=None if term == SCORE else significance(model[term], own[term]))
            for term, difference in differences.items()
        },
    )


def _by_topic(plan: Plan, term: AnswerTerm, outcomes: Outcomes) -> dict[str, Estimate]:
    by_topic: dict[str, list[bool]] = defaultdict(list)
    for row, right in zip(plan.tests[term.kind], outcomes[term.name], strict=True):
        by_topic[row.topic].append(right)
    return {topic: estimate(sum(some), len(some)) for topic, some in sorted(by_topic.items())}
