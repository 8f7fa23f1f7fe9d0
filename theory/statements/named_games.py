r"""The games of `alignjax.games.library` and the random ones: entries, equilibria, and when there are cycles."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax.envs import Bandit, LogLinearPolicy
from alignjax.games import (
    annotator_mixture,
    impartial_culture,
    library,
    preference_embedding,
    random_preference,
)
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import EXACT, at_most, both, equal, pick

Matrix = Float[Array, "A A"]


SINGLE = 1e-6
"""Tables that are counted as means of booleans have float32 entries, whatever the precision of the caller."""


def _is_original_nash(table: Matrix, policy: Float[Array, "A"], tolerance: float = EXACT) -> Array:
    """No response beats it: max_y P(y > x) = 1/2, and every response that is played ties with it."""
    wins = jnp.sum(table * policy[None, :], axis=1)
    return both(
        at_most(wins, 0.5, tolerance=tolerance),
        equal(jnp.where(policy > 0, wins, 0.5), 0.5, tolerance=tolerance),
        equal(policy.sum(), 1.0),
        at_most(0.0, policy),
    )


def three_margins(key: Array) -> tuple[Array, Array, Array]:
    """a, b, c in (0, 1/2]."""
    a, b, c = jax.random.uniform(key, (3,), minval=1e-3, maxval=0.5)
    return a, b, c


def generalised_rps(a: Array, b: Array, c: Array, *, shuffle: float = 0.0, sign: float = 1.0) -> Array:
    r"""M_12 = a, M_23 = b, M_31 = c: the Nash plays each response by the margin of the edge it does not touch, (b,
    c, a) / (a + b + c).
    """
    table = library.rock_paper_scissors(a, b, c)
    edges = jnp.stack([table[0, 1], table[1, 2], table[2, 0]]) - 0.5
    policy = pick(shuffle, jnp.stack([a, b, c]), jnp.stack([b, c, a])) / (a + b + c)
    upper = jnp.stack([0 * a, a, -c, -a, 0 * a, b, c, -b, 0 * a]).reshape(3, 3)
    return both(
        equal(edges, sign * jnp.stack([a, b, c])),
        equal(table + table.T, 1.0),
        _is_original_nash(table, policy),
        equal(library.from_margins(jnp.triu(upper)), 0.5 + sign * upper),
    )


def nothing(key: Array) -> tuple[Array]:
    """A fixed game has no instances; the key only says how often it is asked."""
    return (jax.random.uniform(key),)


def dice_game(u: Array, *, wins: float = 5 / 9, shuffle: float = 0.0) -> Array:
    r"""Of {2,4,9}, {1,6,8}, {3,5,7} each beats the next with probability 5/9, counted over all 9 throws;
    the Nash is uniform.
    """
    dice = ((2, 4, 9), (1, 6, 8), (3, 5, 7))
    counted = [[sum(x > y for x, y in itertools.product(p, q)) / 9 if p != q else 0.5 for q in dice] for p in dice]
    table = library.dice()
    policy = pick(shuffle, jnp.stack([u, (1 - u) / 2, (1 - u) / 2]), jnp.ones(3) / 3)
    return both(
        equal(table, jnp.asarray(counted), tolerance=SINGLE),
        equal(jnp.stack([table[0, 1], table[1, 2], table[2, 0]]), wins, tolerance=SINGLE),
        _is_original_nash(table, policy, SINGLE),
    )


def epsilon(key: Array) -> tuple[Array]:
    """eps in (-1/3, 1/3)."""
    return (jax.random.uniform(key, minval=-0.33, maxval=0.33),)


def three_types_game(eps: Array, *, factor: float = 1.0, sign: float = 1.0) -> Array:
    r"""Mass 1/3 - eps prefers 2 to 1, mass 1/3 + eps/2 prefers 1 to 3, as much 3 to 2;
    the Nash is (1/3 + eps/2, 1/3 + eps/2, 1/3 - eps).
    """
    masses = (1 / 3 - eps, 1 / 3 + eps / 2, 1 / 3 + eps / 2)
    strict = ((1, 0), (0, 2), (2, 1))  # (winner, loser) of each type
    table = 0.5 * jnp.ones((3, 3))
    for mass, (winner, loser) in zip(masses, strict, strict=True):
        table = table.at[winner, loser].add(0.5 * mass).at[loser, winner].add(-0.5 * mass)
    policy = jnp.stack([1 / 3 + sign * eps / 2, 1 / 3 + factor * eps / 2, 1 / 3 - sign * eps / 2 - factor * eps / 2])
    return both(equal(library.three_types(eps), table), _is_original_nash(library.three_types(eps), policy))


def comal_game(u: Array, *, share: float = 4 / 11, flip: float = 0.0) -> Array:
    r"""P_ba = P_cb = .9 and P_ac = .8 in the order a, b, c; the Nash is (4, 3, 4) / 11."""
    table = library.comal()
    policy = jnp.stack([jnp.asarray(share), 1 - 2 * jnp.asarray(share), jnp.asarray(share)])
    return both(
        equal(
            jnp.stack([table[1, 0], table[2, 1], table[0, 2]]),
            jnp.stack([pick(flip, 0.1, 0.9), *jnp.array([0.9, 0.8])]),
        ),
        _is_original_nash(table, policy),
    )


def margin(key: Array) -> tuple[Array]:
    """A margin in (0, 1/2]."""
    return (jax.random.uniform(key, minval=1e-3, maxval=0.5),)


def circulant_game(m: Array, *, sign: float = 1.0, lean: float = 0.0) -> Array:
    r"""Five on a circle, each beating the next two by m; the Nash is uniform. Of three: rock-paper-scissors."""
    table = library.circulant(5, m)
    rows = [[sign * m * {0: 0, 1: 1, 2: 1, 3: -1, 4: -1}[(j - i) % 5] for j in range(5)] for i in range(5)]
    policy = definitions.normalised(lean * jnp.arange(5.0))
    return both(
        equal(table - 0.5, jnp.stack([jnp.stack([jnp.asarray(x) for x in row]) for row in rows])),
        equal(library.circulant(3, m), library.rock_paper_scissors(m, m, m)),
        _is_original_nash(table, jnp.exp(policy)),
    )


def constrained_game(u: Array, *, odds: float = 50 / 99, best: float = 9.0) -> Array:
    r"""Where pi_1 = 2 pi_2 is forced, reward picks (2/3, 1/3, 0) and win-rate picks (0, 0, 1),
    which beats it with probability 50/99.
    """
    reward, table = library.constrained_rewards()
    feasible = jnp.stack([2 * u / 3, u / 3, 1 - u])
    by_reward, by_wins = jnp.array([2 / 3, 1 / 3, 0.0]), jnp.array([0.0, 0.0, 1.0])
    return both(
        equal(jnp.exp(reward), jnp.array([1.0, best, 2.0])),
        at_most(jnp.sum(feasible * reward), jnp.sum(by_reward * reward)),
        equal(by_wins @ table @ by_reward, odds),
        at_most(jnp.asarray(0.5), by_wins @ table @ feasible),
    )


def annotators(key: Array) -> tuple[Float[Array, "2 A"], Float[Array, "3 A"], Array]:
    """Rewards of two and of three annotators, and a weight."""
    two_key, three_key, weight_key = jax.random.split(key, 3)
    return (
        3 * jax.random.normal(two_key, (2, 5)),
        3 * jax.random.normal(three_key, (3, 5)),
        jax.random.uniform(weight_key),
    )


def annotators_by_hand(
    two: Array, three: Array, weight: Array, *, unequal: float = 0.0, sign: float = 1.0, factor: float = 1.0
) -> Array:
    r"""sum_m w_m sigma(r_mi - r_mj). Two annotators of equal weight follow the order of r_1 + r_2, so that there is
    no cycle.

    Proof: sigma(a) + sigma(b) > 1 iff a + b > 0. With unequal weights (the mutant) the order is another.
    """
    table = annotator_mixture(two)
    other = annotator_mixture(two, jnp.stack([0.9 + 0 * weight, 0.1 + 0 * weight]))
    margin = pick(unequal, other, table) - 0.5
    total = two.sum(0)
    weights = jnp.stack([weight / 2, weight / 2, 1 - weight])
    direct = sum(factor * weights[m] / (1 + jnp.exp(-sign * (three[m][:, None] - three[m][None, :]))) for m in range(3))
    return both(
        at_most(0.0, margin * definitions.outer_difference(total)), equal(annotator_mixture(three, weights), direct)
    )


def embedded(key: Array) -> tuple[Float[Array, "A D"], Float[Array, "A"]]:
    """Vectors of dimension 4, and rewards."""
    vector_key, reward_key = jax.random.split(key)
    return jax.random.normal(vector_key, (5, 4)), instances.reward(reward_key)


def embedding_by_hand(vectors: Array, reward: Array, *, sign: float = 1.0, factor: float = 1.0) -> Array:
    r"""P(i > j) = sigma(<R v_i, v_j>), R block-diagonal of [[0, -1], [1, 0]]; Bradley-Terry of r is v = (r, 1)."""
    quarter = jnp.array([[0.0, -1.0], [1.0, 0.0]])
    turn = jnp.kron(jnp.eye(2), quarter)
    score = sign * factor * (vectors @ turn.T) @ vectors.T
    flat = jnp.stack([reward, jnp.ones(5)], -1)
    # <R v_i, v_j> of v = (r, 1) is r_i - r_j as (-1, r_i) . (r_j, 1).
    return both(
        equal(preference_embedding(vectors), definitions.sigmoid(score)),
        equal(preference_embedding(flat), definitions.sigmoid(factor * definitions.outer_difference(reward))),
    )


def plain_key(key: Array) -> tuple[Array]:
    """The key itself."""
    return (jax.random.key_data(key),)


def random_games_are_games(data: Array, *, total: float = 1.0, share: float = 1.0) -> Array:
    r"""random_preference and impartial_culture give P + P^T = 1 in [0, 1], the latter in steps of 1 / voters."""
    key = jax.random.wrap_key_data(data)
    uniform, voted = random_preference(key, 5), impartial_culture(key, 5, 7)
    votes = share * 7 * voted
    off = ~np.eye(5, dtype=bool)
    return both(
        equal(uniform + uniform.T, total),
        equal(voted + voted.T, total, tolerance=SINGLE),
        *(both(at_most(0.0, table), at_most(table, 1.0)) for table in (uniform, voted)),
        equal(jnp.where(off, votes - jnp.round(votes), 0.0), 0.0, tolerance=4 * SINGLE),
    )


def bandit_instance(key: Array) -> tuple[Float[Array, "A"], Float[Array, "A"], Array]:
    """(reward, ref_logp, key data)."""
    reward_key, ref_key, pull_key = jax.random.split(key, 3)
    return instances.reward(reward_key), instances.smooth_law(ref_key), jax.random.key_data(pull_key)


def bandit_tables(reward: Array, ref_logp: Array, data: Array, *, sign: float = 1.0, factor: float = 1.0) -> Array:
    r"""A bandit's table has its mean rewards and their Bradley-Terry preferences; noise-free pulls are the means;
    log-linear policies.
    """
    bandit = Bandit(reward=reward, ref_logp=ref_logp)
    problem = bandit.problem()
    pulls = bandit.pull(jax.random.wrap_key_data(data), jnp.array([3, 0, 3]))
    linear = LogLinearPolicy(jnp.stack([reward, jnp.ones(5)], -1), ref_logp)
    assert problem.reward is not None
    return both(
        equal(problem.reward, factor * reward),
        equal(problem.preferences(), definitions.sigmoid(sign * definitions.outer_difference(reward))),
        equal(pulls, factor * jnp.stack([reward[3], reward[0], reward[3]])),
        equal(linear.logp(jnp.array([0.5, 3.0])), definitions.gibbs(ref_logp, reward, sign * 2.0)),
    )


_MUNOS = ("Munos et al.", 2023, "2312.00886")
_HERE = "derived in the docstring"

STATEMENTS = (
    Statement(
        id="games/L1",
        says="generalised rock-paper-scissors has the Nash (b, c, a) / (a + b + c)",
        formula=r"x^*\propto(M_{23},M_{31},M_{12})",
        slack=generalised_rps,
        instance=three_margins,
        source=Source("alignjax", 2026, "", "the kernel of a skew 3 x 3 matrix"),
        mutants=({"shuffle": 1.0}, {"sign": -1.0}),
    ),
    Statement(
        id="games/L2",
        says="the dice beat each other 5/9, by counting; the Nash is uniform",
        formula=r"P_{12}=P_{23}=P_{31}=\tfrac59",
        slack=dice_game,
        instance=nothing,
        source=Source(*_MUNOS, "Appendix C.1"),
        mutants=({"wins": 4 / 9}, {"shuffle": 1.0}),
    ),
    Statement(
        id="games/L3",
        says="three kinds of annotators: the table from its types, and a Nash continuous in eps",
        formula=r"x^*=(\tfrac13+\tfrac\epsilon2,\tfrac13+\tfrac\epsilon2,\tfrac13-\epsilon)",
        slack=three_types_game,
        instance=epsilon,
        source=Source(*_MUNOS, "Sec. 3.2"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"sign": -1.0}),
    ),
    Statement(
        id="games/L4",
        says="the COMAL game's Nash is (4, 3, 4) / 11",
        formula=r"x^*=(4,3,4)/11",
        slack=comal_game,
        instance=nothing,
        source=Source("Liu et al.", 2024, "2410.23223", "synthetic experiment"),
        mutants=({"share": 1 / 3}, {"flip": 1.0}),
    ),
    Statement(
        id="games/L5",
        says="circulant games have a uniform Nash",
        formula=r"x^*=\tfrac15\mathbf 1",
        slack=circulant_game,
        instance=margin,
        source=Source("alignjax", 2026, "", "by symmetry"),
        mutants=({"sign": -1.0}, {"lean": 0.1}),
    ),
    Statement(
        id="games/L6",
        says="under a constraint, the best reward loses to the best win-rate",
        formula=r"P\big((0,0,1)\succ(\tfrac23,\tfrac13,0)\big)=\tfrac{50}{99}",
        slack=constrained_game,
        instance=nothing,
        source=Source(*_MUNOS, "Appendix A"),
        mutants=({"odds": 0.5}, {"best": 8.0}),
    ),
    Statement(
        id="games/L7",
        says="two equal Bradley-Terry annotators are never cyclic; mixtures are weighted sums",
        formula=r"\sigma(a)+\sigma(b)>1\iff a+b>0",
        slack=annotators_by_hand,
        instance=annotators,
        source=Source("alignjax", 2026, "", _HERE),
        mutants=({"unequal": 1.0}, {"sign": -1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="games/L8",
        says="preference embeddings score by quarter turns; Bradley-Terry is (r, 1)",
        formula=r"P_{ij}=\sigma(\langle Rv_i,v_j\rangle)",
        slack=embedding_by_hand,
        instance=embedded,
        source=Source("Zhang et al.", 2024, "2410.02197", "general preference embedding"),
        mutants=({"sign": -1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="games/L9",
        says="random games are antisymmetric about 1/2",
        formula=r"P+P^\top=1",
        slack=random_games_are_games,
        instance=plain_key,
        source=Source("Zhou et al.", 2025, "2503.08942", "numerical simulations"),
        mutants=({"total": 2.0}, {"share": 0.5}),
    ),
    Statement(
        id="games/L10",
        says="bandits and log-linear policies are the tables they say they are",
        formula=r"P_{ij}=\sigma(r_i-r_j)",
        slack=bandit_tables,
        instance=bandit_instance,
        source=Source("alignjax", 2026, "", "definitions"),
        mutants=({"sign": -1.0}, {"factor": 2.0}),
    ),
)
