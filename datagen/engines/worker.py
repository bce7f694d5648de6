"""What runs inside the vLLM worker process: weights replaced in place, so one start serves a whole bunch."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
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
            RuntimeError: other tensors were yielded than wanted, or not all of vLLM's were made of them; vLLM itself
                would only warn, and keep the old ones or whatever the memory held.
        """
        module, _, name = function.partition(":")
        yielded: set[str] = set()

        def counted() -> Iterator[tuple[str, torch.Tensor]]:
            for tensor_name, tensor in getattr(import_module(module), name)(*arguments):
                yielded.add(tensor_name)
                yield tensor_name, tensor

        model = self.model_runner.get_model()
        with _watched(model) as missing:
            self.model_runner.reload_weights(weights_iterator=counted(), is_checkpoint_format=True)
        if odd := yielded ^ set(wanted):
            raise RuntimeError(f"{function} must yield every tensor once, but {len(odd)} differ, such as {min(odd)}")
        if missing:
            raise RuntimeError(
                f"vLLM must load every tensor of its {type(model).__name__}, but {len(missing)} got nothing, such as "
                f"{min(missing)}"
            )
        _refresh_embeddings(model)
        return len(yielded)


@contextmanager
def _watched(model: Any) -> Iterator[set[str]]:
    """Yields the model's own tensors that are not loaded while it is watched, complete at the end.

    A model that does not tell what it has loaded is taken at its word.
    """
    # Taken beforehand: in the midst of a reload a tied head has a name of its own.
    own = {name for name, _ in model.named_parameters()}
    missing: set[str] = set()
    load: Callable[[Iterable[tuple[str, torch.Tensor]]], set[str] | None] = model.load_weights

    def watched(weights: Iterable[tuple[str, torch.Tensor]]) -> set[str] | None:
        loaded = load(weights)
        missing.update(() if loaded is None else own - loaded)
        return loaded

    model.load_weights = watched
    try:
        yield missing
    finally:
        del model.load_weights


def _refresh_embeddings(model: Any) -> None:
    """Repacks embeddings and head, which vLLM packs before a reload and would otherwise go on using when tied."""
    from vllm.model_executor.layers.vocab_parallel_embedding import VocabParallelEmbedding

    for module in model.modules():
        if isinstance(module, VocabParallelEmbedding):  # ParallelLMHead is one too
            module.quant_method.process_weights_after_loading(module)
