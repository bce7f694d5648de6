"""Merging inside the vLLM worker: any coefficients of a bunch answer without a checkpoint being written."""

from collections.abc import Iterator, Mapping, Sequence

import torch

from datagen.config import BunchConfig
from datagen.engines.vllm import VllmEngine
from optimizer.bunch import Bunch, open_bunch
from optimizer.merging.space import Coefficients, Space
from optimizer.merging.task_arithmetic import merged_tensors


def use_merge(engine: VllmEngine, config: BunchConfig, bunch: Bunch, space: Space, coefficients: Coefficients) -> None:
    """Makes a merge the model that answers; a few floats travel to the worker, no weights.

    Args:
        config: the bunch, as the worker opens it.
        coefficients: [experts, groups].
    """
    engine.use(str(bunch.chat_source.folder))
    engine.load(merge_of, config.model_dump_json(), space.by_tensor(coefficients))


def merge_of(bunch_config: str, coefficients: Mapping[str, Sequence[float]]) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors of a merge; called in the worker.

    Args:
        bunch_config: a `BunchConfig` as JSON.
        coefficients: tensor name -> lambda of every expert.
    """
    return merged_tensors(open_bunch(BunchConfig.model_validate_json(bunch_config)), coefficients)
