"""The torch engine: one live model, merged in place, that scores answers and gives gradients."""

import weakref
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.initialization import no_init_weights
from transformers.modeling_layers import GradientCheckpointingLayer

from datagen.arithmetic import quick_products
from datagen.batches import Batch, pack
from datagen.errors import BunchError
from datagen.models.loading import is_trusted, open_config
from optimizer.bunch import Bunch
from optimizer.engines.live import live_parameters
from optimizer.engines.outputs import Measure, Outputs
from optimizer.engines.teachers import Teacher, Teachers, Top, divergence
from optimizer.merging.bank import Bank, Weights
from optimizer.merging.space import Coefficients, Space
from optimizer.merging.whole import WholeMerge, as_graph


class ScoringEngine:
    """One live model; a merge of the bank's sources writes into the model's own parameters.

    Args:
        bunch: the sources.
        space: the coefficients.
        bank: the same sources, as they are merged.
        checkpointing: whether a backward pass computes each decoder layer anew rather than keeps what is inside of it:
            less memory for a third more time, and the same gradients.
    """

    def __init__(self, bunch: Bunch, space: Space, bank: Bank, checkpointing: bool = False) -> None:
        self.device = bank.device
        self.space = space
        self._bank = bank
        self.model = _empty_model(bunch.base.folder, bank.model_dtype, self.device)
        self.model.eval()
        self._live = live_parameters(self.model, bunch.names)
        self._whole = WholeMerge(bank, self._live, as_graph if self.device.type == "cuda" else None)
        # The collector does not see what hooks hold: an engine that they held would never be gone.
        take = partial(ScoringEngine._take, weakref.proxy(self))
        for name, parameter in [*self._live.items(), *_untied(self.model, self._live)]:
            parameter.register_post_accumulate_grad_hook(partial(take, name))  # type: ignore[no-untyped-call]
        for module in self.model.modules():
            if isinstance(module, torch.nn.Embedding):
                module.padding_idx = None  # else its row, which may be that of a real token, has no gradient
        if checkpointing:
            _checkpoint_layers(self.model)
        self._at: Mapping[str, Weights] = {}
        self._slopes: dict[str, torch.Tensor] = {}
        self.applied: Coefficients | None = None
        self._settings: dict[str, float] = {}

    def apply(self, coefficients: Coefficients, settings: Mapping[str, float] | None = None) -> None:
        """Merges in place.

        Args:
            coefficients: [experts, groups].
            settings: hyper-parameters of the method that differ from the bank's own.
        """
        wanted = dict(settings or {})
        # Whoever shares the bank may have tuned it meanwhile.
        self._bank.tune(wanted)
        if self.applied is not None and self._settings == wanted and np.array_equal(self.applied, coefficients):
            return
        self._whole.merge(self.space.by_tensor(coefficients))
        self.applied, self._settings = coefficients.copy(), wanted

    def load(self, name: str) -> None:
        """Takes a source just as it is, whatever the method would make of it alone.

        Args:
            name: of the source.
        """
        source = {one.name: one for one in self._bank.sources}[name]
        with torch.no_grad():
            for tensor, parameter in self._live.items():
                parameter.copy_(source.tensor(tensor))
        self.applied = None

    @torch.no_grad()
    def score(self, batches: Sequence[Batch], teachers: Teachers | None = None) -> Outputs:
        """Scores sequences with the weights that are applied.

        Args:
            batches: of numbered sequences.
            teachers: of those that are not held against their own answers.

        Returns:
            [sequences] in the order of their numbers, on the CPU.
        """
        tops = self._tops(teachers or {})
        found = zip(*(self._outputs(batch, tops) for batch in batches), strict=True)
        order = torch.tensor([number for batch in batches for number in batch.index]).argsort()
        return Outputs(*(torch.cat(parts).cpu()[order] for parts in found))

    def gradient(
        self, coefficients: Coefficients, batch: Batch, reduction: Measure, teachers: Teachers | None = None
    ) -> tuple[Coefficients, list[bool]]:
        """D loss / d coefficients on one batch.

        Every tensor's gradient is freed as soon as its dot products with the task vectors are taken, so there is
        never more than one of them beside the sources, the model and its activations.

        Args:
            coefficients: [experts, groups], where the gradient is taken.
            batch: sequences, in the order of their numbers.
            reduction: makes the loss of their outputs, and tells of each example whether it is right.
            teachers: of those sequences that are not held against their own answers.

        Returns:
            [experts, groups], and whether each example is right.
        """
        tops = self._tops(teachers or {})
        self.apply(coefficients)
        loss, right = reduction(self._outputs(batch, tops))
        self._at, self._slopes = self.space.by_tensor(coefficients), {}
        with quick_products(self.model, batch.inputs.shape[1]):
            loss.backward()  # type: ignore[no-untyped-call]
        return self.space.gathered(self._taken()), right.tolist()

    def _take(self, name: str, parameter: torch.Tensor) -> None:
        """Turns a tensor's gradient, or one of two that it has, into that of its coefficients, and frees it."""
        if parameter.grad is not None:
            with torch.enable_grad():  # some methods differentiate their own formula, and hooks run without
                slope = self._bank.gradient(name, self._at[name], parameter.grad)
            self._slopes[name] = self._slopes[name] + slope if name in self._slopes else slope
            parameter.grad = None

    def _taken(self) -> dict[str, npt.NDArray[np.float64]]:
        """What was taken of all tensors, zero where a tensor had no gradient; brought from the device at once."""
        flat = torch.cat([slope.flatten().to(self.device) for slope in self._slopes.values()]).cpu()
        parts = torch.split(flat, [slope.numel() for slope in self._slopes.values()])
        found = {name: part.numpy() for name, part in zip(self._slopes, parts, strict=True)}
        shapes = {name: np.shape(at) for name, at in self._at.items()}
        return {name: found[name].reshape(s) if name in found else np.zeros(s) for name, s in shapes.items()}

    def _outputs(self, batch: Batch, tops: Mapping[int, Top]) -> Outputs:
        """What the model makes of a batch, in the batch's order."""
        places, wanted, tokens = (one.to(self.device) for one in (batch.places, batch.wanted, batch.tokens))
        logits = self._logits(batch, places)
        losses = torch.nn.functional.cross_entropy(logits, wanted, reduction="none")  # [answer tokens]
        if taught := [tops[number] for number in batch.index if number in tops]:
            those = torch.tensor([number in tops for number in batch.index]).repeat_interleave(batch.tokens)
            those = those.to(self.device)
            losses = losses.masked_scatter(those, divergence(taught, logits[those]))
        wrong = logits.argmax(-1) != wanted
        summed, missed = (
            one.new_zeros(batch.inputs.numel()).scatter(0, places, one).view_as(batch.inputs).sum(1)
            for one in (losses, wrong)
        )
        return Outputs(summed, tokens, missed == 0)

    def _logits(self, batch: Batch, places: torch.Tensor) -> torch.Tensor:
        """What the model says at some places, [places, vocabulary].

        Only there its head is asked: prompts are most of the tokens, and the head of a small model is much of it. The
        head is given less rather than called from here, since some models go on to scale or cap what it says.
        """
        head = self.model.get_output_embeddings()
        hook = head.register_forward_pre_hook(lambda _, given: given[0].flatten(0, 1).index_select(0, places)[None])
        try:
            # Right padding under a causal mask is never seen by a real token, so no attention mask is needed.
            with quick_products(self.model, batch.inputs.shape[1]):
                return self.model(input_ids=batch.inputs.to(self.device), use_cache=False).logits[0].float()  # type: ignore[no-any-return]
        finally:
            hook.remove()

    def _tops(self, teachers: Teachers) -> dict[int, Top]:
        """What the teachers say; those that were not asked yet are, and what is applied stays applied."""
        at = self.applied
        for teacher in dict.fromkeys(teacher for teacher, _ in teachers.values()):
            if not teacher.tops:
                self.load(teacher.source)
                teacher.tops = self._asked(teacher)
        if at is not None:
            self.apply(at, self._settings)
        return {number: teacher.tops[which] for number, (teacher, which) in teachers.items()}

    @torch.no_grad()
    def _asked(self, teacher: Teacher) -> list[Top]:
        found: dict[int, Top] = {}
        for batch in pack(teacher.examples):
            top = Top.of(self._logits(batch, batch.places.to(self.device)))
            found |= zip(batch.index, top.split(batch.tokens.tolist()), strict=True)
        return [found[number] for number in sorted(found)]


