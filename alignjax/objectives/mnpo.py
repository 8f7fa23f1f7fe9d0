r"""MNPO: one regression on pairs with many bases, its three methods, and the methods it contains (Wu et al., 2025).

The paper's Proposition 1 says that the loss on labels is the loss on win-rates plus a constant. Two things are amiss.
Its eta is the step in Eq. 10 and the inverse step in Eq. 15: a label's target has to be half of the step. And the
opponent in the minimiser's exponent is the law of the pairs, whatever the bases are: the two losses agree if every
opponent is that law, and not for distinct ones.
"""

import dataclasses
import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Array, Float

from alignjax import checks, feedback, laws
from alignjax.equations import base_score, bernoulli_kl, detached_margin, pair, square
from alignjax.logspace import ArrayLike, Scalar, as_float
from alignjax.pair_optima import squared_optimum, tilted_bases
from alignjax.problem import Problem
from alignjax.record import Method, Source, keyword_only
from alignjax.samples import Samples

Pair = Float[Array, "*batch 2"]
Pairs = Float[Array, "J *batch 2"]
Preference = Float[Array, "*batch 2 2"]

DISTANCES: dict[str, Callable[..., Array]] = {"squared": square, "logistic": bernoulli_kl}
"""Distance of a margin from its target: squared, or the backward Kullback-Leibler divergence of two coins."""


