"""Terms: mean cross-entropy of one kind's answers, weighted into one loss.

Paper 1 (arXiv 2406.14563) maximises L_safety + alpha L_expert with L = E[-CE] on answer tokens; here every term has a
weight of its own, over-refusal among them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from transformers import PreTrainedTokenizerBase

from datagen.batches import Batch, Encoded, pack, pad
from datagen.chat import answer_ids
from datagen.errors import DataError
from datagen.rows import Row, read_rows
from optimizer.config import Config, TermConfig
from optimizer.engines.scoring import ScoringEngine


@dataclass(frozen=True)
class Score:
    """One term's value.

    Attributes:
        loss: mean cross-entropy per answer token, nats.
        exact: share of examples whose answer greedy decoding would give.
    """

    loss: float
    exact: float


@dataclass(frozen=True)
class Term:
    """One term with its rows of one split, encoded."""

    name: str
    weight: float
    examples: Sequence[Encoded]
    batches: Sequence[Batch]

    def score(self, engine: ScoringEngine) -> Score:
        """Measures the weights that are applied to the engine."""
        scores = engine.score(self.batches)
        return Score(
            loss=sum(loss for loss, _, _ in scores) / sum(tokens for _, tokens, _ in scores),
            exact=sum(exact for _, _, exact in scores) / len(scores),
        )


@dataclass(frozen=True)
class Objective:
    """All terms on one split."""

    terms: Sequence[Term]

    def scores(self, engine: ScoringEngine) -> dict[str, Score]:
        """Every term's score with the weights that are applied."""
        return {term.name: term.score(engine) for term in self.terms}

    def loss(self, scores: Mapping[str, Score]) -> float:
        """The weighted mean of the terms' losses: what is minimised."""
        return sum(term.weight * scores[term.name].loss for term in self.terms) / self._weight

    def exact(self, scores: Mapping[str, Score]) -> float:
        """The weighted mean of the terms' exact matches, 0 to 1."""
        return sum(term.weight * scores[term.name].exact for term in self.terms) / self._weight

    def exact_error(self, scores: Mapping[str, Score]) -> float:
        """The standard error of `exact`, each term's share smoothed by half a hit and half a miss."""
        variance = 0.0
        for term in self.terms:
            rows = len(term.examples)
            share = (scores[term.name].exact * rows + 0.5) / (rows + 1)
            variance += (term.weight / self._weight) ** 2 * share * (1 - share) / rows
        return math.sqrt(variance)

    def step_batch(self, picks: Sequence[int]) -> tuple[Batch, torch.Tensor]:
        """One example per term, and the weight of each in the loss.

        Args:
            picks: an example's number for each term.
        """
        examples = [term.examples[pick] for term, pick in zip(self.terms, picks, strict=True)]
        weights = torch.tensor([term.weight for term in self.terms]) / self._weight
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
    examples = [answer_ids(tokenizer, row.messages) for row in rows]
    return Term(name, term.weight, examples, pack(examples))


def retention(loss: float, base: float, best: float) -> float:
    """A loss on the scale where the base is 0 and the best source is 1."""
    return (base - loss) / (base - best) if base != best else 1.0
