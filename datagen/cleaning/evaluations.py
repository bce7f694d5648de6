"""The texts of evaluation data, whatever its format: files that the user names, and benchmarks in a local folder."""

import csv
import difflib
import glob
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from datagen.cleaning_config import OverlapConfig
from datagen.errors import ConfigError, DataError
from datagen.reading import UnfitError, parse_json


def evaluation_texts(config: OverlapConfig) -> dict[str, list[str]]:
    """Name of the file or benchmark -> all texts in it: questions, choices and answers alike.

    Raises:
        ConfigError: a pattern matches nothing, or a benchmark is not there.
        DataError: a file cannot be read.
    """
    found: dict[str, list[str]] = {}
    for pattern in config.files:
        paths = sorted(glob.glob(pattern, recursive=True))  # noqa: PTH207 - patterns may be absolute
        if not paths:
            raise ConfigError(f"overlap.files: a pattern must match a file, but {pattern!r} matches none; correct it")
        for path in paths:
            found.setdefault(Path(path).name, []).extend(texts_of(Path(path)))
    for name in config.benchmarks:
        found[name] = [text for path in _benchmark_files(name, Path(config.folder)) for text in texts_of(path)]
    return found


def texts_of(path: Path) -> list[str]:
    """All texts in a file.

    Raises:
        DataError: the file is not of a known format, or damaged.
    """
    if path.suffix not in _READERS:
        raise DataError(f"{path}: evaluation data must be one of {', '.join(_READERS)}; convert it")
    try:
        return [text for row in _READERS[path.suffix](path) for text in _texts(row)]
    except (OSError, UnicodeDecodeError, csv.Error, pa.ArrowException) as error:
        raise DataError(f"{path}: must be readable as {path.suffix}, but {error}".replace("\n", " ")) from error


def _benchmark_files(name: str, folder: Path) -> list[Path]:
    """A benchmark is a folder, or a file named without its ending."""
    known = sorted(folder.iterdir()) if folder.is_dir() else []
    for path in known:
        if path.is_dir() and path.name == name:
            files = sorted(file for file in path.rglob("*") if file.suffix in _READERS and not _is_metadata(file))
            if files:
                return files
        if path.is_file() and name in (path.name, path.stem) and path.suffix in _READERS:
            return [path]
    names = sorted({path.stem if path.is_file() else path.name for path in known})
    close = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean {close[0]!r}?" if close else f"it holds {', '.join(names) or 'nothing'}"
    raise ConfigError(f"overlap.benchmarks: {folder} must hold data named {name!r}; {hint}")


def _is_metadata(path: Path) -> bool:
    """`datasets` keeps these beside the data."""
    return path.name in ("dataset_info.json", "dataset_dict.json", "state.json") or path.name.startswith(".")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, some in value.items():
            if key != "role":
                yield from _texts(some)
    elif isinstance(value, list):
        for some in value:
            yield from _texts(some)


def _read_jsonl(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, 1):
            if line.strip():
                yield _decoded(line, f"{path}:{number}: a line must be one JSON value")


def _read_json(path: Path) -> Iterator[Any]:
    yield _decoded(path.read_text(encoding="utf-8"), f"{path}: must be one JSON value")


def _decoded(text: str, rule: str) -> Any:
    try:
        return parse_json(text)
    except UnfitError as error:
        raise DataError(f"{rule}: it {error}") from error


def _read_csv(path: Path) -> Iterator[Any]:
    with path.open(encoding="utf-8", newline="") as file:
        yield from csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ",")


def _read_parquet(path: Path) -> Iterator[Any]:
    for batch in pq.ParquetFile(path).iter_batches():
        yield from batch.to_pylist()


def _read_arrow(path: Path) -> Iterator[Any]:
    with pa.memory_map(str(path)) as file:
        for batch in pa.ipc.open_stream(file):
            yield from batch.to_pylist()


_READERS: dict[str, Callable[[Path], Iterator[Any]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_csv,
    ".parquet": _read_parquet,
    ".arrow": _read_arrow,
}