def _empty_model(folder: Path, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    config = open_config(folder)
    with no_init_weights(), device:  # drawing the weights of a large model takes minutes
        model: PreTrainedModel = AutoModelForCausalLM.from_config(
            config, dtype=dtype, trust_remote_code=is_trusted(folder)
        )
    model.tie_weights()  # which drawing weights would have done
    return model


def _untied(model: Any, live: Mapping[str, torch.nn.Parameter]) -> list[tuple[str, torch.nn.Parameter]]:
    """Gives a head that is tied to the embeddings a parameter of its own, over the same memory.

    Its gradient is complete at the start of a backward pass, and would be kept to the end for that of the embeddings.

    Returns:
        The embeddings' name and the head's parameter, if the two are tied.
    """
    head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
    if head.weight is not embeddings.weight:
        return []
    head.weight = torch.nn.Parameter(embeddings.weight.detach())
    return [(name, head.weight) for name, parameter in live.items() if parameter is embeddings.weight]


def _checkpoint_layers(model: torch.nn.Module) -> None:
    """What transformers does for models in training, for one that is not."""
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    if not layers:
        raise BunchError(
            f"search.descent.checkpointing needs layers that can be computed anew, but {type(model).__name__} has "
            f"none; set it to false"
        )
    for layer in layers:
        layer.forward = partial(checkpoint, layer.forward, use_reentrant=False, preserve_rng_state=False)
