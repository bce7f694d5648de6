"""What `goodbunch blame` does."""

from collections.abc import Sequence
from pathlib import Path

from datagen.holding import held
from datagen.progress import console
from optimizer.blame import measuring
from optimizer.blame.merges import open_merge
from optimizer.blame.result import FILE, PAGE, write_blame
from optimizer.blame.tables import show
from optimizer.report.page import write_blame_page, write_report
from optimizer.report.result import REPORT, RESULT, read_result


def blame_merge(
    merge: Path,
    overrides: Sequence[str] = (),
    recipe: Path | None = None,
    out: Path | None = None,
    *,
    steps: int,
    checks: int,
    pairs: int,
) -> None:
    """Measures who costs a merge alignment, writes it down and shows it.

    Args:
        merge: a config, or a run folder, whose report gets it too.
        overrides: `key.path=value`, stronger than the config's.
        recipe: of the merge; by default a run's winner, of a config the uniform average.
        out: folder for what is found; by default the run's.
        steps: as `measuring.blame` takes it, and so are the others.

    Raises:
        GoodbunchError: the config, the run, the recipe or the sources are not as they must be.
    """
    opened = open_merge(merge, recipe, overrides)
    folder = out or (merge if merge.is_dir() else opened.config.run_folder)
    written = [folder / FILE, folder / PAGE]
    with held(folder, "a blame"):
        found = measuring.blame(opened, steps=steps, checks=checks, pairs=pairs)
        write_blame(folder / FILE, found)
        write_blame_page(folder / PAGE, found)
        if opened.winner and folder == merge:
            write_report(merge / REPORT, read_result(merge / RESULT), found)
            written.append(merge / REPORT)
    show(found)
    for path in written:
        console.print(f"  {path}", markup=False)
