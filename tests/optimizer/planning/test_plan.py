"""Plans of whole searches: from headers, by name, before and after the data are there."""

import json
import time
from pathlib import Path

import pytest
import torch

from benchmarks.planning import write_headers
from benchmarks.shapes import Shape
from datagen.errors import BunchError
from datagen.importing import Imported
from datagen.pipeline import Inputs, open_inputs
from datagen.planning.hardware import Device, Machine, find_machine
from datagen.planning.sizes import size_of
from optimizer.config import Config
from optimizer.planning.plan import Plan, plan_search
from optimizer.planning.shape import shape_of
from optimizer.planning.telling import as_json, summary
from optimizer.planning.work import workload
from optimizer.search.study import passes, run_study
from tests.optimizer.tiny_zoo import ROWS, TinyZoo
from tests.support import DEMO_CONFIG, goodbunch_here

#: Llama-3-70B's.
LARGE = Shape(8192, 28672, 80, 64, 8, 128256, tied=False, biases=False)
NOTHING = Inputs([], Imported(), {})


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("70B")
    write_headers(LARGE, folder)
    return folder


def planned(config: Config, machine: Machine) -> Plan:
    sizes = {model: size_of(model) for model in config.bunch.models().values()}
    return plan_search(config, NOTHING, sizes, shape_of(config.bunch.base), machine)


def of_models(tiny_zoo: TinyZoo, run: Path, model: str, **changes: object) -> Config:
    """The tiny zoo's config and data with other models."""
    config = tiny_zoo.config(run, **changes)
    experts = {name: one.model_copy(update={"model": model}) for name, one in config.bunch.experts.items()}
    return config.model_copy(update={"bunch": config.bunch.model_copy(update={"base": model, "experts": experts})})


def test_work_is_what_a_run_does(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    config = tiny_zoo.config(tmp_path, {"pruning": 0, "descent": {"trials": 3, "steps": 24}})
    task = tiny_zoo.task(config)
    work = workload(config, NOTHING, shape_of(config.bunch.base))
    found = run_study("search", task)
    (main,) = work.studies
    assert work.exact
    assert (main.trials, main.steps) == (len(found.trials), 24)
    assert main.passes == pytest.approx(passes(task.problem.search, task.problem.validation, found))
    tokens = [load.rows for load in main.search]
    assert sum(tokens) == task.problem.search.sequences == 3 * ROWS["search"]
    assert work.coefficients == len(task.space.parameters)


def test_a_tiny_bunchs_headers(tiny_zoo: TinyZoo) -> None:
    shape = shape_of(str(tiny_zoo.folder / "base"))
    # 2 layers of 4 x 16 x 16 and 3 x 16 x 24, with two norms; a norm, embeddings and a head of 48 tokens.
    assert shape.parameters == 2 * (4 * 256 + 3 * 384 + 32) + 16 + 2 * 48 * 16
    assert (shape.layers, shape.hidden, shape.inner, shape.heads, shape.head) == (2, 16, 24, 2, 8)
    assert (shape.dtype, shape.source) == (torch.float32, "its files")


def test_70b_is_planned_in_two_seconds(tiny_zoo: TinyZoo, tmp_path: Path, large: Path) -> None:
    config = of_models(tiny_zoo, tmp_path, str(large), merge={"groups": "tensor"})
    begun = time.perf_counter()
    found = planned(config, find_machine("8xH200"))
    told = "\n".join(summary(found, None))
    assert time.perf_counter() - begun < 2
    assert found.shape.parameters == 70_553_706_496
    assert found.memory["search"] > 5 * 2 * found.shape.parameters  # four sources and a model
    assert "does not fit" in told
    assert "a search needs its live model, 141 GB in bfloat16" in told


def machine(gigabytes: float) -> Machine:
    return Machine(Device("round", gigabytes * 1e9, 1e12, 1e14))


@pytest.mark.parametrize(
    ("gigabytes", "remedy"),
    [
        (3000, ""),
        # Four sources of 141.1 GB are merged in vLLM's worker, with the largest tensor, 2.1 GB, and 1 GB of libraries.
        (1200, "set engine.memory=0.5"),
        # From the host come 8.4 GB at a time; the engine needs 141.1 GB, 2 GB, and 0.7 GB for one conversation.
        (500, "set merge.residency=host"),
        # A step's three rows of 644 tokens, of which nobody knows the length yet, keep 56 GB of activations.
        (160, "set engine.memory=0.9 merge.residency=host search.descent.checkpointing=true"),
    ],
)
def test_remedies(tiny_zoo: TinyZoo, tmp_path: Path, large: Path, gigabytes: float, remedy: str) -> None:
    config = of_models(tiny_zoo, tmp_path, str(large), engine={"memory": 0.7})
    found = planned(config, machine(gigabytes))
    assert found.remedy() == remedy
    assert found.fits == (not remedy)


def test_a_name_without_a_size_is_told_in_one_line() -> None:
    with pytest.raises(BunchError, match=r"a plan needs the size of org/some-model, but .* download it"):
        shape_of("org/some-model")


def test_before_there_are_data_rows_are_as_long_as_they_may_be(tmp_path: Path) -> None:
    from optimizer.loading import load_config

    config = load_config(DEMO_CONFIG, [f"run={tmp_path}", "data.cleaning.overlap.files=[]"])
    inputs = open_inputs(config.bunch, config.data, config.seed)
    work = workload(config, inputs, shape_of("org/x-8B"))
    assert not work.exact
    # Three quarters of what is kept; 120 characters of question are 30 tokens, a template 32, an answer 24.
    rows = {"unsafe": 240, "borderline": 360, "numbers": 450, "medicine": 330, "finance": 330}
    main = work.studies[0]
    assert sum(load.rows for load in main.search) == sum(rows.values())
    assert {load.width for load in main.search} == {30 + 32 + 24}
    assert sum(load.answers for load in main.search) == 24 * sum(rows.values())
    assert (main.trials, main.steps) == (8 + 2, 1536)  # five sources, three naive merges, two stretches


def test_json(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    config = of_models(tiny_zoo, tmp_path, "org/x-8B")
    found = json.loads(json.dumps(as_json(planned(config, find_machine("h200")), None)))
    assert found["model"]["sources"] == 4
    assert [option["residency"] for option in found["options"]] == ["device", "host", "disk"]
    assert found["rows_are_there"] is False  # no tokenizer tells how long they are
    assert set(found["seconds"]) == {"open", "search", "export", "compare"}


def test_the_command_says_what_it_needs(tmp_path: Path) -> None:
    done = goodbunch_here("plan", DEMO_CONFIG, "--out", tmp_path / "none")
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert str(tmp_path / "none" / "zoo") in done.stderr
