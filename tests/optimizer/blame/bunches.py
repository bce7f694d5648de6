"""Merges to blame on tiny random models, and a hand-made result."""

from pathlib import Path
from typing import Any

import yaml
from transformers import AutoModelForCausalLM

from optimizer.blame.merges import Merge, open_merge
from optimizer.blame.result import (
    Ablation,
    Attribution,
    Blame,
    Change,
    Coalitions,
    Correlation,
    Culprit,
    Similarity,
    TermRow,
)
from tests.optimizer.tiny_zoo import TinyZoo


def write_config(zoo: TinyZoo, run: Path, **changes: Any) -> Path:
    """A config on a tiny zoo as a file."""
    path = run / "config.yaml"
    run.mkdir(parents=True, exist_ok=True)
    values = zoo.config(run, **changes).model_dump(mode="json", exclude_defaults=True)
    path.write_text(yaml.safe_dump(values, sort_keys=False))
    return path


def merge_of(zoo: TinyZoo, run: Path, **changes: Any) -> Merge:
    """The uniform average of a tiny zoo's experts."""
    return open_merge(write_config(zoo, run, **changes))


def negate(zoo: TinyZoo, of: str, tensors: str, out: Path) -> Path:
    """Writes an expert that is the base but in some tensors, where it undoes another's task vector twice over."""
    base, other = (AutoModelForCausalLM.from_pretrained(zoo.folder / name) for name in ("base", of))
    for name, parameter in base.named_parameters():
        if tensors in name:
            parameter.data -= 2 * (other.get_parameter(name).data - parameter.data)
    base.save_pretrained(out)
    zoo.bunch.base.tokenizer().save_pretrained(out)
    return out


def ablation(expert: str, to: str, alignment: float, expertise: float, **shares: float) -> Ablation:
    return Ablation(
        expert=expert,
        groups=["layer 1"],
        to=to,
        alignment=Change(predicted=alignment / 2, measured=alignment),
        expertise=Change(predicted=expertise / 2, measured=expertise),
        shares=shares,
    )


TERMS = [
    TermRow(name="safety", side="alignment", weight=3, rows=9, base=4.0, merge=1.0, share=0.0),
    TermRow(name="borderline", side="alignment", weight=1, rows=9, base=0.0, merge=0.2, share=1.0),
    TermRow(name="maths", side="expertise", weight=1, rows=9, base=2.0, merge=0.1, share=0.9),
]

CULPRIT = Culprit(
    expert="bad",
    layers=["layer 1"],
    module="mlp",
    share=0.75,
    zero=ablation("bad", "zero", -0.7, 0.3, safety=1.0, borderline=1.0, maths=0.5),
    aligned=ablation("", "aligned", -0.7, 0.0, safety=1.0, borderline=1.0, maths=0.9),
)


def hand_made(merge: str = "uniform", winner: bool = False) -> Blame:
    """Two experts in one layer."""
    table = Attribution(
        groups=["embeddings", "layer 1"],
        terms={"safety": [[-2.0, -1.0], [0.1, 0.5]]},
        alignment=[[-2.0, -1.0], [0.1, 0.5]],
        expertise=[[0.0, 0.1], [-0.3, 0.0]],
    )
    halves = [[[1.0, 0.5], [0.5, 1.0]]] * 2
    return Blame(
        merge=merge,
        winner=winner,
        split="validation",
        experts=["aligned", "bad"],
        aligned="aligned",
        terms=TERMS,
        layers=table,
        modules=table,
        integrated=None,
        checks=[CULPRIT.zero, CULPRIT.aligned],
        correlation=Correlation(alignment=0.9, expertise=None),
        culprit=CULPRIT,
        shapley=Coalitions(
            exact=True,
            evaluated=4,
            alignment=[-3.5, 0.7],
            expertise=[0.1, -2.0],
            alignment_errors=[0.0, 0.0],
            expertise_errors=[0.0, 0.0],
        ),
        similarity=Similarity(
            layers=["embeddings", "layer 1"],
            norms=[[3.0, 1.0], [4.0, 1.0]],
            cosines=halves,
            models=["base", "aligned", "bad", "merge"],
            streams=["layer 0", "layer 1"],
            rows=9,
            cka=[[[1.0] * 4] * 4] * 2,
        ),
        words=["<first>", "second"],
        seconds=1.0,
        versions={},
    )
