"""vLLM with merging inside its worker: any coefficients of a bunch answer without a checkpoint being written."""

from collections.abc import Mapping, Sequence

from datagen.config import BunchConfig, EngineConfig
from datagen.engines.vllm import VllmEngine
from datagen.engines.worker import SwapWeights, refresh_embeddings
from optimizer.bunch import Bunch, open_bunch
from optimizer.merging.space import Coefficients, Space
from optimizer.merging.task_arithmetic import merged_tensors


class MergeWeights(SwapWeights):
    """Worker extension that merges a bunch into the model it serves."""

    def merge(self, bunch_config: str, coefficients: Mapping[str, Sequence[float]]) -> int:
        """Replaces all weights by a merge.

        Args:
            bunch_config: a `BunchConfig` as JSON.
            coefficients: tensor name -> lambda of every expert.

        Returns:
            How many tensors were loaded.
        """
        bunch = open_bunch(BunchConfig.model_validate_json(bunch_config))
        self.model_runner.reload_weights(
            weights_iterator=merged_tensors(bunch, coefficients), is_checkpoint_format=True
        )
        refresh_embeddings(self.model_runner.get_model())
        return len(bunch.names)


class GeneratingEngine(VllmEngine):
    """A `VllmEngine` that can also be asked to answer as a merge.

    Args:
        settings: how vLLM is started.
        config: the bunch, as the worker opens it.
    """

    def __init__(self, settings: EngineConfig, config: BunchConfig) -> None:
        super().__init__(settings, "optimizer.engines.generating.MergeWeights")
        self._config = config

    def use_merge(self, bunch: Bunch, space: Space, coefficients: Coefficients) -> None:
        """Makes a merge the model that answers.

        Args:
            coefficients: [experts, groups].
        """
        self.use(str(bunch.chat_source.folder))
        self.call("merge", self._config.model_dump_json(), space.by_tensor(coefficients))
