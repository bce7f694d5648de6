"""What is killed: one command each, what of its work must not be lost, and what its end must be."""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
import yaml
from optuna.trial import TrialState

from benchmarks.load import result_of, study
from optimizer.report.result import MAIN, write_result
from tests.datagen.engines.servers import Writer
from tests.datagen.faults.runs import CHUNK, Runs, requests, tiny_model
from tests.optimizer.tiny_zoo import FOR_VLLM, TinyZoo

_HEX = "[0-9a-f]"

#: Anything by name.
Things = Mapping[str, Any]


class Scenario:
    """A command on a folder.

    Args:
        folder: of all that belongs to it.

    Attributes:
        name: of the command.
        undisturbed: what a run leaves that nothing happens to.
        in_line: how many kills come before a rerun may end.
    """

    name = ""
    in_line = 6

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.undisturbed: Things = {}

    def arguments(self, run: str) -> list[str]:
        """Of the command; the run is a name below the folder."""
        raise NotImplementedError

    def begin(self, run: str) -> None:
        """Makes what must be there before the command."""

    def kept(self, run: str) -> Things:
        """What is finished by now and must stay as it is."""
        return {}

    def left(self, run: str) -> Things:
        """Everything that stands under a final name, which must be as an undisturbed run leaves it."""
        raise NotImplementedError

    def is_done(self, run: str) -> bool:
        """Whether all is there that matters, though the command goes on."""
        return False

    def check_work(self, kills: int) -> None:
        """Checks that a run that was killed so often did nothing over that was kept."""


class Datagen(Scenario):
    """`goodbunch datagen`, asking a server."""

    name = "datagen"

    def __init__(self, folder: Path, writer: Writer) -> None:
        super().__init__(folder)
        tiny_model(folder / "models" / "base")
        for name in ("aligned", "numbers"):
            shutil.copytree(folder / "models" / "base", folder / "models" / name)
        self._writer, self._runs = writer, Runs(folder / "models", writer, folder)

    def arguments(self, run: str) -> list[str]:
        return ["datagen", str(self._runs.config()), "--out", str(self.folder / run)]

    def begin(self, run: str) -> None:
        self._writer.seen.clear()

    def kept(self, run: str) -> Things:
        """The whole chunks of the journal."""
        stages = self.folder / run / "data" / "stages"
        return {str(path.relative_to(stages)): _whole_chunks(path) for path in sorted(stages.rglob("*.jsonl"))}

    def left(self, run: str) -> Things:
        data = self.folder / run / "data"
        return digests_of(data, lambda path: "stages" not in path.parts)

    def check_work(self, kills: int) -> None:
        """A kill costs the chunk that is under way."""
        asked = requests(self._writer.seen)
        assert asked.total() - len(asked) <= kills * CHUNK, "what was kept was asked for again"


class Search(Scenario):
    """`goodbunch search` with a control.

    Args:
        zoo: its models.
        compares: whether it goes on to the comparison, for which vLLM is started; else it is done with the export.
    """

    name = "search"
    in_line = 12

    def __init__(self, folder: Path, zoo: TinyZoo, compares: bool) -> None:
        super().__init__(folder)
        self._config, self._compares = folder / "search.yaml", compares
        changes = {"controls": {"control": ["math"]}}
        engine = {"max_model_len": 96, "memory": 0.1}
        config = zoo.config(Path("none"), changes, engine=engine).model_dump(mode="json", exclude_defaults=True)
        config["data"]["max_answer_tokens"] = 3
        self._config.write_text(yaml.safe_dump(config))

    def arguments(self, run: str) -> list[str]:
        return ["search", str(self._config), "--out", str(self.folder / run)]

    def kept(self, run: str) -> Things:
        """The finished trials."""
        database = self.folder / run / "study.db"
        return trials(database) if database.is_file() else {}

    def left(self, run: str) -> Things:
        folder = self.folder / run
        found: dict[str, Any] = {}
        if (folder / "merged").is_dir():
            found["merged"] = {k: v for k, v in digests_of(folder / "merged").items() if k != "README.md"}
        if (folder / "result.json").is_file():
            result = json.loads((folder / "result.json").read_text())
            del result["cost"]["seconds"]
            result["config"]["run"] = ""
            for trial in result["trials"]:
                trial.pop("seconds", None)
            found["result.json"] = result
        if (folder / "report.html").is_file():
            found["report.html"] = (folder / "report.html").read_text().rstrip().endswith("</html>")
        if (folder / "config.json").is_file():
            found["config.json"] = json.loads((folder / "config.json").read_text()) | {"run": ""}
        return found


