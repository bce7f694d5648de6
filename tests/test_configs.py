"""Every shipped config loads, names only what is there, and can be planned in seconds without any model or network."""

import re
from pathlib import Path

import pytest

from benchmarks.planning import write_headers
from benchmarks.shapes import SHAPES, Shape
from datagen.pipeline import open_inputs
from datagen.planning.hardware import find_machine
from datagen.planning.plan import plan, summary
from datagen.planning.sizes import size_of
from datagen.planning.telling import duration
from optimizer.config import Config
from optimizer.loading import load_config
from optimizer.planning.plan import plan_search
from optimizer.planning.shape import shape_of
from optimizer.planning.telling import total
from tests.support import ROOT, RUN_CONFIGS, goodbunch_here

CONFIGS = ROOT / "configs"
PAPERS = [
    "one-bad-model/mistral-mammoth2",
    "one-bad-model/llama3-openbiollm",
    "one-bad-model/mistral-wizardmath-mammoth2",
    "mergealign/medicine",
    "mergealign/finance",
]
MISTRAL = Shape(4096, 14336, 32, 32, 8, 32000, tied=False, biases=False)
SHIPPED = [path.relative_to(CONFIGS).as_posix() for path in RUN_CONFIGS]


def paper(name: str) -> tuple[Path, Config]:
    path = CONFIGS / "papers" / f"{name}.yaml"
    return path, load_config(path)


def told_models(config: Config) -> set[str]:
    return {*config.bunch.models().values(), *config.data.models().values()}


def test_none_is_missing() -> None:
    assert {"demo.yaml", *(f"papers/{name}.yaml" for name in PAPERS)} <= {*SHIPPED}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_kind_of_the_objective_is_written(name: str) -> None:
    config = load_config(CONFIGS / name)
    assert {term.kind or name for name, term in config.objective.items()} <= {*config.data.kinds()}
    assert config.objective["safety"].kind == "unsafe"


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_can_be_planned_without_any_model(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path, config = paper(name)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    done = goodbunch_here("plan", path, "--gpu", "h200", "--out", tmp_path / "run")
    assert done.returncode == 0, done.stderr
    for model in told_models(config):
        assert model in done.stdout
    assert "planned for 1 x H200" in done.stdout
    assert "total, data and search: at most about" in done.stdout
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("gpu", ["H200", "A100-80GB"])
@pytest.mark.parametrize("name", PAPERS)
def test_the_estimate_in_a_papers_config_is_that_of_the_plan(
    name: str, gpu: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    path, config = paper(name)
    inputs = open_inputs(config.bunch, config.data, config.seed)
    sizes = {model: size_of(model) for model in told_models(config)}
    data = plan(config.bunch, config.data, config.engine, inputs, sizes, find_machine(gpu))
    search = plan_search(config, inputs, sizes, shape_of(config.bunch.base), find_machine(gpu))
    pattern = rf"^#   one {gpu}: data about (.+), search at most about (.+); (.+) of disk$"
    claimed = re.search(pattern, path.read_text(), re.MULTILINE)
    assert claimed is not None
    assert data.total is not None
    assert search.seconds is not None
    assert (duration(data.total), duration(search.seconds)) == claimed.groups()[:2]
    assert total(search, data).endswith(f"; {claimed[3]} of disk")
    told = " ".join([*summary(data), search.remedy()])
    assert search.fits
    assert "does not fit" not in told
    assert "left out" not in told


@pytest.mark.parametrize("gpu", ["H200", "A100-80GB"])
@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_fits_by_the_headers_of_its_models(name: str, gpu: str, tmp_path: Path) -> None:
    _, config = paper(name)
    real = MISTRAL if "mistral" in config.bunch.base else SHAPES["8B"]
    write_headers(real, tmp_path)
    models = {"base": str(tmp_path)} | {
        "experts": {
            name: expert.model_copy(update={"model": str(tmp_path)}) for name, expert in config.bunch.experts.items()
        }
    }
    recorded = config.model_copy(update={"bunch": config.bunch.model_copy(update=models)})
    inputs = open_inputs(config.bunch, config.data, config.seed)
    shape, sizes = shape_of(str(tmp_path)), {str(tmp_path): size_of(str(tmp_path))}
    # What the hub says of mistralai/Mistral-7B-Instruct-v0.2 and meta-llama/Meta-Llama-3-8B.
    assert shape.parameters == (7_241_732_096 if real is MISTRAL else 8_030_261_248)
    by_headers = plan_search(recorded, inputs, sizes, shape, find_machine(gpu))
    guessed = {model: size_of(model) for model in told_models(config)}
    by_name = plan_search(config, inputs, guessed, shape_of(config.bunch.base), find_machine(gpu))
    assert by_headers.fits
    assert by_headers.seconds == pytest.approx(by_name.seconds, rel=0.15)


@pytest.mark.parametrize("name", PAPERS)
def test_a_paper_says_how_to_run_it_and_what_is_in_it(name: str) -> None:
    path, config = paper(name)
    text = path.read_text()
    assert f"goodbunch plan configs/papers/{name}.yaml" in text
    assert config.run == f"runs/papers/{name}"
    assert config.data.judge is not None
    assert config.data.judge.model != config.data.guard.model
    head = text.partition("\nrun:")[0]
    for model in told_models(config):
        assert f"#   {model} " in head


@pytest.mark.parametrize("name", [name for name in PAPERS if name.startswith("one-bad-model/")])
def test_paper_1_has_its_settings(name: str) -> None:
    _, config = paper(name)
    assert config.bunch.base == config.bunch.experts["aligned"].model  # its theta_base is the aligned model
    assert (config.data.temperature, config.data.max_answer_tokens) == (0.8, 512)
    assert (config.data.unsafe.ask, config.data.unsafe.keep, config.data.unsafe.topics) == (2000, 1000, "beavertails")
    assert sum(domain.keep for domain in config.data.domains.values()) == 1000
    domains = [config.objective[name].weight for name in config.data.domains]
    assert (config.objective["safety"].weight, sum(domains)) == (1, pytest.approx(0.3))


@pytest.mark.parametrize("name", [name for name in PAPERS if name.startswith("mergealign/")])
def test_paper_2_has_its_settings(name: str) -> None:
    _, config = paper(name)
    assert config.bunch.base == "meta-llama/Meta-Llama-3-8B"  # its theta_base is the pre-trained model
    assert config.bunch.experts["aligned"].model == "meta-llama/Meta-Llama-3-8B-Instruct"
    assert (config.merge.method, config.merge.groups) == ("task_arithmetic", "model")
