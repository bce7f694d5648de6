"""The model card of a merge: what went in, under which licences, and how it scored."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from datagen.checkpoints import split_reference
from datagen.licences import front_of
from optimizer.bunch import Source
from optimizer.recipes.recipe import Recipe

#: What a card's front matter says of its licence.
_LICENCE_KEYS = ("license", "license_name", "license_link")


def model_card(
    recipe: Recipe,
    sources: Mapping[str, Source],
    written: Mapping[str, str],
    scores: Sequence[Sequence[str]] = (),
    *,
    adapter: bool = False,
) -> str:
    """The README.md of a merged model.

    Args:
        recipe: of the merge.
        sources: by name.
        written: file name -> text of the recipes beside it; they are shown.
        scores: rows of a table, its heading first; none if the merge was not evaluated.
        adapter: whether the merge is an adapter over the base.
    """
    licences = {name: [licence_of(folder) for folder in source.folders] for name, source in sources.items()}
    rows = [
        ["source", "model", "licence"],
        *([name, f"`{source.reference}`", _licence_names(licences[name])] for name, source in sources.items()),
    ]
    method = recipe.method
    parts = [
        f"---\n{yaml.safe_dump(_front(sources, licences, adapter), sort_keys=False)}---",
        "# A Goodbunch merge",
        f"Merged by [{method.name}]({method.paper}): {method.summary}.",
        "## Sources",
        _table(rows),
        "The merge is under the terms of all of these licences together.",
        *(["## Scores", _table(scores)] if scores else []),
        "## Recipe",
        *(f"`{name}`:\n\n```yaml\n{text.strip()}\n```" for name, text in written.items()),
    ]
    return "\n\n".join(parts) + "\n"


def licence_of(folder: Path) -> dict[str, Any]:
    """What the front matter of a model's own card says of its licence; empty if nothing."""
    card = folder / "README.md"
    front = front_of(card) if card.is_file() else {}
    return {key: front[key] for key in _LICENCE_KEYS if front.get(key)}


def _front(
    sources: Mapping[str, Source], licences: Mapping[str, Sequence[Mapping[str, Any]]], adapter: bool
) -> dict[str, Any]:
    """The card's front matter; a licence stands in it if it is that of all sources."""
    models = dict.fromkeys(model for source in sources.values() for model in _models(source))
    bases = [_models(next(iter(sources.values())))[0]] if adapter else list(models)
    front: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "base_model": bases,
        "base_model_relation": "adapter" if adapter else "merge",
        "tags": ["mergekit", "merge", "goodbunch", *(["lora"] if adapter else [])],
    }
    every = [licence for found in licences.values() for licence in found]
    return front | dict(every[0] if all(licence == every[0] for licence in every) else {})


def _models(source: Source) -> list[str]:
    """The model and the adapter that a source names, as the hub knows them: without revisions."""
    named = [part for part in split_reference(source.reference) if part is not None]
    return [part if Path(part).expanduser().is_dir() else part.split("@")[0] for part in named]


def _licence_names(licences: Sequence[Mapping[str, Any]]) -> str:
    """A cell of the table: an adapter's licence beside that of the model it tunes."""
    found = []
    for licence in licences:
        told = licence.get("license_name") or licence.get("license") or "not stated"
        found.append(", ".join(map(str, told)) if isinstance(told, list) else str(told))
    return " and ".join(dict.fromkeys(found))


def _table(rows: Sequence[Sequence[str]]) -> str:
    heading, *rest = rows
    return "\n".join(f"| {' | '.join(row)} |" for row in [heading, ["---"] * len(heading), *rest])
