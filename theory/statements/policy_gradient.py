r"""Policy-gradient methods: the exact expected gradients of what they compute, group statistics,
and the generic pieces.
"""

import functools
import itertools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import alignjax
from alignjax import Problem, Samples, equations, methods, population_grad, population_loss
from alignjax.logspace import log_softmax
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import both, equal, pick

Logits = Float[Array, "A"]
Group = Float[Array, "K"]


def _descent(problem: Problem, logits: Logits, beta: Array, factor: Array | float = 1.0) -> Array:
    """-grad J from the definition: minus the policy gradient of r - beta h."""
    assert problem.reward is not None
    logp = definitions.softmax_of(logits)
    regularised = factor * problem.reward - beta * definitions.log_ratio(logp, problem.ref_logp)
    return -definitions.policy_gradient(logp, regularised)


def gradient_is_that_of_the_objective(
    problem: Problem, logits: Logits, beta: Array, *, name: str, group_size: int, sign: float = 1.0, kl: float = 1.0
) -> Array:
    r"""On-policy the population gradient is -grad [E r - beta KL(pi || ref)], exactly, baseline or not.

    Proof: E over the sampler of sg[A] grad log pi is the policy gradient of A; a term that does not depend on the
    response of the score adds E grad log pi = 0, and so do the other responses of a leave-one-out baseline.
    """
    with_value = Problem(ref_logp=problem.ref_logp, reward=problem.reward, value=jnp.asarray(0.3))
    found = population_grad(name, problem, logits, beta=beta, group_size=group_size)
    based = population_grad(name, with_value, logits, beta=beta, group_size=group_size)
    exact = sign * _descent(problem, logits, kl * beta)
    optimum = methods[name].optimum(problem, beta=beta)
    assert problem.reward is not None
    return both(
        equal(found, exact),
        equal(based, exact),
        equal(jnp.exp(optimum), jnp.exp(definitions.gibbs(problem.ref_logp, problem.reward, beta))),
    )


def small_group_problem(key: Array) -> tuple[Problem, Logits, Array]:
    """Three responses, so that groups of three make 27 tuples; moderate log-ratios, because k3 exponentiates them."""
    problem, logits, beta = instances.smooth_problem(key, 3)
    return Problem(ref_logp=problem.ref_logp, reward=problem.reward), logits, beta


def dr_grpo_gradient(
    problem: Problem, logits: Logits, beta: Array, *, share: float = 2 / 3, reverse: float = 0.0, sign: float = 1.0
) -> Array:
    r"""On-policy dr_grpo descends -(K - 1)/K E r + beta KL(ref || pi): a smaller step on the reward, and the
    forward KL.

    Proof: r_i - mean r is (K - 1)/K of the leave-one-out advantage; k3 as a loss has the gradient pi - ref of the
    forward KL. Its optimum has (K - 1)/K r + beta ref/pi constant.
    """
    assert problem.reward is not None
    logp = definitions.softmax_of(logits)
    p, q = jnp.exp(logp), jnp.exp(problem.ref_logp)
    backward = definitions.policy_gradient(logp, logp - problem.ref_logp)
    exact = -share * definitions.policy_gradient(logp, problem.reward) + sign * beta * pick(reverse, backward, p - q)
    optimum = methods["dr_grpo"].optimum(problem, beta=beta, group_size=3)
    level = share * problem.reward + beta * jnp.exp(problem.ref_logp - optimum)
    return both(
        equal(population_grad("dr_grpo", problem, logits, beta=beta, group_size=3), exact),
        equal(level, level.mean(), tolerance=1e-7),
        equal(jnp.exp(optimum).sum(), 1.0),
        equal(population_grad("dr_grpo", problem, optimum, beta=beta, group_size=3), 0.0, tolerance=1e-7),
    )


def _group_advantage_gradient(problem: Problem, logits: Logits, normalise: bool) -> Array:
    """sum over all groups of three: probability times -1/3 sum_i A_i grad log pi(y_i), with loops over the tuples."""
    assert problem.reward is not None
    p, size = jnp.exp(definitions.softmax_of(logits)), problem.num_responses
    total = jnp.zeros(size)
    for one in itertools.product(range(size), repeat=3):
        rewards = jnp.stack([problem.reward[y] for y in one])
        advantage = rewards - rewards.mean()
        if normalise:
            spread = jnp.sqrt(jnp.mean(jnp.square(advantage)))
            flat = spread < 1e-12
            advantage = jnp.where(flat, 0.0, advantage / jnp.where(flat, 1.0, spread))
        score = sum(advantage[i] * (jnp.arange(size) == y) for i, y in enumerate(one)) - advantage.sum() * p
        total = total - jnp.prod(jnp.stack([p[y] for y in one])) * score / 3
    return total


