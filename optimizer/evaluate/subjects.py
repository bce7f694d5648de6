"""What can be evaluated: a model by reference, the merge of a recipe, the winner of a run."""

import tempfile
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from datagen.config import EngineConfig
from datagen.engines.base import Engine
from datagen.engines.vllm import VllmEngine
from datagen.errors import ConfigError
from datagen.models.opening import open_weights
from optimizer.engines.generating import merges_inside, use_recipe
from optimizer.export import write_merge
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.recipe import Recipe
from optimizer.recipes.references import short_names
from optimizer.report.result import RESULT, WINNER
from optimizer.trials import run_winner


def is_run(named: str) -> bool:
    """Whether a name is that of a run folder."""
    return any((Path(named) / file).is_file() for file in ("study.db", RESULT))


@dataclass(frozen=True)
class Subject:
    """One model to evaluate.

    Attributes:
        name: in tables.
        reference: a folder, a Hugging Face name, `MODEL+ADAPTER`, or the file of a recipe.
    """

    name: str
    reference: str

    @cached_property
    def recipe(self) -> Recipe | None:
        """How it is merged; none if it is a model already.

        Raises:
            ConfigError: it is a file, but no recipe.
        """
        path = Path(self.reference)
        return read_recipe(path) if path.is_file() or path.suffix in (".yaml", ".yml") else None

    @property
    def stored(self) -> str:
        """A model that lies on disk and has this one's architecture."""
        return self.reference if self.recipe is None else self.recipe.models[self.recipe.base]

    def check(self, engine: Engine, kind: str) -> None:
        """Refuses, before any work, what cannot be asked.

        Raises:
            GoodbunchError: it cannot.
        """
        if self.recipe is None:
            engine.check([self.reference])
        elif kind == "server":
            raise ConfigError(
                f"{self.reference}: a recipe must be merged where the engine runs, but engine.kind is server; run "
                f"`goodbunch merge` and serve the folder, or set engine.kind=vllm"
            )
        else:
            for source in self.recipe.models.values():
                open_weights(source)

    def use(self, engine: Engine, config: EngineConfig, tokenizers: Mapping[str, str], stack: ExitStack) -> None:
        """Makes it the one that answers.

        A recipe is merged inside the engine; where that would not give what its export gives, it is exported.

        Args:
            config: of the engine.
            tokenizers: that the engine asks some models with.
            stack: removes what was exported.
        """
        if self.recipe is None:
            engine.use(self.reference)
            return
        speaker = self.recipe.models[self.recipe.tokenizer]
        own = tokenizers.get(speaker, speaker) == speaker
        if isinstance(engine, VllmEngine) and own and merges_inside(self.recipe, config.dtype):
            use_recipe(engine, Path(self.reference))
            return
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="goodbunch-"))
        engine.use(str(write_merge(self.recipe, Path(folder) / "merged")))


def subjects_of(named: Sequence[str], sources: Mapping[str, str]) -> list[Subject]:
    """What names on the command line stand for, each with a name of its own.

    Args:
        named: run folders, recipes, models, or names of sources.
        sources: of the bunch, if there is one.

    Raises:
        ConfigError: a run has no winner yet.
    """
    found: list[Subject] = []
    for one in named:
        name, reference = _known(one, sources)
        taken = [subject.name for subject in found]
        found.append(Subject(short_names([name], taken)[name], reference))
    return found


def _known(named: str, sources: Mapping[str, str]) -> tuple[str, str]:
    """Name and reference."""
    path = Path(named)
    if is_run(named):
        return WINNER, str(run_winner(path))
    if named in sources and not path.exists():
        return named, sources[named]
    return (path.stem if path.is_file() else named), named
