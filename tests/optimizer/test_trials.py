"""`goodbunch merge RUN --trial N` gives the very tensors that trial N had, whoever suggested it."""

from collections.abc import Callable
from pathlib import Path

import optuna
import pytest
import torch
from optuna.distributions import FloatDistribution
from optuna.samplers import BaseSampler, CmaEsSampler, NSGAIISampler, RandomSampler, TPESampler
from optuna.trial import TrialState

from datagen.errors import GoodbunchError
from datagen.rows import Row, write_rows
from optimizer.bunch import open_bunch
from optimizer.cli import app
from optimizer.config import Config
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.export import write_merge
from optimizer.merging.space import Space
from optimizer.recipes.searched import recipe_of
from optimizer.run import search
from optimizer.search.databases import open_storage
from optimizer.search.domain import Point
from tests.optimizer.export.families import VOCABULARY, Family, tensors_in, tokenizer, write_family
from tests.support import goodbunch

Tensors = dict[str, torch.Tensor]


@pytest.fixture(scope="module")
def families(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Family]:
    return {name: write_family(name, tmp_path_factory.mktemp(name)) for name in ("llama", "llama_bf16", "qwen2")}


class Run:
    """A run folder with its config; studies are added by hand, with what every trial was merged into."""

    def __init__(self, folder: Path, family: Family, groups: str = "module", **merge: object) -> None:
        self.folder = folder
        experts = {"a": {"model": family["a"], "role": "aligned"}, "b": family["b"]}
        question = {"prompt": "{topic}", "topics": ["x"], "ask": 1, "keep": 1}
        self.config = Config.model_validate(
            {
                "run": str(folder),
                "bunch": {"base": family["base"], "experts": experts, "tokenizer": "a"},
                "data": {"generator": "g", "guard": {"model": "g"}, "unsafe": question, "domains": {"b": question}},
                "objective": {"b": 1},
                "merge": {"groups": groups, **merge},
            }
        )
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(self.config.model_dump_json())
        bunch = open_bunch(self.config.bunch)
        self.space = Space.of(bunch, groups, self.config.merge.anchors)
        self.engine = ScoringEngine(bunch, self.space, bank_of(bunch, self.config.merge))

    def study(self, name: str = "search", sampler: BaseSampler | None = None, objectives: int = 1) -> optuna.Study:
        return optuna.create_study(
            storage=open_storage(self.folder / "study.db"),
            study_name=name,
            sampler=sampler or RandomSampler(seed=0),
            directions=["minimize"] * objectives,
        )

    def evaluate(self, study: optuna.Study, state: TrialState = TrialState.COMPLETE) -> Tensors:
        """Runs the study's next trial; its values are what its sampler likes to hear."""
        trial = study.ask({name: FloatDistribution(-2, 2) for name in self.space.parameters})
        self.engine.apply(self.space.from_parameters(trial.params))
        values = [abs(value) for value in list(trial.params.values())[: len(study.directions)]]
        study.tell(trial, values if state == TrialState.COMPLETE else None, state)
        live = dict(self.engine.model.named_parameters())  # a tied head has a name of its own there
        return {name: live[name].detach().clone() for name in self.space.tensors}


@pytest.fixture
def run(families: dict[str, Family], tmp_path: Path) -> Run:
    return Run(tmp_path / "run", families["llama"])


def merged(run: Run, *options: object, out: str = "out") -> Tensors:
    place = run.folder.parent / out
    app(["merge", str(run.folder), "--out", str(place), *map(str, options)], standalone_mode=False)
    return tensors_in(place)


def same(found: Tensors, wanted: Tensors) -> bool:
    return found.keys() == wanted.keys() and all(
        found[name].dtype == wanted[name].dtype and torch.equal(found[name], wanted[name]) for name in wanted
    )


@pytest.mark.parametrize(
    ("family", "groups", "merge"),
    [
        ("llama", "anchors", {"anchors": 4}),
        ("llama", "tensor", {"method": "ties", "parameters": {"density": 0.4}}),
        ("llama_bf16", "layer", {}),
        ("llama_bf16", "module", {"dtype": "float32"}),
        ("qwen2", "model", {"method": "dare_linear", "parameters": {"density": [0.5, 0.9]}, "seed": 5}),
    ],
)
def test_a_trial_is_exported_to_the_bit(
    families: dict[str, Family], tmp_path: Path, family: str, groups: str, merge: dict[str, object]
) -> None:
    run = Run(tmp_path / "run", families[family], groups, **merge)
    study = run.study()
    evaluated = [run.evaluate(study) for _ in range(3)]
    assert same(merged(run, "--trial", 1), evaluated[1])
    assert not same(evaluated[1], evaluated[2])


@pytest.mark.parametrize(
    ("sampler", "objectives"),
    [
        (lambda: TPESampler(seed=1, n_startup_trials=1), 1),
        (lambda: CmaEsSampler(seed=1, n_startup_trials=0), 1),
        (lambda: NSGAIISampler(seed=1, population_size=2), 2),
    ],
    ids=["tpe", "cmaes", "several objectives"],
)
def test_any_sampler_will_do(run: Run, sampler: Callable[[], BaseSampler], objectives: int) -> None:
    study = run.study(sampler=sampler(), objectives=objectives)
    evaluated = [run.evaluate(study) for _ in range(4)]
    assert same(merged(run, "--trial", 3), evaluated[3])


