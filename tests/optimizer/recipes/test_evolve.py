"""mergekit-evolve's configs become ours; what cannot be had is refused by name."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from datagen.errors import ConfigError
from optimizer.loading import load_config
from optimizer.recipes.evolve import read_evolve

GENOME: dict[str, Any] = {
    "models": ["org/Aligned-1.5", "org/math@v1", "org/llama"],
    "merge_method": "dare_ties",
    "base_model": "org/llama",
    "tokenizer_source": "base",
    "layer_granularity": 1,
}
TASKS = [{"name": "spanish_hindi", "weight": 1.0}, "arc_easy"]
OBJECTIVE = {"safety": {"kind": "unsafe"}}
_TERM = {"weight": 1.0, "metric": "acc,none", "chat": True, "multiturn": True, "examples": 10}
TERMS = {name: {"task": name} | _TERM for name in ("spanish_hindi", "arc_easy")}
QUESTIONS = {"prompt": "p", "topics": ["t"], "ask": 1, "keep": 1}
DATA = {"generator": "g", "guard": {"model": "m"}, "unsafe": QUESTIONS, "domains": {"math": QUESTIONS}}


def mapped(objective: Any = OBJECTIVE, tasks: Any = TASKS, **genome: Any) -> tuple[dict[str, Any], list[str]]:
    values = {"genome": GENOME | genome, "tasks": tasks, "limit": 10}
    return read_evolve(values | ({"objective": objective} if objective else {}))


def test_genome_becomes_bunch_and_merge() -> None:
    values, notes = mapped()
    experts = {"Aligned-1-5": {"model": "org/Aligned-1.5"}, "math": {"model": "org/math@v1"}}
    assert values == {
        "bunch": {"base": "org/llama", "experts": experts},
        "merge": {"method": "dare_ties", "groups": "layer", "parameters": {"normalize": True}},
        "objective": TERMS | OBJECTIVE,
    }
    assert notes == [
        "genome.models: bunch.experts Aligned-1-5, math",
        "genome.base_model: bunch.base",
        "genome.merge_method: merge.method dare_ties",
        "genome.layer_granularity: merge.groups layer; embeddings, final norm and head have coefficients of their own",
        "genome.normalize: merge.parameters.normalize true",
        "density: stays at merge.parameters.density (default 1); it is not searched with the weights",
        "genome.allow_negative_weights: replaced by search.bound, so coefficients may be negative",
        "genome.tokenizer_source: replaced; the merged model takes the aligned model's tokenizer",
        "tasks: objective spanish_hindi, arc_easy",
        "limit: examples 10 of each task, others for validation",
        "shuffle: docs are always drawn from a task's training split, by a fixed seed",
    ]


@pytest.mark.parametrize(
    ("genome", "merge"),
    [
        ({"merge_method": "ties", "layer_granularity": 0}, {"method": "ties", "groups": "model"}),
        ({"merge_method": "ties", "normalize": False}, {"parameters": {"normalize": False}}),
        ({"merge_method": "dare_ties", "normalize": False}, {"method": "dare_ties", "groups": "layer"}),
        ({"merge_method": "slerp", "models": ["org/llama", "org/math"]}, {"method": "slerp", "groups": "layer"}),
        ({"merge_method": "linear"}, {"method": "linear", "groups": "layer"}),
    ],
)
def test_normalize_is_set_only_where_it_is_not_the_default(genome: dict[str, Any], merge: dict[str, Any]) -> None:
    values, _ = mapped(**genome)
    assert values["merge"] == {"method": genome["merge_method"], "groups": "layer"} | merge


def test_no_expert_is_called_base() -> None:
    values, _ = mapped(models=["x/base", "y/base"])
    assert list(values["bunch"]["experts"]) == ["base-2", "base-3"]


@pytest.mark.parametrize(
    ("genome", "message"),
    [
        ({"filters": ["mlp"]}, r"genome\.filters: not supported; write merge\.groups=module"),
        ({"smooth": True}, r"genome\.smooth: not supported"),
        ({"layer_granularity": 4}, r"genome\.layer_granularity: must be 0 .* or 1 .*, but got 4"),
        ({"tokenizer_source": "union"}, r"genome\.tokenizer_source: vocabularies cannot be united"),
        ({"merge_method": "slerp"}, r"slerp must have a base_model and one other model, .* 2 others"),
        ({"merge_method": "tie"}, "there is no merge method 'tie'; did you mean 'ties'"),
        ({"granularity": 1}, r"genome\.granularity: unknown key; did you mean 'layer_granularity'"),
        ({"models": []}, r"genome\.models: list should have at least 1 item"),
    ],
)
def test_what_cannot_be_had_is_refused_by_name(genome: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        mapped(**genome)
    assert "\n" not in str(caught.value)


def test_tasks_alone_are_searched_by_what_every_trial_says() -> None:
    values, notes = mapped(objective=None)
    assert values["objective"] == TERMS
    assert values["search"] == {"sampler": "cmaes", "answers": {"when": "trial"}}
    assert notes[-1].startswith("search: every trial is asked, and CMA-ES suggests them")


def test_a_task_that_is_told_more_is_still_alone() -> None:
    values, _ = mapped(objective={"arc_easy": {"include_path": "mine"}})
    assert values["objective"]["arc_easy"] == TERMS["arc_easy"] | {"include_path": "mine"}
    assert values["search"]["answers"] == {"when": "trial"}


def test_tasks_are_told_how_they_are_asked() -> None:
    task = {"name": "gsm8k", "weight": 2, "metric": "exact_match,strict-match"}
    told = {"num_fewshot": 3, "apply_chat_template": False, "fewshot_as_multiturn": False}
    values, _ = read_evolve({"genome": GENOME, "tasks": [task], **told, "objective": {"gsm8k": {"weight": 5}}})
    wanted = {"metric": "exact_match,strict-match", "num_fewshot": 3, "chat": False, "multiturn": False}
    assert values["objective"] == {"gsm8k": {"task": "gsm8k", "weight": 5} | wanted}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"random_init": True}, "random_init: not supported"),
        ({"tasks": [{"nam": "x"}]}, r"tasks\.0\.name: this key must be set; tasks\.0\.nam: unknown key; did you mean"),
        ({"tasks": [{"name": "x", "weight": -1}]}, r"tasks\.0\.weight: .*greater than 0"),
        ({"limt": 1}, "limt: unknown key; did you mean 'limit'"),
        ({"serch": {}}, "serch: unknown key; did you mean 'search'"),
    ],
)
def test_other_keys(keys: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        read_evolve({"genome": GENOME, **keys})


def test_our_own_keys_are_stronger() -> None:
    values, _ = read_evolve({"genome": GENOME, "run": "r", "merge": {"groups": "tensor"}, "bunch": {"base": "x"}})
    assert values["merge"]["groups"] == "tensor"
    assert values["merge"]["method"] == "dare_ties"
    assert values["bunch"]["base"] == "x"
    assert list(values["bunch"]["experts"]) == ["Aligned-1-5", "math"]


@pytest.fixture
def evolve_file(tmp_path: Path) -> Path:
    path = tmp_path / "evolve.yml"
    path.write_text(yaml.safe_dump({"genome": GENOME, "tasks": TASKS, "run": "r", "data": DATA}))
    return path


ROLE = "bunch.experts.Aligned-1-5.role=aligned"


def test_a_file_is_loaded_with_overrides_on_top(evolve_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = load_config(evolve_file, [ROLE, "objective.safety.kind=unsafe", "objective.math=2", "merge.groups=module"])
    assert config.bunch.aligned == "Aligned-1-5"
    assert config.bunch.models() == {"base": "org/llama", "Aligned-1-5": "org/Aligned-1.5", "math": "org/math@v1"}
    assert (config.merge.method, config.merge.groups, config.objective["math"].weight) == ("dare_ties", "module", 2)
    assert (config.objective["arc_easy"].task, config.objective["arc_easy"].metric) == ("arc_easy", "acc")
    assert (config.objective["arc_easy"].filter, config.objective["arc_easy"].chat) == ("none", True)
    assert (config.search.sampler, config.search.answers.when) == ("descent", "winner")
    assert "tasks: objective spanish_hindi, arc_easy\n" in capsys.readouterr().out


def test_a_file_with_tasks_alone_is_loaded(evolve_file: Path) -> None:
    config = load_config(evolve_file, [ROLE])
    assert all(term.is_said for term in config.objective.values())
    assert (config.search.sampler, config.search.answers.when) == ("cmaes", "trial")
    assert config.kinds == ["unsafe", "math"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.math=1"], "exactly one expert must have `role: aligned`"),
        ([ROLE, "objective.arc_easy.kind=math"], r"objective\.arc_easy\.kind: a task of lm-eval's has no such thing"),
        ([ROLE, "objective.math=1", "data.generatr=x"], r"data\.generatr: unknown key; did you mean 'generator'"),
    ],
)
def test_mistakes_in_a_file_are_told_as_ever(evolve_file: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(evolve_file, overrides)
    assert "\n" not in str(caught.value)


def test_what_the_file_lacks_is_named(tmp_path: Path) -> None:
    path = tmp_path / "evolve.yml"
    path.write_text(yaml.safe_dump({"genome": GENOME}))
    with pytest.raises(ConfigError, match=r"run: this key must be set.*data: this key must be set"):
        load_config(path, [ROLE])
