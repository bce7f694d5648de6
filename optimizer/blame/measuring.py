"""`goodbunch blame`: gradients, ablations, coalitions and similarities of one merge, put together."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from scipy.stats import spearmanr

from datagen.progress import Bar
from optimizer.blame.ablation import Ablating
from optimizer.blame.activations import centred_gram, residuals, sample, similarities
from optimizer.blame.attribution import by_group, integrated, slopes
from optimizer.blame.culprits import suspect
from optimizer.blame.merges import Merge
from optimizer.blame.result import (
    SIDES,
    Ablation,
    Attribution,
    Blame,
    Coalitions,
    Correlation,
    Culprit,
    Integrated,
    Similarity,
    TermRow,
    To,
)
from optimizer.blame.shapley import EXACT, shapley
from optimizer.blame.sides import SPLIT, Sides, load_sides
from optimizer.blame.similarity import task_vector_similarity
from optimizer.blame.words import words
from optimizer.engines.banks import open_bank
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Coefficients, Space
from optimizer.objective.scores import Scores
from optimizer.run import versions

#: What the merge is called among the models.
MERGE = "merge"


def blame(merge: Merge, *, steps: int = 0, checks: int = 6, pairs: int = 16) -> Blame:
    """Measures what each expert's layers cost and give.

    Args:
        steps: points along the line from the base at which gradients are taken too; 0 for none.
        checks: how many layers are ablated that cost most alignment, and that give most expertise.
        pairs: of orders of joining that are drawn, where there are too many experts for all.

    Raises:
        GoodbunchError: a side has no term, or a term has no rows.
    """
    begun = time.monotonic()
    sides = load_sides(merge.config, merge.bunch)
    bank = open_bank(merge.config.bunch, merge.config.merge)
    engine = ScoringEngine(merge.bunch, merge.space, bank, merge.config.search.descent.checkpointing)
    found = _Blaming(merge, sides, engine)
    ablations = found.checks(checks)
    correlation = _correlation(ablations)
    culprit = found.culprit()
    return Blame(
        merge=merge.name,
        winner=merge.winner,
        split=SPLIT,
        experts=list(merge.space.experts),
        aligned=merge.bunch.aligned,
        terms=found.terms,
        layers=found.layers,
        modules=found.modules,
        integrated=found.integrated(steps) if steps else None,
        checks=ablations,
        correlation=correlation,
        culprit=culprit,
        shapley=found.coalitions(pairs),
        similarity=found.similarity(),
        words=words(found.terms, culprit, correlation),
        seconds=round(time.monotonic() - begun, 1),
        versions=versions(),
    )


@dataclass(frozen=True)
class _Blaming:
    """One merge's measurements."""

    merge: Merge
    sides: Sides
    engine: ScoringEngine

    @cached_property
    def slopes(self) -> Coefficients:
        with Bar("gradients", len(self.sides.objective.terms)) as bar:
            return slopes(self.engine, self.sides.objective, self.merge.coefficients, bar.advance)

    @cached_property
    def by_layer(self) -> Space:
        return Space.named(self.merge.space.experts, self.merge.space.tensors, "layer")

    @cached_property
    def by_module(self) -> Space:
        return Space.named(self.merge.space.experts, self.merge.space.tensors, "module")

    @cached_property
    def layers(self) -> Attribution:
        return self._attribution(self.slopes * self.merge.coefficients, self.by_layer)

    @cached_property
    def modules(self) -> Attribution:
        return self._attribution(self.slopes * self.merge.coefficients, self.by_module)

    def scores(self, at: Coefficients) -> Scores:
        self.engine.apply(at)
        return self.sides.objective.scores(self.engine)

    @cached_property
    def base_scores(self) -> Scores:
        return self.scores(np.zeros_like(self.merge.coefficients))

    @cached_property
    def ablating(self) -> Ablating:
        scores = self.scores(self.merge.coefficients)
        return Ablating(self.engine, self.sides, self.merge.coefficients, self.merge.bunch.aligned, self.slopes, scores)

    @property
    def terms(self) -> list[TermRow]:
        merged = self.ablating.scores
        return [
            TermRow(
                name=term.name,
                side=side,
                weight=term.weight,
                rows=merged[term.name].rows,
                base=self.base_scores[term.name].loss,
                merge=merged[term.name].loss,
                share=merged[term.name].exact,
            )
            for term, side in zip(self.sides.objective.terms, self.sides.sides, strict=True)
        ]

    def checks(self, count: int) -> list[Ablation]:
        """Ablates single layers: those that cost most alignment, and those that give most expertise."""
        costly = _largest(np.array(self.layers.alignment), count)
        giving = _largest(-np.array(self.layers.expertise), count)
        cells = list(dict.fromkeys(costly + giving))
        asked: list[tuple[int, int, To]] = [(*cell, "zero") for cell in cells]
        asked += [(0, group, "aligned") for group in dict.fromkeys(group for _, group in cells)]
        found = []
        with Bar("ablations", len(asked)) as bar:
            for expert, group, to in asked:
                names = self.merge.space.experts[expert], [self.by_layer.groups[group]]
                found.append(self.ablating.ablate(*names, self.by_layer, to))
                bar.advance()
        return found

    def culprit(self) -> Culprit | None:
        """Whom the first-order values blame, with what its cells are really worth."""
        found = suspect(self.merge.space.experts, self.layers, self.modules)
        if found is None:
            return None
        of = self.by_module if found.module else self.by_layer
        return Culprit(
            expert=found.expert,
            layers=found.layers,
            module=found.module,
            share=min(1.0, found.share),
            zero=self.ablating.ablate(found.expert, found.groups, of, "zero"),
            aligned=self.ablating.ablate(found.expert, found.groups, of, "aligned"),
        )

    def integrated(self, steps: int) -> Integrated:
        """Integrated gradients, and what they lack of the whole difference."""
        terms = self.sides.objective.terms
        with Bar("gradients on the way from the base", steps * len(terms)) as bar:
            values = integrated(self.engine, self.sides.objective, self.merge.coefficients, steps, bar.advance)
        whole = self.sides.losses(self.ablating.scores) - self.sides.losses(self.base_scores)
        missing = whole - values.sum((1, 2))
        return Integrated(
            steps=steps,
            layers=self._attribution(values, self.by_layer),
            modules=self._attribution(values, self.by_module),
            missing={term.name: float(one) for term, one in zip(terms, missing, strict=True)},
        )

    def coalitions(self, pairs: int) -> Coalitions:
        """Shapley values of the experts."""
        experts = len(self.merge.space.experts)
        exact = experts <= EXACT
        with Bar("coalitions of experts", 2**experts if exact else 0) as bar:

            def game(joined: frozenset[int]) -> Coefficients:
                there = np.array([[float(expert in joined)] for expert in range(experts)])
                losses = self.sides.losses(self.scores(self.merge.coefficients * there))
                bar.advance()
                return self.sides.shares @ losses

            found = shapley(experts, game, pairs, self.merge.config.search.seed)
        alignment, expertise = found.values.T.tolist()
        alignment_errors, expertise_errors = found.errors.T.tolist()
        return Coalitions(
            exact=exact,
            evaluated=found.coalitions,
            alignment=alignment,
            expertise=expertise,
            alignment_errors=alignment_errors,
            expertise_errors=expertise_errors,
        )

    def similarity(self) -> Similarity:
        """Of task vectors, and of what models make of a sample of prompts."""
        vectors = task_vector_similarity(self.merge.bunch, self.by_layer)
        examples = sample(self.sides)
        grams: list[list[torch.Tensor]] = []
        models = [source.name for source in self.merge.bunch.sources]
        with Bar("activations", len(models) + 1) as bar:
            for name in [*models, MERGE]:
                if name == MERGE:
                    self.engine.apply(self.merge.coefficients)
                else:
                    self.engine.load(name)
                grams.append([centred_gram(layer) for layer in residuals(self.engine, examples)])
                bar.advance()
        return Similarity(
            layers=list(self.by_layer.groups),
            norms=vectors.norms.tolist(),
            cosines=vectors.cosines.tolist(),
            models=[*models, MERGE],
            streams=[f"layer {i}" for i in range(len(grams[0]))],
            rows=len(examples),
            cka=similarities(grams).tolist(),
        )

    def _attribution(self, values: Coefficients, of: Space) -> Attribution:
        """Values by term and cell as a table over a space's groups."""
        cells = by_group(values, of, self.merge.space)
        alignment, expertise = np.tensordot(self.sides.shares, cells, 1).tolist()
        names = [term.name for term in self.sides.objective.terms]
        return Attribution(
            groups=list(of.groups),
            terms=dict(zip(names, cells.tolist(), strict=True)),
            alignment=alignment,
            expertise=expertise,
        )


def _largest(values: Coefficients, count: int) -> list[tuple[int, int]]:
    """Places of the largest positive values, the largest first."""
    order = np.argsort(values, axis=None, kind="stable")[::-1][:count]
    places = [divmod(int(place), values.shape[1]) for place in order]
    return [place for place in places if values[place] > 0]


def _correlation(ablations: Sequence[Ablation]) -> Correlation:
    found: dict[str, float | None] = {}
    for side in SIDES:
        changes = [one.alignment if side == "alignment" else one.expertise for one in ablations if one.to == "zero"]
        pairs = np.array([(change.predicted, change.measured) for change in changes]).reshape(-1, 2)
        told = len(pairs) > 2 and bool((np.ptp(pairs, axis=0) > 0).all())
        found[side] = float(spearmanr(pairs[:, 0], pairs[:, 1]).statistic) if told else None
    return Correlation(**found)
