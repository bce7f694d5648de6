"""The model card of a merge: what went in, under which licences, how it scored, and what is not known of it."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from datagen.licences import NOT_STATED, front_of
from datagen.models.references import split_reference
from optimizer.bunch import Source
from optimizer.recipes.recipe import Recipe

if TYPE_CHECKING:
    from optimizer.export.measured import Measured

#: What a card's front matter says of its licence.
_LICENCE_KEYS = ("license", "license_name", "license_link")

#: What licences that forbid commercial use have in their names: cc-by-nc-4.0, a research licence.
_NON_COMMERCIAL = re.compile(r"\bnc\b|non[-_ ]?commercial|\bresearch\b", re.IGNORECASE)

#: What is true of every merge.
_LIMITS = (
    "A merge may do what none of its parents does: what they refuse does not tell what it refuses. Test it on requests "
    "of your own before others use it.",
    "Attacks on its refusals (jailbreaks, further fine-tuning) were not tried beyond what the test rows hold.",
)


def model_card(
    recipe: Recipe,
    sources: Mapping[str, Source],
    written: Mapping[str, str],
    measured: "Measured | None" = None,
    *,
    adapter: bool = False,
) -> str:
    """The README.md of a merged model.

    Args:
        recipe: of the merge.
        sources: by name.
        written: file name -> text of the recipes beside it; they are shown.
        measured: how it scores; none if the merge was not evaluated.
        adapter: whether the merge is an adapter over the base.
    """
    licences = {name: [licence_of(folder) for folder in source.folders] for name, source in sources.items()}
    names = {name: _licence_names(licences[name]) for name in sources}
    rows = [
        ["source", "model", "licence"],
        *([name, f"`{source.reference}`", names[name]] for name, source in sources.items()),
    ]
    method = recipe.method
    parts = [
        f"---\n{_front(sources, licences, measured, adapter)}\n---",
        "# A Goodbunch merge",
        *_shouted(names),
        f"Merged by [{method.name}]({method.paper}): {method.summary}.",
        "## Sources",
        _table(rows),
        "The merge is under the terms of all of these licences together.",
        *_scores(measured),
        "## Limits",
        "\n".join(f"- {limit}" for limit in (*(measured.limits if measured else ()), *_LIMITS)),
        "## Recipe",
        *(f"`{name}`:\n\n```yaml\n{text.strip()}\n```" for name, text in written.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _shouted(names: Mapping[str, str]) -> list[str]:
    """What nobody must overlook about the licences."""
    told = []
    if closed := [f"{source} ({licence})" for source, licence in names.items() if _NON_COMMERCIAL.search(licence)]:
        told.append(
            f"> **NOT FOR COMMERCIAL USE.** The licence of {', '.join(closed)} forbids it, and so for the merge."
        )
    if silent := [source for source, licence in names.items() if NOT_STATED in licence]:
        told.append(f"> **Licence not stated** by {', '.join(silent)}: ask the authors before you pass the merge on.")
    return told


def _scores(measured: "Measured | None") -> list[str]:
    if measured is None:
        return [
            "## Scores",
            "This merge was not evaluated: neither its skills nor its refusals are known. "
            "`goodbunch evaluate` measures both.",
        ]
    return ["## Scores", _table(measured.table), measured.judged, "## Over-refusal", measured.over_refusal]


def licence_of(folder: Path) -> dict[str, Any]:
    """What the front matter of a model's own card says of its licence; empty if nothing."""
    card = folder / "README.md"
    front = front_of(card) if card.is_file() else {}
    return {key: front[key] for key in _LICENCE_KEYS if front.get(key)}


def _front(
    sources: Mapping[str, Source],
    licences: Mapping[str, Sequence[Mapping[str, Any]]],
    measured: "Measured | None",
    adapter: bool,
) -> str:
    """The card's front matter, YAML; a licence stands in it if it is that of all sources."""
    models = dict.fromkeys(model for source in sources.values() for model in _models(source))
    bases = [_models(next(iter(sources.values())))[0]] if adapter else list(models)
    known = list(filter(is_on_the_hub, bases))
    every = [licence for found in licences.values() for licence in found]
    told: dict[str, Any] = {
        "library_name": "peft" if adapter else "transformers",
        "tags": ["mergekit", "merge", "goodbunch", *(["lora"] if adapter else [])],
    }
    if known:
        told |= {"base_model": known, "base_model_relation": "adapter" if adapter else "merge"}
    if all(licence == every[0] for licence in every):
        told |= every[0]
    if measured is None:
        return str(yaml.safe_dump(told, sort_keys=False, allow_unicode=True)).strip()
    from huggingface_hub import ModelCardData  # half a second, which a plain merge does without

    data = ModelCardData(model_name="goodbunch merge", eval_results=list(measured.results), **told)
    return str(data.to_yaml()).strip()


def is_on_the_hub(model: str) -> bool:
    """Whether a name may be one of the hub's, which refuses cards that name anything else as a base."""
    if model.count("/") != 1 or Path(model).expanduser().is_dir():
        return False
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    try:
        validate_repo_id(model)
    except HFValidationError:
        return False
    return True


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
