"""Merging inside the vLLM worker: any coefficients of a bunch answer without a checkpoint being written."""

from collections.abc import Iterator, Mapping

import torch

from datagen.engines.local import LoadingEngine
from optimizer.bunch import Bunch
from optimizer.config import Config
from optimizer.engines.banks import named_bank
from optimizer.merging.space import ByTensor, Coefficients, Space


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