def grpo_gradient(
    problem: Problem, logits: Logits, beta: Array, *, factor: float = 1.0, sign: float = 1.0, scale: float = 1.0
) -> Array:
    r"""On-policy grpo descends its group-normalised advantage and the forward KL;
    scaling and shifting the reward change nothing.
    """
    assert problem.reward is not None
    moved = Problem(ref_logp=problem.ref_logp, reward=3.0 * problem.reward + 0.7)
    p, q = jnp.exp(definitions.softmax_of(logits)), jnp.exp(problem.ref_logp)
    exact = scale * _group_advantage_gradient(problem, logits, True) + sign * factor * beta * (p - q)
    return both(
        equal(population_grad("grpo", problem, logits, beta=beta, group_size=3), exact),
        equal(population_grad("grpo", moved, logits, beta=beta, group_size=3), exact),
    )


def off_policy(key: Array) -> tuple[Problem, Logits, Array]:
    """As `small_group_problem`, with an old policy that differs by enough for the clip to act."""
    problem, logits, beta = instances.smooth_problem(key, 3)
    assert isinstance(problem.sampler_logp, tuple)
    old = definitions.normalised(logits + 0.5 * problem.sampler_logp[0])
    return (
        Problem(ref_logp=problem.ref_logp, reward=problem.reward, sampler_logp=old, value=jnp.asarray(0.2)),
        logits,
        beta,
    )


def ppo_is_clipped(
    problem: Problem, logits: Logits, beta: Array, *, clip: float = 0.2, pessimist: float = 1.0, old_kl: float = 1.0
) -> Array:
    r"""E_{old} of -min(rho A, clip(rho) A) with A = r - beta log(old / ref) - V, and the gradient -rho A where the
    clip does not act.

    It does not act where A (rho - 1) is within c |A|: the pessimistic side only.
    """
    assert problem.reward is not None and isinstance(problem.sampler_logp, Array)
    assert problem.value is not None
    old = problem.sampler_logp
    logp = definitions.softmax_of(logits)
    advantage = problem.reward - old_kl * beta * (old - problem.ref_logp) - problem.value
    ratio = jnp.exp(logp - old)
    bounded = jnp.where(ratio > 1 + clip, 1 + clip, jnp.where(ratio < 1 - clip, 1 - clip, ratio))
    low, high = ratio * advantage, bounded * advantage
    chosen = pick(pessimist, jnp.where(low < high, low, high), jnp.where(low < high, high, low))
    free = jnp.where(advantage > 0, ratio < 1 + clip, ratio > 1 - clip)
    slope = definitions.policy_gradient(logp, jnp.where(free, advantage, 0.0))
    return both(
        equal(population_loss("ppo", problem, logp, beta=beta), -jnp.sum(jnp.exp(old) * chosen)),
        equal(population_grad("ppo", problem, logits, beta=beta), -slope),
    )


# --- pieces ---------------------------------------------------------------------------------------------------------


def leave_one_out_by_loops(
    logp: Group, ref_logp: Group, reward: Group, mask: Array, *, factor: float = 1.0, everyone: float = 0.0
) -> Array:
    r"""r_i minus the mean of the others, with a mask and without; the group's mean and standard deviation likewise."""

    def others(keep: Array) -> Array:
        rows = []
        for i in range(4):
            weight = keep * (jnp.arange(4) != i)
            apart = reward[i] - factor * jnp.sum(weight * reward) / jnp.maximum(jnp.sum(weight), 1)
            together = reward[i] - jnp.sum(keep * reward) / jnp.sum(keep)
            rows.append(pick(everyone, together, apart))
        return jnp.stack(rows)

    kept = mask.astype(reward.dtype)
    mean = jnp.sum(kept * reward) / jnp.sum(kept)
    variance = jnp.sum(kept * jnp.square(reward)) / jnp.sum(kept) - jnp.square(mean)
    unbiased = jnp.maximum(variance, 0.0) * jnp.sum(kept) / (jnp.sum(kept) - 1)
    dirty = jnp.where(mask, reward, 1e3)
    return both(
        equal(equations.leave_one_out(reward), others(jnp.ones(4))),
        equal(jnp.where(mask, equations.leave_one_out(dirty, mask), 0.0), jnp.where(mask, others(kept), 0.0)),
        equal(equations.group_mean(dirty, mask)[0], mean),
        equal(jnp.square(equations.group_std(dirty, mask)[0]), factor * jnp.maximum(variance, 0.0), tolerance=1e-8),
        equal(jnp.square(equations.group_std(dirty, mask, ddof=1)[0]), unbiased, tolerance=1e-8),
    )


