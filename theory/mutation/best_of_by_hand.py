"""BOND and its relatives, and the regressions of copg.py, held to their definitions: gradients, integrals, sums."""

import functools
import itertools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from alignjax import Problem, methods
from alignjax.mixed_kl import mixed_kl_minimiser
from alignjax.objectives import bond, copg
from alignjax.samples import Samples
from theory import definitions, instances
from theory.mutation.contracts import group_of
from theory.slack import both, equal

_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(60)


def _slope(name: str, fields: dict[str, Any], at: str = "logp", **hyper: Any) -> Array:
    """Gradient of a method's loss in one of its fields."""
    return jax.grad(lambda x: methods[name](Samples(**{**fields, at: x}), **hyper))(fields[at])


def _of(one: dict[str, Array], *names: str) -> dict[str, Array]:
    return {name: one[name] for name in names}


def likelihood_and_return(key: Array) -> Array:
    """BOND pulls response 0 up with 1 - w and response 1 with w times its return less the baseline; J-BOND pays the
    price log 16 to a sample worse than both others, and its winner shares with its equal. Nothing else has a gradient.
    """
    one, w, gamma, slacks = group_of(key, 3), 0.3, 0.2, []
    h = one["logp"] - one["anchor_logp"]
    both_ways = {"logp": one["logp"][:2], "anchor_logp": one["anchor_logp"][:2], "reward": one["reward"][:2]}
    for baseline in (None, one["value"]):
        less = 0.0 if baseline is None else baseline
        given = both_ways if baseline is None else both_ways | {"value": baseline}
        gain = one["reward"][1] - h[1] - less
        loss = -(1 - w) * one["logp"][0] - w * gain * one["logp"][1]
        slacks += [
            equal(methods["bond"](Samples(**given), weight=w), loss),
            equal(_slope("bond", given, weight=w), jnp.stack([w - 1.0 + 0 * gain, -w * gain])),
            *(equal(_slope("bond", given, name, weight=w), 0.0) for name in given if name != "logp"),
        ]
        for order, price, share in (
            ((0.0, 1.0, 2.0), np.log(16.0), (0.0, 1.0)), ((0.0, 2.0, 1.0), np.log(16.0), (1.0, 0.0)),
            ((2.0, 1.0, 1.0), 0.0, (0.5, 0.5)), ((1.0, 1.0, 3.0), 0.0, (0.0, 1.0)), ((1.0, 2.0, 0.0), 0.0, (1.0, 0.0)),
        ):  # fmt: skip
            three = _of(one, "logp", "anchor_logp") | {"reward": jnp.array(order)}
            three |= {} if baseline is None else {"value": baseline}
            gain = -price - h[0] - less
            best = share[0] * one["logp"][1] + share[1] * one["logp"][2]
            pull = gamma * h[0] - w * gain
            expected = jnp.stack([pull, -(1 - w) * share[0] + 0 * pull, -(1 - w) * share[1] + 0 * pull])
            hyper: dict[str, Any] = {"weight": w, "gamma": gamma}
            slacks += [
                equal(methods["jbond"](Samples(**three), **hyper), -(1 - w) * best + pull * one["logp"][0]),
                equal(_slope("jbond", three, **hyper), expected),
                *(equal(_slope("jbond", three, name, **hyper), 0.0) for name in three if name != "logp"),
            ]
    return both(*slacks)


def variational_pull(key: Array) -> Array:
    """vBoN pulls each kept response by its return, over their number."""
    one = group_of(key, 4)
    gain = one["reward"] - one["logp"] + one["anchor_logp"]
    mask = jnp.array([1.0, 0.0, 1.0, 1.0])
    given = _of(one, "logp", "anchor_logp", "reward")
    return both(
        equal(methods["vbon"](Samples(**given)), -jnp.sum(gain * one["logp"]) / 4),
        equal(_slope("vbon", given), -gain / 4),
        equal(_slope("vbon", given | {"response_mask": mask}), -gain * mask / 3),
    )


