"""The torch engine: one live model, merged in place, that scores losses and their gradients."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from datagen.batches import IGNORED, Batch
from datagen.errors import BunchError
from optimizer.bunch import Bunch
from optimizer.merging.bank import Bank, Weights
from optimizer.merging.space import Coefficients, Space


class ScoringEngine:
    """One live model; a merge of the bank's sources writes into the model's own parameters.

    Args:
        bunch: the sources.
        space: the coefficients.
        bank: the same sources, as they are merged.
    """

    def __init__(self, bunch: Bunch, space: Space, bank: Bank) -> None:
        self.device = bank.device
        self.space = space
        self._bank = bank
        self.model = _empty_model(bunch.base.folder, bank.model_dtype).to(self.device)
        self.model.eval()
        live = dict(self.model.named_parameters())
        if unknown := sorted(set(bunch.names) - set(live)):
            raise BunchError(
                f"every tensor of a checkpoint must be a parameter of its model, but {unknown[0]} and "
                f"{len(unknown) - 1} more are not in {type(self.model).__name__}; save the sources with this "
                f"version of transformers"
            )
        self._live = {name: live[name] for name in bunch.names}
        for name, parameter in self._live.items():
            parameter.register_post_accumulate_grad_hook(partial(self._take, name))  # type: ignore[no-untyped-call]
        self._at: Mapping[str, Weights] = {}
        self._slopes: dict[str, Coefficients] = {}
        self.applied: Coefficients | None = None

    def apply(self, coefficients: Coefficients) -> None:
        """Merges in place.

        Args:
            coefficients: [experts, groups].
        """
        if self.applied is not None and np.array_equal(self.applied, coefficients):
            return
        by_tensor = self.space.by_tensor(coefficients)
        with torch.no_grad():
            for name, parameter in self._live.items():
                self._bank.merge(name, by_tensor[name], parameter)
        self.applied = coefficients.copy()

    @torch.no_grad()
    def score(self, batches: Sequence[Batch]) -> list[tuple[float, int, bool]]:
        """Scores every example with the weights that are applied.

        Returns:
            For each example in the order of its `index`: summed cross-entropy of its answer in nats, number of answer
            tokens, and whether greedy decoding would give exactly this answer.
        """
        found: dict[int, tuple[float, int, bool]] = {}
        for batch in batches:
            losses, wanted, right = self._forward(batch)
            counted = wanted != IGNORED
            sums = losses.sum(1).tolist()
            tokens = counted.sum(1).tolist()
            exact = (right | ~counted).all(1).tolist()
            found |= {i: (sums[k], tokens[k], exact[k]) for k, i in enumerate(batch.index)}
        return [found[i] for i in sorted(found)]

    def gradient(
        self, coefficients: Coefficients, batch: Batch, weights: torch.Tensor
    ) -> tuple[Coefficients, list[bool]]:
        """D loss / d coefficients of a weighted mean over the examples of one batch.

        Every tensor's gradient is freed as soon as its dot products with the task vectors are taken, so there is
        never more than one of them beside the sources, the model and its activations.

        Args:
            coefficients: [experts, groups], where the gradient is taken.
            batch: examples.
            weights: of every example's mean cross-entropy, [examples].

        Returns:
            [experts, groups], and for each example whether greedy decoding would give its answer.
        """
        self.apply(coefficients)
        losses, wanted, right = self._forward(batch)
        exact: list[bool] = (right | (wanted == IGNORED)).all(1).tolist()
        per_example = losses.sum(1) / (wanted != IGNORED).sum(1)
        loss = (per_example * weights.to(self.device)).sum()
        self._at = self.space.by_tensor(coefficients)
        self._slopes = {name: np.zeros(np.shape(self._at[name])) for name in self._live}
        loss.backward()  # type: ignore[no-untyped-call]
        return self.space.gathered(self._slopes), exact

    def _take(self, name: str, parameter: torch.Tensor) -> None:
        """Turns a tensor's gradient into that of its coefficients, and frees it."""
        if parameter.grad is not None:
            with torch.enable_grad():  # some methods differentiate their own formula, and hooks run without
                self._slopes[name] = self._bank.gradient(name, self._at[name], parameter.grad).cpu().numpy()
            parameter.grad = None

    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        # Right padding under a causal mask is never seen by a real token, so no attention mask is needed.
        logits = self.model(input_ids=batch.inputs.to(self.device), use_cache=False).logits[:, :-1].float()
        wanted = batch.labels[:, 1:].to(self.device)
        losses = torch.nn.functional.cross_entropy(
            logits.transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none"
        )  # [examples, width - 1]
        return losses, wanted, logits.argmax(-1) == wanted


def _empty_model(folder: Path, dtype: torch.dtype) -> torch.nn.Module:
    model: torch.nn.Module = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(folder), dtype=dtype)
    return model
