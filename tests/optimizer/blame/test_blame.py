"""A whole blame of tiny models: it finds a planted culprit, adds up, and is written as it is documented."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import yaml
from markupsafe import escape

from datagen.errors import ConfigError, DataError
from optimizer.blame import merges
from optimizer.blame.measuring import blame
from optimizer.blame.merges import open_merge
from optimizer.blame.result import FILE, Blame, read_blame, write_blame
from optimizer.engines.banks import space_of
from optimizer.merging.space import Space
from optimizer.recipes.searched import recipe_of
from optimizer.search.domain import Point
from tests.optimizer.blame.bunches import hand_made, merge_of, negate, write_config
from tests.optimizer.tiny_zoo import TinyZoo
from tests.support import ROOT, goodbunch_here


@pytest.fixture(scope="module")
def bunch(tiny_zoo: TinyZoo, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The tiny zoo's, with an expert that undoes the aligned model in the MLP of layer 1 alone."""
    culprit = negate(tiny_zoo, "aligned", "layers.1.mlp", tmp_path_factory.mktemp("culprit"))
    bunch = tiny_zoo.config(tiny_zoo.folder / "run").bunch.model_dump(mode="json")
    bunch["experts"]["code"]["model"] = str(culprit)
    return bunch


@pytest.fixture(scope="module")
def recipe(bunch: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    experts = {name: one["model"] for name, one in bunch["experts"].items()}
    coefficients = {"aligned": 0.6, "math": 0.05, "code": 0.5}
    written = {"base": bunch["base"], "experts": experts, "coefficients": coefficients}
    path.write_text(yaml.safe_dump({"method": "task_arithmetic"} | written))
    return path


@pytest.fixture(scope="module")
def found(bunch: dict[str, Any], recipe: Path, tiny_zoo: TinyZoo, tmp_path_factory: pytest.TempPathFactory) -> Blame:
    config = write_config(tiny_zoo, tmp_path_factory.mktemp("run"), bunch=bunch)
    return blame(open_merge(config, recipe), steps=12, checks=3)


def test_the_planted_culprit_is_found(found: Blame) -> None:
    assert found.culprit is not None
    assert (found.culprit.expert, found.culprit.layers, found.culprit.module) == ("code", ["layer 1"], "mlp")
    assert found.culprit.zero.alignment.measured < 0
    assert found.words[0].count("code, layer 1 (mlp)") == 1
    elsewhere = [
        value
        for group, value in zip(found.modules.groups, found.modules.alignment[2], strict=True)
        if "1 mlp" not in group
    ]
    assert set(elsewhere) == {0.0}, "its task vector is nothing there"


def test_values_add_up_to_the_difference_from_the_base(found: Blame) -> None:
    assert found.integrated is not None
    for side in ("alignment", "expertise"):
        own = [term for term in found.terms if term.side == side]
        whole = sum(term.weight * (term.merge - term.base) for term in own) / sum(term.weight for term in own)
        assert sum(getattr(found.shapley, side)) == pytest.approx(whole, abs=1e-9)
        for table in (found.integrated.layers, found.integrated.modules):
            assert np.sum(getattr(table, side)) == pytest.approx(whole, abs=5e-3)
    assert max(map(abs, found.integrated.missing.values())) < 5e-3
    assert found.shapley.evaluated == 2**3


def test_similarity_of_what_was_planted(found: Blame) -> None:
    layer = found.similarity.layers.index("layer 1")
    assert found.similarity.norms[0][2] == 0.0
    assert found.similarity.cosines[layer][0][2] < -0.5
    assert found.similarity.models == ["base", "aligned", "math", "code", "merge"]
    for stream in np.array(found.similarity.cka):
        np.testing.assert_allclose(np.diag(stream), 1.0)
        np.testing.assert_allclose(stream, stream.T)


def test_layers_without_a_sign_of_blame_are_not_ablated(found: Blame) -> None:
    cells = [(one.expert, one.groups) for one in found.checks if one.to == "zero"]
    assert len(cells) == len({(expert, *groups) for expert, groups in cells}) <= 6
    assert cells[0] == ("code", ["layer 1"])


def test_written_and_read(found: Blame, tmp_path: Path) -> None:
    write_blame(tmp_path / FILE, found)
    assert read_blame(tmp_path / FILE) == found
    assert read_blame(tmp_path / "none.json") is None
    (tmp_path / FILE).write_text("{}")
    with pytest.raises(DataError, match=r"docs/blame\.schema\.json, but .*; run `goodbunch blame` again"):
        read_blame(tmp_path / FILE)


def test_documented_schema_is_the_codes() -> None:
    documented = json.loads((ROOT / "docs" / "blame.schema.json").read_text())
    assert documented == Blame.model_json_schema(), "write it again: make schema"


def test_a_recipe_in_place_of_the_average(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    folder = tiny_zoo.folder
    recipe.write_text(
        f"method: task_arithmetic\nbase: {folder}/base\n"
        f"experts: {{aligned: {folder}/aligned, math: {folder}/math}}\n"
        f"coefficients: {{aligned: 1, math: 0.25}}\n"
    )
    merge = open_merge(write_config(tiny_zoo, tmp_path), recipe)
    assert merge.space.groups == Space.of(tiny_zoo.bunch, "module").groups
    assert np.unique(merge.coefficients, axis=1).T.tolist() == [[1, 0.25, 0]]
    with pytest.raises(ConfigError, match=r"recipe\.yaml: a recipe must merge as the search does, by ties"):
        open_merge(write_config(tiny_zoo, tmp_path, merge={"method": "ties"}), recipe)


@pytest.mark.parametrize("groups", ["model", "anchors", "layer", "tensor", "block"])
def test_a_runs_winner_is_what_it_was(
    groups: str, tiny_zoo: TinyZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A search tuned the density beside the coefficients.
    searched = {"method": "ties", "groups": groups, "parameters": {"normalize": False}}
    config = tiny_zoo.config(tmp_path, merge=searched)
    space = space_of(tiny_zoo.bunch, config.merge)
    coefficients = np.random.default_rng(0).normal(size=space.shape)
    recipe = recipe_of(config, space, Point(coefficients, {"density": 0.4}))
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "recipe.yaml").write_text(recipe.to_yaml())
    (tmp_path / "config.json").write_text(config.model_dump_json())
    (tmp_path / "result.json").touch()
    monkeypatch.setattr(merges, "read_result", lambda _: SimpleNamespace(winner="trial 2 of search"))
    merge = open_merge(tmp_path)
    assert (merge.name, merge.winner) == ("trial 2 of search", True)
    assert merge.config.merge.parameters == {"normalize": False, "density": 0.4}
    for name, wanted in space.by_tensor(coefficients).items():
        np.testing.assert_allclose(merge.space.by_tensor(merge.coefficients)[name], wanted, atol=1e-12)


def test_a_side_without_a_term(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="a term on unsafe or borderline rows"):
        blame(merge_of(tiny_zoo, tmp_path, objective={"math": 1}))


def test_a_folder_without_a_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="must be a config or a run folder, but no search ran in it"):
        open_merge(tmp_path)


def test_the_command(bunch: dict[str, Any], recipe: Path, tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    config = write_config(tiny_zoo, tmp_path / "run", bunch=bunch)
    done = goodbunch_here("blame", config, "--recipe", recipe, "--checks", "1", "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "comes from code, layer 1 (mlp)" in done.stdout
    told = read_blame(tmp_path / "out" / FILE)
    assert told is not None
    page = (tmp_path / "out" / "blame.html").read_text()
    assert all(escape(sentence) in page for sentence in told.words)
    assert not list((tmp_path / "run").glob("*.html"))


def test_hand_made_one_follows_the_schema() -> None:
    assert Blame.model_validate_json(hand_made().model_dump_json()) == hand_made()
