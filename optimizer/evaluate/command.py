"""What to measure and how, from the command line; the measuring; the tables."""

import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from datagen.checkpoints import open_weights
from datagen.config import EngineConfig
from datagen.data_config import SAFETY_KINDS
from datagen.engines.base import Engine, open_engine
from datagen.errors import ConfigError, DataError
from datagen.files import write_text
from datagen.progress import Bar, console
from optimizer.config import Config
from optimizer.evaluate.gates import Gate, parse_gate
from optimizer.evaluate.result import EvaluatedRow, Evaluation, GateResult, Lead
from optimizer.evaluate.subjects import Subject, is_run, subjects_of
from optimizer.evaluation import Tests, answers_of, estimate, read_test, rights, verdicts_on, weights_of
from optimizer.loading import load_config
from optimizer.objective.answer_terms import AnswerTerm, parse_terms
from optimizer.objective.answers import Rules
from optimizer.paired import Outcomes, paired_differences, score, significance
from optimizer.report.result import SCORE, Estimate
from optimizer.report.tables import heading, per_cent, points, text_table
from optimizer.run import versions
from optimizer.trials import run_config

#: Tokens of a prompt and its answer, and of an answer, where no config says.
LENGTH, ANSWER = EngineConfig.model_fields["max_model_len"].default, 512


@dataclass(frozen=True)
class Plan:
    """All that an evaluation goes by.

    Attributes:
        subjects: the model, then those it is held against.
        folder: of the rows.
        terms: what is measured.
        tests: kind -> rows.
        gates: that the model must pass.
        weights: of the terms in the score.
        engine: that writes the answers.
        tokenizers: model -> the one whose tokenizer it is asked with.
        rules: by which answers are judged.
        max_answer_tokens: longest answer.
        seed: of the draw of rows and of the bootstrap.
    """

    subjects: Sequence[Subject]
    folder: Path
    terms: Sequence[AnswerTerm]
    tests: Tests
    gates: Sequence[Gate]
    weights: Mapping[str, float]
    engine: EngineConfig
    max_answer_tokens: int
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    seed: int = 0

    @property
    def faults(self) -> list[str]:
        """Names of the terms of which less is better."""
        return [term.name for term in self.terms if term.is_fault]


