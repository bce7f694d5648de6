"""The live parameters that the tensors of a checkpoint are: transformers renames some of them when it reads a model."""

import re
from collections.abc import Iterable

import torch
from transformers import PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, WeightRenaming, rename_source_key

from datagen.errors import BunchError

#: A table that old checkpoints hold, and that transformers computes.
_COMPUTED = r"rotary_emb\.inv_freq"


def live_parameters(model: PreTrainedModel, names: Iterable[str]) -> dict[str, torch.nn.Parameter]:
    """Tensor name -> the parameter that it is read into; what transformers would ignore is left out.

    Args:
        model: live.
        names: of all tensors of a checkpoint.

    Raises:
        BunchError: one of them is no parameter, or only a part of one.
    """
    live = dict(model.named_parameters())
    known = model.state_dict()
    mapping = get_model_conversion_mapping(model)
    renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
    converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
    ignored = re.compile("|".join([_COMPUTED, *(model._keys_to_ignore_on_load_unexpected or [])]))
    found, unknown = {}, []
    for name in names:
        inside, converter = rename_source_key(name, renamings, converters, model.base_model_prefix, known)
        if inside in live and converter is None:
            found[name] = live[inside]
        elif not ignored.search(name):
            unknown.append(name)
    if unknown:
        raise BunchError(
            f"every tensor of a checkpoint must be a parameter of its model, but {min(unknown)} and "
            f"{len(unknown) - 1} more are not in {type(model).__name__}; save the sources with this version of "
            f"transformers"
        )
    return found
