"""A blame as tables of text, for the terminal and for the page."""

from datagen.progress import console
from optimizer.blame.result import Blame, Change
from optimizer.report.tables import text_table


def show(blame: Blame) -> None:
    """Prints what was found."""
    if len(ablations := ablation_table(blame)) > 1:
        title = f"Change of the {blame.split} losses of {blame.merge} without a layer of an expert: predicted, measured"
        console.print(text_table(title, ablations))
    console.print(text_table("Experts as wholes: by how much each raises a loss (Shapley)", expert_table(blame)))
    for sentence in blame.words:
        console.print(sentence, markup=False)


def ablation_table(blame: Blame) -> list[list[str]]:
    """Every ablation, its heading first; negative is a loss that falls."""
    table = [["expert", "layer", "set to", "alignment", "", "expertise", ""]]
    for one in blame.checks:
        changes = [*_both(one.alignment), *_both(one.expertise)]
        table.append([one.expert or "all", ", ".join(one.groups), _to(blame, one.to), *changes])
    known = [blame.correlation.alignment, blame.correlation.expertise]
    if len(table) > 1:
        told = [cell for rank in known for cell in ("", "" if rank is None else f"{rank:.2f}")]
        table.append(["", "", "rank correlation", *told])
    return table


def expert_table(blame: Blame) -> list[list[str]]:
    """Every expert as a whole, the heading first."""
    found, alike = blame.shapley, blame.similarity
    aligned, merge = blame.experts.index(blame.aligned), len(alike.models) - 1
    heads = ["alignment", "expertise", "norm", f"cosine with {blame.aligned}", "CKA with the merge"]
    table = [["expert", *heads]]
    for i, expert in enumerate(blame.experts):
        norm = sum(row[i] ** 2 for row in alike.norms) ** 0.5
        cosine = sum(layer[i][aligned] for layer in alike.cosines) / len(alike.cosines)
        seen = sum(layer[alike.models.index(expert)][merge] for layer in alike.cka) / len(alike.cka)
        values = [
            _with_error(found.alignment[i], found.alignment_errors[i], found.exact),
            _with_error(found.expertise[i], found.expertise_errors[i], found.exact),
        ]
        table.append([expert, *values, f"{norm:.3g}", f"{cosine:.2f}", f"{seen:.2f}"])
    return table


def _both(change: Change) -> list[str]:
    return [f"{change.predicted:+.3g}", f"{change.measured:+.3g}"]


def _to(blame: Blame, to: str) -> str:
    return "0" if to == "zero" else f"{blame.aligned}'s"


def _with_error(value: float, error: float, exact: bool) -> str:
    return f"{value:+.3g}" if exact else f"{value:+.3g} ± {error:.1g}"
