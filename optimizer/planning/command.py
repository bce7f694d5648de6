"""What `goodbunch plan` and `goodbunch datagen --dry-run` do."""

import json

from datagen.pipeline import open_inputs
from datagen.planning import plan as data_plan
from datagen.planning.hardware import find_machine, machine_at_hand
from datagen.planning.sizes import Size, size_of
from datagen.planning.telling import machine_line
from datagen.progress import console
from optimizer.config import Config
from optimizer.planning import telling
from optimizer.planning.plan import plan_search
from optimizer.planning.shape import shape_of


def plan_run(config: Config, gpu: str | None, as_json: bool) -> None:
    """Prints what data and search will take.

    Args:
        config: of the run.
        gpu: a device by name; by default this machine's.
        as_json: the search's part, in bytes and seconds.

    Raises:
        GoodbunchError: the device is not known, or something that the config names is not there.
    """
    machine = None if gpu is None else find_machine(gpu)
    inputs = open_inputs(config.bunch, config.data, config.seed)
    sizes, shape = sizes_of(config), shape_of(config.bunch.base)
    machine = machine or machine_at_hand()
    planned = plan_search(config, inputs, sizes, shape, machine)
    data = None
    if not planned.work.exact and config.engine.kind != "server":
        data = data_plan.plan(config.bunch, config.data, config.engine, inputs, sizes, machine)
    if as_json:
        print(json.dumps(telling.as_json(planned, data), indent=1))
        return
    if data is not None:
        data_plan.show(data)
    else:
        console.print(machine_line(machine), markup=False)
    telling.show(planned, data)


def plan_data(config: Config, gpu: str | None) -> None:
    """Prints what the data will take.

    Args:
        config: of the run.
        gpu: a device by name; by default this machine's.

    Raises:
        GoodbunchError: the device is not known, or something that the config names is not there.
    """
    machine = None if gpu is None else find_machine(gpu)
    inputs = open_inputs(config.bunch, config.data, config.seed)
    served = config.engine.kind == "server"
    sizes, place = ({}, None) if served else (sizes_of(config), machine or machine_at_hand())
    data_plan.show(data_plan.plan(config.bunch, config.data, config.engine, inputs, sizes, place))


def sizes_of(config: Config) -> dict[str, Size]:
    """Model -> what it weighs."""
    models = (config.bunch.models() | config.data.models()).values()
    return {model: size_of(model) for model in dict.fromkeys(models)}
