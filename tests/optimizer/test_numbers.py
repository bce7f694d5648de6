"""What becomes of numbers that are none, of answers that say nothing, and of experts that are no experts."""

import math
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

from datagen.cleaning import clean_answers
from datagen.cleaning_config import CleaningConfig
from datagen.errors import BunchError, DataError
from datagen.judging import pick
from datagen.records import Answered, Judged, Question
from optimizer.blame.similarity import task_vector_similarity
from optimizer.bunch import open_bunch
from optimizer.config import Config
from optimizer.engines.banks import bank_of, space_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.export import write_merge
from optimizer.merging.methods import METHODS
from optimizer.objective.scores import Score
from optimizer.objective.terms import Block, load_objective
from optimizer.recipes.ours import read_ours
from optimizer.search.records import GIVEN_UP, NAME, VALIDATION_LOSS
from optimizer.search.study import Searched, run_study
from tests.optimizer.tiny_zoo import TinyZoo

NORM = "model.norm.weight"

#: A search that is over soon and gives nothing up for being worse.
FEW: dict[str, Any] = {"pruning": 0, "descent": {"trials": 2, "steps": 8}, "black_box": {"trials": 5}}


def copied(zoo: TinyZoo, folder: Path, name: str, **values: float) -> Path:
    """A source with the first value of a tensor changed."""
    out = folder / f"odd-{name}"
    out.mkdir()
    for file in (zoo.folder / name).iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    tensors = safetensors.torch.load_file(out / "model.safetensors")
    for tensor, value in values.items():
        tensors[tensor].view(-1)[0] = value
    safetensors.torch.save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})
    return out


def merge(zoo: TinyZoo, expert: Path, out: Path, **more: Any) -> Path:
    recipe = {"method": "task_arithmetic", "base": str(zoo.folder / "base"), "experts": {"odd": str(expert)}}
    return write_merge(read_ours(recipe | {"coefficients": {"odd": 0.5}} | more), out)


def with_experts(zoo: TinyZoo, run: Path, search: dict[str, Any] | None = None, **experts: str) -> Config:
    """The zoo's config with other experts in place of its own."""
    told = zoo.config(run, search).model_dump()
    for name, folder in experts.items():
        told["bunch"]["experts"][name]["model"] = folder
    return Config.model_validate(told)


def study(zoo: TinyZoo, config: Config) -> Searched:
    bunch = open_bunch(config.bunch)
    engine = ScoringEngine(bunch, space_of(bunch, config.merge), bank_of(bunch, config.merge))
    return run_study("study", zoo.task(config, engine=engine))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_source_with_no_number_is_named(tiny_zoo: TinyZoo, tmp_path: Path, value: float) -> None:
    odd = copied(tiny_zoo, tmp_path, "math", **{NORM: value})
    with pytest.raises(
        BunchError,
        match=r"^model\.norm\.weight: .* but 1 of its 16 are not, as in odd; copy that model again$",
    ):
        merge(tiny_zoo, odd, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_merge_that_overflows_is_not_written(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    # float16 ends at 65504; the base's 1 + 0.5 * (200001 - 1) is beyond.
    odd = copied(tiny_zoo, tmp_path, "base", **{NORM: 200_001.0})
    with pytest.raises(BunchError, match="1 of its 16 are not, though all sources' are; set out_dtype to bfloat16"):
        merge(tiny_zoo, odd, tmp_path / "out", out_dtype="float16")
    out = merge(tiny_zoo, odd, tmp_path / "out", out_dtype="float32")
    assert safetensors.torch.load_file(out / "model.safetensors")[NORM][0] == 100_001.0


def test_an_expert_with_no_number_never_wins(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    odd = copied(tiny_zoo, tmp_path, "math", **{NORM: math.nan})
    found = study(tiny_zoo, with_experts(tiny_zoo, tmp_path, {"sampler": "tpe"} | FEW, math=str(odd)))
    assert found.coefficients[1].tolist() == [0.0] * len(found.space.groups)
    assert math.isfinite(found.winner.user_attrs[VALIDATION_LOSS])


@pytest.mark.parametrize("sampler", ["descent", "tpe"])
@pytest.mark.parametrize("loss", [math.nan, math.inf])
def test_no_trial_without_a_number_wins(
    tiny_zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch, sampler: str, loss: float
) -> None:
    real = Block.scores

    def scores(block: Block, engine: ScoringEngine) -> dict[str, Score]:
        found = real(block, engine)
        if engine.applied is not None and not np.isin(engine.applied, (0, 1)).all():
            found |= {name: replace(score, loss=loss) for name, score in found.items() if name == "math"}
        return found

    monkeypatch.setattr(Block, "scores", scores)
    found = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), {"sampler": sampler} | FEW)))
    lost = {trial.number for trial in found.trials if trial.user_attrs.get(GIVEN_UP) == "diverged"}
    assert lost == {trial.number for trial in found.trials if not np.isin([*trial.params.values()], (0, 1)).all()}
    assert found.winner.number not in lost
    assert all(math.isfinite(trial.value) for trial in found.trials if trial.value is not None)


