"""`goodbunch init` writes configs that hold, of models that fit."""

import contextlib
import io
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest
import typer
from typer.testing import CliRunner

from datagen.errors import GoodbunchError
from optimizer.cli import app
from optimizer.config import Config
from optimizer.loading import load_config
from optimizer.starting.drafting import draft
from optimizer.starting.wishes import Wishes, ask, parse_named, parse_topics
from optimizer.starting.writing import written
from tests.optimizer.tiny_zoo import TinyZoo
from tests.support import DEMO_CONFIG, RUN_CONFIGS, goodbunch_here

GPU = ("--gpu", "H200")


def flags(zoo: TinyZoo, *others: str) -> list[str]:
    models = ["--base", str(zoo.folder / "base")]
    for name in ("aligned", "math"):
        models += ["--expert", f"{name}={zoo.folder / name}"]
    return [*models, "--generator", str(zoo.folder / "base"), "--guard", str(zoo.folder / "aligned"), *GPU, *others]


def init(path: Path, arguments: Sequence[str]) -> Config:
    app(["init", str(path), *arguments], standalone_mode=False)
    return load_config(path)


class Begun(NamedTuple):
    """A config that was written, and what was said."""

    path: Path
    said: str


@pytest.fixture(scope="module")
def begun(tiny_zoo: TinyZoo, tmp_path_factory: pytest.TempPathFactory) -> Begun:
    path, said = tmp_path_factory.mktemp("begun") / "first.yaml", io.StringIO()
    path.write_text("of an earlier try")
    with contextlib.redirect_stdout(said):
        init(path, flags(tiny_zoo, "--topics", "math=sums, fractions", "--run", "runs/there", "--force"))
    return Begun(path, said.getvalue())


def test_models_and_topics_are_as_told(tiny_zoo: TinyZoo, begun: Begun) -> None:
    config = load_config(begun.path)
    assert config.bunch.models() == {name: str(tiny_zoo.folder / name) for name in ("base", "aligned", "math")}
    assert config.bunch.aligned == "aligned"
    assert config.data.domains["math"].topics == ["sums", "fractions"]
    assert set(config.objective) == {"safety", "borderline", "math"}
    assert config.search.controls == {"no_borderline": ["safety", "math"], "expert_only": ["math"]}
    assert config.run == "runs/there"


def test_the_next_two_commands_are_said(begun: Begun) -> None:
    path = str(begun.path)
    assert begun.said.split()[-6:] == ["goodbunch", "datagen", path, "goodbunch", "search", path]


def test_an_expert_joins_those_of_another_config(tiny_zoo: TinyZoo, begun: Begun, tmp_path: Path) -> None:
    first, expert = load_config(begun.path), f"code={tiny_zoo.folder / 'code'}"
    joined = init(tmp_path / "second.yaml", ["--like", str(begun.path), "--expert", expert, *GPU])
    assert list(joined.bunch.experts) == ["aligned", "math", "code"]
    assert joined.data.domains["code"] == first.data.domains["math"].model_copy(update={"topics": ["code"]})
    assert joined.objective["code"] == first.objective["math"]
    assert joined.search.controls["expert_only"] == ["math", "code"]
    assert joined.run == "runs/second"


def test_of_a_config_with_a_front_the_new_term_joins_an_objective(tmp_path: Path) -> None:
    like = tmp_path / "like.yaml"
    like.write_text(
        DEMO_CONFIG.read_text().replace(
            "  seed: 0\n  descent:",
            "  seed: 0\n  pareto: {alignment: [safety, borderline], skill: [numbers, medicine, finance]}\n  descent:",
        )
    )
    config = draft(Wishes(experts={"workshop": "w"}), "runs/x", like)
    assert config.search.pareto["skill"][-1] == "workshop"


@pytest.mark.parametrize("path", RUN_CONFIGS, ids=lambda path: path.stem)
def test_what_is_written_is_read_as_it_was(path: Path, tmp_path: Path) -> None:
    config, copy = load_config(path), tmp_path / "copy.yaml"
    text = written(config, Path("copy.yaml"))
    copy.write_text(text)
    assert load_config(copy).model_dump(exclude={"vars"}) == config.model_dump(exclude={"vars"})
    assert max(map(len, text.splitlines())) <= 120
    assert "# the uncensored model that writes unsafe and borderline questions." in text


@pytest.fixture
def misfits(tiny_zoo: TinyZoo, tmp_path: Path) -> TinyZoo:
    """The tiny zoo, whose `math` says that it is of another architecture."""
    folder = Path(shutil.copytree(tiny_zoo.folder, tmp_path / "zoo"))
    told = json.loads((folder / "math" / "config.json").read_text())
    (folder / "math" / "config.json").write_text(json.dumps(told | {"num_attention_heads": 1}))
    other = TinyZoo.__new__(TinyZoo)
    other.folder = folder
    return other


def test_misfits_are_one_line_and_exit_code_2(misfits: TinyZoo, tmp_path: Path) -> None:
    done = goodbunch_here("init", tmp_path / "my.yaml", *flags(misfits))
    said = done.stderr.strip()
    assert done.returncode == 2
    assert said.startswith("goodbunch: ")
    assert "num_attention_heads" in said
    assert "\n" not in said
    assert not (tmp_path / "my.yaml").exists()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (["--base", "/no/such"], "/no/such"),
        (["--aligned", "nobody"], "--aligned must name the expert .*, one of aligned, math, but is nobody"),
        (["--topics", "law=tax"], "--topics must be of an expert that has a domain, one of math, but 'law'"),
        (["--expert", "math"], "--expert must read NAME=VALUE, but is 'math'"),
        (["--gpu", "H20"], "did you mean 'H200'"),
        (["--topics", "math=no-such.yaml"], "no-such.yaml"),
    ],
)
def test_mistakes(tiny_zoo: TinyZoo, tmp_path: Path, change: list[str], told: str) -> None:
    with pytest.raises(GoodbunchError, match=told):
        init(tmp_path / "my.yaml", flags(tiny_zoo, *change))
    assert not (tmp_path / "my.yaml").exists()


