"""Model cards: what Hugging Face's own library reads in them, licences that are shouted, scores and limits."""

from pathlib import Path

import pytest
import yaml
from huggingface_hub import ModelCard

from optimizer.bunch import Source
from optimizer.export.card import is_on_the_hub, model_card
from optimizer.export.measured import Measured, measured
from optimizer.recipes.mergekit import read_mergekit
from optimizer.recipes.recipe import Recipe
from optimizer.report.tables import score_table
from tests.optimizer.report.results import small_result
from tests.optimizer.tiny_zoo import TinyZoo

TEXT = "merge_method: linear\nmodels:\n- model: {one}\n- model: {two}\nparameters: {{weight: 0.5}}\n"


@pytest.fixture
def scores(tiny_zoo: TinyZoo, tmp_path: Path) -> Measured:
    return measured(small_result(), tiny_zoo.config(tmp_path))


def parent(folder: Path, licence: str) -> Path:
    """A model of which there is but its card."""
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "README.md").write_text(f"---\n{licence}\n---\n# A model\n" if licence else "# A model\n")
    return folder


def card_of(tmp_path: Path, *licences: str, scores: Measured | None = None) -> tuple[ModelCard, str]:
    one, two = (parent(tmp_path / str(i), licence) for i, licence in enumerate(licences))
    text = TEXT.format(one=one, two=two)
    recipe: Recipe = read_mergekit(yaml.safe_load(text))
    sources = {name: Source(name, reference) for name, reference in recipe.models.items()}
    written = model_card(recipe, sources, {"mergekit_config.yml": text}, scores)
    return ModelCard(written), written


def test_the_hub_reads_what_was_measured(tmp_path: Path, scores: Measured) -> None:
    card, text = card_of(tmp_path, "license: mit", "license: mit", scores=scores)
    assert (card.data.license, card.data.library_name) == ("mit", "transformers")
    assert card.data.tags == ["mergekit", "merge", "goodbunch"]
    found = {one.metric_name: one for one in card.data.eval_results}
    assert found["alignment, %"].metric_value == 100.0
    assert found["alignment, %"].metric_args == {"low": 90.0, "high": 100.0, "rows": 10}
    assert found["accuracy/one, %"].dataset_name == "one, test split of the run"
    assert {one.dataset_split for one in found.values()} == {"test"}
    assert "| winner | 100.0 [90,100] | 0.0 [0,10] | 80.0 [70,90] | 90.0 [80,100] | 85.0 |" in text
    assert 'Refusals were told by phrases ("i cannot"' in text
    assert "Of 10 harmless requests that merely look unsafe it refuses 0.0 [0,10] %." in text
    assert "first in layer 0 (9)" in text
    assert "```yaml\nmerge_method: linear" in text
    assert "COMMERCIAL" not in text
    assert "not stated" not in text.lower()


def test_what_was_not_measured_is_said(tmp_path: Path) -> None:
    card, text = card_of(tmp_path, "license: mit", "license: apache-2.0")
    assert card.data.license is None, "no one licence is that of both"
    assert card.data.eval_results is None
    assert "This merge was not evaluated" in text
    assert "## Limits" in text


@pytest.mark.parametrize(
    ("licence", "named"),
    [
        ("license: cc-by-nc-4.0", "cc-by-nc-4.0"),
        ("license: other\nlicense_name: mistral-ai-research-licence", "mistral-ai-research-licence"),
        ("license: other\nlicense_name: Fair Noncommercial License", "Fair Noncommercial License"),
    ],
)
def test_a_non_commercial_parent_is_shouted(tmp_path: Path, licence: str, named: str) -> None:
    _, text = card_of(tmp_path, licence, "license: mit")
    shout = text.index("> **NOT FOR COMMERCIAL USE.** The licence of ")
    assert shout < text.index("## Sources"), "before all else"
    assert f"({named}) forbids it" in text


@pytest.mark.parametrize(
    "licence", ["license: apache-2.0", "license: llama3.1", "license: mit", "license: cc-by-sa-4.0"]
)
def test_others_are_not(tmp_path: Path, licence: str) -> None:
    assert "COMMERCIAL" not in card_of(tmp_path, licence, licence)[1]


def test_a_licence_that_is_not_stated_is_told(tmp_path: Path) -> None:
    assert "**Licence not stated** by " in card_of(tmp_path, "", "license: mit")[1]


def test_only_models_of_the_hub_are_its_base_models(tmp_path: Path) -> None:
    card, text = card_of(tmp_path, "license: mit", "license: mit")
    assert card.data.base_model is None, "the hub refuses a card that names a folder"
    assert str(tmp_path / "0") in text


@pytest.mark.parametrize(
    ("model", "named"),
    [("org/llama-3", True), ("llama-3", False), ("/models/llama", False), ("org/a/b", False), ("org/a--b", False)],
)
def test_names_of_the_hub(model: str, named: bool) -> None:
    assert is_on_the_hub(model) is named


def test_scores_are_the_runs() -> None:
    assert score_table(small_result())[0] == ["model", "alignment", "over-refusal", "one", "two", "mean"]
