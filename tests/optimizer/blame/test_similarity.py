"""Similarities are those of their definitions."""

from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from optimizer.blame.activations import centred_gram, cka, residuals, sample
from optimizer.blame.sides import load_sides
from optimizer.blame.similarity import task_vector_similarity
from optimizer.engines.banks import bank_of
from optimizer.engines.scoring import ScoringEngine
from optimizer.merging.space import Space
from tests.optimizer.blame.bunches import merge_of
from tests.optimizer.tiny_zoo import EXPERTS, TinyZoo


def test_norms_and_cosines_of_task_vectors(tiny_zoo: TinyZoo) -> None:
    space = Space.of(tiny_zoo.bunch, "layer")
    found = task_vector_similarity(tiny_zoo.bunch, space)
    states = {
        name: AutoModelForCausalLM.from_pretrained(tiny_zoo.folder / name).state_dict() for name in ("base", *EXPERTS)
    }
    for place, group in enumerate(space.groups):
        names = [name for i, name in enumerate(space.tensors) if space.shares[place, i]]
        vectors = [
            torch.cat([(states[expert][name] - states["base"][name]).flatten() for name in names]).double()
            for expert in EXPERTS
        ]
        for i, one in enumerate(vectors):
            assert found.norms[place, i] == pytest.approx(one.norm().item(), rel=1e-6), group
            for j, other in enumerate(vectors):
                wanted = torch.nn.functional.cosine_similarity(one, other, dim=0).item()
                assert found.cosines[place, i, j] == pytest.approx(wanted, abs=1e-6), group


FEATURES = torch.randn(40, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
OTHERS = FEATURES[:, :3] @ torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def test_cka_of_a_model_with_itself_is_1() -> None:
    assert cka(centred_gram(FEATURES), centred_gram(FEATURES)) == pytest.approx(1.0)


def test_cka_does_not_see_rotations_scales_and_shifts() -> None:
    turned, _ = torch.linalg.qr(torch.randn(7, 7, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    changed = 3.5 * FEATURES @ turned + 11.0
    assert cka(centred_gram(FEATURES), centred_gram(changed)) == pytest.approx(1.0)
    plain = cka(centred_gram(FEATURES), centred_gram(OTHERS))
    assert 0.1 < plain < 0.99
    assert cka(centred_gram(changed), centred_gram(OTHERS)) == pytest.approx(plain)


def test_cka_of_what_has_nothing_in_common_is_near_0() -> None:
    # Wider than there are rows, where the biased estimate is near 1.
    one, other = (torch.randn(60, 600, generator=torch.Generator().manual_seed(seed)).double() for seed in (3, 4))
    assert abs(cka(centred_gram(one), centred_gram(other))) < 0.1
    centred = [(each - each.mean(0)) @ (each - each.mean(0)).T for each in (one, other)]
    biased = (centred[0] * centred[1]).sum() / (centred[0].norm() * centred[1].norm())
    assert biased > 0.8


def test_inner_products_are_the_u_statistic_of_hsic() -> None:
    # Song et al. 2012: the mean of K_ij (L_ij + L_qr - 2 L_iq) over all four distinct rows.
    rows = 7
    one, other = FEATURES[:rows], OTHERS[:rows]
    k, el = one @ one.T, other @ other.T
    each = [(k[i, j] * (el[i, j] + el[q, r] - 2 * el[i, q])).item() for i, j, q, r in permutations(range(rows), 4)]
    found = (centred_gram(one) * centred_gram(other)).sum().item() / (rows * (rows - 3))
    assert found == pytest.approx(np.mean(each))


def test_residuals_are_those_of_the_model_alone(tiny_zoo: TinyZoo, tmp_path: Path) -> None:
    merge = merge_of(tiny_zoo, tmp_path)
    examples = sample(load_sides(merge.config, merge.bunch))
    engine = ScoringEngine(merge.bunch, merge.space, bank_of(merge.bunch, merge.config.merge))
    engine.load("math")
    found = residuals(engine, examples)
    model = AutoModelForCausalLM.from_pretrained(tiny_zoo.folder / "math").eval()
    assert found.shape == (2, len(examples), 16)
    for row, (prompt, _) in enumerate(examples):
        with torch.no_grad():
            streams = model(torch.tensor([prompt]), output_hidden_states=True).hidden_states[1:]
        torch.testing.assert_close(found[:, row].float(), torch.stack(streams)[:, 0, -1], rtol=1e-4, atol=1e-4)
