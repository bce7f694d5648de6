"""mergekit configs as users write them, with `{base}`, `{a}` and `{b}` for folders of three layers."""

from typing import Any

import yaml

from tests.optimizer.export.families import Family

_SLERP = """
merge_method: slerp
base_model: {base}
slices:
  - sources:
      - {{model: {base}, layer_range: [0, 3]}}
      - {{model: {a}, layer_range: [0, 3]}}
parameters:
  t:
    - {{filter: self_attn, value: [0, 0.5, 0.3, 0.7, 1]}}
    - {{filter: mlp, value: [1, 0.5, 0.7, 0.3, 0]}}
    - value: 0.5
"""

_LAYERS = """
merge_method: task_arithmetic
base_model: {base}
slices:
""" + "".join(
    f"""  - sources:
      - {{{{model: {{base}}, layer_range: [{i}, {i + 1}]}}}}
      - {{{{model: {{a}}, layer_range: [{i}, {i + 1}], parameters: {{{{weight: [0.{i + 1}, 0.{i + 5}]}}}}}}}}
      - {{{{model: {{b}}, layer_range: [{i}, {i + 1}], parameters: {{{{weight: -0.{i + 1}}}}}}}}}
"""
    for i in range(3)
)

_TIES = """
merge_method: ties
base_model: {base}
models:
  - model: {a}
    parameters:
      density: [1, 0.7, 0.1]
      weight: 1.0
  - model: {b}
    parameters:
      density: 0.5
      weight: [0, 0.3, 0.7, 1]
  - model: {base}
parameters:
  normalize: [{{filter: mlp, value: true}}, {{value: false}}]
  lambda: 0.9
  int8_mask: true
"""

#: Methods that go by the element: every one of their results is mergekit's to the bit in float32.
ELEMENTWISE = {
    "linear": """
merge_method: linear
models:
  - {{model: {a}, parameters: {{weight: 0.3}}}}
  - {{model: {base}, parameters: {{weight: 0.5}}}}
  - {{model: {b}, parameters: {{weight: [{{filter: q_proj, value: 0.9}}, {{value: [0.1, 0.8]}}]}}}}
""",
    "linear_sum": """
merge_method: linear
base_model: {base}
models:
  - {{model: {base}, parameters: {{weight: 0.3}}}}
  - {{model: {a}, parameters: {{weight: 0.3}}}}
  - {{model: {b}, parameters: {{weight: 0.4}}}}
parameters: {{normalize: false}}
tokenizer_source: base
""",
    "task_arithmetic": """
merge_method: task_arithmetic
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 0.5}}}}
  - {{model: {b}, parameters: {{weight: "7e-1"}}}}
tokenizer_source: base
""",
    "layers": _LAYERS,
    "ties": _TIES,
    "breadcrumbs": """
merge_method: breadcrumbs
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 0.5, density: 0.6, gamma: 0.05}}}}
  - {{model: {b}, parameters: {{weight: 0.7}}}}
parameters: {{density: 0.9, gamma: [0.01, 0.1]}}
""",
    "breadcrumbs_ties": """
merge_method: breadcrumbs_ties
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 0.5, density: 0.6, gamma: 0.05}}}}
  - {{model: {b}, parameters: {{weight: 0.7, density: 0.9}}}}
parameters: {{lambda: 1.5, normalize: true}}
""",
    "passthrough": """
merge_method: passthrough
slices:
  - sources: [{{model: {a}, layer_range: [0, 1]}}]
    parameters: {{scale: [{{filter: o_proj, value: 0.0}}, {{value: 1.0}}]}}
  - sources: [{{model: {b}, layer_range: [1, 3]}}]
""",
}

#: Methods that go by angles, whose sums over a tensor may round otherwise.
BY_ANGLE = {
    "slerp": _SLERP,
    "nuslerp": """
merge_method: nuslerp
models:
  - {{model: {a}, parameters: {{weight: 0.5}}}}
  - {{model: {b}, parameters: {{weight: 0.8}}}}
""",
    "nuslerp_rows": """
merge_method: nuslerp
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 0.5}}}}
  - {{model: {b}, parameters: {{weight: 0.8}}}}
parameters: {{nuslerp_flatten: false}}
""",
    "karcher": """
merge_method: karcher
models: [{{model: {base}}}, {{model: {a}}}, {{model: {b}}}]
parameters: {{max_iter: 20}}
""",
    "multislerp": """
merge_method: multislerp
base_model: {base}
models:
  - {{model: {a}, parameters: {{weight: 0.5}}}}
  - {{model: {b}, parameters: {{weight: 0.8}}}}
""",
    "model_stock": """
merge_method: model_stock
base_model: {base}
models: [{{model: {a}}}, {{model: {b}}}]
""",
    "sce": """
merge_method: sce
base_model: {base}
models: [{{model: {a}}}, {{model: {b}}}]
parameters: {{select_topk: 0.7}}
""",
    "arcee_fusion": """
merge_method: arcee_fusion
base_model: {base}
models: [{{model: {base}}}, {{model: {a}}}]
""",
    "nearswap": """
merge_method: nearswap
base_model: {base}
models: [{{model: {base}}}, {{model: {a}}}]
parameters: {{t: 0.001}}
""",
}

FILES = ELEMENTWISE | BY_ANGLE


def config(name: str, family: Family, **keys: Any) -> dict[str, Any]:
    """A config over the models of a family.

    Args:
        keys: that stand in the file besides.
    """
    values: dict[str, Any] = yaml.safe_load(FILES[name].format(base=family["base"], a=family["a"], b=family["b"]))
    return values | keys