def test_no_config_is_replaced_unless_asked(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    path = tmp_path / "my.yaml"
    path.write_text("mine: 1\n")
    with pytest.raises(GoodbunchError, match="add --force"):
        init(path, flags(tiny_zoo))
    assert path.read_text() == "mine: 1\n"


def test_without_a_terminal_the_base_must_be_told(tmp_path: Path) -> None:
    with pytest.raises(GoodbunchError, match="--base must name"):
        init(tmp_path / "my.yaml", [*GPU])


def test_test_rows_must_be_there_for_a_new_domain(tiny_zoo: TinyZoo, begun: Begun, tmp_path: Path) -> None:
    like, test = tmp_path / "like.yaml", tiny_zoo.folder / "data" / "test"
    like.write_text(begun.path.read_text().replace("evaluation:\n", f"evaluation:\n  test: {test}\n"))
    arguments = ["--like", str(like), "--expert", f"code={tiny_zoo.folder / 'code'}", *GPU]
    with pytest.raises(GoodbunchError, match=r"borderline\.jsonl is not"):
        init(tmp_path / "second.yaml", arguments)


def hub(tiny_zoo: TinyZoo, cache: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Models of the hub of which config.json and tokenizer alone are here; and the flags that name them."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
    arguments = []
    for name in ("base", "aligned", "math"):
        folder = cache / f"models--org--{name}-1B"
        snapshot = folder / "snapshots" / ("0" * 40)
        shutil.copytree(tiny_zoo.folder / name, snapshot, ignore=shutil.ignore_patterns("*.safetensors"))
        (folder / "refs").mkdir()
        (folder / "refs" / "main").write_text(snapshot.name)
        arguments += ["--base", f"org/{name}-1B"] if name == "base" else ["--expert", f"{name}=org/{name}-1B"]
    return arguments


def test_models_that_are_not_here_are_compared_by_what_is_small(
    tiny_zoo: TinyZoo, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = hub(tiny_zoo, tmp_path / "hub", monkeypatch)
    init(tmp_path / "my.yaml", [*arguments, "--gpu", "8xB200"])
    said = capsys.readouterr().out
    assert "to be downloaded by `goodbunch datagen`, which looks at their weights: org/base-1B, org/aligned-1B" in said
    assert "could not be looked at" not in said
    told = next((tmp_path / "hub" / "models--org--math-1B").rglob("config.json"))
    told.write_text(json.dumps(json.loads(told.read_text()) | {"num_attention_heads": 1}))
    with pytest.raises(GoodbunchError, match="num_attention_heads"):
        init(tmp_path / "other.yaml", [*arguments, "--gpu", "8xB200"])


def test_models_that_cannot_be_had_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    models = ["--base", "org/base-8B", "--expert", "aligned=org/chat-8B", "--expert", "law=org/law-8B"]
    init(tmp_path / "my.yaml", [*models, "--gpu", "8xB200"])
    assert "could not be looked at: org/base-8B, org/chat-8B, org/law-8B;" in capsys.readouterr().out


def test_what_does_not_fit_a_device_is_changed_until_it_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    models = ["--base", "org/base-8B", "--expert", "aligned=org/chat-8B", "--expert", "law=org/law-8B"]
    config = init(tmp_path / "my.yaml", [*models, "--gpu", "H100"])
    wide = init(tmp_path / "wide.yaml", [*models, "--gpu", "8xB200"])
    # Three models of 16 GB, a merge, a gradient and activations are more than 80 GB, and less than 180.
    assert config.search.descent.checkpointing or config.merge.residency != "device"
    assert (wide.search.descent.checkpointing, wide.merge.residency) == (False, "device")


def asked(wishes: Wishes, *answers: str) -> Wishes:
    """What is wanted once questions are answered."""
    questions, found = typer.Typer(), []

    @questions.command()
    def answer() -> None:
        found.append(ask(wishes))

    done = CliRunner().invoke(questions, input="\n".join([*answers, ""]), catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return found[0]


def test_everything_can_be_asked_for() -> None:
    wishes = asked(Wishes(), "b", "a", "law=l", "tax=t", "", "contracts, wills", "", "gen", "", "H200")
    assert wishes.base == "b"
    assert wishes.experts == {"aligned": "a", "law": "l", "tax": "t"}
    assert wishes.aligned == "aligned"
    assert wishes.topics == {"law": ["contracts", "wills"], "tax": ["tax"]}
    assert (wishes.generator, wishes.guard, wishes.gpu) == ("gen", "meta-llama/Llama-Guard-3-8B", "H200")


def test_nothing_is_asked_for_twice() -> None:
    given = Wishes(
        base="b", experts={"chat": "a", "law": "l"}, topics={"law": ["x"]}, generator="g", guard="w", gpu="H200"
    )
    assert asked(given, "chat").aligned == "chat"


def test_names_and_lists() -> None:
    assert parse_named("--expert", ["a=m@v+x=y"]) == {"a": "m@v+x=y"}
    assert parse_topics("beavertails") == "beavertails"
    assert parse_topics("mine.yaml") == "mine.yaml"
    assert parse_topics("one") == ["one"]
    with pytest.raises(GoodbunchError, match="'a' does twice"):
        parse_named("--expert", ["a=1", "a=2"])
