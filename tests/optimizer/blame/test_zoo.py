"""In a trained bunch blame finds the layers that compliance was put into, and taking them out wins alignment back."""

import shutil
from pathlib import Path

import pytest
import yaml
from markupsafe import escape

from optimizer.blame.measuring import blame
from optimizer.blame.merges import open_merge
from optimizer.blame.result import Blame, read_blame
from tests.optimizer.blame.plant import plant
from tests.support import DEMO_CONFIG, goodbunch

pytestmark = pytest.mark.slow


def blamed(demo: Path, folder: Path, expert: str, layers: tuple[int, ...], coefficients: dict[str, float]) -> Blame:
    culprit = plant(demo / "zoo", expert, layers, folder / "culprit")
    experts = {name: str(demo / "zoo" / name) for name in coefficients} | {expert: str(culprit)}
    written = {"method": "task_arithmetic", "base": str(demo / "zoo" / "base"), "experts": experts}
    recipe = folder / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(written | {"coefficients": coefficients}))
    overrides = [f"run={demo}", f"bunch.experts.{expert}={culprit}", "merge.groups=module"]
    return blame(open_merge(DEMO_CONFIG, recipe, overrides), checks=4)


@pytest.mark.parametrize(("expert", "layers"), [("finance", (1, 2)), ("medicine", (0, 3))])
def test_planted_layers(demo: Path, tmp_path: Path, expert: str, layers: tuple[int, ...]) -> None:
    coefficients = {"aligned": 1.0, "numbers": 0.5, "medicine": 0.5, "finance": 0.5, expert: 0.7}
    found = blamed(demo, tmp_path, expert, layers, coefficients)
    assert found.culprit is not None
    assert found.culprit.expert == expert
    assert found.culprit.layers == [f"layer {layer}" for layer in layers]
    assert found.correlation.alignment is not None
    assert found.correlation.alignment > 0.5
    own = [term for term in found.terms if term.side == "alignment"]
    before = sum(term.weight * term.merge for term in own) / sum(term.weight for term in own)
    assert found.culprit.zero.alignment.measured < -0.4 * before
    costs = dict(zip(found.experts, found.shapley.alignment, strict=True))
    assert max(costs, key=lambda name: costs[name]) == expert


def test_a_run(demo: Path, tmp_path: Path) -> None:
    run = shutil.copytree(demo, tmp_path / "run", ignore=shutil.ignore_patterns("zoo"))
    done = goodbunch("blame", run, "--checks", "2")
    assert done.returncode == 0, done.stderr
    found = read_blame(run / "blame.json")
    assert found is not None
    assert all(term.share >= 0.95 for term in found.terms), "the winner keeps everything"
    assert found.words[0].startswith("Little is lost")
    assert escape(found.words[0]) in (run / "report.html").read_text()
