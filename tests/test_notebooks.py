"""Every notebook runs to its end on a finished demo, and stands beside its text without outputs."""

import os
from collections.abc import Iterator
from pathlib import Path

import jupytext
import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

from tests.support import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.py"))

#: Those that start vLLM or search.
LONG = ("02", "03", "04")


@pytest.fixture(scope="module")
def kernel(demo: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[KernelManager]:
    """One process for all notebooks, so that what they import is imported once."""
    folder = tmp_path_factory.mktemp("notebooks")
    environment = os.environ | {
        "GOODBUNCH_RUN": str(demo),
        "GOODBUNCH_OUT": str(folder / "out"),
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLBACKEND": "agg",
    }
    manager = KernelManager(kernel_name="python3", connection_file=str(folder / "kernel.json"))
    manager.start_kernel(env=environment, cwd=str(ROOT))
    yield manager
    manager.shutdown_kernel(now=True)


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(path, id=path.stem, marks=[pytest.mark.slow] if path.name.startswith(LONG) else [])
        for path in NOTEBOOKS
    ],
)
def test_it_runs(path: Path, kernel: KernelManager) -> None:
    notebook = jupytext.read(path)
    notebook.cells.insert(0, nbformat.v4.new_code_cell("%reset -f"))
    NotebookClient(notebook, km=kernel, timeout=600).execute(cleanup_kc=False)
    assert [
        output for cell in notebook.cells for output in cell.get("outputs", []) if output.output_type == "error"
    ] == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_its_pair_is_the_same_and_has_no_outputs(path: Path) -> None:
    paired = nbformat.read(path.with_suffix(".ipynb"), as_version=4)
    told = [(cell.cell_type, cell.source) for cell in jupytext.read(path).cells]
    assert [(cell.cell_type, cell.source) for cell in paired.cells] == told, "run `make notebooks`"
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in paired.cells)


def test_there_are_five() -> None:
    assert len(NOTEBOOKS) == 5