def best_against_worst(key: Array) -> Array:
    """BoNBoN on groups whose best and worst are known: c_K is 1, 3 and 5.5 for 2, 3 and 4 responses."""
    one, a, slacks = group_of(key, 4), 0.2, []
    everyone = jnp.ones(4)
    for reward, mask, best, worst, gap in (
        ((3.0, 1.0, 0.0, 2.0), everyone, (0,), (2,), 5.5), ((0.0, 1.0, 1.0, 0.0), everyone, (1, 2), (0, 3), 5.5),
        ((1.0, 1.0, 1.0, 1.0), everyone, (0, 1, 2, 3), (0, 1, 2, 3), 5.5),
        ((9.0, 1.0, 0.0, 2.0), jnp.array([0.0, 1.0, 1.0, 1.0]), (3,), (2,), 3.0),
        ((9.0, 1.0, -9.0, 2.0), jnp.array([0.0, 1.0, 0.0, 1.0]), (3,), (1,), 1.0),
    ):  # fmt: skip

        def by_hand(x: Array, best: Any = best, worst: Any = worst, gap: float = gap) -> Array:
            ratio = x - one["ref_logp"]
            squares = [jnp.square(ratio[i] - ratio[j] - gap) for i in best for j in worst]
            winners = jnp.stack([x[i] for i in best])
            return -a * winners.mean() + (1 - a) * jnp.stack(squares).mean()

        given = _of(one, "logp", "ref_logp") | {"reward": jnp.array(reward), "response_mask": mask}
        slacks += [
            equal(methods["bonbon"](Samples(**given), sft_weight=a), by_hand(one["logp"])),
            equal(_slope("bonbon", given, sft_weight=a), jax.grad(by_hand)(one["logp"])),
            equal(_slope("bonbon", given, "reward", sft_weight=a), 0.0),
        ]
        if mask is everyone:
            whole = {name: array for name, array in given.items() if name != "response_mask"}
            slacks.append(equal(methods["bonbon"](Samples(**whole), sft_weight=a), by_hand(one["logp"])))
    alone = _of(one, "logp", "ref_logp", "reward") | {"response_mask": jnp.array([0.0, 1.0, 0.0, 0.0])}
    return both(*slacks, equal(methods["bonbon"](Samples(**alone)), 0.0), equal(_slope("bonbon", alone), 0.0))


def known_partition(key: Array) -> Array:
    """QRPO's Z is the integral of e^{q / beta} over a uniform quantile, here by Gauss and Legendre's rule."""
    one, slacks = group_of(key, 4), []
    quantile, mask = one["win_rate"], jnp.array([1.0, 1.0, 0.0, 1.0])
    for beta in (0.2, 1.0, 3.0):
        log_z = np.log(np.sum(0.5 * _WEIGHTS * np.exp(0.5 * (_NODES + 1) / beta)))

        def each(x: Array, beta: float = beta, log_z: float = log_z) -> Array:
            return jnp.square(quantile - beta * log_z - beta * (x - one["ref_logp"]))

        given = _of(one, "logp", "ref_logp") | {"reward": quantile}
        masked = given | {"response_mask": mask}
        slacks += [
            equal(methods["qrpo"](Samples(**given), beta=beta), each(one["logp"]).sum() / 4),
            equal(methods["qrpo"](Samples(**masked), beta=beta), (mask * each(one["logp"])).sum() / 3),
            equal(_slope("qrpo", masked, beta=beta), jax.grad(lambda x: (mask * each(x)).sum() / 3)(one["logp"])),
            equal(_slope("qrpo", given, "reward", beta=beta), 0.0),
        ]
    return both(*slacks)


def _table(key: Array) -> tuple[Problem, Array]:
    """(problem with rewards that may tie and an anchor, logits)."""
    keys = jax.random.split(key, 4)
    reward = jnp.round(2 * jax.random.normal(keys[0], (4,)))
    one = Problem(
        ref_logp=instances.smooth_law(keys[1], 4), anchor_logp=instances.smooth_law(keys[2], 4), reward=reward
    )
    return one, jax.random.normal(keys[3], (4,))


def _best_of(logp: Array, reward: Array, n: float) -> Array:
    """The law of the best of n, from the chances that a sample is worse and at most as good."""
    p = jnp.exp(logp)
    worse = (p * (reward < reward[:, None])).sum(-1)
    at_most_as_good = (p * (reward <= reward[:, None])).sum(-1)
    return p * (at_most_as_good**n - worse**n) / (at_most_as_good - worse)


