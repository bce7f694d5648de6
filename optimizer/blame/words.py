"""What was found, in two sentences."""

from collections.abc import Sequence

from optimizer.blame.result import Ablation, Correlation, Culprit, Side, TermRow

#: A loss that changes by less than this share of itself stays as it is.
_NOTHING = 0.01

#: From this share of right answers on in every alignment term, little alignment is lost.
_KEPT = 0.98

#: Below this rank correlation with what is measured, what the gradient predicts should not be relied on.
_DOUBTFUL = 0.5


def words(terms: Sequence[TermRow], culprit: Culprit | None, correlation: Correlation) -> list[str]:
    """Who costs alignment, and what the same cells give in expertise.

    Args:
        terms: with the merge's losses and shares.
        culprit: with both ablations, measured.
        correlation: of what was predicted and measured in single layers.
    """
    if culprit is None:
        return [
            "No expert costs the merge alignment in any layer, to first order; there is nothing to take out for its "
            "sake."
        ]
    where = f"{culprit.expert}, {_layers(culprit.layers)}{f' ({culprit.module})' if culprit.module else ''}"
    aligned = [f"{term.name} {term.share:.0%}" for term in terms if term.side == "alignment"]
    kept = all(term.share >= _KEPT for term in terms if term.side == "alignment")
    most = "most" if culprit.share > 0.5 else "the largest part"
    begin = f"Little is lost (right answers {', '.join(aligned)}); {most}" if kept else most.capitalize()
    cost = (
        f"{begin} of what costs the merge alignment comes from {where}: {culprit.share:.0%} of it to first order, and "
        f"without it the alignment loss {_told(culprit.zero, 'alignment', terms)}."
    )
    parent = _told(culprit.aligned, "expertise", terms)
    gain = (
        f"What it gives: without it the expertise loss {_told(culprit.zero, 'expertise', terms)}; if that place is the "
        f"aligned parent's instead, it {parent}."
    )
    known = correlation.alignment
    if known is not None and known < _DOUBTFUL:
        gain += (
            f" What is predicted is doubtful here: in single layers its rank correlation with the truth is {known:.2f}."
        )
    return [cost, gain]


def _told(ablation: Ablation, side: Side, terms: Sequence[TermRow]) -> str:
    """How a side's loss changes, and whatever shares of right answers change with it."""
    own = [term for term in terms if term.side == side]
    change = ablation.alignment if side == "alignment" else ablation.expertise
    before = sum(term.weight * term.merge for term in own) / sum(term.weight for term in own)
    after, predicted = before + change.measured, before + change.predicted
    moved = "stays" if abs(change.measured) < _NOTHING * before else "falls" if change.measured < 0 else "rises"
    told = f"stays at {before:.3g}" if moved == "stays" else f"{moved} from {before:.3g} to {after:.3g}"
    both = {term.name: (f"{term.share:.0%}", f"{ablation.shares[term.name]:.0%}") for term in own}
    shares = [f"{name} {share} to {then}" for name, (share, then) in both.items() if share != then]
    return f"{told} (predicted {predicted:.3g}; right answers {', '.join(shares) or 'as before'})"


def _layers(names: Sequence[str]) -> str:
    """Layers by their numbers, then what is outside of them."""
    numbers = [name.removeprefix("layer ") for name in names if name.startswith("layer ")]
    decoder = [f"layer{'s' if len(numbers) > 1 else ''} {_listed(numbers)}"] if numbers else []
    return _listed([*decoder, *(f"the {name}" for name in names if not name.startswith("layer "))])


def _listed(names: Sequence[str]) -> str:
    return " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