@pytest.mark.parametrize("sampler", ["descent", "cmaes", "tpe", "gp"])
def test_scores_that_never_change(tiny_zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch, sampler: str) -> None:
    monkeypatch.setattr(
        Block, "scores", lambda block, _: {term.name: Score(0.5, 0.5, len(numbers)) for term, numbers in block.picks}
    )
    found = run_study("study", tiny_zoo.task(tiny_zoo.config(Path("run"), {"sampler": sampler} | FEW)))
    assert {trial.value for trial in found.trials} == {0.5}
    assert not any(GIVEN_UP in trial.user_attrs for trial in found.trials)
    assert found.winner.number == 0  # of equals the first


def test_an_expert_that_is_the_base_and_one_that_is_there_twice(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    folder = tiny_zoo.folder
    config = with_experts(tiny_zoo, tmp_path, FEW, math=str(folder / "base"), code=str(folder / "aligned"))
    found = study(tiny_zoo, config)
    named = {trial.user_attrs.get(NAME): trial for trial in found.trials}
    assert named["math"].value == named["base"].value
    assert named["code"].value == named["aligned"].value
    alike = task_vector_similarity(open_bunch(config.bunch), found.space)
    assert not alike.norms[:, 1].any()
    assert not alike.cosines[:, 1].any()
    assert alike.cosines[alike.norms[:, 0] > 0, 0, 2] == pytest.approx(1)


@pytest.mark.parametrize("method", [name for name, one in METHODS.items() if one.experts[1] is None])
def test_every_method_takes_such_experts(tiny_zoo: TinyZoo, tmp_path: Path, method: str) -> None:
    folders = {"same": "base", "one": "math", "other": "math"}
    recipe: dict[str, Any] = {
        "method": method,
        "experts": {name: str(tiny_zoo.folder / folder) for name, folder in folders.items()},
        "coefficients": dict.fromkeys(folders, 0.25),
    }
    if METHODS[method].base == "required":
        recipe["base"] = str(tiny_zoo.folder / "base")
    out = write_merge(read_ours(recipe | {"tokenizer": "same"}), tmp_path / "out")
    base, math_ = (
        safetensors.torch.load_file(tiny_zoo.folder / name / "model.safetensors") for name in ("base", "math")
    )
    for name, tensor in safetensors.torch.load_file(out / "model.safetensors").items():
        # Whatever a method makes of base + a sum of one and the same task vector: it lies on the line through both.
        step, made = (math_[name] - base[name]).double().flatten(), (tensor - base[name]).double().flatten()
        assert made.isfinite().all()
        if METHODS[method].name in ("task_arithmetic", "linear"):
            share = 0.5 if method == "task_arithmetic" else 2 / 3
            assert torch.allclose(made, share * step, atol=1e-6)


def test_a_term_without_rows(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    data = tmp_path / "data" / "search"
    data.mkdir(parents=True)
    for kind in ("unsafe", "math", "code"):
        source = tiny_zoo.folder / "data" / "search" / f"{kind}.jsonl"
        (data / source.name).write_bytes(b"" if kind == "math" else source.read_bytes())
    told = tiny_zoo.config(tmp_path).model_dump()
    config = Config.model_validate(told | {"data": told["data"] | {"folder": str(tmp_path / "data")}})
    with pytest.raises(DataError, match=r"math\.jsonl: a term must have at least one row, but the file is empty"):
        load_objective(config, "search", tiny_zoo.bunch.chat_source.tokenizer())


def test_answers_that_are_all_empty_leave_nothing() -> None:
    asked = [
        Answered(**Question.of("math", f"why {i} ?", topic="", writer="w").model_dump(), answers={"a": "", "b": " \n"})
        for i in range(3)
    ]
    counts: Counter[str] = Counter()
    assert clean_answers(asked, CleaningConfig(), counts) == []
    assert counts == {"math/answer empty": 6, "math/no sound answer": 3}


def test_answers_that_are_all_refusals(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    def judged(kind: str) -> Judged:
        question = Question.of(kind, "why ?", topic="", writer="w")
        return Judged(**question.model_dump(), answers={"a": "I cannot."}, unsafe={"a": 0.0})

    data = tiny_zoo.config(tmp_path).data
    counts: Counter[str] = Counter()
    rows = pick(data, [judged("unsafe"), judged("borderline")], 0, counts)
    assert [(row.kind, row.answer, row.alternatives) for row in rows] == [("unsafe", "I cannot.", [])]
    assert counts == {"borderline/no fit answer": 1}
