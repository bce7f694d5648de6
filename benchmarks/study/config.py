"""What is compared: `configs/study/study.yaml`."""

from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import Field

from datagen.frozen import Frozen

PATH = Path(__file__).parents[2] / "configs" / "study" / "study.yaml"


class Setting(Frozen):
    """A bunch.

    Attributes:
        base: whether task vectors are told from the pre-trained model (paper 2) or the aligned one (paper 1).
        experts: domain experts; the aligned model always is in the bunch.
        recipes: zoo recipe -> seeds of its zoos.
        several: whether the search for several objectives runs, too.
    """

    base: Literal["pretrained", "aligned"]
    experts: list[str] = Field(min_length=1)
    recipes: dict[str, list[int]]
    several: bool = False


class Variant(Frozen):
    """What differs from the default.

    Attributes:
        examples: search rows of every term; 0 for the study's.
        experts: domain experts; none for the setting's.
        real: whether the rows are the zoo's own, with true answers, in place of written ones.
        alpha: runs EvoMM on both kinds of rows with it, in place of ours.
        overrides: of the demo's config.
    """

    examples: int = 0
    experts: list[str] = []
    real: bool = False
    alpha: float | None = None
    overrides: dict[str, Any] = {}


class Ablations(Frozen):
    """What is varied, one thing at a time.

    Attributes:
        setting: that all start from.
        recipes: zoo recipe -> seeds of its zoos.
        variants: what is varied -> value -> how.
    """

    setting: str
    recipes: dict[str, list[int]]
    variants: dict[str, dict[str, Variant]]


class StudyConfig(Frozen):
    """The study.

    Attributes:
        examples: search rows of every term.
        evaluations: of a black box.
        alpha: weight of the domains beside safety.
        densities: of TIES and DARE-TIES on their grid.
        weights: of all experts on that grid.
        arcs: SLERP's t.
        vectors: MergeAlign's a and b.
        settings: by name.
        goodbunch: variant -> overrides of the demo's config; the first is the default.
        ablations: of the default.
    """

    examples: int
    evaluations: int
    alpha: float
    densities: list[float]
    weights: list[float]
    arcs: list[float]
    vectors: list[float]
    settings: dict[str, Setting]
    goodbunch: dict[str, dict[str, Any]]
    ablations: Ablations


def read_study(path: Path = PATH) -> StudyConfig:
    """The study's config."""
    return StudyConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
