"""What `goodbunch init` does."""

import sys
from pathlib import Path

from omegaconf import OmegaConf

from datagen.errors import ConfigError
from datagen.files import write_text
from datagen.planning.hardware import find_machine, machine_at_hand
from datagen.progress import console
from optimizer.config import Config
from optimizer.loading import load_config
from optimizer.starting.checking import check_models, fit
from optimizer.starting.drafting import draft, validated
from optimizer.starting.wishes import Wishes, ask
from optimizer.starting.writing import written


def start(path: Path, wishes: Wishes, *, run: str = "", like: Path | None = None, force: bool = False) -> Config:
    """Writes a config of what is wanted, after its models were looked at, and says how to go on.

    Args:
        path: of the config.
        wishes: what was said by flags; on a terminal the rest is asked for.
        run: folder for everything; by default `runs/` and the config's name.
        like: a config to begin from.
        force: whether a file that is there is replaced.

    Raises:
        GoodbunchError: something needed was not said, or the models do not fit.
    """
    if path.exists() and not force:
        raise ConfigError(f"{path}: a new config must not replace another, but is there; name another, or add --force")
    if like is None and sys.stdin.isatty():
        wishes = ask(wishes)
    machine = find_machine(wishes.gpu) if wishes.gpu else machine_at_hand()
    config = draft(wishes, run or f"runs/{path.stem}", like)
    notes = list(check_models(config))
    overrides, remark = fit(config, machine)
    if overrides:
        values = OmegaConf.create(config.model_dump(mode="json", exclude_unset=True))
        config = validated(OmegaConf.to_container(OmegaConf.merge(values, OmegaConf.from_dotlist(overrides))))
    write_text(path, written(config, path))
    if load_config(path) != config:
        raise ConfigError(f"{path}: what was written must be what was meant, but reads otherwise; check texts with ${{")
    for note in filter(None, [*notes, remark]):
        console.print(f"note: {note}", markup=False)
    console.print(f"{path} merges {', '.join(config.bunch.models())}. Next:", markup=False)
    console.print(f"  goodbunch datagen {path}\n  goodbunch search {path}", markup=False)
    return config
