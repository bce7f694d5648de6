"""What a config makes a search do: rows and batches, trials and steps, questions that merges answer.

Where the data are there, and a tokenizer, these are exact. Before, a row is taken to be as long as the config lets it
be. Numbers of trials are upper bounds: none is given up early, and no study stops before its budget is spent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from datagen.batches import Batch, Encoded
from datagen.errors import BunchError
from datagen.pipeline import Inputs
from datagen.planning.sizes import folder_here
from datagen.planning.workload import CHARS_PER_TOKEN, TEMPLATE, kinds
from optimizer.bunch import Source
from optimizer.config import Config, TermConfig
from optimizer.merging.methods import METHODS
from optimizer.merging.space import ANCHORS, BLOCK, Space
from optimizer.objective.metrics import METRICS
from optimizer.objective.terms import Objective, Term, load_objective
from optimizer.planning.shape import Shape
from optimizer.report.result import MAIN, REFINED
from optimizer.search.baselines import NAIVE
from optimizer.search.domain import numbers_of
from optimizer.search.plans import Descending, search_plan
from optimizer.search.problem import Problem
from optimizer.search.study import equivalents

#: Steps whose batches stand for those of all.
_STEPS = 16

#: Alternatives of a row with multiple choices.
_CHOICES = 3


class Load(NamedTuple):
    """One batch.

    Attributes:
        rows: sequences.
        width: tokens of each, padding included.
        answers: tokens that the head is asked at, of all rows together.
    """

    rows: float
    width: float
    answers: float

    @property
    def tokens(self) -> float:
        """Of one batch, padding included."""
        return self.rows * self.width


@dataclass(frozen=True)
class Study:
    """What one study does.

    Attributes:
        trials: at most.
        steps: of descents.
        search: batches of the search split.
        validation: batches of the validation split.
        step: batch of a mean step; none if there are no steps.
        passes: forward-pass equivalents, as a run counts them.
        spoken: conversations of what merges say, over all trials.
    """

    name: str
    trials: int
    steps: int
    search: Sequence[Load]
    validation: Sequence[Load]
    step: Load | None
    passes: float
    spoken: int = 0


@dataclass(frozen=True)
class Workload:
    """What a search does.

    Attributes:
        studies: the search, its refinement, its controls.
        compared: models that answer test questions at the end.
        asked: test questions that each of them is asked.
        merged: how many of them are merged inside of the engine.
        exact: whether the rows were read, rather than guessed from the config.
        coefficients: how many there are.
        groups: of tensors that share a coefficient.
    """

    studies: Sequence[Study]
    compared: int
    asked: int
    merged: int
    exact: bool
    coefficients: int
    groups: int

    @property
    def trials(self) -> int:
        """Of all studies."""
        return sum(study.trials for study in self.studies)

    @property
    def loads(self) -> list[Load]:
        """All batches that are scored."""
        return [load for study in self.studies for load in (*study.search, *study.validation)]


def workload(config: Config, inputs: Inputs, shape: Shape) -> Workload:
    """What a config makes a search do.

    Args:
        inputs: what the files hold that the config names.
        shape: of the base.
    """
    space = space_of_shape(config, shape)
    read = _read(config)
    search, validation = read or (_estimated(config, inputs, split) for split in ("search", "validation"))
    studies = [_study(MAIN, config, search, validation, space, list(config.objective), inputs)]
    if config.search.refine is not None:
        count = 1 + config.search.refine.trials
        studies.append(
            replace(
                studies[0],
                name=REFINED,
                trials=count,
                steps=0,
                step=None,
                passes=_passes(search, validation, count, 0),
                spoken=_spoken(config, inputs, list(config.objective), count),
            )
        )
    for name, terms in config.search.controls.items():
        parts = (search.only(terms), validation.only(terms))
        studies.append(_study(name, config, *parts, space, terms, inputs))
    merged = len(config.search.controls) + len(config.search.recipes) + len(NAIVE)
    return Workload(
        studies,
        compared=2 + merged + len(config.bunch.experts),
        asked=sum(_test_rows(config, inputs, kind) for kind in config.kinds),
        merged=merged,
        exact=read is not None,
        coefficients=len(space.parameters),
        groups=len(space.groups),
    )


def space_of_shape(config: Config, shape: Shape) -> Space:
    """The coefficients, as `Space.of` makes them for a bunch that is there."""
    merge, experts = config.merge, list(config.bunch.experts)
    if merge.groups == BLOCK:
        return Space.blocked(experts, shape.tensors, merge.blocks)
    return Space.named(experts, list(shape.tensors), merge.groups, merge.anchors if merge.groups == ANCHORS else 3)


def _study(
    name: str,
    config: Config,
    search: Objective,
    validation: Objective,
    space: Space,
    terms: Sequence[str],
    inputs: Inputs,
) -> Study:
    problem = Problem(config.search, search, validation, config.constraints())
    given = numbers_of(METHODS[config.merge.method], config.merge.parameters)
    recipes = {Path(file).stem: space.constant({}) for file in config.search.recipes}
    planned = search_plan(problem, space, recipes, given)
    legs = planned.suggests.legs if isinstance(planned.suggests, Descending) else []
    steps = sum(leg.descent.steps for leg in legs)
    step = None
    if legs:
        descent = legs[0].descent
        batches = [search.step_batch(descent.picks(i)).batch for i in range(min(_STEPS, descent.steps))]
        step = mean_load(list(map(load_of, batches)))
    return Study(
        name,
        planned.total,
        steps,
        _loads(search),
        _loads(validation),
        step,
        _passes(search, validation, planned.total, steps),
        _spoken(config, inputs, terms, planned.total),
    )


def _passes(search: Objective, validation: Objective, trials: int, steps: int) -> float:
    """Forward-pass equivalents of a study in which no trial is given up."""
    return equivalents(search, trials * (search.sequences + validation.sequences), steps)


def load_of(batch: Batch) -> Load:
    """A batch in numbers."""
    rows, width = batch.inputs.shape
    return Load(rows, width, len(batch.places))


def mean_load(loads: Sequence[Load]) -> Load:
    """One batch that stands for some; its width is that of most tokens."""
    tokens = sum(load.tokens for load in loads)
    width = sum(load.width * load.tokens for load in loads) / tokens
    return Load(tokens / len(loads) / width, width, sum(load.answers for load in loads) / len(loads))


def _loads(objective: Objective) -> list[Load]:
    return [load_of(batch) for block in objective.blocks for batch in block.batches]


def _read(config: Config) -> tuple[Objective, Objective] | None:
    """The terms on both splits as a search reads them; none before data and tokenizer are there."""
    silent = [name for name, term in config.objective.items() if not term.is_said]
    paths = [
        config.data_folder / split / f"{config.objective[name].kind_of(name)}.jsonl"
        for split in ("search", "validation")
        for name in silent
    ]
    chat = config.bunch.models()[config.bunch.chat]
    if not silent or not all(path.is_file() for path in paths) or folder_here(chat) is None:
        return None
    try:
        tokenizer = Source(config.bunch.chat, chat).tokenizer()
    except BunchError:
        return None
    search, validation = (load_objective(config, split, tokenizer, silent) for split in ("search", "validation"))
    return search, validation


def _estimated(config: Config, inputs: Inputs, split: str) -> Objective:
    """Terms on rows that are as long as the config lets them be."""
    prompt = [0] * (config.data.max_question_chars // CHARS_PER_TOKEN + TEMPLATE)
    answer = [0] * config.data.max_answer_tokens
    example: Encoded = (prompt, answer)
    terms = []
    for name, term in config.objective.items():
        if term.is_said:
            continue
        metric = METRICS[term.metric]
        rows = max(1, min(term.examples, _kept(config, inputs, term.kind_of(name), split)))
        options = _CHOICES if metric.alternatives is None else metric.alternatives
        terms.append(Term(name, term.weight, [example] * rows, metric, [[example] * options] * rows if options else ()))
    return Objective(terms)


def _kept(config: Config, inputs: Inputs, kind: str, split: str) -> int:
    """Rows of a kind in a split: those that are there, else those that the config asks for."""
    if (found := _lines(config.data_folder / split / f"{kind}.jsonl")) is not None:
        return found
    return next(one.splits[split] for one in kinds(config.data, inputs) if one.name == kind)


def _test_rows(config: Config, inputs: Inputs, kind: str) -> int:
    found = _lines(config.test_folder / f"{kind}.jsonl")
    if found is None:
        found = config.evaluation.rows if config.evaluation.test else _kept(config, inputs, kind, "test")
    return min(config.evaluation.rows, found)


def _lines(path: Path) -> int | None:
    if not path.is_file():
        return None
    with path.open("rb") as file:
        return sum(1 for line in file if line.strip())


def _spoken(config: Config, inputs: Inputs, terms: Sequence[str], trials: int) -> int:
    """Conversations of a study in which merges answer."""
    said = {name: term for name, term in config.objective.items() if name in terms and term.is_said}
    answers = config.search.answers
    checked = _rows_of(config, inputs, said, "validation")
    if answers.when == "winner":
        return min(trials, answers.top) * checked
    return trials * (_rows_of(config, inputs, said, "search") + checked)


def _rows_of(config: Config, inputs: Inputs, said: Mapping[str, TermConfig], split: str) -> int:
    """Questions of a split that terms are about; those of one kind are asked once."""
    rows: dict[str, int] = {}
    for name, term in said.items():
        kind = term.kind_of(name)
        most = term.examples if term.task else min(term.examples, _kept(config, inputs, kind, split))
        rows[kind or name] = max(rows.get(kind or name, 0), most)
    return sum(rows.values())
