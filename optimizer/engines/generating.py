"""Merging inside the vLLM worker: any coefficients of a bunch answer without a checkpoint being written."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from datagen.engines.local import LoadingEngine
from optimizer.bunch import Bunch, Source, open_sources
from optimizer.config import Config
from optimizer.engines.banks import named_bank
from optimizer.export.merging import DTYPE_KEYS, Merge
from optimizer.merging.space import ByTensor, Coefficients, Space
from optimizer.recipes.reading import read_recipe
from optimizer.recipes.recipe import Recipe

#: Keys of config.json, besides the weights' type, that make no difference to an engine.
_COSMETIC = ("_name_or_path", "transformers_version", "use_cache")


def use_merge(
    engine: LoadingEngine,
    config: Config,
    bunch: Bunch,
    space: Space,
    coefficients: Coefficients,
    settings: Mapping[str, float] | None = None,
) -> None:
    """Makes a merge the model that answers; a few floats travel to the worker, no weights.

    Args:
        config: bunch and merge, as the worker opens them.
        coefficients: [experts, groups].
        settings: hyper-parameters that differ from the config's.
    """
    engine.prepare(bunch.chat_source.reference)
    engine.load(
        merge_of,
        config.bunch.model_dump_json(),
        config.merge.model_dump_json(),
        space.by_tensor(coefficients),
        dict(settings or {}),
    )


def merge_of(
    bunch_config: str, merge_config: str, coefficients: Mapping[str, ByTensor], settings: Mapping[str, float]
) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a merge; called in the worker.

    Args:
        bunch_config: a `BunchConfig` as JSON.
        merge_config: a `MergeConfig` as JSON.
        coefficients: tensor name -> coefficient of every expert, or that for each of its blocks.
        settings: hyper-parameters that differ from the config's.
    """
    bank = named_bank(bunch_config, merge_config)
    bank.tune(settings)
    return bank.merged(coefficients, bank.model_dtype)


def use_recipe(engine: LoadingEngine, path: Path) -> None:
    """Makes a recipe's merge the model that answers; only the recipe's place travels to the worker.

    Args:
        path: of a recipe that `merges_inside`.
    """
    recipe = read_recipe(path)
    engine.use(recipe.models[recipe.tokenizer])
    engine.load(tensors_of, str(path))


def merges_inside(recipe: Recipe, dtype: str) -> bool:
    """Whether an engine that runs the source of a recipe's tokenizer would say the same as one that runs the export.

    It holds the merge's weights then, but goes on with that source's config and chat template.

    Args:
        dtype: of the engine, `auto` for the checkpoint's own.

    Raises:
        GoodbunchError: the recipe cannot be merged at all.
    """
    sources = open_sources(recipe.models, recipe.base, chat=False)
    base, speaker = sources[recipe.base], sources[recipe.tokenizer]
    merge = Merge.of(recipe, sources, torch.device("cpu"))
    held = next((speaker.config[key] for key in DTYPE_KEYS if speaker.config.get(key)), "")
    return (
        not recipe.chat_template
        and sorted(base.names) == sorted(speaker.names)
        and _deciding(base) == _deciding(speaker)
        and (dtype != "auto" or held == merge.written)
    )


def _deciding(source: Source) -> dict[str, Any]:
    return {key: value for key, value in source.config.items() if key not in (*_COSMETIC, *DTYPE_KEYS)}


def tensors_of(path: str) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a recipe's merge; called in the worker."""
    recipe = read_recipe(Path(path))
    sources = open_sources(recipe.models, recipe.base, chat=False)
    return Merge.of(recipe, sources, torch.device("cuda" if torch.cuda.is_available() else "cpu")).made()
