"""Several objectives at once: PAMA's closed form, the minimum-norm point, rival combiners, fronts and their measures.

Objectives are the last axis of tables (`[..., M]`, as in `Samples.rewards`) and the first one of every leaf of a pytree
of gradients. Objectives are maximised.
"""

from alignjax.multiobjective.advantages import noon as noon
from alignjax.multiobjective.advantages import pama as pama
from alignjax.multiobjective.advantages import pama_batch as pama_batch
from alignjax.multiobjective.advantages import pama_gram as pama_gram
from alignjax.multiobjective.advantages import pama_token as pama_token
from alignjax.multiobjective.combiners import Combined as Combined
from alignjax.multiobjective.combiners import cagrad as cagrad
from alignjax.multiobjective.combiners import chebyshev as chebyshev
from alignjax.multiobjective.combiners import linear as linear
from alignjax.multiobjective.combiners import mgda as mgda
from alignjax.multiobjective.combiners import pcgrad as pcgrad
from alignjax.multiobjective.fronts import Front as Front
from alignjax.multiobjective.fronts import dominates as dominates
from alignjax.multiobjective.fronts import front_gap as front_gap
from alignjax.multiobjective.fronts import hypervolume as hypervolume
from alignjax.multiobjective.fronts import nondominated as nondominated
from alignjax.multiobjective.fronts import pareto_front as pareto_front
from alignjax.multiobjective.fronts import simplex_weights as simplex_weights
from alignjax.multiobjective.minimum_norm import gram_matrix as gram_matrix
from alignjax.multiobjective.minimum_norm import kkt_residual as kkt_residual
from alignjax.multiobjective.minimum_norm import min_norm as min_norm
from alignjax.multiobjective.minimum_norm import min_norm_of_gram as min_norm_of_gram
from alignjax.multiobjective.minimum_norm import stationarity as stationarity

__all__ = [
    "Combined", "Front", "cagrad", "chebyshev", "dominates", "front_gap", "gram_matrix", "hypervolume", "kkt_residual",
    "linear", "mgda", "min_norm", "min_norm_of_gram", "nondominated", "noon", "pama", "pama_batch", "pama_gram",
    "pama_token", "pareto_front", "pcgrad", "simplex_weights", "stationarity",
]  # fmt: skip