class Merge(Scenario):
    """`goodbunch merge`, with another merge in its place half of the time."""

    name = "merge"

    def __init__(self, folder: Path, zoo: TinyZoo) -> None:
        super().__init__(folder)
        experts = {name: str(zoo.folder / name) for name in ("aligned", "math", "code")}
        self._old = zoo.folder / "base"
        values = {"method": "ties", "base": str(zoo.folder / "base"), "experts": experts, "groups": "layer"}
        recipe = values | {"coefficients": dict.fromkeys(experts, 0.4), "parameters": {"density": 0.5}}
        (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    def arguments(self, run: str) -> list[str]:
        more = ["--shard-size", "0.00001"]
        return ["merge", str(self.folder / "recipe.yaml"), "--out", str(self.folder / run), "--force", *more]

    def begin(self, run: str) -> None:
        if run[-1] in "13579":
            shutil.copytree(self._old, self.folder / run)

    def kept(self, run: str) -> Things:
        """A model that was there, or that has taken its place; between two renames the next merge puts it back."""
        models = (self.folder / run, self.folder / f".{run}.old")
        return {"a model": True} if any(map(Path.is_dir, models)) else {}

    def left(self, run: str) -> Things:
        found = digests_of(self.folder / run)
        return {} if found == digests_of(self._old) else found


class Report(Scenario):
    """`goodbunch report` on a finished run."""

    name = "report"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        found, terms, _ = study("random", 30, folder)
        write_result(folder / "result.json", result_of(MAIN, found, terms, folder))

    def arguments(self, run: str) -> list[str]:
        return ["report", str(self.folder / run)]

    def begin(self, run: str) -> None:
        (self.folder / run).mkdir(parents=True)
        shutil.copy(self.folder / "result.json", self.folder / run)

    def left(self, run: str) -> Things:
        """The page, whose figures have ids of chance."""
        page = self.folder / run / "report.html"
        return (
            {page.name: re.sub(rf"{_HEX}{{8}}(-{_HEX}{{4}}){{3}}-{_HEX}{{12}}", "", page.read_text())}
            if page.exists()
            else {}
        )


def tiny_zoo(folder: Path) -> TinyZoo:
    """Models that vLLM runs on a CPU."""
    return TinyZoo(folder, max_position_embeddings=96, **FOR_VLLM)


def digests_of(folder: Path, wanted: Any = lambda path: True) -> dict[str, str]:
    """File -> hash of its bytes, of those that are not hidden, which are under way."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not path.name.startswith(".")]
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files if wanted(path)
    }


def trials(database: Path) -> dict[str, Any]:
    """Study and number -> all that a finished trial tells but the time it took, read as Optuna reads it."""
    try:
        storage = optuna.storages.RDBStorage(f"sqlite:///{database}", skip_table_creation=True)
    except optuna.exceptions.StorageInternalError:  # it has no tables yet
        return {}
    try:
        return {
            f"{study.study_name} {trial.number}": (
                trial.values,
                trial.params,
                {key: value for key, value in trial.user_attrs.items() if key != "seconds"},
            )
            for study in storage.get_all_studies()
            for trial in storage.get_all_trials(study._study_id, states=[TrialState.COMPLETE])
        }
    finally:
        storage.engine.dispose()


def _whole_chunks(path: Path) -> bytes:
    """A journal up to the end of its last whole chunk, as datagen/journal.py describes it."""
    whole = read = b""
    for line in path.read_bytes().splitlines(keepends=True):
        read += line
        if line.endswith(b"\n") and not json.loads(line)["more"]:
            whole = read
    return whole