def losses_of_a_group(
    logp: Group, ref_logp: Group, reward: Group, mask: Array, *, factor: float = 1.0, sign: float = 1.0
) -> Array:
    r"""The gradient of each loss on a masked group: -(1/n) A_i for what is kept, 0 for what is not.

    reinforce: A = r - beta h; rloo: that minus the mean of the others; grpo: (r - mean)/std, and beta (1 - e^{-h})
    of k3.
    """
    beta, kept = 0.3, mask.astype(reward.dtype)
    count = jnp.sum(kept)
    h = logp - ref_logp
    regularised = reward - sign * beta * h
    mean = jnp.sum(kept * regularised) / count
    centred = reward - jnp.sum(kept * reward) / count
    spread = jnp.sqrt(jnp.sum(kept * jnp.square(centred)) / count)
    flat = spread < 1e-12
    advantages = {
        "reinforce": regularised,
        "ppo": regularised,
        "rloo": (regularised - mean) * count / (count - 1),
        "dr_grpo": centred - sign * beta * (1 - jnp.exp(-h)),
        "grpo": jnp.where(flat, 0.0, centred / jnp.where(flat, 1.0, spread)) - sign * beta * (1 - jnp.exp(-h)),
    }
    slacks = []
    for name, advantage in advantages.items():

        def loss(x: Array, name: str = name) -> Array:
            samples = Samples(logp=x, ref_logp=ref_logp, reward=reward, behaviour_logp=logp, response_mask=mask)
            return methods[name](samples, beta=beta)

        slacks.append(equal(jax.grad(loss)(logp), -factor * kept * advantage / count, tolerance=1e-8))
    return both(*slacks)


def pieces(
    logp: Group,
    ref_logp: Group,
    reward: Group,
    mask: Array,
    *,
    factor: float = 1.0,
    sign: float = 1.0,
    every: float = 0.0,
) -> Array:
    r"""point, listwise, field, residual and the links, written out with and without a mask."""
    kept = pick(every, jnp.ones(4), mask.astype(reward.dtype))
    label = (ref_logp > logp).astype(reward.dtype)
    pointwise = sum(
        kept[i] * definitions.minus_log_sigmoid(sign * jnp.where(label[i] > 0, 1, -1) * (reward[i] - 0.2))
        for i in range(4)
    ) / jnp.sum(kept)
    target = jnp.array([0.4, 0.3, 0.2, 0.1])
    weights = kept * jnp.exp(reward)
    cross = -factor * jnp.sum(kept * target * jnp.log(jnp.where(kept > 0, weights / jnp.sum(weights), 1.0)))
    surrogate = -sign * jnp.sum(kept * reward * logp) / jnp.sum(kept)
    return both(
        equal(equations.point(reward, label, equations.logistic, 0.2, mask), pointwise),
        equal(equations.listwise(reward, target, mask), cross),
        equal(
            equations.listwise(reward, target),
            -factor * jnp.sum(target * jnp.log(jnp.exp(reward) / jnp.exp(reward).sum())),
        ),
        equal(equations.field(logp, reward, mask), surrogate),
        equal(equations.residual(logp, reward[0], ref_logp), factor * (logp + reward[0] - ref_logp) ** 2),
        equal(equations.hinge(reward, at=0.5), jnp.where(reward < 0.5, 0.5 - sign * reward, 0.0)),
    )


def certain_draw(key: Array) -> tuple[Problem, Logits, Array, Array, Array]:
    """Both slots are drawn from point masses, so that a sample is the expectation; (problem, logits, beta, i, j)."""
    problem, logits, beta = instances.smooth_problem(key)
    i, j = jax.random.randint(jax.random.fold_in(key, 1), (2,), 0, instances.SIZE)
    laws = tuple(jnp.where(jnp.arange(instances.SIZE) == y, 0.0, -jnp.inf) for y in (i, j))
    return Problem(ref_logp=problem.ref_logp, reward=problem.reward, sampler_logp=laws), logits, beta, i, j


