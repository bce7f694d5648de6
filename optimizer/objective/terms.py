"""Terms: mean cross-entropy of one kind's answers, weighted into one loss.

Paper 1 (arXiv 2406.14563) maximises L_safety + alpha L_expert with L = E[-CE] on answer tokens; here every term has a
weight of its own, over-refusal among them.

An objective is measured block by block. Every block holds an even share of every term's examples, so each tells what
the whole would, less exactly, and two merges can be compared on the same examples before either has seen all.
"""

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import NamedTuple, Self

import torch
from transformers import PreTrainedTokenizerBase

from datagen.batches import Batch, Encoded, pack, pad
from datagen.chat import answer_ids
from datagen.errors import DataError
from datagen.rows import Row, read_rows
from optimizer.config import Config, TermConfig
from optimizer.engines.scoring import ScoringEngine

#: Blocks of an objective; fewer if a term has fewer examples.
BLOCKS = 16


@dataclass(frozen=True)
class Score:
    """One term's value.

    Attributes:
        loss: mean over examples of the mean cross-entropy per answer token, nats.
        exact: share of examples whose answer greedy decoding would give.
        rows: how many examples it was measured on.
    """

    loss: float
    exact: float
    rows: int

    @classmethod
    def of(cls, scores: Sequence[Self]) -> Self:
        """What was measured on several sets of examples, as if on one."""
        rows = sum(score.rows for score in scores)
        loss = math.fsum(score.loss * score.rows for score in scores) / rows
        return cls(loss, sum(score.exact * score.rows for score in scores) / rows, rows)


#: Term -> score.
Scores = Mapping[str, Score]


@dataclass(frozen=True)
class Term:
    """One term with its rows of one split, encoded."""

    name: str
    weight: float
    examples: Sequence[Encoded]


class Block(NamedTuple):
    """An even share of every term's examples.

    Attributes:
        owners: the term of every example.
        batches: of all terms together, packed by length.
    """

    owners: Sequence[str]
    batches: Sequence[Batch]

    def scores(self, engine: ScoringEngine) -> dict[str, Score]:
        """Every term's score with the weights that are applied."""
        found: dict[str, list[Score]] = {}
        for owner, (loss, tokens, exact) in zip(self.owners, engine.score(self.batches), strict=True):
            found.setdefault(owner, []).append(Score(loss / tokens, float(exact), 1))
        return {name: Score.of(scores) for name, scores in found.items()}


@dataclass(frozen=True)
class Objective:
    """All terms on one split."""

    terms: Sequence[Term]

    @property
    def rows(self) -> int:
        """How many examples there are."""
        return sum(len(term.examples) for term in self.terms)

    @cached_property
    def blocks(self) -> Sequence[Block]:
        """The same in every process."""
        count = min(BLOCKS, *(len(term.examples) for term in self.terms))
        shares: list[list[tuple[str, Encoded]]] = [[] for _ in range(count)]
        for term in self.terms:
            order = random.Random(f"blocks-{term.name}").sample(range(len(term.examples)), len(term.examples))
            for place, i in enumerate(order):
                shares[place % count].append((term.name, term.examples[i]))
        return [Block([name for name, _ in share], pack([example for _, example in share])) for share in shares]

    def scores(self, engine: ScoringEngine) -> dict[str, Score]:
        """Every term's score with the weights that are applied."""
        return self.merged([block.scores(engine) for block in self.blocks])

    def merged(self, parts: Sequence[Scores]) -> dict[str, Score]:
        """Every term's score on several blocks."""
        return {term.name: Score.of([part[term.name] for part in parts]) for term in self.terms}

    def loss(self, scores: Scores) -> float:
        """The weighted mean of the terms' losses: what is minimised."""
        return sum(term.weight * scores[term.name].loss for term in self.terms) / self._weight

    def exact(self, scores: Scores) -> float:
        """The weighted mean of the terms' exact matches, 0 to 1."""
        return sum(term.weight * scores[term.name].exact for term in self.terms) / self._weight

    def exact_error(self, scores: Scores) -> float:
        """The standard error of `exact`, each term's share smoothed by half a hit and half a miss."""
        variance = 0.0
        for term in self.terms:
            rows = len(term.examples)
            share = (scores[term.name].exact * rows + 0.5) / (rows + 1)
            variance += (term.weight / self._weight) ** 2 * share * (1 - share) / rows
        return math.sqrt(variance)

    def step_batch(self, picks: Sequence[int], multipliers: Sequence[float] = ()) -> tuple[Batch, torch.Tensor]:
        """One example per term, and the weight of each in the loss.

        Args:
            picks: an example's number for each term.
            multipliers: of the terms' weights; by default 1.
        """
        examples = [term.examples[pick] for term, pick in zip(self.terms, picks, strict=True)]
        weights = torch.tensor([term.weight for term in self.terms]) / self._weight
        if multipliers:
            weights = weights * torch.tensor(multipliers, dtype=weights.dtype)
        return pad(examples, range(len(examples))), weights

    @property
    def _weight(self) -> float:
        return sum(term.weight for term in self.terms)


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
    """
    if split == "test":
        raise DataError("the objective must not see the test split, but was asked for it; use `validation` to select")
    chosen = {name: term for name, term in config.objective.items() if not only or name in only}
    return Objective([_term(config.data_folder / split, name, term, tokenizer) for name, term in chosen.items()])


def _term(folder: Path, name: str, term: TermConfig, tokenizer: PreTrainedTokenizerBase) -> Term:
    path = folder / f"{term.kind or name}.jsonl"
    rows: list[Row] = read_rows(path)[: term.examples]
    if not rows:
        raise DataError(f"{path}: a term must have at least one row, but the file is empty; ask for more data")
    return Term(name, term.weight, [answer_ids(tokenizer, row.messages) for row in rows])


def retention(loss: float, base: float, best: float) -> float:
    """A loss on the scale where the base is 0 and the best source is 1."""
    return (base - loss) / (base - best) if base != best else 1.0
