"""What a search holds is given back once it is over, since vLLM needs the device."""

import weakref
from pathlib import Path

from optimizer.engines.banks import forget_bank, open_bank
from optimizer.studies import evaluators_of, open_run
from tests.optimizer.tiny_zoo import TinyZoo


def test_an_engine_and_its_bank_are_gone(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    config = tiny_zoo.config(tmp_path)
    bunch, space, terms = open_run(config)
    evaluator = evaluators_of(config, bunch, space, terms)["search"]
    search = evaluator.problem.search
    point = space.constant(dict.fromkeys(space.experts, 0.5))
    evaluator.engine.gradient(point, *search.step_batch([0] * len(search.terms)))
    held = [
        weakref.ref(one) for one in (evaluator.engine, evaluator.engine.model, open_bank(config.bunch, config.merge))
    ]
    assert all(one() is not None for one in held)
    del evaluator
    forget_bank()
    assert [one() for one in held] == [None, None, None]