def multi_base_pair(
    logp: Pair,
    bases: Sequence[ArrayLike] | Array,
    weights: Sequence[Scalar] | Array,
    preference: Preference | None = None,
    *,
    target: ArrayLike,
    distance: str = "squared",
    scale: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    r"""Distance of a margin of log-ratios to several bases from a target: what the family has in common.

        l(0, 1) = D(c (x_0 - x_1), t),    x = log pi - sum_j w_j log b_j
        loss    = P l(0, 1) + (1 - P) l(1, 0),    P = preference[..., 0, 1]; without it l(0, 1)

    `bases` J arrays `[..., 2]` or one `[J, ..., 2]`, J `weights`, `scale` = c. `distance`: "squared", (m - t)^2, or
    "logistic", KL(Ber(sigmoid(t)) || Ber(sigmoid(m))), which is -log sigmoid(m) at `target` = inf. A target that is a
    difference of the responses' own feedback `[...]` already has a sign, and goes without a preference.
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 17 and Table 1.
    """
    link = DISTANCES[checks.member("distance", distance, DISTANCES)]
    score = as_float(scale) * base_score(logp, bases, weights)
    return pair(score, functools.partial(link, target=target), preference)


def _equal(count: int) -> tuple[float, ...]:
    return (1.0 / count,) * count


def _with_history(
    ref_logp: Array, past: Array, step_size: Scalar, beta: Scalar, history_decay: Scalar
) -> dict[str, Any]:
    """Reference and history, with the weights h beta and (1 - h beta) d^j / sum_k d^k."""
    pull = as_float(step_size) * as_float(beta)
    decay = [as_float(history_decay) ** age for age in range(len(past))]
    return {"bases": (ref_logp, *past), "weights": (pull, *((1 - pull) * one / sum(decay) for one in decay))}


def mnpo(
    logp: Pair, opponent_logp: Pairs, preference: Preference | None = None, *, step_size: Scalar = 1.0
) -> Float[Array, "*batch"]:
    r"""Multiplayer Nash preference optimisation on labels: the margin over the mean opponent, from half the step.

        l(0, 1) = (x_0 - x_1 - h / 2)^2,    x = log pi - (1 / J) sum_j log pi_j
        loss    = P l(0, 1) + (1 - P) l(1, 0),    P = preference[..., 0, 1]; without it response 0 is the chosen one

    `opponent_logp` `[J, ..., 2]`: the other J = n - 1 players. `step_size` = h > 0 is the eta of the paper's Eq. 10 and
    the inverse of that in Eq. 15. The minimiser has the law of the pairs as its opponent, not the mean over the
    players that Eq. 10 has: the paper's Proposition 1 (labels are win-rates up to a constant) is false as stated, and
    true for h / 2 where every opponent is the law of the pairs. There is no reference in it, hence no `beta`.
    Worked number: logp = opponent_logp gives h^2 / 4.
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 15.
    """
    return multi_base_pair(logp, opponent_logp, _equal(len(opponent_logp)), preference, target=as_float(step_size) / 2)


def mnpo_soft(logp: Pair, opponent_logp: Pairs, win_rate: Pair, *, step_size: Scalar = 1.0) -> Float[Array, "*batch"]:
    r"""Multiplayer Nash preference optimisation on win-rates against the opponents.

        loss = (x_0 - x_1 - h sg[q_0 - q_1])^2,    x = log pi - (1 / J) sum_j log pi_j,    q = (1 / J) sum_j P(y > pi_j)

    `win_rate` = q is the win-rate against the arithmetic mean of the opponents, or against one of them at random. Its
    minimiser is the update of Eq. 10 for every law of the pairs with full support (the paper's Lemma 1).
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 14.
    """
    target = as_float(step_size) * detached_margin(win_rate)
    return multi_base_pair(logp, opponent_logp, _equal(len(opponent_logp)), target=target)


def td_mnpo(
    logp: Pair,
    ref_logp: Pair,
    opponent_logp: Pairs,
    preference: Preference | None = None,
    *,
    step_size: Scalar = 1.0,
    beta: Scalar = 0.1,
    history_decay: Scalar = 1.0,
) -> Float[Array, "*batch"]:
    r"""Time-dependent MNPO: the opponents are past policies, and the reference pulls.

        l(0, 1) = (x_0 - x_1 - h / 2)^2,    x = log pi - h beta log ref - (1 - h beta) sum_j w_j log pi_{t-j}
        loss    = P l(0, 1) + (1 - P) l(1, 0),    P = preference[..., 0, 1]; without it response 0 is the chosen one

    `opponent_logp` `[J, ..., 2]`: the history, the newest first, with the weights w_j = d^j / sum_k d^k, d =
    `history_decay`. `step_size` = h > 0 is the inverse of the official code's eta, and h beta its `ratio`. With a
    history that has collapsed the fixed point is the regularised Nash equilibrium at tau = beta. One policy in the
    history is `inpo`. (The code takes per-token means of the log-probs; these are sums.)
    Worked number: logp = ref_logp = opponent_logp gives h^2 / 4.
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 17, with the target of its official code.
    """
    bases = _with_history(ref_logp, opponent_logp, step_size, beta, history_decay)
    return multi_base_pair(logp, **bases, preference=preference, target=as_float(step_size) / 2)


def ht_mnpo(
    logp: Pair,
    ref_logp: Pair,
    opponent_logp: Pairs,
    preference: Preference | None = None,
    *,
    step_size: Scalar = 1.0,
    beta: Scalar = 0.1,
) -> Float[Array, "*batch"]:
    r"""Heterogeneous MNPO: the opponents are the other players, and the labels the player's own annotator's.

        l(0, 1) = (x_0 - x_1 - h / 2)^2,    x = log pi - h beta log ref - (1 - h beta) (1 / J) sum_j log pi_j
        loss    = P l(0, 1) + (1 - P) l(1, 0),    P = preference[..., 0, 1]; without it response 0 is the chosen one

    `td_mnpo` with the other players' policies `opponent_logp` `[J, ..., 2]` in place of the history, all of one weight.
    Every player has a problem, and `preference`, of its own.
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 18.
    """
    return td_mnpo(logp, ref_logp, opponent_logp, preference, step_size=step_size, beta=beta)


def eo_mnpo(
    logp: Pair,
    ref_logp: Pair,
    opponent_logp: Pairs,
    reward: Pair,
    *,
    beta: Scalar = 0.1,
    external_weight: Scalar = 0.5,
) -> Float[Array, "*batch"]:
    r"""MNPO with external opponents: regression on a reward, with other models among the bases.

        loss = (x_0 - x_1 - sg[r_0 - r_1] / beta)^2,    x = log pi - (1 - w) log ref - (w / J) sum_j log pi_j

    `opponent_logp` `[J, ..., 2]`: the external models; w = `external_weight` is their share of the temperatures (w =
    sum tau_j / (tau_0 + sum tau_j), all tau_j equal), `beta` = tau_0 + sum tau_j > 0 the sum of them.
    Worked number: logp = ref_logp = opponent_logp and rewards (.2, 0) give 4 at beta = .1.
    Source: Wu et al., 2025, arXiv:2509.23102, Eq. 20.
    """
    target = detached_margin(reward) / as_float(beta)
    return multi_base_pair(logp, **_with_external(ref_logp, opponent_logp, external_weight), target=target)


def _with_external(ref_logp: Array, opponent_logp: Array, external_weight: Scalar) -> dict[str, Any]:
    """Reference and external models, with the weights 1 - w and w / J."""
    share, count = as_float(external_weight), len(opponent_logp)
    return {"bases": (ref_logp, *opponent_logp), "weights": (1 - share, *(share / count,) * count)}


def _required(problem: Problem, needed_by: str) -> Array:
    found = feedback.opponents(problem, problem.ref_logp)
    if found is None:
        raise ValueError(f"{needed_by} needs `opponent_logp`, which this problem lacks")
    return found


# --- optima -----------------------------------------------------------------------------------------------------------


def mnpo_optimum(problem: Problem, *, step_size: Scalar) -> Float[Array, "*batch A"]:
    r"""prod_j pi_j^{1/J} exp(h P(y > nu)) / Z, nu the law of the pairs; a linear system where two laws draw them."""
    players, law = feedback.history(problem, problem.ref_logp), laws.proposal(problem, problem.ref_logp)
    return squared_optimum(problem, players, _equal(len(players)), law, step_size, "mnpo")


def mnpo_soft_optimum(problem: Problem, *, step_size: Scalar) -> Float[Array, "*batch A"]:
    r"""prod_j pi_j^{1/J} exp((h / J) sum_j P(y > pi_j)) / Z: Eq. 10, for every law of the pairs with full support."""
    players = feedback.history(problem, problem.ref_logp)
    score = feedback.win_rate(problem, laws.average_opponent(problem, problem.ref_logp))
    return tilted_bases(problem, players, _equal(len(players)), score, step_size)


def td_mnpo_optimum(
    problem: Problem, *, step_size: Scalar, beta: Scalar, history_decay: Scalar
) -> Float[Array, "*batch A"]:
    r"""ref^{h beta} prod_j pi_{t-j}^{(1 - h beta) w_j} exp(h P(y > nu)) / Z, nu the law of the pairs."""
    past, law = feedback.history(problem, problem.ref_logp), laws.history_proposal(problem, problem.ref_logp)
    bases = _with_history(problem.ref_logp, past, step_size, beta, history_decay)
    return squared_optimum(problem, **bases, law=law, step=step_size, needed_by="td_mnpo")


def ht_mnpo_optimum(problem: Problem, *, step_size: Scalar, beta: Scalar) -> Float[Array, "*batch A"]:
    r"""ref^{h beta} prod_j pi_j^{(1 - h beta) / J} exp(h P(y > nu)) / Z, nu the law of the player's pairs."""
    _required(problem, "ht_mnpo")
    past, law = feedback.history(problem, problem.ref_logp), laws.proposal(problem, problem.ref_logp)
    bases = _with_history(problem.ref_logp, past, step_size, beta, 1.0)
    return squared_optimum(problem, **bases, law=law, step=step_size, needed_by="ht_mnpo")


def eo_mnpo_optimum(problem: Problem, *, beta: Scalar, external_weight: Scalar) -> Float[Array, "*batch A"]:
    r"""ref^{1 - w} prod_j pi_j^{w / J} exp(r / beta) / Z, for every law of the pairs with full support."""
    bases = _with_external(problem.ref_logp, _required(problem, "eo_mnpo"), external_weight)
    return tilted_bases(problem, **bases, score=problem.rewards_or_raise("eo_mnpo"), step=1.0 / as_float(beta))


# --- Table 1 ----------------------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, kw_only=True)
class Reduction:
    """A row of the paper's Table 1: a method as a case of `multi_base_pair`, in executable form.

    `row(samples, **hyperparameters)` is its loss `[...]`; the hyperparameters are those of weights, target and scale.
    """

    name: str
    n: int
    """Number of players, the policy among them."""
    bases: tuple[str, ...]
    """Fields of `Samples`: `ref_logp`, and `anchor_logp` for pi_t."""
    weights: Callable[..., tuple[Scalar, ...]]
    """weights(**hyperparameters): one for each base."""
    distance: str
    target: Callable[..., ArrayLike]
    """target(fields of `Samples`, **hyperparameters): a label's, or (if it reads fields) a difference with a sign."""
    scale: Callable[..., Scalar] = lambda: 1.0
    """scale(**hyperparameters), in front of the margin."""
    correction: str = ""
    """How the row as printed differs from the method, where it does."""

    def __call__(self, samples: Samples, **hyperparameters: Any) -> Float[Array, "*batch"]:
        def call(function: Callable[..., Any], *arrays: Array) -> Any:
            return function(*arrays, **{name: hyperparameters[name] for name in keyword_only(function)})

        known = {name for function in (self.weights, self.target, self.scale) for name in keyword_only(function)}
        if known != set(hyperparameters):
            raise TypeError(f"{self.name} takes the hyperparameters {sorted(known)}, got {sorted(hyperparameters)}")
        parameters = inspect.signature(self.target).parameters.values()
        fields = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
        for field in (*self.bases, *fields):
            if getattr(samples, field) is None:
                raise ValueError(f"{self.name} needs the field {field!r}, which these samples lack")
        return multi_base_pair(
            samples.logp,
            [getattr(samples, base) for base in self.bases],
            call(self.weights),
            None if fields else samples.preference,
            target=call(self.target, *(getattr(samples, field) for field in fields)),
            distance=self.distance,
            scale=call(self.scale),
        )


_INF = float("inf")

TABLE_1 = (
    Reduction(
        name="SimPO",
        n=1,
        bases=(),
        weights=lambda: (),
        distance="logistic",
        target=lambda: _INF,
        scale=lambda *, beta: beta,
        correction="beta goes in front of the margin; SimPO divides log-probs by length and subtracts a margin too",
    ),
    Reduction(
        name="CPO",
        n=1,
        bases=(),
        weights=lambda: (),
        distance="logistic",
        target=lambda: _INF,
        scale=lambda *, beta: beta,
        correction="beta goes in front of the margin; CPO adds the negative log-likelihood of the chosen response",
    ),
    Reduction(
        name="DPO",
        n=2,
        bases=("ref_logp",),
        weights=lambda: (1.0,),
        distance="logistic",
        target=lambda: _INF,
        scale=lambda *, beta: beta,
        correction="beta goes in front of the margin",
    ),
    Reduction(
        name="Distill-DPO",
        n=2,
        bases=("ref_logp",),
        weights=lambda: (1.0,),
        distance="squared",
        target=lambda reward: detached_margin(reward),
        scale=lambda *, beta: beta,
        correction="the target is the difference of rewards, not infinity; beta goes in front of the margin",
    ),
    Reduction(
        name="DNO",
        n=2,
        bases=("anchor_logp",),
        weights=lambda: (1.0,),
        distance="logistic",
        target=lambda win_rate: detached_margin(win_rate),
        scale=lambda *, step_size: 1.0 / as_float(step_size),
        correction="a cross-entropy: this divergence plus the entropy of the target, which the policy does not move",
    ),
    Reduction(
        name="SPIN",
        n=2,
        bases=("anchor_logp",),
        weights=lambda: (1.0,),
        distance="logistic",
        target=lambda: _INF,
        scale=lambda *, beta: beta,
        correction="beta goes in front of the margin, and the weight of pi_t is 1, not beta",
    ),
    Reduction(
        name="SPPO",
        n=2,
        bases=("anchor_logp",),
        weights=lambda: (1.0,),
        distance="squared",
        target=lambda win_rate, *, step_size: as_float(step_size) * detached_margin(win_rate),
        correction="SPPO's loss is pointwise, a mean of squares; this is the square of the difference of its residuals",
    ),
    Reduction(
        name="IPO",
        n=2,
        bases=("ref_logp",),
        weights=lambda: (1.0,),
        distance="squared",
        target=lambda *, beta: 0.5 / as_float(beta),
    ),
    Reduction(
        name="INPO",
        n=3,
        bases=("anchor_logp", "ref_logp"),
        weights=lambda *, step_size, beta: (1 - step_size * beta, step_size * beta),
        distance="squared",
        target=lambda *, step_size: as_float(step_size) / 2,
        correction=(
            "printed target 1 / (2 tau) is 1 / (2 eta), half the step; printed weight (eta - tau) / eta at j = 1 is "
            "that of j = 0, pi_t, and tau / eta that of the reference"
        ),
    ),
)
"""The special cases of the paper's Table 1, corrected where the print is wrong. Source: arXiv:2509.23102, Table 1."""

_WU = "Wu et al."
_LABELS = ("reward_shift", "log_ratio_shift", "relabelling")
_HISTORY = {"opponent_logp": feedback.history}

METHODS = (
    Method(
        loss=mnpo,
        sampler=laws.proposal,
        feedback=_HISTORY,
        num_responses=2,
        minimiser=mnpo_optimum,
        invariant_to=_LABELS,
        source=Source(_WU, 2025, "2509.23102", "Eq. 15"),
    ),
    Method(
        loss=mnpo_soft,
        sampler=laws.proposal,
        opponent=laws.average_opponent,
        feedback=_HISTORY,
        num_responses=2,
        minimiser=mnpo_soft_optimum,
        invariant_to=("log_ratio_shift", "relabelling"),
        source=Source(_WU, 2025, "2509.23102", "Eq. 14"),
    ),
    Method(
        loss=td_mnpo,
        sampler=laws.history_proposal,
        feedback=_HISTORY,
        num_responses=2,
        minimiser=td_mnpo_optimum,
        invariant_to=_LABELS,
        source=Source(_WU, 2025, "2509.23102", "Eq. 17"),
    ),
    Method(
        loss=ht_mnpo,
        sampler=laws.proposal,
        num_responses=2,
        minimiser=ht_mnpo_optimum,
        invariant_to=_LABELS,
        source=Source(_WU, 2025, "2509.23102", "Eq. 18"),
    ),
    Method(
        loss=eo_mnpo,
        sampler=laws.proposal,
        num_responses=2,
        minimiser=eo_mnpo_optimum,
        invariant_to=_LABELS,
        source=Source(_WU, 2025, "2509.23102", "Eq. 20"),
    ),
)
