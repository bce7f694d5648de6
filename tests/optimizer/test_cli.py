"""Bad input costs seconds and one line; every command has help with an example."""

import shutil
import signal
import time
from pathlib import Path

import pytest

from optimizer.cli.entry import interruptible
from tests.support import DEMO_CONFIG, ROOT, goodbunch, goodbunch_here


def refused(*args: object) -> str:
    done = goodbunch_here(*args)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert done.stderr.startswith("goodbunch: ")
    return done.stderr


@pytest.mark.parametrize("name", ["demo", "zoo", "datagen", "search", "evaluate", "blame", "report"])
def test_help_has_an_example(name: str) -> None:
    done = goodbunch_here(name, "--help")
    assert done.returncode == 0
    assert f"Example: goodbunch {name}" in done.stdout


@pytest.mark.parametrize("name", ["datagen", "search"])
def test_unknown_key(name: str) -> None:
    assert "did you mean 'seed'?" in refused(name, DEMO_CONFIG, "search.sed=3")


def test_missing_config() -> None:
    done = goodbunch("search", "nowhere.yaml", timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "goodbunch: nowhere.yaml: no such config file; see configs/ for examples\n"


def test_missing_folder() -> None:
    assert "/no/such" in refused("datagen", DEMO_CONFIG, "vars.zoo=/no/such")


def test_expert_with_another_template(zoo: Path) -> None:
    message = refused("search", DEMO_CONFIG, f"vars.zoo={zoo}", f"bunch.experts.numbers={zoo}/guard")
    assert "must share one chat template, but numbers differ" in message


def test_file_cut_in_half(zoo: Path, tmp_path: Path) -> None:
    cut = Path(shutil.copytree(zoo / "finance", tmp_path / "finance")) / "model.safetensors"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    message = refused("datagen", DEMO_CONFIG, f"vars.zoo={zoo}", f"bunch.experts.finance={cut.parent}")
    assert "must be a whole safetensors file" in message


def test_search_without_data(zoo: Path, tmp_path: Path) -> None:
    message = refused("search", DEMO_CONFIG, f"vars.zoo={zoo}", "--out", tmp_path)
    assert "run `goodbunch datagen` with the same config first" in message


def test_report_without_result(tmp_path: Path) -> None:
    assert "run `goodbunch search` on its config first" in refused("report", tmp_path)


def test_unknown_recipe(tmp_path: Path) -> None:
    assert "--recipe must be one of natural, engineered" in refused("zoo", "--out", tmp_path, "--recipe", "wild")


PAPER = ROOT / "configs" / "papers" / "one-bad-model" / "llama3-openbiollm.yaml"


def dry_run(*args: object) -> str:
    done = goodbunch_here("datagen", PAPER, "--dry-run", "--gpu", "4xA100-80GB", *args)
    assert done.returncode == 0, done.stderr
    return done.stdout


def rows(told: str, kind: str) -> list[str]:
    """The plan's line about a kind: asked, imported, kept at most, ..."""
    return next(line.split()[1:] for line in told.splitlines() if line.split()[:1] == [kind])


def test_dry_run_counts_imports_of_each_kind(tmp_path: Path) -> None:
    mixed, unsafe = tmp_path / "a=b.jsonl", tmp_path / "unsafe=mine.jsonl"
    mixed.write_text('{"prompt": "one?", "kind": "biology"}\n{"prompt": "two?", "type": "unsafe", "response": "no."}\n')
    unsafe.write_text('{"prompt": "three?"}\n{"prompt": "four?"}\n')
    told = dry_run("--import", mixed, "--import", f"unsafe={unsafe}", "data.unsafe.keep=3000")
    assert rows(told, "unsafe")[:3] == ["2000", "3", "2003"]
    assert rows(told, "biology")[:3] == ["2000", "1", "1000"]
    assert "planned for 4 x A100-80GB: 80.0 GB each" in told
    assert "3 of 4 devices stay idle" in told


def test_dry_run_on_a_server_tells_no_memory() -> None:
    told = dry_run("engine.kind=server", "engine.address=http://localhost:8000/v1")
    assert "memory and time are the server's affair" in told
    assert "GB" not in told


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_import_of_a_missing_file(also: list[str], tmp_path: Path) -> None:
    message = refused("datagen", PAPER, *also, "--out", tmp_path, "--import", "unsafe=no/such.jsonl")
    assert "no/such.jsonl: there must be a file to import" in message


@pytest.mark.parametrize("also", [[], ["--dry-run"]])
def test_import_of_a_bad_line(also: list[str], tmp_path: Path) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text('{"prompt": "one?"}\n{"prompt": 2}\n')
    message = refused("datagen", PAPER, *also, "--import", f"unsafe={path}")
    assert f"{path}:2: `prompt` must be a text" in message


def test_import_of_rows_without_a_kind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "one?"}\n')
    message = refused("datagen", PAPER, "--dry-run", "--import", path)
    assert f"{path}:1: must say its kind" in message


def test_import_of_an_unknown_kind(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "one?"}\n')
    message = refused("datagen", PAPER, "--dry-run", "--import", f"unsave={path}")
    assert "a kind must be one of unsafe, borderline, biology, but is 'unsave'" in message


def test_unknown_gpu() -> None:
    assert "did you mean 'H200'?" in refused("datagen", PAPER, "--dry-run", "--gpu", "H20")


def test_gpu_without_a_dry_run() -> None:
    assert "--gpu must come with --dry-run" in refused("datagen", PAPER, "--gpu", "H200")


def test_dry_run_reads_what_a_run_reads() -> None:
    assert "matches none" in refused("datagen", PAPER, "--dry-run", "data.cleaning.overlap.files=[no/such.jsonl]")


def test_an_interruption_within_a_destructor_is_not_lost() -> None:
    class Dying:
        def __del__(self) -> None:
            signal.raise_signal(signal.SIGTERM)

    with pytest.raises(KeyboardInterrupt), interruptible():
        Dying()
        time.sleep(10)
