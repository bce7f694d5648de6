"""What runs inside the vLLM worker process: weights swapped in place, so one start serves a whole bunch."""

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch

from datagen.checkpoints import iterate_tensors, tensor_names

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_model_runner import GPUModelRunner


class SwapWeights:
    """A vLLM worker extension: its methods become methods of the worker, called by `LLM.collective_rpc`."""

    model_runner: "GPUModelRunner"

    def swap(self, folder: str) -> int:
        """Replaces all weights by those of another checkpoint of the same architecture.

        Args:
            folder: a Hugging Face folder with safetensors.

        Returns:
            How many tensors were loaded.

        Raises:
            RuntimeError: the checkpoint ended before all of its tensors were read; vLLM itself would only warn.
        """
        wanted = tensor_names(folder)
        seen: set[str] = set()

        def counted() -> Iterator[tuple[str, torch.Tensor]]:
            for name, tensor in iterate_tensors(folder):
                seen.add(name)
                yield name, tensor

        self.model_runner.reload_weights(weights_iterator=counted(), is_checkpoint_format=True)
        if seen != wanted:
            raise RuntimeError(f"{folder}: {len(wanted - seen)} of {len(wanted)} tensors were not loaded")
        refresh_embeddings(self.model_runner.get_model())
        return len(seen)


def refresh_embeddings(model: Any) -> None:
    """Repacks embeddings and head, which vLLM packs before a reload and would otherwise go on using when tied."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):  # ParallelLMHead is one too
            module.quant_method.process_weights_after_loading(module)
