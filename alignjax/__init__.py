"""alignjax: the executable literature of LLM alignment.

Every objective is one pure function on log-probabilities, which can be solved exactly on a table, audited, and
trained unchanged.
"""

from typing import TYPE_CHECKING, Any

from alignjax import envs as envs
from alignjax import games as games
from alignjax import multiobjective as multiobjective
from alignjax.best_of import best_of_n as best_of_n
from alignjax.best_of import bond_reward as bond_reward
from alignjax.checks import UnknownName as UnknownName
from alignjax.divergences import alpha_divergence as alpha_divergence
from alignjax.divergences import chi_square as chi_square
from alignjax.divergences import f_divergence as f_divergence
from alignjax.divergences import jeffreys as jeffreys
from alignjax.divergences import jensen_shannon as jensen_shannon
from alignjax.divergences import kl as kl
from alignjax.divergences import renyi as renyi
from alignjax.divergences import reverse_kl as reverse_kl
from alignjax.divergences import total_variation as total_variation
from alignjax.fitting import Fit as Fit
from alignjax.fitting import fit as fit
from alignjax.kl_regularised import gibbs as gibbs
from alignjax.kl_regularised import log_partition as log_partition
from alignjax.kl_regularised import objective as objective
from alignjax.kl_regularised import optimal_value as optimal_value
from alignjax.kl_regularised import suboptimality as suboptimality
from alignjax.logspace import geometric_mixture as geometric_mixture
from alignjax.logspace import tilt as tilt
from alignjax.monte_carlo import sampled_grad as sampled_grad
from alignjax.monte_carlo import sampled_loss as sampled_loss
from alignjax.population import population_grad as population_grad
from alignjax.population import population_loss as population_loss
from alignjax.problem import Problem as Problem
from alignjax.problem import bradley_terry as bradley_terry
from alignjax.record import Method as Method
from alignjax.record import NoOptimum as NoOptimum
from alignjax.record import Source as Source
from alignjax.samples import Samples as Samples

if TYPE_CHECKING:
    from alignjax.registry import METHODS as methods

__version__ = "0.1.0"

__all__ = [
    "Fit", "Method", "NoOptimum", "Problem", "Samples", "Source", "UnknownName", "alpha_divergence",
    "best_of_n", "bond_reward", "bradley_terry", "chi_square", "envs", "f_divergence", "fit", "games",
    "geometric_mixture", "gibbs", "jeffreys", "jensen_shannon", "kl", "log_partition", "methods", "multiobjective",
    "objective", "optimal_value", "population_grad", "population_loss", "renyi", "reverse_kl", "sampled_grad",
    "sampled_loss", "suboptimality", "tilt", "total_variation",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    # The mapping is computed by scanning objectives/, on first use: importing alignjax need not import every objective.
    if name == "methods":
        from alignjax.registry import METHODS

        globals()["methods"] = METHODS
        return METHODS
    raise AttributeError(f"module 'alignjax' has no attribute {name!r}")