def sampling_is_enumeration(
    problem: Problem, logits: Logits, beta: Array, i: Array, j: Array, *, flip: float = 0.0, factor: float = 1.0
) -> Array:
    r"""Where the samplers are point masses, the population loss,
    the sampled loss and their gradients are the loss of that pair.
    """
    assert problem.reward is not None
    logp = definitions.softmax_of(logits)
    h = logp - problem.ref_logp
    margin = factor * beta * (h[i] - h[j])
    p = definitions.sigmoid(pick(flip, -1.0, 1.0) * (problem.reward[i] - problem.reward[j]))
    win, lose = definitions.minus_log_sigmoid(margin), definitions.minus_log_sigmoid(-margin)
    slope = factor * beta * (definitions.sigmoid(margin) - p) * (jax.nn.one_hot(i, 5) - jax.nn.one_hot(j, 5))
    key = jax.random.key(0)
    drawn = alignjax.sampled_loss("ipo", problem, logp, key, beta=beta, num_samples=2)
    ipo = population_loss("ipo", problem, logp, beta=beta)
    return both(
        equal(population_loss("dpo", problem, logp, beta=beta), p * win + (1 - p) * lose),
        equal(alignjax.sampled_loss("dpo", problem, logp, key, beta=beta, num_samples=3), p * win + (1 - p) * lose),
        equal(alignjax.sampled_grad("dpo", problem, logits, key, beta=beta), slope),
        equal(drawn, ipo),
        equal(alignjax.sampled_loss("slic", problem, logp, key, delta=50.0), 50.0 - (2 * p - 1) * (logp[i] - logp[j])),
    )


def fit_is_gradient_descent(
    problem: Problem, logits: Logits, beta: Array, *, rate: float = 0.3, sign: float = 1.0, moved: float = 0.0
) -> Array:
    r"""Two steps of `fit` are theta - rate grad L, twice, from the given policy;
    the trace holds the losses met on the way.
    """
    assert problem.preference is not None
    rate_of = 0.3
    fitted = alignjax.fit(
        "ipo", problem, num_steps=2, learning_rate=rate_of * beta**2, init_logp=log_softmax(logits), beta=beta
    )
    theta = log_softmax(logits)
    law = problem.sampler_logp
    assert isinstance(law, Array)
    losses = []
    target = (2 * problem.preference - 1) / (2 * beta)
    for _ in range(2):

        def loss(x: Array) -> Array:
            h = definitions.softmax_of(x) - problem.ref_logp
            # P l(D) + (1 - P) l(-D) is (D - t)^2 + const with t = (2 P - 1) / (2 beta).
            square = jnp.square(definitions.outer_difference(h) - target)
            return definitions.pair_mean(law, law, square + 1 / (4 * beta**2) - jnp.square(target))

        losses.append(loss(theta) + moved)
        theta = theta - sign * rate * beta**2 * jax.grad(loss)(theta)
    return both(equal(fitted.logp, definitions.softmax_of(theta)), equal(fitted.trace, jnp.stack(losses)))


_FOUR_RESPONSES = functools.partial(instances.on_policy_problem, size=4)


def _on_policy(row: str, name: str, group_size: int, says: str, source: Source) -> Statement:
    return Statement(
        id=f"rl/{row}",
        says=says,
        formula=r"\nabla L=-\nabla\{\mathbb E_\pi[r]-\beta\,\mathrm{KL}(\pi\|\pi_{\rm ref})\}",
        slack=functools.partial(gradient_is_that_of_the_objective, name=name, group_size=group_size),
        instance=_FOUR_RESPONSES,
        source=source,
        mutants=({"sign": -1.0}, {"sign": 0.5}, {"kl": -1.0}, {"kl": 0.0}),
    )


