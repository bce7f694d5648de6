"""Models with code of their own: it runs only where the user named the model, or has what is merged from it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from datagen.chat import user
from datagen.config import EngineConfig
from datagen.engines.base import open_engine
from datagen.errors import BunchError
from datagen.models.loading import is_trusted, open_config, open_tokenizer
from datagen.models.trust import TRUSTED
from optimizer.engines.banks import space_of
from optimizer.executors.inline import InlineExecutor
from optimizer.export import write_merge
from optimizer.recipes.searched import recipe_of
from optimizer.report.result import MAIN
from optimizer.studies import evaluators_of, load_terms, run_all_studies
from tests.optimizer.tiny_zoo import EXPERTS, FOR_VLLM, TinyZoo
from tests.support import goodbunch_here

#: VLLM builds what it does not know around the `AutoModel`.
MAPS = {
    "AutoConfig": "configuration_own.OwnConfig",
    "AutoModel": "modeling_own.OwnModel",
    "AutoModelForCausalLM": "modeling_own.OwnForCausalLM",
}

CODE = {
    "configuration_own.py": """
from transformers import LlamaConfig

class OwnConfig(LlamaConfig):
    model_type = "own"
""",
    "modeling_own.py": """
from transformers import LlamaForCausalLM, LlamaModel

from .configuration_own import OwnConfig

class OwnModel(LlamaModel):
    config_class = OwnConfig

class OwnForCausalLM(LlamaForCausalLM):
    config_class = OwnConfig
""",
}


def give_code(folder: Path) -> None:
    """Makes a Llama one that transformers does not know."""
    told = json.loads((folder / "config.json").read_text())
    told |= {"model_type": "own", "architectures": ["OwnForCausalLM"], "auto_map": MAPS}
    (folder / "config.json").write_text(json.dumps(told))
    for name, text in CODE.items():
        (folder / name).write_text(text)


@pytest.fixture(scope="module")
def zoo(tmp_path_factory: pytest.TempPathFactory) -> TinyZoo:
    zoo = TinyZoo(tmp_path_factory.mktemp("own"), **FOR_VLLM)
    for name in ("base", *EXPERTS):
        give_code(zoo.folder / name)
    return zoo


@pytest.fixture
def _trusted(zoo: TinyZoo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(TRUSTED, str(zoo.folder / "base"))


def test_without_a_word_none_runs(zoo: TinyZoo, tmp_path: Path) -> None:
    with pytest.raises(
        BunchError, match=r"it comes with code of its own: read that, then add --trust-remote-code .*base"
    ):
        zoo.engine(zoo.config(tmp_path))


def test_trust_is_of_one_model(zoo: TinyZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for file in (zoo.folder / "math").iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    monkeypatch.setenv(TRUSTED, f"{zoo.folder / 'base'}\n{zoo.folder / 'code'}")
    assert is_trusted(zoo.folder / "base") and is_trusted(zoo.folder / "code")
    assert is_trusted(other), "it has the code that was read"
    (other / "modeling_own.py").write_text(CODE["modeling_own.py"] + "\nmore = 1\n")
    assert not is_trusted(other)
    (other / "modeling_own.py").write_text(CODE["modeling_own.py"])
    (other / "below").mkdir()
    (other / "below" / "more.py").write_text("more = 1\n")
    assert not is_trusted(other), "what is imported from below counts, too"
    (other / "below" / "more.py").unlink()
    assert is_trusted(other)
    told = json.loads((other / "config.json").read_text())
    told["auto_map"] = {name: f"someone/else--{place}" for name, place in MAPS.items()}
    (other / "config.json").write_text(json.dumps(told))
    assert not is_trusted(other), "it asks for code that lies elsewhere"
    with pytest.raises(BunchError, match="--trust-remote-code"):
        open_config(other)


def test_a_model_without_code_is_not_asked_for_any(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    """Many a model that transformers has still names the code that it came with."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (tiny_zoo.folder / "base").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    told = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(told | {"auto_map": MAPS}))
    assert open_config(folder).model_type == "llama"


@pytest.mark.usefixtures("_trusted")
def test_a_search_and_its_merge(zoo: TinyZoo, tmp_path: Path) -> None:
    config = zoo.config(tmp_path, {"descent": {"trials": 1, "steps": 4}})
    terms, space = load_terms(config, zoo.bunch), space_of(zoo.bunch, config.merge)
    executor = InlineExecutor(evaluators_of(config, zoo.bunch, space, terms))
    found = run_all_studies(config, zoo.bunch, space, terms, executor)[MAIN]
    merged = tmp_path / "merged"
    write_merge(recipe_of(config, space, found.point), merged)
    assert {name: (merged / name).read_text() for name in CODE} == CODE
    assert is_trusted(merged)
    model = AutoModelForCausalLM.from_pretrained(merged, trust_remote_code=True)
    assert type(model).__name__ == "OwnForCausalLM"
    engine = zoo.engine(config)
    engine.apply(*found.point)
    live = dict(engine.model.named_parameters())
    assert all(torch.equal(live[name], one) for name, one in model.named_parameters())


def test_the_command_names_it(zoo: TinyZoo, tmp_path: Path) -> None:
    recipe = tmp_path / "recipe.yaml"
    models = {name: str(zoo.folder / name) for name in ("base", "math")}
    told = {"method": "task_arithmetic", "base": models["base"], "experts": {"math": models["math"]}}
    recipe.write_text(json.dumps(told | {"coefficients": {"math": 0.5}}))
    plain = goodbunch_here("merge", recipe, "--out", tmp_path / "plain")
    assert plain.returncode == 0, plain.stderr
    assert not list((tmp_path / "plain").glob("*.py")), "merging runs none of it, and carries it nowhere"
    trusting = goodbunch_here("merge", recipe, "--out", tmp_path / "with", "--trust-remote-code", models["base"])
    assert trusting.returncode == 0, trusting.stderr
    assert sorted(file.name for file in (tmp_path / "with").glob("*.py")) == sorted(CODE)


@pytest.mark.slow
@pytest.mark.usefixtures("_trusted")
def test_both_engines_let_it_answer(zoo: TinyZoo) -> None:
    said = {}
    for kind in ("transformers", "vllm"):
        engine = open_engine(EngineConfig(kind=kind, max_model_len=32, dtype="float32"))
        engine.use(str(zoo.folder / "base"))
        said[kind] = engine.write([user(text) for text in ("abc", "code", "zy")], max_tokens=8)
        engine.close()
    assert said["transformers"] == said["vllm"]


@pytest.mark.usefixtures("_trusted")
def test_a_tokenizer_of_its_own(zoo: TinyZoo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    for file in (zoo.folder / "base").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    told = json.loads((folder / "tokenizer_config.json").read_text())
    told |= {"tokenizer_class": "OwnTokenizer", "auto_map": {"AutoTokenizer": [None, "speaking_own.OwnTokenizer"]}}
    (folder / "tokenizer_config.json").write_text(json.dumps(told))
    code = "from transformers import PreTrainedTokenizerFast as Fast\n\nclass OwnTokenizer(Fast):\n    own = True\n"
    (folder / "speaking_own.py").write_text(code)
    with pytest.raises(BunchError, match="it comes with code of its own: read that, then add --trust-remote-code"):
        open_tokenizer(folder)
    monkeypatch.setenv(TRUSTED, str(folder))
    assert open_tokenizer(folder).own
