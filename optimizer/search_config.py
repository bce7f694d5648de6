"""What is searched, and how: the part of a run's config that a study depends on."""

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from datagen.frozen import Settings

#: Samplers that only look at losses, and of these the ones that take several objectives.
BlackBox = Literal["evomm", "cmaes", "tpe", "gp", "nsga2", "nsga3", "qmc", "random"]
SINGLE_OBJECTIVE = ("evomm", "cmaes")

Range = tuple[float, float]


class StageConfig(Settings):
    """Steps of a descent in which groups move together.

    Attributes:
        groups: that move together; coarser than `merge.groups`.
        steps: how many.
        anchors: points along the depth, if the groups are `anchors`.
    """

    groups: Literal["model", "anchors", "layer", "module", "tensor"]
    steps: int = Field(ge=1)
    anchors: int = Field(3, ge=2)


class SweepConfig(Settings):
    """Short descents after the first one, each under other weights of the objectives of `search.pareto`.

    Attributes:
        per_axis: weightings between each two objectives, the equal one included.
        ratio: how many times more the first of two objectives counts at one end than the other; at the other end as
            many times less.
        steps: of each descent, which begins where the one of the nearest weighting ended.
    """

    per_axis: int = Field(9, ge=3)
    ratio: float = Field(100.0, gt=1)
    steps: int = Field(256, ge=1)


class DescentConfig(Settings):
    """Mini-batch descent on the coefficients.

    Attributes:
        trials: stretches the descent is cut into; the point at the end of each is scored as a trial.
        steps: of one example per term each.
        rate: Adam's, on the coefficients, decayed by a cosine to 0.
        start: every coefficient before the first step.
        coarse: stages before these steps, coarse ones first; each begins where the last one ended.
        sweep: what comes after, where there are several objectives.
        checkpointing: whether a step computes activations twice rather than keeps them: less memory, more time, the
            same steps.
    """

    trials: int = Field(8, ge=1)
    steps: int = Field(1024, ge=1)
    rate: float = Field(0.1, gt=0)
    start: float = 0.5
    coarse: list[StageConfig] = []
    sweep: SweepConfig = SweepConfig()
    checkpointing: bool = False


class BlackBoxConfig(Settings):
    """A search that only looks at losses.

    Attributes:
        trials: how many, after the baselines.
        low: smallest coefficient.
        high: largest one.
        sigma: first step size of CMA-ES.
        patience: the study stops when so many trials in a row gained less than the objective's standard error; 0 never.
    """

    trials: int = Field(100, ge=1)
    low: float = -0.5
    high: float = 1.5
    sigma: float = Field(0.25, gt=0)
    patience: int = Field(40, ge=0)

    @model_validator(mode="after")
    def _the_baselines_are_within(self) -> Self:
        if self.low > 0 or self.high < 1:
            raise ValueError(
                f"low <= 0 and high >= 1 must hold, so that every source is a point of the search, but got "
                f"{self.low} and {self.high}; widen them"
            )
        return self


class RefineConfig(Settings):
    """A study after the search: a black box around the winner.

    Attributes:
        sampler: who suggests.
        trials: how many, after the winner itself.
        width: coefficients stay within plus and minus this of the winner's.
        sigma: first step size of CMA-ES; if it follows a descent, a small one.
    """

    sampler: BlackBox = "cmaes"
    trials: int = Field(50, ge=1)
    width: float = Field(0.25, gt=0)
    sigma: float = Field(0.04, gt=0)


class AnswersConfig(Settings):
    """When a merge is let speak for the terms of the objective that look at what it says.

    Attributes:
        when: `winner`, the best trials by all else answer the validation rows, and the winner is the one that answers
            best; or `trial`, every trial that is not given up before answers, and what it says counts in its loss.
        top: how many trials answer where the winner is chosen so.
    """

    when: Literal["winner", "trial"] = "winner"
    top: int = Field(4, ge=1)


