"""Every merge method, by name: a method is a file here, or a line of a table in one."""

from optimizer.merging.methods.arcee_fusion import ARCEE_FUSION
from optimizer.merging.methods.averages import LINEAR, LM_COCKTAIL, PASSTHROUGH
from optimizer.merging.methods.base import Method
from optimizer.merging.methods.model_stock import MODEL_STOCK
from optimizer.merging.methods.nearswap import NEARSWAP
from optimizer.merging.methods.sce import SCE
from optimizer.merging.methods.spheres import KARCHER, MULTISLERP, NUSLERP, SLERP
from optimizer.merging.methods.task_vectors import TASK_VECTOR_METHODS
from optimizer.registry import Registry

METHODS = Registry[Method](
    "merge method",
    [
        *TASK_VECTOR_METHODS,
        LINEAR,
        LM_COCKTAIL,
        PASSTHROUGH,
        SLERP,
        NUSLERP,
        MULTISLERP,
        KARCHER,
        MODEL_STOCK,
        SCE,
        ARCEE_FUSION,
        NEARSWAP,
    ],
)

__all__ = ["METHODS", "Method"]
