"""Whether the models of a config belong together, and what of it must change for the machine it will run on."""

from collections.abc import Iterator
from pathlib import Path

from datagen.errors import ConfigError
from datagen.pipeline import open_inputs
from datagen.planning.hardware import Machine
from optimizer.bunch import open_bunch, open_sources
from optimizer.config import Config
from optimizer.planning.command import sizes_of
from optimizer.planning.plan import plan_search
from optimizer.planning.shape import shape_of


def check_models(config: Config) -> Iterator[str]:
    """Opens the models that are here and checks that they fit; yields what could not be checked yet, a line each.

    Raises:
        BunchError: some are damaged or do not fit, or a name is none.
        ConfigError: something named besides models is not there.
    """
    sizes = sizes_of(config)
    here = {name: model for name, model in config.bunch.models().items() if sizes[model].here}
    if len(here) == len(config.bunch.models()):
        open_bunch(config.bunch)
    elif "base" in here and len(here) > 1:
        open_sources(here, "base", chat=False)
    away = [model for model in sizes if not sizes[model].here]
    if away:
        yield f"not here yet, so not checked: {', '.join(away)}; `hf download NAME` and repeat, or let datagen do it"
    if config.evaluation.test:
        _check_tests(config)


def fit(config: Config, machine: Machine) -> tuple[list[str], str]:
    """What must be changed for the search to fit a machine.

    Returns:
        Overrides, and what there is to say; no overrides and a remark if the machine is too small, or sizes unknown.
    """
    sizes = sizes_of(config)
    if unknown := [model for model in config.bunch.models().values() if sizes[model].parameters is None]:
        return [], f"the size of {unknown[0]} is not known, so whether it fits is not either"
    inputs = open_inputs(config.bunch, config.data, config.seed)
    planned = plan_search(config, inputs, sizes, shape_of(config.bunch.base), machine)
    overrides = planned.cure()
    if overrides is None:
        return [], f"{machine.device.name} is too small: {planned.remedy()}"
    return overrides, f"to fit {machine.device.name}: {' '.join(overrides)}" if overrides else ""


def _check_tests(config: Config) -> None:
    missing = [kind for kind in config.kinds if not (config.test_folder / f"{kind}.jsonl").is_file()]
    if missing:
        raise ConfigError(
            f"{Path(config.evaluation.test)}: test rows must be there for every kind, but {missing[0]}.jsonl is not; "
            f"add it, or drop evaluation.test and set data.test=0.2"
        )