STATEMENTS = (
    _on_policy(
        "P1", "reinforce", 1, "reinforce's expected gradient is that of -J, with any baseline",
        Source("Williams", 1992, "", "Theorem 1", venue="Machine Learning 8"),
    ),
    _on_policy(
        "P2", "rloo", 3, "rloo's expected gradient is that of -J, for groups of three",
        Source("Ahmadian et al.", 2024, "2402.14740", "Eq. 8"),
    ),
    _on_policy(
        "P3", "ppo", 1, "ppo's expected gradient, on-policy, is that of -J",
        Source("Schulman et al.", 2017, "1707.06347", "Eq. 7"),
    ),
    Statement(
        id="rl/P4",
        says="dr_grpo descends (K-1)/K of the reward and the forward KL",
        formula=r"\nabla L=-\tfrac{K-1}K\nabla\mathbb E_\pi r+\beta\nabla\mathrm{KL}(\pi_{\rm ref}\|\pi)",
        slack=dr_grpo_gradient,
        instance=small_group_problem,
        source=Source("Liu et al.", 2025, "2503.20783", "Sec. 3.2; derived in the docstring"),
        mutants=({"share": 1.0}, {"reverse": 1.0}, {"sign": -1.0}),
    ),
    Statement(
        id="rl/P5",
        says="grpo descends its normalised advantage and the forward KL, whatever the reward's scale and shift",
        formula=r"A_i=\frac{r_i-\bar r}{\mathrm{std}\,r},\quad\nabla L"
        r"=-\mathbb E\tfrac1K\sum A_i\nabla\log\pi+\beta\nabla\mathrm{KL}(\pi_{\rm ref}\|\pi)",
        slack=grpo_gradient,
        instance=small_group_problem,
        source=Source("Shao et al.", 2024, "2402.03300", "Eq. 3-4"),
        mutants=({"factor": 2.0}, {"sign": -1.0}, {"scale": 0.5}),
    ),
    Statement(
        id="rl/P6",
        says="ppo off-policy is the pessimistic clipped surrogate, penalised by the old policy's KL",
        formula=r"-\mathbb E_{\rm old}\min(\rho A,\mathrm{clip}(\rho,1\pm c)A)",
        slack=ppo_is_clipped,
        instance=off_policy,
        source=Source("Schulman et al.", 2017, "1707.06347", "Eq. 7"),
        mutants=({"clip": 0.1}, {"pessimist": 0.0}, {"old_kl": -1.0}, {"old_kl": 0.0}),
    ),
    Statement(
        id="rl/P7",
        says="leave_one_out, group_mean and group_std are what their names say, masks included",
        formula=r"r_i-\tfrac1{K-1}\sum_{j\ne i}r_j",
        slack=leave_one_out_by_loops,
        instance=instances.group,
        source=Source("Ahmadian et al.", 2024, "2402.14740", "Eq. 8"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"everyone": 1.0}),
    ),
    Statement(
        id="rl/P8",
        says="on a masked group every loss has the gradient of its advantages, and none where masked",
        formula=r"\partial L/\partial\log\pi(y_i)=-A_i/n",
        slack=losses_of_a_group,
        instance=instances.group,
        source=Source("alignjax", 2026, "", "definitions"),
        mutants=({"factor": 2.0}, {"sign": -1.0}, {"sign": 0.0}),
    ),
    Statement(
        id="rl/P9",
        says="point, listwise, field, residual and hinge are their formulas, masks included",
        formula=r"\mathrm{mean}_i\ell(\pm(s_i-\mathrm{shift})),\ -\sum t_i\log\mathrm{softmax}(s)_i",
        slack=pieces,
        instance=instances.group,
        source=Source("alignjax", 2026, "", "definitions"),
        mutants=({"factor": 2.0}, {"sign": -1.0}, {"every": 1.0}),
    ),
    Statement(
        id="rl/S1",
        says="from point masses, sampled and population losses and gradients are those of that pair",
        formula=r"\nu_0=\delta_i,\nu_1=\delta_j\Rightarrow L=\ell(i,j)",
        slack=sampling_is_enumeration,
        instance=certain_draw,
        source=Source("alignjax", 2026, "", "definitions"),
        mutants=({"flip": 1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="rl/S2",
        says="fit descends the population gradient",
        formula=r"\theta_{t+1}=\theta_t-\eta\nabla L(\theta_t)",
        slack=fit_is_gradient_descent,
        instance=instances.smooth_preference_problem,
        source=Source("alignjax", 2026, "", "definition"),
        mutants=({"rate": 0.6}, {"sign": -1.0}, {"moved": 1.0}),
    ),
)  # fmt: skip
