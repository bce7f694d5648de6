"""Stage 7: a folder of JSONL files that `datasets.load_dataset(FOLDER, KIND)` reads, and a card that tells of them.

The card's front matter declares a configuration per kind, its splits and its columns: without the columns, a file whose
rows happen to have other provenance could not be read beside the rest.
"""

from collections.abc import Iterable, Sequence
from pathlib import Path

from datagen.card import Facts, data_card
from datagen.files import write_text
from datagen.records import Judged
from datagen.rows import Row, write_rows
from datagen.splits import SPLITS

CARD = "README.md"


def write_data(
    folder: Path, rows: Sequence[Row], kinds: Iterable[str], facts: Facts, judged: Sequence[Judged] = ()
) -> None:
    """Writes `<split>/<kind>.jsonl` and `README.md`; the same rows and facts always give the same bytes.

    Files of earlier runs that no row belongs to any more are removed.

    Args:
        kinds: all that may be in the folder.
        judged: every question with its verdicts, for the card.
    """
    for kind in kinds:
        for name in SPLITS:
            some = [row for row in rows if row.split == name and row.kind == kind]
            path = folder / name / f"{kind}.jsonl"
            if some:
                write_rows(path, some)
            else:
                path.unlink(missing_ok=True)
    write_text(folder / CARD, data_card(rows, facts, judged))