def tables_of_best_of_n(key: Array) -> Array:
    """What BOND's family reads on a table, by counting masses; laws carry no gradient."""
    problem, logits = _table(key)
    assert problem.anchor_logp is not None and problem.reward is not None
    logp, reward, anchor = jax.nn.log_softmax(logits), problem.reward, problem.anchor_logp
    bare = Problem(ref_logp=problem.ref_logp, reward=reward)
    cumulated = lambda law: (jnp.exp(law) * (reward <= reward[:, None])).sum(-1)
    slacks = [equal(bond.quantile_of(problem, logp), cumulated(problem.ref_logp))]
    for n in (1.0, 2.0, 4.5):
        for one, law in ((problem, anchor), (bare, problem.ref_logp)):
            exact = _best_of(law, reward, n)
            slacks += [
                equal(jnp.exp(bond.target_ratio(one, logp, n=n) + law), exact),
                equal(bond.target_ratio(one, logp, n=n, include_b=False), (n - 1) * jnp.log(cumulated(law))),
                equal(jnp.exp(jnp.stack(bond.best_and_policy(one, logp, n=n))), jnp.stack([exact, jnp.exp(logp)])),
            ]
    laws = lambda x: sum((law * jnp.arange(4.0)).sum() for law in bond.best_and_policy(problem, x, n=2))
    three = lambda x: sum((law * jnp.arange(4.0)).sum() for law in bond.policy_and_two_of_the_anchor(problem, x))
    slopes = [equal(jax.grad(function)(logp), 0.0) for function in (laws, three)]
    moving = lambda t: bond.quantile_of(
        Problem(ref_logp=jax.nn.log_softmax(logits + t * jnp.arange(4.0)), reward=reward), logp
    )
    pool, seen = jnp.array([0.0, 1.0, 1.0, 3.0]), jnp.array([-1.0, 1.0, 3.0])
    shares = jnp.array([1 / 8, 3 / 4, 1.0])
    slacks += [
        equal(bond.estimated_quantile(seen, pool), shares),
        equal(bond.estimated_ratio(seen, pool, n=3.0), 2 * jnp.log(shares) + jnp.log(3.0)),
        equal(bond.estimated_ratio(seen, pool, n=3.0, include_b=False), 2 * jnp.log(shares)),
        equal(jax.grad(lambda n: bond.estimated_ratio(seen, pool, n=n)[0])(3.0), jnp.log(1 / 8) + 1 / 3),
    ]
    p = jax.nn.softmax(logits)
    change = p * (jnp.arange(4.0) - (p * jnp.arange(4.0)).sum())
    found = jax.jvp(moving, (jnp.zeros(()),), (jnp.ones(()),))[1]
    return both(*slacks, *slopes, equal(found, (change * (reward <= reward[:, None])).sum(-1)))


def minimisers_of_best_of_n(key: Array) -> Array:
    """The stated optima of BOND's family have no slope in their own objective, written out with KL divergences."""
    problem, _ = _table(key)
    assert problem.anchor_logp is not None and problem.reward is not None
    anchor, reward, slacks = problem.anchor_logp, problem.reward, []
    at_most_as_good = (jnp.exp(anchor) * (reward <= reward[:, None])).sum(-1)

    def flat(objective: Any, optimum: Array) -> None:
        slope = jax.grad(lambda x: objective(definitions.softmax_of(x)))(optimum)
        slacks.extend([equal(slope, 0.0, tolerance=1e-7), equal(jnp.exp(optimum).sum(), 1.0)])

    best = jnp.log(_best_of(anchor, reward, 3.0))
    crude = definitions.normalised(anchor + 2 * jnp.log(at_most_as_good))
    for w in (0.0, 0.3, 1.0):
        found = bond.bond_optimum(problem, n=3.0, weight=w, include_b=False)
        flat(lambda x, w=w: (1 - w) * definitions.kl(best, x) + w * definitions.kl(x, crude), found)
    slacks.append(equal(jnp.exp(bond.bond_optimum(problem, n=3.0, weight=0.3, include_b=True)), jnp.exp(best)))
    slacks.append(equal(jnp.exp(bond.vbon_optimum(problem, n=3.0, include_b=False)), jnp.exp(crude)))
    slacks.append(equal(jnp.exp(bond.vbon_optimum(problem, n=3.0, include_b=True)), jnp.exp(best)))
    two = jnp.log(_best_of(anchor, reward, 2.0))
    price = -jnp.log(16.0) * jnp.square(1 - at_most_as_good)
    for w, gamma in ((0.0, 0.0), (0.4, 0.3), (1.0, 0.0), (0.0, 0.5)):

        def objective(x: Array, w: float = w, gamma: float = gamma) -> Array:
            paid = w * (definitions.kl(x, anchor) - definitions.expectation(x, price))
            return (1 - w) * definitions.kl(two, x) + paid + gamma * definitions.kl(x, anchor)

        flat(objective, bond.jbond_optimum(problem, weight=w, gamma=gamma))
    return both(*slacks)


