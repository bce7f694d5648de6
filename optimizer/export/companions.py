"""What lies beside the weights of a merge: tokenizer, chat template, recipes, model card."""

import json
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from datagen.errors import ConfigError
from datagen.files import write_text
from datagen.models.loading import code_of, is_trusted
from datagen.models.weights import is_embeddings
from datagen.reading import read_json
from optimizer.bunch import Source
from optimizer.export.card import model_card
from optimizer.recipes.mergekit import MergekitRecipe
from optimizer.recipes.mergekit_out import mergekit_config
from optimizer.recipes.ours import GroupedRecipe
from optimizer.recipes.recipe import Recipe

if TYPE_CHECKING:
    from optimizer.export.measured import Measured

#: Files that are kept of the source that gives the tokenizer.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "chat_template.jinja",
    "chat_template.json",
)
_TEMPLATE, _OLD_TEMPLATE = "chat_template.jinja", "chat_template.json"
_GENERATION = "generation_config.json"

RECIPE, MERGEKIT = "recipe.yaml", "mergekit_config.yml"


def write_companions(
    recipe: Recipe,
    sources: Mapping[str, Source],
    folder: Path,
    *,
    out_dtype: str,
    measured: "Measured | None" = None,
    adapter: bool = False,
) -> None:
    """Writes all that is neither weights nor their config.

    Args:
        recipe: of the merge.
        sources: by name.
        folder: that gets the files.
        out_dtype: what the weights are written in, as torch names it.
        measured: how the merge scores, for the model card.
        adapter: whether the weights are an adapter over the base.
    """
    speaker = sources[recipe.tokenizer]
    _write_tokenizer(recipe, speaker.tokenizer_folder, folder)
    if not adapter and (speaker.folder / _GENERATION).is_file():
        shutil.copyfile(speaker.folder / _GENERATION, folder / _GENERATION)
    for giver in (sources[recipe.base], speaker):
        # Whoever loads the merge must trust it anew.
        for name in code_of(giver.folder) if is_trusted(giver.folder) else ():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(giver.folder / name, folder / name)
    texts = _recipes(recipe, sources, out_dtype)
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    card = model_card(recipe, sources, texts, measured, adapter=adapter)
    (folder / "README.md").write_text(card, encoding="utf-8")


def write_scores(recipe: Recipe, folder: Path, measured: "Measured") -> None:
    """Writes the model card of a merged folder anew, once it is known how the merge scores.

    Args:
        recipe: of the merge.
        folder: of the merged model.
        measured: how it does.
    """
    sources = {name: Source(name, reference) for name, reference in recipe.models.items()}
    texts = {
        name: (folder / name).read_text(encoding="utf-8") for name in (RECIPE, MERGEKIT) if (folder / name).is_file()
    }
    write_text(folder / "README.md", model_card(recipe, sources, texts, measured))


def write_json(path: Path, values: Mapping[str, object]) -> None:
    """Writes JSON as Hugging Face's libraries do."""
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _write_tokenizer(recipe: Recipe, source: Path, folder: Path) -> None:
    for name in _TOKENIZER_FILES:
        if (source / name).is_file():
            shutil.copyfile(source / name, folder / name)
    if recipe.chat_template:
        (folder / _OLD_TEMPLATE).unlink(missing_ok=True)
        (folder / _TEMPLATE).write_text(recipe.chat_template, encoding="utf-8")
        _forget_template(folder / "tokenizer_config.json")


def _forget_template(path: Path) -> None:
    """Takes the old template out of the tokenizer's config, where it would win over the file."""
    if path.is_file():
        values = read_json(path)
        values.pop("chat_template", None)
        write_json(path, values)


def _recipes(recipe: Recipe, sources: Mapping[str, Source], out_dtype: str) -> dict[str, str]:
    """File name -> the recipe in that form."""
    if isinstance(recipe, MergekitRecipe):
        return {MERGEKIT: recipe.text}
    texts = {RECIPE: recipe.to_yaml()} if isinstance(recipe, GroupedRecipe) else {}
    with suppress(ConfigError):  # mergekit has no way to say it
        texts[MERGEKIT] = mergekit_config(
            recipe,
            sources[recipe.base].names,
            out_dtype,
            with_tokenizer=_has_row_per_token(sources[recipe.tokenizer], sources[recipe.base]),
        )
    return texts


def _has_row_per_token(tokenizer: Source, base: Source) -> bool:
    """Whether the embeddings have just one row for each token, none to spare."""
    file = tokenizer.tokenizer_folder / "tokenizer.json"
    rows = next((shape[0] for name, shape in base.shapes.items() if is_embeddings(name)), None)
    if not file.is_file():
        return False
    from tokenizers import Tokenizer

    return sorted(Tokenizer.from_file(str(file)).get_vocab().values()) == list(range(rows or 0))
