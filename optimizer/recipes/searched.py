"""A merge that a search found, written down as a recipe."""

from optimizer.config import Config
from optimizer.engines.banks import open_bank
from optimizer.merging.methods import METHODS
from optimizer.merging.space import ANCHORS, Space
from optimizer.recipes.ours import GroupedRecipe
from optimizer.search.domain import Point


def recipe_of(config: Config, space: Space, point: Point) -> GroupedRecipe:
    """A merge of a run, written down.

    Args:
        point: coefficients, and hyper-parameters that differ from the config's.
    """
    anchored = config.merge.groups == ANCHORS
    written = Space.named(space.experts, space.tensors, "layer") if anchored else space
    rows = dict(zip(space.experts, (point.coefficients @ space.within(written)).tolist(), strict=True))
    return GroupedRecipe(
        method=METHODS[config.merge.method],
        models=config.bunch.models(),
        base="base",
        tokenizer=config.bunch.chat,
        dtype=config.merge.dtype,
        out_dtype=str(open_bank(config.bunch, config.merge).model_dtype).removeprefix("torch."),
        seed=config.merge.seed,
        groups="layer" if anchored else config.merge.groups,
        coefficients={name: dict(zip(written.groups, row, strict=True)) for name, row in rows.items()},
        parameters={
            name: dict(zip(space.experts, value, strict=True)) if isinstance(value, list) else value
            for name, value in (config.merge.parameters | point.settings).items()
        },
    )
