"""Bad input costs seconds and one line; every command has help with an example."""

import shutil
from pathlib import Path

import pytest
from conftest import DEMO_CONFIG, goodbunch


def refused(*args: object) -> str:
    done = goodbunch(*args, timeout=60)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("goodbunch: ")
    return done.stderr


@pytest.mark.parametrize("name", ["demo", "zoo", "datagen", "search", "report"])
def test_help_has_an_example(name: str) -> None:
    done = goodbunch(name, "--help")
    assert done.returncode == 0
    assert f"Example: goodbunch {name}" in done.stdout


@pytest.mark.parametrize("name", ["datagen", "search"])
class TestBadInput:
    def test_unknown_key(self, name: str) -> None:
        assert "did you mean 'seed'?" in refused(name, DEMO_CONFIG, "search.sed=3")

    def test_missing_config(self, name: str) -> None:
        assert "no such config file" in refused(name, "nowhere.yaml")

    def test_missing_folder(self, name: str) -> None:
        assert "/no/such" in refused(name, DEMO_CONFIG, "vars.zoo=/no/such")

    def test_expert_of_another_vocabulary_or_template(self, name: str, zoo: Path) -> None:
        message = refused(name, DEMO_CONFIG, f"vars.zoo={zoo}", f"bunch.experts.numbers={zoo}/guard")
        assert "must share one chat template, but numbers differ" in message

    def test_file_cut_in_half(self, name: str, zoo: Path, tmp_path: Path) -> None:
        cut = Path(shutil.copytree(zoo / "finance", tmp_path / "finance")) / "model.safetensors"
        cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
        message = refused(name, DEMO_CONFIG, f"vars.zoo={zoo}", f"bunch.experts.finance={cut.parent}")
        assert "must be a whole safetensors file" in message


def test_search_without_data(zoo: Path, tmp_path: Path) -> None:
    message = refused("search", DEMO_CONFIG, f"vars.zoo={zoo}", "--out", tmp_path)
    assert "run `goodbunch datagen` with the same config first" in message


def test_report_without_result(tmp_path: Path) -> None:
    assert "run `goodbunch search` on its config first" in refused("report", tmp_path)


def test_unknown_recipe(tmp_path: Path) -> None:
    assert "--recipe must be one of natural, engineered" in refused("zoo", "--out", tmp_path, "--recipe", "wild")