def plan(
    model: str,
    *,
    data: Path | None = None,
    terms: Sequence[str] = (),
    against: Sequence[str] = (),
    require: Sequence[str] = (),
    config: Path | None = None,
    overrides: Sequence[str] = (),
) -> Plan:
    """Reads what the command line names; nothing is started.

    Raises:
        GoodbunchError: something of it is missing, or does not fit the rest.
    """
    loaded = _config(model, config, overrides)
    subjects = subjects_of([model, *against], loaded.bunch.models() if loaded else {})
    folder = data or (loaded.test_folder if loaded else None)
    if folder is None:
        raise ConfigError("--data: a model or a recipe has no test rows of its own; name a folder, or a --config")
    kinds = _kinds(folder)
    objective = [term.kind or name for name, term in loaded.objective.items()] if loaded else kinds
    chosen = parse_terms(terms or dict.fromkeys(kind for kind in objective if kind in kinds) or kinds, kinds)
    rules = Rules.of(loaded.data) if loaded else Rules()
    _check_judges(chosen, rules)
    for term in chosen:
        term.metric.bind(rules, term.option)  # a wrong option is told before rows are read
    engine = loaded.engine if loaded else _engine(subjects[0])
    seed = loaded.search.seed if loaded else 0
    rows = loaded.evaluation.rows if loaded else sys.maxsize
    tests = read_test(folder, list(dict.fromkeys(term.kind for term in chosen)), rows, seed)
    for term in chosen:
        term.check(tests[term.kind])
    weights = weights_of(loaded.objective) if loaded and not terms else {}
    return Plan(
        subjects=subjects,
        folder=folder,
        terms=chosen,
        tests=tests,
        gates=[parse_gate(one, chosen) for one in require],
        weights={term.name: weights.get(term.name, 1.0) for term in chosen},
        engine=engine,
        max_answer_tokens=loaded.data.max_answer_tokens if loaded else min(ANSWER, engine.max_model_len // 2),
        tokenizers=loaded.bunch.tokenizers() if loaded else {},
        rules=rules,
        seed=seed,
    )


def evaluate(plan: Plan, engine: Engine | None = None) -> Evaluation:
    """Lets the models of a plan answer, and measures.

    Args:
        engine: by default the one that the plan asks for.

    Raises:
        GoodbunchError: a model or the engine is not as it must be.
    """
    with ExitStack() as stack:
        opened = engine or stack.enter_context(open_engine(plan.engine, plan.tokenizers))
        for subject in plan.subjects:
            subject.check(opened, plan.engine.kind)
        with Bar("answering", len(plan.subjects)) as bar:
            answers = answers_of(
                opened,
                lambda subject: subject.use(opened, plan.engine, plan.tokenizers, stack),
                plan.subjects,
                plan.tests,
                plan.max_answer_tokens,
                bar.advance,
            )
        verdicts = verdicts_on(opened, plan.terms, plan.tests, answers, plan.rules)
    return _measured(plan, {name: rights(own) for name, own in verdicts.items()})


def write_evaluation(path: Path, evaluation: Evaluation) -> None:
    """Writes the file whole or not at all."""
    write_text(path, evaluation.model_dump_json(indent=1) + "\n")


def show(evaluation: Evaluation) -> None:
    """Prints what was measured."""
    model, *others = evaluation.rows
    console.print(f"{evaluation.data}: {', '.join(evaluation.terms)}", markup=False)
    table = [["model", *map(heading, model.metrics), "score"]]
    table += [[row.model, *map(per_cent, row.metrics.values()), f"{100 * row.score:.1f}"] for row in evaluation.rows]
    console.print(text_table("% [95 % interval]", table, [0]))
    if topics := list(dict.fromkeys(topic for found in model.topics.values() for topic in found)):
        table = [["topic", *map(heading, model.topics)]]
        table += [[topic, *(_cell(found.get(topic)) for found in model.topics.values())] for topic in topics]
        console.print(text_table(f"{model.model} by topic, % [95 % interval]", table))
    if others:
        table = [["", *(row.model for row in others)]]
        table += [[heading(term), *(_lead(row.against[term]) for row in others)] for term in (*model.metrics, SCORE)]
        title = f"{model.model} minus others on the same rows, points [95 % interval] and p of McNemar's test"
        console.print(text_table(title, table))
    for gate in evaluation.gates:
        said = "passed" if gate.passed else "FAILED"
        console.print(f"{said}: {gate.gate}, measured {per_cent(gate.rate)} %", markup=False)


def _config(model: str, config: Path | None, overrides: Sequence[str]) -> Config | None:
    """The run's own config, or the one that is named."""
    if is_run(model):
        if config is not None:
            raise ConfigError(f"--config must come with a model or a recipe, but {model} is a run, which has its own")
        return run_config(Path(model), overrides)
    if config is not None:
        return load_config(config, overrides)
    if overrides:
        raise ConfigError(
            f"{overrides[0]!r} overrides a config, but there is none; add --config, or name a run. More terms, models "
            f"and gates each take an option of their own: --terms A --terms B"
        )
    return None


def _kinds(folder: Path) -> list[str]:
    """Kinds that there are rows of: those of safety, then the domains."""
    found = sorted(path.stem for path in folder.glob("*.jsonl"))
    if not found:
        raise DataError(
            f"{folder}: a folder of test rows must hold KIND.jsonl files, but there is none; name one such as "
            f"runs/demo/data/validation"
        )
    return sorted(found, key=lambda kind: SAFETY_KINDS.index(kind) if kind in SAFETY_KINDS else len(SAFETY_KINDS))


def _check_judges(terms: Sequence[AnswerTerm], rules: Rules) -> None:
    # Refusals are told by phrases where no model does; harm has no such rule.
    missing = [term.written for term in terms if term.metric.asks == "unsafe" and "unsafe" not in rules.judges]
    if missing:
        raise ConfigError(f"{missing[0]!r} asks a guard, which a config must name; add --config, or leave the term out")


def _engine(model: Subject) -> EngineConfig:
    """An engine as long as the model is."""
    longest = open_weights(model.stored).config.get("max_position_embeddings", LENGTH)
    return EngineConfig(max_model_len=min(LENGTH, longest))


def _measured(plan: Plan, outcomes: Mapping[str, Outcomes]) -> Evaluation:
    model, *others = plan.subjects
    differences = paired_differences(
        outcomes[model.name], {one.name: outcomes[one.name] for one in others}, plan.weights, plan.seed, plan.faults
    )
    rows = []
    for subject in plan.subjects:
        own = outcomes[subject.name]
        metrics = {term: estimate(sum(some), len(some)) for term, some in own.items()}
        against = {
            term: Lead(
                **difference.model_dump(),
                p=None if term == SCORE else significance(outcomes[model.name][term], own[term]),
            )
            for term, difference in differences.get(subject.name, {}).items()
        }
        rows.append(
            EvaluatedRow(
                model=subject.name,
                reference=subject.reference,
                metrics=metrics,
                score=score({term: one.value for term, one in metrics.items()}, plan.weights, plan.faults),
                topics={term.name: _by_topic(plan, term, own) for term in plan.terms if term.kind in SAFETY_KINDS},
                against=against,
            )
        )
    rates = rows[0].metrics
    return Evaluation(
        data=str(plan.folder),
        terms=[term.written for term in plan.terms],
        rows=rows,
        gates=[
            GateResult(gate=gate.written, rate=rates[gate.term], passed=gate.passes(rates[gate.term].value))
            for gate in plan.gates
        ],
        engine=plan.engine,
        max_answer_tokens=plan.max_answer_tokens,
        seed=plan.seed,
        versions=versions(),
    )


def _by_topic(plan: Plan, term: AnswerTerm, outcomes: Outcomes) -> dict[str, Estimate]:
    by_topic: dict[str, list[bool]] = defaultdict(list)
    for row, right in zip(plan.tests[term.kind], outcomes[term.name], strict=True):
        by_topic[row.topic].append(right)
    return {topic: estimate(sum(some), len(some)) for topic, some in sorted(by_topic.items())}


def _cell(rate: Estimate | None) -> str:
    return "" if rate is None else per_cent(rate)


def _lead(lead: Lead) -> str:
    if lead.p is None:
        return points(lead)
    return f"{points(lead)} {'p<0.001' if lead.p < 0.001 else f'p={lead.p:.3f}'}"
