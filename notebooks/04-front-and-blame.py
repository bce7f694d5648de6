# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Reading a Pareto front and a blame map
#
# How much expertise does alignment cost? One search answers with a front: several merges, of which none is better
# in everything. A short one here, on the demo's data; about a minute on a CPU.

# %%
import os
from pathlib import Path

if Path.cwd().name == "notebooks":
    os.chdir("..")
RUN = Path(os.environ.get("GOODBUNCH_RUN", "runs/demo"))  # a finished demo: `make demo`
OUT = Path(os.environ.get("GOODBUNCH_OUT", "runs/notebooks"))

# %%
import yaml

import optimizer

TERMS = ("safety", "borderline", "numbers", "medicine", "finance")
PLACES = [f"vars.zoo={RUN / 'zoo'}", f"data.folder={RUN / 'data'}", "merge.groups=module"]
values = yaml.safe_load(Path("configs/demo.yaml").read_text())
values["search"] = {
    "pareto": {"alignment": ["safety", "borderline"], "expertise": ["numbers", "medicine", "finance"]},
    "descent": {"trials": 1, "steps": 64, "rate": 0.2, "sweep": {"per_axis": 3, "ratio": 30, "steps": 16}},
}
OUT.mkdir(parents=True, exist_ok=True)
(OUT / "front.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
small = ["evaluation.rows=24", "evaluation.samples=1", *(f"objective.{term}.examples=32" for term in TERMS)]
config = optimizer.load_config(OUT / "front.yaml", [f"run={OUT / 'front'}", *PLACES, *small])
result = optimizer.search(config)

# %% [markdown]
# Both objectives are losses, so down and left is better. Sources and naive merges are trials too.

# %%
trials = [trial for trial in result.trials if trial.objectives]
front = sorted(
    (trial.objectives["alignment"], trial.objectives["expertise"], trial.number) for trial in trials if trial.front
)
for alignment, expertise, number in front:
    print(f"trial {number:3}: alignment {alignment:.3f}, expertise {expertise:.3f}")

# %%
import matplotlib.pyplot as plt

figure, axes = plt.subplots(figsize=(5, 4))
axes.scatter(
    [trial.objectives["alignment"] for trial in trials],
    [trial.objectives["expertise"] for trial in trials],
    c="lightgrey",
)
axes.plot([one[0] for one in front], [one[1] for one in front], "o-")
axes.set(xlabel="loss of alignment", ylabel="loss of expertise", xscale="log", yscale="log")

# %% [markdown]
# Any point is a model: `goodbunch merge RUN --trial N --out FOLDER`, to the bit what was evaluated.

# %%
_, _, number = front[0]
optimizer.merge(config.run, OUT / "most-aligned", trial=number, force=True)

# %% [markdown]
# ## Who is to blame
#
# Of the uniform average, which loses all refusals: which layers of which expert cost it? First-order values rank
# layers well and misjudge sizes, so the top ones are ablated beside them.

# %%
from optimizer.blame.measuring import blame
from optimizer.blame.merges import open_merge

fewer = [f"objective.{term}.examples=16" for term in TERMS]
found = blame(open_merge(Path("configs/demo.yaml"), overrides=[f"run={OUT / 'blame'}", *PLACES, *fewer]), checks=2)

# %%
from optimizer.blame.tables import show

show(found)