def between_two_laws(key: Array) -> Array:
    """The law between two others has no slope in a KL(b || .) + c KL(. || q); where q has no mass it has none, where
    only b has none it is as it was; of weight 0 either law is the other one.
    """
    keys = jax.random.split(key, 2)
    target, pulled = (instances.smooth_law(k, 4) for k in keys)
    hollow = definitions.normalised(target.at[0].set(-jnp.inf))
    slacks = []
    for b, (forward, backward) in itertools.product((target, hollow), ((0.3, 0.7), (2.0, 0.1), (0.1, 3.0))):
        found = mixed_kl_minimiser(b, pulled, forward, backward)
        mixed = lambda x, b=b, f=forward, g=backward: f * definitions.kl(b, x) + g * definitions.kl(x, pulled)
        slope = jax.grad(lambda x, mixed=mixed: mixed(definitions.softmax_of(x)))(found)
        wide = mixed_kl_minimiser(jnp.append(b, -jnp.inf), jnp.append(pulled, -jnp.inf), forward, backward)
        each = mixed_kl_minimiser(jnp.stack([b, b]), pulled, jnp.array([forward, 0.0]), jnp.array([backward, 1.0]))
        slacks += [equal(slope, 0.0, tolerance=1e-7), equal(jnp.exp(wide), jnp.append(jnp.exp(found), 0.0))]
        slacks += [equal(jnp.exp(each), jnp.exp(jnp.stack([found, pulled]))), equal(jnp.exp(found).sum(), 1.0)]
        slacks += [equal(jnp.exp(mixed_kl_minimiser(b, pulled, forward, 0.0)), jnp.exp(b))]
        slacks += [equal(jnp.exp(mixed_kl_minimiser(b, pulled, 0.0, 0.0)), jnp.exp(b))]
    return both(*slacks)


def anchors_that_move(key: Array) -> Array:
    """The anchor stands still but for every k-th update, when it keeps the share `ema` of itself."""
    old, new = jax.random.normal(key, (2, 3))
    slacks = []
    for every in (1, 2, 3):
        for step in range(5):
            share = 0.7 if (step + 1) in range(every, 9, every) else 1.0
            move = functools.partial(bond.moving_anchor, step=jnp.asarray(step), ema=0.7, anchor_steps=every)
            moved = move({"a": old}, {"a": new})["a"]
            weigh = lambda a, b, move=move: (move({"a": a}, {"a": b})["a"] * jnp.arange(1.0, 4.0)).sum()
            slopes = jax.grad(weigh, argnums=(0, 1))(old, new)
            slacks.append(equal(moved, share * old + (1 - share) * new))
            slacks.append(equal(jnp.stack(slopes), jnp.array([[share], [1 - share]]) * jnp.arange(1.0, 4.0)))
    return both(*slacks)


def values_of_prompts(key: Array) -> Array:
    """DRO is half a mean of squares, which its value feels too; V* moves with the reward as the optimal policy says."""
    one, beta = group_of(key, 4), 0.3
    mask = jnp.array([1.0, 0.0, 1.0, 1.0])
    error = one["reward"] - one["value"] - beta * (one["logp"] - one["ref_logp"])
    given = _of(one, "logp", "ref_logp", "reward", "value")
    masked = given | {"response_mask": mask}
    problem, _ = _table(key)
    reward = lambda r: copg.value_or_optimal(Problem(ref_logp=problem.ref_logp, reward=r), problem.ref_logp, beta=beta)
    held = Problem(ref_logp=problem.ref_logp, reward=problem.reward, value=one["value"])
    assert problem.reward is not None
    return both(
        equal(methods["dro"](Samples(**given), beta=beta), 0.5 * jnp.square(error).sum() / 4),
        equal(methods["dro"](Samples(**masked), beta=beta), 0.5 * (mask * jnp.square(error)).sum() / 3),
        equal(_slope("dro", masked, beta=beta), -beta * mask * error / 3),
        equal(_slope("dro", given, "value", beta=beta), -error.sum() / 4),
        equal(jax.grad(reward)(problem.reward), jnp.exp(definitions.gibbs(problem.ref_logp, problem.reward, beta))),
        equal(copg.value_or_optimal(held, problem.ref_logp, beta=beta), one["value"]),
    )


BY_HAND: tuple[tuple[str, str, Any], ...] = (
    ("bond", "BOND and J-BOND are likelihoods and returns", likelihood_and_return),
    ("vbon", "vBoN is a policy gradient", variational_pull),
    ("bonbon", "BoNBoN fits the best against the worst", best_against_worst),
    ("qrpo", "QRPO's partition function is an integral", known_partition),
    ("best-of-tables", "what BOND reads on a table", tables_of_best_of_n),
    ("best-of-optima", "the optima of BOND's family are stationary", minimisers_of_best_of_n),
    ("mixed-kl", "the law nearest to two others", between_two_laws),
    ("anchors", "a moving anchor moves when it is due", anchors_that_move),
    ("values", "DRO's value, and how V* moves", values_of_prompts),
)
"""(name, what it says, slack of a key)."""