def test_controls_are_named(run: Run) -> None:
    study, control = run.study(), run.study("expert_only", RandomSampler(seed=9))
    first, second = run.evaluate(study), run.evaluate(control)
    assert same(merged(run, "--trial", 0, "--study", "expert_only", out="control"), second)
    assert same(merged(run, "--trial", 0, "--study", "search"), first)


def test_a_pruned_trial_has_coefficients_too(run: Run) -> None:
    evaluated = run.evaluate(run.study(), TrialState.PRUNED)
    assert same(merged(run, "--trial", 0), evaluated)


def test_a_run_alone_means_its_winner(run: Run) -> None:
    study = run.study()
    winner = [run.evaluate(study) for _ in range(3)][2]
    coefficients = run.space.from_parameters(study.trials[2].params)
    write_merge(recipe_of(run.config, run.space, Point(coefficients, {})), run.folder / "merged")
    assert same(merged(run), winner)
    merged(run, "--trial", 2, out="by-number")
    for name in ("recipe.yaml", "mergekit_config.yml", "README.md", "model.safetensors"):
        assert (run.folder.parent / "by-number" / name).read_bytes() == (run.folder / "merged" / name).read_bytes()


def refused(run: Run, *options: object) -> str:
    with pytest.raises(GoodbunchError) as told:
        merged(run, *options)
    assert not (run.folder.parent / "out").exists()
    return str(told.value)


def test_unknown_numbers_and_studies(run: Run) -> None:
    study = run.study()
    assert "0 must be the number of a trial of 'search', but it has none yet" in refused(run, "--trial", 0)
    for _ in range(3):
        run.evaluate(study)
    for number in (-1, 3):
        told = refused(run, f"--trial={number}")
        assert f"{number} must be the number of a trial of 'search', but they are 0 to 2" in told
    run.study("expert_only")
    told = refused(run, "--trial", 0, "--study", "experts")
    assert "there must be a study 'experts', but there is search, expert_only" in told


def test_trials_that_were_not_evaluated(run: Run) -> None:
    study = run.study()
    run.evaluate(study, TrialState.FAIL)
    study.ask({name: FloatDistribution(-2, 2) for name in run.space.parameters})
    study.enqueue_trial({})
    for number, state in enumerate(("fail", "running", "waiting")):
        told = refused(run, "--trial", number)
        assert f"only a trial that was evaluated can be merged, but trial {number} of 'search' is {state}" in told


@pytest.mark.parametrize("more", [{}, {"a/other": 1.0}])
def test_trials_with_other_parameters(run: Run, more: dict[str, float]) -> None:
    params = dict.fromkeys(run.space.parameters, 0.5) | more if more else {}
    ranges = dict.fromkeys(params, FloatDistribution(-2, 2))
    run.study().add_trial(optuna.create_trial(value=1.0, params=params, distributions=ranges))
    told = refused(run, "--trial", 0)
    assert "for each of the 24 coefficients that merge.groups=module asks for and no other" in told
    assert f"trial 0 of 'search' has {len(params)} values" in told


def test_folders_that_hold_no_run(run: Run) -> None:
    assert "study.db: a run folder must hold the trials of its search" in refused(run, "--trial", 0)
    assert not (run.folder / "study.db").exists(), "looking makes none"
    assert "recipe.yaml: a run folder must hold its winner, but there is none" in refused(run)
    (run.folder / "study.db").write_text("no database, but long enough to be taken for one" * 100)
    assert "study.db: must be an Optuna study's database" in refused(run, "--trial", 0)
    (run.folder / "config.json").write_text('{"run": "x"}')
    assert "config.json: must be a config as a search writes it, but bunch: this key must be set" in refused(
        run, "--trial", 0
    )
    (run.folder / "config.json").unlink()
    assert "config.json: a run folder must hold the config of its search" in refused(run, "--trial", 0)


def test_options_that_say_nothing(run: Run, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("method: linear\n")
    with pytest.raises(GoodbunchError, match="--trial must come with a run folder"):
        app(["merge", str(recipe), "--trial", "3", "--out", str(tmp_path / "out")], standalone_mode=False)
    assert "--study must come with --trial" in refused(run, "--study", "search")


def test_another_process_makes_the_same(families: dict[str, Family], tmp_path: Path) -> None:
    masks = {"method": "dare_ties", "parameters": {"density": 0.5}, "seed": 2}
    run = Run(tmp_path / "run", families["llama"], **masks)
    evaluated = run.evaluate(run.study())
    done = goodbunch("merge", run.folder, "--trial", 0, "--out", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert same(tensors_in(tmp_path / "out"), evaluated)


def test_a_refused_search_leaves_the_config_of_the_trials(run: Run) -> None:
    written = (run.folder / "config.json").read_bytes()
    whole = "{% for message in messages %}{{ message.content }}{% endfor %}"
    tokenizer(VOCABULARY, whole).save_pretrained(run.config.bunch.models()["a"])
    for split in ("search", "validation", "test"):
        write_rows(run.config.data_folder / split / "b.jsonl", [Row.of("abc", "def", kind="b")])
    run.study().set_user_attr("stamp", "of other settings")
    with pytest.raises(GoodbunchError, match="can only be resumed with the settings"):
        search(run.config.model_copy(update={"seed": 7}))
    assert (run.folder / "config.json").read_bytes() == written
