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
# # From the zoo to Llama-3
#
# The same commands merge models of 8B parameters. This notebook shows them and runs what needs no GPU: reading a
# config and planning. It downloads nothing.

# %%
import os
from pathlib import Path

if Path.cwd().name == "notebooks":
    os.chdir("..")
RUN = Path(os.environ.get("GOODBUNCH_RUN", "runs/demo"))  # a finished demo: `make demo`
OUT = Path(os.environ.get("GOODBUNCH_OUT", "runs/notebooks"))

# %% [markdown]
# ## 1. Say what is merged
#
# `configs/papers` has both papers' bunches. For models of your own:
#
# ```bash
# goodbunch init my.yaml --base meta-llama/Meta-Llama-3-8B --expert aligned=meta-llama/Meta-Llama-3-8B-Instruct \
#     --expert medicine=instruction-pretrain/medicine-Llama3-8B --topics medicine=anatomy,pharmacology --gpu h100
# ```
#
# Licences are accepted on the hub, `hf auth login` is done once.

# %%
import optimizer

path = "configs/papers/mergealign/medicine.yaml"
config = optimizer.load_config(path)
config.bunch.models() | config.data.models()

# %% [markdown]
# ## 2. Does it fit, and how long does it take
#
# `goodbunch plan my.yaml --gpu h100`: by headers of files that are here, else by names. Floors by data sheets,
# upper bounds of trials.

# %%
from optimizer.cli import app

app(["plan", path, "--gpu", "h100"], standalone_mode=False)

# %% [markdown]
# What changes against the zoo:
#
# | key | zoo | 8B | why |
# |---|---|---|---|
# | `engine.dtype`, `merge.dtype` | float32 | bfloat16 | memory |
# | `engine.memory` | 0.1 | 0.35 | vLLM's share; merges need the rest |
# | `search.descent.checkpointing` | false | true | activations are computed twice, so that 80 GB are enough |
# | `merge.residency` | device | device, host or disk | where sources are kept |
# | `data.test` | 0 | 0.2 | the zoo has ground truth, real models have not |
#
# ## 3. Write data, search, judge (on a GPU)
#
# ```bash
# goodbunch datagen my.yaml
# goodbunch search my.yaml                                    # resumes after anything
# goodbunch search my.yaml --executor ray --workers 8         # on many GPUs
# goodbunch evaluate runs/my --against aligned --require "safety>=0.95" --require "over_refusal<=0.05"
# ```
#
# ## 4. Serve
#
# ```bash
# vllm serve runs/my/merged
# ```
