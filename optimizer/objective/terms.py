"""Terms: one metric over one kind's rows each, weighted into one loss.

Paper 1 (arXiv 2406.14563) maximises L_safety + alpha L_expert with L = E[-CE] on answer tokens; here every term has a
weight and a metric of its own, over-refusal among them.

An objective is measured block by block. Every block holds an even share of every term's examples, so each tells what
the whole would, less exactly, and two merges can be compared on the same examples before either has seen all.
"""

import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import NamedTuple, Self

import torch
from transformers import PreTrainedTokenizerBase

from datagen.batches import Batch, Encoded, pack, pad
from datagen.chat import Message, answer_ids
from datagen.errors import ConfigError, DataError
from datagen.rows import Row, read_rows
from optimizer.config import Config, TermConfig
from optimizer.engines.outputs import Measure, Outputs
from optimizer.engines.scoring import ScoringEngine
from optimizer.engines.teachers import Teacher, Teachers
from optimizer.harness.task import Split
from optimizer.objective.answer_terms import AnswerTerm
from optimizer.objective.answers import ANSWER_METRICS
from optimizer.objective.metrics import METRICS, Metric
from optimizer.objective.said import SaidTerm, Spoken
from optimizer.objective.scores import Score, Scores
from optimizer.objective.task_terms import TaskTerm, open_task

#: Blocks of an objective; fewer if a term has fewer examples.
BLOCKS = 16


