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
        goodbunch: variant -> overrides of the demo's config.
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


def read_study(path: Path = PATH) -> StudyConfig:
    """The study's config."""
    return StudyConfig.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
