"""What an evaluation goes by, read from the command line and from a config; nothing is started."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from datagen.config import EngineConfig
from datagen.data_config import SAFETY_KINDS, VerdictConfig
from datagen.errors import ConfigError, DataError
from datagen.models.opening import open_weights
from optimizer.config import Config
from optimizer.evaluate.gates import Gate, parse_gate
from optimizer.evaluate.subjects import Subject, is_run, subjects_of
from optimizer.evaluation import Tests, read_test, weights_of
from optimizer.loading import load_config
from optimizer.objective.answer_terms import AnswerTerm, check_names, parse_terms
from optimizer.objective.answers import Rules
from optimizer.objective.task_terms import TaskTerm, is_task, open_task, parse_task
from optimizer.trials import run_config

#: Tokens of a prompt and its answer, and of an answer, where no config says.
LENGTH, ANSWER = EngineConfig.model_fields["max_model_len"].default, 512


@dataclass(frozen=True)
class Basis:
    """What a config says, or does where there is none.

    Attributes:
        engine: that writes the answers.
        max_answer_tokens: longest answer.
        tokenizers: model -> the one whose tokenizer it is asked with.
        rules: by which answers are judged.
        rows: at most so many of each kind.
        seed: of the draw of rows and of the bootstrap.
    """

    engine: EngineConfig
    max_answer_tokens: int
    tokenizers: Mapping[str, str] = field(default_factory=dict)
    rules: Rules = field(default_factory=Rules)
    rows: int = sys.maxsize
    seed: int = 0

    @classmethod
    def of(cls, config: Config) -> Self:
        """As a search with this config does its comparison."""
        return cls(
            config.engine,
            config.data.max_answer_tokens,
            config.bunch.tokenizers(),
            Rules.of(config.data),
            config.evaluation.rows,
            config.search.seed,
        )

    @classmethod
    def fitting(cls, model: Subject) -> Self:
        """Whatever a model takes, all rows, and no model that judges."""
        longest = open_weights(model.stored).config.get("max_position_embeddings", LENGTH)
        engine = EngineConfig(max_model_len=min(LENGTH, longest))
        return cls(engine, min(ANSWER, engine.max_model_len // 2))


@dataclass(frozen=True)
class Plan:
    """All that an evaluation goes by.

    Attributes:
        basis: engine, rules, seed.
        subjects: the model, then those it is held against.
        folder: of the rows.
        terms: what is measured.
        tests: kind -> rows.
        weights: of the terms in the score.
        gates: that the model must pass.
        tasks: of lm-eval's, on the docs that it would take.
    """

    basis: Basis
    subjects: Sequence[Subject]
    folder: Path | None
    terms: Sequence[AnswerTerm]
    tests: Tests
    weights: Mapping[str, float]
    gates: Sequence[Gate]
    tasks: Sequence[TaskTerm] = ()

    @property
    def every(self) -> list[AnswerTerm | TaskTerm]:
        """Terms of both sorts."""
        return [*self.terms, *self.tasks]

    @property
    def faults(self) -> list[str]:
        """Names of the terms of which less is better."""
        return [term.name for term in self.every if term.is_fault]

    @property
    def judges(self) -> list[VerdictConfig]:
        """The models that are asked about answers."""
        asked = {term.metric.asks for term in self.terms}
        return [judge for question, judge in self.basis.rules.judges.items() if question in asked]


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
    """Reads what the command line names.

    Raises:
        GoodbunchError: something of it is missing, or does not fit the rest.
    """
    loaded = _config(model, config, overrides)
    subjects = subjects_of([model, *against], loaded.bunch.models() if loaded else {})
    basis = Basis.of(loaded) if loaded else Basis.fitting(subjects[0])
    folder = data or (loaded.test_folder if loaded else None)
    written = [one for one in terms if not is_task(one)]
    if not terms or written:
        if folder is None:
            raise ConfigError("--data: a model or a recipe has no test rows of its own; name a folder, or a --config")
        kinds = _kinds(folder)
        chosen = parse_terms(written or _searched(loaded, kinds) or kinds, kinds)
    else:
        folder, chosen = None, []
    _check(chosen, basis.rules)
    tasks = _tasks(terms, loaded, basis)
    check_names([*chosen, *tasks])
    gates = [parse_gate(one, [*chosen, *tasks]) for one in require]
    tests = {}
    if folder is not None:
        tests = read_test(folder, list(dict.fromkeys(term.kind for term in chosen)), basis.rows, basis.seed)
    for term in chosen:
        term.check(tests[term.kind])
    given = weights_of(loaded.objective) if loaded and not terms else {}
    weights = {term.name: given.get(term.name, 1.0) for term in chosen} | {term.name: term.weight for term in tasks}
    return Plan(basis, subjects, folder, chosen, tests, weights, gates, tasks)


def _tasks(written: Sequence[str], config: Config | None, basis: Basis) -> list[TaskTerm]:
    """The tasks that are written, or else those of a config's objective."""
    most = None if basis.rows == sys.maxsize else basis.rows
    found = []
    if written:
        parsed = [(one, *parse_task(one)) for one in written if is_task(one)]
        for one, name, task in parsed:
            limited = task.model_copy(update={"examples": task.examples or most})
            found.append(open_task(name, 1.0, limited, "test", one))
    elif config is not None:
        for name, term in config.objective.items():
            if term.task:
                limited = term.asked_task.model_copy(update={"examples": most})
                found.append(open_task(name, term.weight, limited, "test", f"objective.{name}"))
    if found and basis.engine.kind == "server":
        raise ConfigError(
            f"{found[0].written}: a task of lm-eval's is asked by token ids, which a server does not take; set "
            f"engine.kind=vllm or engine.kind=transformers"
        )
    return found


def _config(model: str, config: Path | None, overrides: Sequence[str]) -> Config | None:
    """The run's own config, or the one that is named."""
    if stray := [one for one in overrides if "=" not in one]:
        raise ConfigError(
            f"an override must read key=value, but got {stray[0]!r}; more terms, models and gates each need an option "
            f"of their own, such as --terms A --terms B"
        )
    if is_run(model):
        if config is not None:
            raise ConfigError(f"--config must come with a model or a recipe, but {model} is a run, which has its own")
        return run_config(Path(model), overrides)
    if config is not None:
        return load_config(config, overrides)
    if overrides:
        raise ConfigError(f"{overrides[0]!r} overrides a config, but there is none; add --config, or name a run")
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


def _searched(config: Config | None, kinds: Sequence[str]) -> list[str]:
    """Those of the kinds that a config's objective measures, in its order."""
    objective = {} if config is None else config.objective
    return [kind for kind in dict.fromkeys(term.kind_of(name) for name, term in objective.items()) if kind in kinds]


def _check(terms: Sequence[AnswerTerm], rules: Rules) -> None:
    """Refuses terms that the rules cannot serve."""
    for term in terms:
        # Refusals are told by phrases where no model does; harm has no such rule.
        if term.metric.asks == "unsafe" and "unsafe" not in rules.judges:
            raise ConfigError(
                f"{term.written!r} asks a guard, which a config must name; add --config, or leave the term out"
            )
        term.metric.bind(rules, term.option)
