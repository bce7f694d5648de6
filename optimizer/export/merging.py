"""Makes a recipe's merge and writes it, one tensor at a time, as a folder that is whole or not there."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import torch

from datagen.errors import BunchError
from datagen.models.tensor_files import Header
from optimizer.bunch import Source, open_sources
from optimizer.export.companions import RECIPE, write_companions, write_json
from optimizer.export.folder import check_place, whole_folder
from optimizer.export.shards import ShardWriter
from optimizer.merging.bank import Bank, floating_dtype
from optimizer.recipes.ours import GroupedRecipe
from optimizer.recipes.recipe import Recipe, TensorRecipe

if TYPE_CHECKING:
    from optimizer.export.measured import Measured

#: Names of the weights' type in config.json, the newer one first.
DTYPE_KEYS = ("dtype", "torch_dtype")

#: Bytes per file, as Hugging Face's own libraries write them.
SHARD = 5 << 30

#: Told every tensor that was merged: how many are done, and of how many.
OnTensor = Callable[[int, int], None]


def write_merge(
    recipe: Recipe,
    out: Path,
    *,
    force: bool = False,
    shard: int = SHARD,
    device: torch.device | None = None,
    measured: "Measured | None" = None,
    on_tensor: OnTensor | None = None,
) -> Path:
    """Makes a merge and writes it as a Hugging Face folder.

    It is written beside `out` and renamed when whole, so `out` is never half a model.

    Args:
        recipe: of the merge.
        out: the folder.
        force: whether a model that is there is replaced.
        shard: bytes per file.
        device: where merging happens; by default the CPU, since reading and writing take longer than merging once.
        measured: how the merge scores, for the model card.
        on_tensor: told every tensor that was merged.

    Returns:
        `out`.

    Raises:
        ConfigError: `out` is there and `force` is not set, or it holds a source or no model; or the recipe does not
            fit the sources.
        BunchError: a source is missing or damaged, or does not fit the others; or the disk is full.
    """
    check_place(out, force)
    sources = open_sources(recipe.models, recipe.base, chat=False)
    check_place(out, force, [folder for source in sources.values() for folder in source.folders])
    merge = Merge.of(recipe, sources, device or torch.device("cpu"))
    with whole_folder(out, force) as beside:
        _write_tensors(merge, beside, shard, on_tensor)
        _write_config(merge, beside)
        write_companions(recipe, sources, beside, out_dtype=merge.written, measured=measured)
    return out


def is_exported(recipe: GroupedRecipe, out: Path) -> bool:
    """Whether a folder already holds this very merge."""
    written = out / RECIPE
    return written.is_file() and written.read_text(encoding="utf-8") == recipe.to_yaml()


@dataclass(frozen=True)
class Merge:
    """A recipe with its sources opened: every tensor it makes.

    Attributes:
        recipe: of the merge.
        sources: by name.
        tensors: name -> its own recipe, in the order of the base's.
        banks: name -> the bank that merges it.
    """

    recipe: Recipe
    sources: Mapping[str, Source]
    tensors: Mapping[str, TensorRecipe]
    banks: Mapping[str, Bank]

    @classmethod
    def of(cls, recipe: Recipe, sources: Mapping[str, Source], device: torch.device) -> Self:
        """A recipe's merge, to be made on a device."""
        tensors = recipe.resolve(sources[recipe.base].names)
        return cls(recipe, sources, tensors, _banks(recipe, tensors, sources, device))

    @property
    def written(self) -> str:
        """What a whole merged model is written in, as torch names the type."""
        recipe = self.recipe
        merged = getattr(torch, recipe.dtype) if recipe.dtype else floating_dtype(list(self.sources.values()))
        return str(_written(recipe, merged)).removeprefix("torch.")

    @cached_property
    def headers(self) -> dict[str, Header]:
        """Tensor name -> shape and type."""
        shapes = self.sources[self.recipe.base].shapes
        return {
            name: Header(shapes[name], _written(self.recipe, self.banks[name].dtype_of(name))) for name in self.tensors
        }

    def made(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Name and merged tensor, one at a time; nothing of it is kept."""
        for name, tensor in self.tensors.items():
            bank, header = self.banks[name], self.headers[name]
            out = torch.empty(header.shape, dtype=header.dtype, device=bank.device)
            merged = bank.merge(name, tensor.coefficients, out)
            if not _is_finite(merged):
                raise BunchError(self._not_finite(name, merged))
            yield name, merged
            bank.forget(name)

    def _not_finite(self, name: str, merged: torch.Tensor) -> str:
        """What is wrong with a merged tensor that has NaN or infinite values."""
        count = f"{int((~merged.isfinite()).sum())} of its {merged.numel()} are not"
        odd = [one for one in self.sources.values() if not _is_finite(one.tensor(name))]
        if odd:
            return f"{name}: all values must be finite, but {count}, as in {odd[0].name}; copy that model again"
        return (
            f"{name}: all values must be finite, but {count}, though all sources' are; set out_dtype to bfloat16 or "
            f"float32, or lower the coefficients"
        )


def _is_finite(tensor: torch.Tensor) -> bool:
    """Whether all values are; single numbers, such as what some models mask attention with, may be infinite."""
    if not tensor.dim() or not tensor.numel() or not tensor.is_floating_point():
        return True
    return all(bool(end.isfinite()) for end in torch.aminmax(tensor))  # NaN is either


def _banks(
    recipe: Recipe, tensors: Mapping[str, TensorRecipe], sources: Mapping[str, Source], device: torch.device
) -> dict[str, Bank]:
    """Tensor name -> the bank that merges it; tensors of the same sources and settings share one."""
    shared: dict[str, Bank] = {}
    banks = {}
    for name, tensor in tensors.items():
        key = repr((tensor.base, tensor.experts, sorted(tensor.settings.items())))
        if key not in shared:
            shared[key] = Bank(
                recipe.method,
                None if tensor.base is None else sources[tensor.base],
                [sources[expert] for expert in tensor.experts],
                tensor.settings,
                dtype=getattr(torch, recipe.dtype) if recipe.dtype else None,
                residency="disk",
                device=device,
                seed=recipe.seed,
            )
        banks[name] = shared[key]
    return banks


def _write_tensors(merge: Merge, folder: Path, shard: int, on_tensor: OnTensor | None) -> None:
    with ShardWriter(folder, merge.headers, shard) as writer:
        for done, (name, tensor) in enumerate(merge.made(), 1):
            writer.add(name, tensor)
            if on_tensor:
                on_tensor(done, len(merge.tensors))
        writer.finish()


def _written(recipe: Recipe, merged: torch.dtype) -> torch.dtype:
    wanted: torch.dtype = getattr(torch, recipe.out_dtype) if recipe.out_dtype else merged
    return wanted if merged.is_floating_point else merged


def _write_config(merge: Merge, folder: Path) -> None:
    """Writes the base's config with the merge's own type."""
    config = dict(merge.sources[merge.recipe.base].config)
    # Older versions of transformers know the older name alone.
    kept = [key for key in DTYPE_KEYS if key in config] or [DTYPE_KEYS[0]]
    write_json(folder / "config.json", config | dict.fromkeys(kept, merge.written))