@dataclass(frozen=True)
class Term:
    """One term with its rows of one split, encoded.

    Attributes:
        name: of the term.
        weight: in the mean of all terms.
        examples: prompt and answer of every row.
        metric: how they are measured.
        alternatives: of every example the same prompt with each alternative, as many as the metric looks at.
        teacher: of these examples, if the metric needs one.
        per_token: whether losses are means over an answer's tokens; else sums.
    """

    name: str
    weight: float
    examples: Sequence[Encoded]
    metric: Metric = METRICS["loss"]
    alternatives: Sequence[Sequence[Encoded]] = ()
    teacher: Teacher | None = None
    per_token: bool = True

    @property
    def sequences(self) -> int:
        """How many token sequences it takes to score all examples."""
        return len(self.examples) + sum(map(len, self.alternatives))

    def options(self, number: int) -> list[Encoded]:
        """What of an example is scored, the answer first."""
        return [self.examples[number], *(self.alternatives[number] if self.alternatives else ())]

    def measured(self, outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """Losses [examples], and which are right, of outputs [examples, options]."""
        return self.metric.measure(outputs if self.per_token else outputs.summed())


@dataclass(frozen=True)
class Block:
    """Some examples of every term, which are scored together.

    Attributes:
        picks: every term, with the numbers of its examples.
    """

    picks: Sequence[tuple[Term, Sequence[int]]]

    def only(self, terms: Collection[str]) -> Self:
        """The block without the other terms."""
        return replace(self, picks=[(term, numbers) for term, numbers in self.picks if term.name in terms])

    @cached_property
    def sequences(self) -> Sequence[Encoded]:
        """What is scored, one example's options after another's."""
        return [one for term, numbers in self.picks for number in numbers for one in term.options(number)]

    @cached_property
    def batches(self) -> Sequence[Batch]:
        """Of all terms together, packed by length."""
        return pack(self.sequences)

    @cached_property
    def teachers(self) -> Teachers:
        """Of the sequences of terms that have one."""
        owners = [(term, number) for term, numbers in self.picks for number in numbers for _ in term.options(number)]
        return {i: (term.teacher, number) for i, (term, number) in enumerate(owners) if term.teacher is not None}

    def scores(self, engine: ScoringEngine) -> dict[str, Score]:
        """Every term's score with the weights that are applied."""
        measured = self.measured(engine.score(self.batches, self.teachers))
        return {
            term.name: Score(losses.double().mean().item(), right.double().mean().item(), len(losses))
            for term, losses, right in measured
        }

    def measured(self, outputs: Outputs) -> Iterator[tuple[Term, torch.Tensor, torch.Tensor]]:
        """Every term with the losses of its examples, [examples], and which are right.

        Args:
            outputs: [sequences].
        """
        start = 0
        for term, numbers in self.picks:
            sizes = [len(term.options(number)) for number in numbers]
            stop = start + sum(sizes)
            yield term, *term.measured(outputs.part(start, stop).by_example(sizes))
            start = stop

    def weighted(self, weights: Sequence[float], outputs: Outputs) -> tuple[torch.Tensor, torch.Tensor]:
        """One loss for a step, and which examples are right.

        Args:
            weights: of the terms.
            outputs: [sequences].
        """
        found = list(self.measured(outputs))
        losses = [weight * each.mean() for weight, (_, each, _) in zip(weights, found, strict=True)]
        return torch.stack(losses).sum(), torch.cat([right for _, _, right in found])


class Step(NamedTuple):
    """What an engine needs for a gradient, in the order of its arguments.

    Attributes:
        batch: one example's sequences for each term.
        reduction: makes one loss of what it gives.
        teachers: of its sequences.
    """

    batch: Batch
    reduction: Measure
    teachers: Teachers


@dataclass(frozen=True)
class Objective:
    """All terms on one split.

    Attributes:
        terms: measured by likelihood, as a descent and all that is cheap needs it.
        said: measured on what a merge says.
    """

    terms: Sequence[Term]
    said: Sequence[Spoken] = ()

    def only(self, terms: Collection[str]) -> Self:
        """The objective without the other terms."""
        return replace(
            self,
            terms=[term for term in self.terms if term.name in terms],
            said=[term for term in self.said if term.name in terms],
        )

    @property
    def every(self) -> list[Term | Spoken]:
        """Terms of both sorts."""
        return [*self.terms, *self.said]

    @property
    def shares(self) -> list[Term | Spoken]:
        """Terms that have a share of right answers."""
        return [term for term in self.every if not isinstance(term, TaskTerm) or term.is_share]

    @property
    def names(self) -> list[str]:
        """Of all terms."""
        return [term.name for term in self.every]

    @property
    def rows(self) -> int:
        """How many examples are measured by likelihood."""
        return sum(len(term.examples) for term in self.terms)

    @property
    def sequences(self) -> int:
        """How many token sequences a pass over all of them takes."""
        return sum(term.sequences for term in self.terms)

    @cached_property
    def blocks(self) -> Sequence[Block]:
        """The same in every process."""
        count = min((BLOCKS, *(len(term.examples) for term in self.terms))) if self.terms else 0
        orders = []
        for term in self.terms:
            shuffled = random.Random(f"blocks-{term.name}").sample(range(len(term.examples)), len(term.examples))
            orders.append((term, shuffled))
        return [Block([(term, order[place::count]) for term, order in orders]) for place in range(count)]

    def scores(self, engine: ScoringEngine) -> dict[str, Score]:
        """The score, with the weights that are applied, of every term that is measured by likelihood."""
        return self.merged([block.scores(engine) for block in self.blocks])

    def merged(self, parts: Sequence[Scores]) -> dict[str, Score]:
        """Every term's score on several blocks."""
        return {term.name: Score.of([part[term.name] for part in parts]) for term in self.terms}

    def loss(self, scores: Scores) -> float:
        """The weighted mean of the losses of the terms that were scored: what is minimised; 0 if none was."""
        return _mean(self.every, {name: score.loss for name, score in scores.items()})

    def exact(self, scores: Scores) -> float:
        """The weighted mean of the shares of right answers of the terms that were scored, 0 to 1."""
        return _mean(self.shares, {name: score.exact for name, score in scores.items()})

    def exact_error(self, scores: Scores) -> float:
        """The standard error of `exact`, each term's share smoothed by half a hit and half a miss."""
        scored = {term.name: term.weight for term in self.shares if term.name in scores}
        variance = 0.0
        for name, weight in scored.items():
            rows = scores[name].rows
            share = (scores[name].exact * rows + 0.5) / (rows + 1)
            variance += (weight / sum(scored.values())) ** 2 * share * (1 - share) / rows
        return math.sqrt(variance)

    def step_batch(self, picks: Sequence[int], multipliers: Sequence[float] = ()) -> Step:
        """One example per term, and how their losses become one.

        Args:
            picks: an example's number for each term.
            multipliers: of the terms' weights; by default 1.
        """
        block = Block([(term, [pick]) for term, pick in zip(self.terms, picks, strict=True)])
        factors = multipliers or [1.0] * len(self.terms)
        weights = [term.weight / self._weight * factor for term, factor in zip(self.terms, factors, strict=True)]
        batch = pad(block.sequences, range(len(block.sequences)))
        return Step(batch, partial(block.weighted, weights), block.teachers)

    @property
    def _weight(self) -> float:
        return sum(term.weight for term in self.terms)


def _mean(terms: Sequence[Term | Spoken], values: Mapping[str, float]) -> float:
    """The weighted mean of the terms' values; 0 if there are none."""
    known = [(term.weight, values[term.name]) for term in terms if term.name in values]
    return sum(weight * value for weight, value in known) / sum(weight for weight, _ in known) if known else 0.0


def load_objective(
    config: Config, split: str, tokenizer: PreTrainedTokenizerBase, only: Sequence[str] = ()
) -> Objective:
    """Reads and encodes the rows of every term.

    Args:
        split: `search` or `validation`.
        tokenizer: with the chat template that the merged model will have.
        only: names of terms; all if empty.

    Raises:
        DataError: the split is `test`, which no search may see, or a term has no rows.
        ConfigError: a constraint is about a task that has no share of right answers.
    """
    if split == "test":
        raise DataError("the objective must not see the test split, but was asked for it; use `validation` to select")
    chosen = {name: term for name, term in config.objective.items() if not only or name in only}
    folder = config.data_folder / split
    return Objective(
        [_term(folder, name, term, tokenizer) for name, term in chosen.items() if not term.is_said],
        [
            _task(config, split, name, term) if term.task else _said(folder, name, term)
            for name, term in chosen.items()
            if term.is_said
        ],
    )


def _rows(path: Path) -> list[Row]:
    rows = read_rows(path)
    if not rows:
        raise DataError(f"{path}: a term must have at least one row, but the file is empty; ask for more data")
    return rows


def _said(folder: Path, name: str, term: TermConfig) -> SaidTerm:
    kind = term.kind or name
    asked = AnswerTerm(name, kind, ANSWER_METRICS[term.metric], term.option)
    rows = _rows(folder / f"{kind}.jsonl")[: term.examples]
    asked.check(rows)
    return SaidTerm(term.weight, asked, rows)


def _task(config: Config, split: str, name: str, term: TermConfig) -> TaskTerm:
    part: Split = "search" if split == "search" else "validation"
    found = open_task(name, term.weight, term.asked_task, part, f"objective.{name}")
    held = [one.name for one in config.constraints() if one.term == name]
    if held and not found.is_share:
        raise ConfigError(
            f"search.constraints: {held[0]!r} must be about a share of right answers, but {found.metric!r} of "
            f"{term.task} is none; name another metric of it, or drop the constraint"
        )
    return found


def _term(folder: Path, name: str, term: TermConfig, tokenizer: PreTrainedTokenizerBase) -> Term:
    path = folder / f"{term.kind or name}.jsonl"
    metric = METRICS[term.metric]
    rows = _rows(path)
    if metric.alternatives != 0:
        rows = [row for row in rows if row.alternatives]
        if not rows:
            raise DataError(
                f"{path}: {metric.name!r}, the metric of {name!r}, needs rows with `alternatives`, but no row has any; "
                f"run `goodbunch datagen` again, import rows that have them, or choose another metric"
            )
    rows = rows[: term.examples]
    examples = [answer_ids(tokenizer, row.messages) for row in rows]
    return Term(
        name,
        term.weight,
        examples,
        metric,
        [_alternatives(row, tokenizer, metric.alternatives) for row in rows] if metric.alternatives != 0 else (),
        Teacher(term.of, examples) if metric.taught else None,
        term.per_token,
    )


def _alternatives(row: Row, tokenizer: PreTrainedTokenizerBase, most: int | None) -> list[Encoded]:
    return [
        answer_ids(tokenizer, [*row.messages[:-1], Message(role="assistant", content=text)])
        for text in row.alternatives[:most]
    ]


def retention(loss: float, base: float, best: float) -> float:
    """A loss on the scale where the base is 0 and the best source is 1."""
    return (base - loss) / (base - best) if base != best else 1.0
