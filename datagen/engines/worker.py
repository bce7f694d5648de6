"""What runs inside the vLLM worker process: weights replaced in place, so one start serves a whole bunch."""

from collections.abc import Iterator
from importlib import import_module
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class LoadWeights:
    """A vLLM worker extension: its methods become methods of the worker, called by `LLM.collective_rpc`."""

    model_runner: "GPUModelRunner"

    def load(self, function: str, arguments: list[Any], wanted: list[str]) -> int:
        """Replaces all weights by what a function yields.

        Args:
            function: `module:name` of a function that yields (tensor name, tensor) in Hugging Face names. It is
                imported and called here, so that tensors are read where they are used.
            arguments: of the function; plain values.
            wanted: names it must yield.

        Returns:
            How many tensors were loaded.

        Raises:
            RuntimeError: other tensors were yielded than wanted; vLLM itself would only warn and keep the old ones.
        """
        module, _, name = function.partition(":")
        yielded: set[str] = set()

        def counted() -> Iterator[tuple[str, torch.Tensor]]:
            for tensor_name, tensor in getattr(import_module(module), name)(*arguments):
                yielded.add(tensor_name)
                yield tensor_name, tensor

        self.model_runner.reload_weights(weights_iterator=counted(), is_checkpoint_format=True)
        if odd := yielded ^ set(wanted):
            raise RuntimeError(f"{function} must yield every tensor once, but {len(odd)} differ, such as {min(odd)}")
        _refresh_embeddings(self.model_runner.get_model())
        return len(yielded)


def _refresh_embeddings(model: Any) -> None:
    """Repacks embeddings and head, which vLLM packs before a reload and would otherwise go on using when tied."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):  # ParallelLMHead is one too
            module.quant_method.process_weights_after_loading(module)