class SearchConfig(Settings):
    """What is searched, and how.

    Attributes:
        seed: of every random choice of the search.
        sampler: who suggests coefficients: `descent`, ours, by gradients; or one of Optuna's: `cmaes`, `tpe`, `gp`,
            `nsga2`, `nsga3`, `qmc`, `random`; `evomm` is paper 1's CMA-ES.
        descent: its settings.
        black_box: settings of the others.
        refine: a second study around the winner of the first; none if left out.
        pareto: two or more objectives in place of one, each the weighted mean of its terms: name -> terms. The trials
            that no other beats in all of them are the front.
        parameters: hyper-parameters of the method that a black box searches too: name -> least and greatest value,
            the one in `merge.parameters` between them.
        recipes: files of merges that are tried first, beside the sources and the naive merges.
        bound: coefficients of a descent stay within plus and minus this; wide, because good ones can be large.
        pruning: a trial is given up when its losses are worse than the best trial's with this p-value; 0 never.
        constraints: what the winner must keep, such as `safety >= 0.99 of aligned`: a term's share of right answers.
        cocktail_temperature: of LM-Cocktail's softmax over the sources' losses, one of the baselines.
        answers: when merges are let speak, if a term of the objective looks at what they say.
        controls: further searches with fewer terms, for comparison: name -> terms it may see.
    """

    seed: int = 0
    sampler: Literal["descent"] | BlackBox = "descent"
    descent: DescentConfig = DescentConfig()
    black_box: BlackBoxConfig = BlackBoxConfig()
    refine: RefineConfig | None = None
    pareto: dict[str, Annotated[list[str], Field(min_length=1)]] = {}
    parameters: dict[str, Range] = {}
    recipes: list[str] = []
    bound: float = Field(100.0, gt=0)
    pruning: float = Field(0.1, ge=0, lt=1)
    constraints: list[str] = []
    cocktail_temperature: float = Field(1.0, gt=0)
    answers: AnswersConfig = AnswersConfig()
    controls: dict[str, list[str]] = {}

    @model_validator(mode="after")
    def _samplers_fit(self) -> Self:
        named = [("sampler", self.sampler)] + ([("refine.sampler", self.refine.sampler)] if self.refine else [])
        for where, sampler in named:
            if self.pareto and sampler in SINGLE_OBJECTIVE:
                raise ValueError(
                    f"search.{where}: {sampler} minimises one number, but search.pareto has {len(self.pareto)}; choose "
                    f"descent, nsga2, nsga3, tpe, gp, qmc or random"
                )
        if self.parameters and self.sampler == "descent" and self.refine is None:
            raise ValueError(
                f"search.parameters: a descent has no gradient by {', '.join(self.parameters)}; set "
                f"search.sampler=tpe, or search.refine to try them after it"
            )
        for name, (low, high) in self.parameters.items():
            if low >= high:
                raise ValueError(f"search.parameters.{name}: low < high must hold, but got {low} and {high}; swap them")
        return self

    def unfit_parameters(self, given: Mapping[str, float | tuple[float, ...]]) -> list[str]:
        """What is wrong with the hyper-parameters that are searched, one line each.

        Merges by name, and the winner that a refinement begins with, have those of the config: they must be points of
        the search.

        Args:
            given: the config's, one value or one per expert.
        """
        problems = []
        for name, (low, high) in self.parameters.items():
            value = given[name]
            one, *others = dict.fromkeys(value if isinstance(value, tuple) else (value,))
            if isinstance(one, bool):
                problems.append(f"search.parameters.{name}: must be a number, but is true or false; leave it out")
            elif others:
                problems.append(
                    f"search.parameters.{name}: what is searched is one value for all experts, but merge.parameters "
                    f"has {value}; give one there, or leave it out here"
                )
            elif not low <= one <= high:
                problems.append(
                    f"search.parameters.{name}: {low} to {high} must include what merge.parameters has, {one}; widen "
                    f"it, or set merge.parameters.{name}"
                )
        return problems

    def unknown_terms(self, terms: list[str]) -> list[str]:
        """What is wrong with the terms that objectives and controls name, one line each.

        Args:
            terms: of the objective.
        """
        problems = []
        for name, some in self.controls.items():
            if unknown := [term for term in some if term not in terms]:
                problems.append(f"search.controls.{name}: terms must be of the objective {terms}, but got {unknown}")
            if not some:
                problems.append(f"search.controls.{name}: must name at least one term")
        if self.pareto:
            given = sorted(term for some in self.pareto.values() for term in some)
            if given != sorted(terms) or len(self.pareto) < 2:
                problems.append(
                    f"search.pareto: two or more objectives must share out the terms {terms}, each once, but got "
                    f"{self.pareto}; correct them"
                )
        return problems
