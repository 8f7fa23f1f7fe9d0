r"""MNPO's losses: Lemma 1, Proposition 1 and where it fails, the temperature of the time-dependent loss, Table 1."""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

import alignjax as aj
from alignjax import Problem, methods, population_grad, population_loss
from alignjax.games import MultiplayerGame, PreferenceGame, nash
from alignjax.games.solvers import step as solver_step
from alignjax.objectives.mnpo import TABLE_1
from alignjax.record import Source
from theory import definitions, instances
from theory.record import Statement
from theory.slack import both, equal, pick
from theory.statements.inpo import iterated_problem, parts

Law = Float[Array, "A"]


def _mean_rate(preference: Array, opponents: Float[Array, "J A"]) -> Array:
    return jnp.mean(jnp.stack([definitions.win_rate(preference, one) for one in opponents]), 0)


def lemma_one(
    problem: Problem, logits: Array, beta: Array, step: Array, *, factor: float = 1.0, geometric: float = 0.0
) -> Array:
    r"""The loss on win-rates is stationary at prod_j pi_j^{1/J} e^{h mean_j P(y > pi_j)} / Z, for every law of the
    pairs: Eq. 10, the step of a player in the game of n = J + 1.
    """
    preference, anchor, _, opponents = parts(problem)
    base = jnp.mean(opponents, 0)
    blended = definitions.win_rate(preference, definitions.normalised(base))
    rate = pick(geometric, blended, _mean_rate(preference, opponents))
    after = definitions.normalised(base + factor * step * rate)
    game = MultiplayerGame(preferences=preference, ref_logp=problem.ref_logp, tau=beta, num_players=3)
    stepped = solver_step(game, "mnpo", jnp.concatenate([anchor[None], opponents]), step)[0]
    return both(
        equal(population_grad("mnpo_soft", problem, after, step_size=step) / (1 + step), 0.0),
        equal(methods["mnpo_soft"].optimum(problem, step_size=step), after),
        equal(stepped, after),
    )


def single_opponent(
    problem: Problem, logits: Array, beta: Array, step: Array, *, inverse: float = 0.0, factor: float = 1.0
) -> Array:
    r"""Where every opponent is the law of the pairs, labels with the target h / 2 find Eq. 10's step h. The target 1 /
    (2 h) that Eq. 15 has for Eq. 10's eta (the mutant `inverse`) finds another policy.
    """
    preference, _, law, _ = parts(problem)
    own = Problem(
        ref_logp=problem.ref_logp, preference=preference, sampler_logp=law, opponent_logp=jnp.stack([law, law])
    )
    after = definitions.normalised(law + factor * step * definitions.win_rate(preference, law))
    used = pick(inverse, 1 / step, step)
    return both(
        equal(population_grad("mnpo", own, after, step_size=used) / (1 + used), 0.0),
        equal(methods["mnpo"].optimum(own, step_size=used), after),
    )


def proposition_one(
    problem: Problem, logits: Array, beta: Array, step: Array, *, corrected: float = 1.0, factor: float = 1.0
) -> Array:
    r"""L_labels - L_win-rates = 2 h E[(x - x')((q - q') - (q_nu - q_nu'))] + const, q the win-rate against the mean
    opponent and q_nu against the law nu of the pairs; the minimiser has nu as its opponent, and the bases as bases.

    So Proposition 1, that the two differ by a constant (the mutant `corrected = 0`), is false for distinct opponents.
    """
    preference, _, law, opponents = parts(problem)
    base, rate = jnp.mean(opponents, 0), _mean_rate(preference, opponents)
    against_law = definitions.win_rate(preference, law)

    def discrepancy(logp: Law) -> Array:
        hard = population_loss("mnpo", problem, logp, step_size=step)
        soft = population_loss("mnpo_soft", problem, logp, step_size=step)
        x, odds = definitions.outer_difference(logp - base), definitions.outer_difference(rate - against_law)
        return hard - soft - corrected * factor * 2 * step * definitions.pair_mean(law, law, x * odds)

    opponent = pick(corrected, against_law, rate)
    after = definitions.normalised(base + step * opponent)
    return both(
        equal(discrepancy(definitions.softmax_of(logits)), discrepancy(problem.ref_logp)),
        equal(population_grad("mnpo", problem, after, step_size=step) / (1 + step), 0.0),
        equal(methods["mnpo"].optimum(problem, step_size=step), after),
    )


def effective_temperature(
    problem: Problem, logits: Array, beta: Array, step: Array, *, power: float = 0.0, decay: float = 1.0
) -> Array:
    r"""TD-MNPO with a history that has collapsed stays at the regularised Nash at tau = eta ratio, which is `beta`:
    eta = 1 / h and ratio = h beta. With a history it finds ref^{h beta} prod_j pi_{t-j}^{(1 - h beta) w_j} e^{h P(y >
    nu)} / Z, w_j falling as d^j.

    The mutant takes the ratio alone for the temperature.
    """
    preference, _, law, opponents = parts(problem)
    ratio = step * beta
    claimed = ratio * jnp.power(step, power - 1)  # eta ratio, or (step h less) the ratio
    at = nash(PreferenceGame(preference=preference, ref_logp=problem.ref_logp, tau=beta))
    still = Problem(ref_logp=problem.ref_logp, preference=preference, opponent_logp=jnp.stack([at, at]))
    weights = jnp.stack([jnp.ones(()), jnp.asarray(0.6 * decay)]) / (1 + 0.6 * decay)
    base = ratio * problem.ref_logp + (1 - ratio) * jnp.sum(weights[:, None] * opponents, 0)
    after = definitions.normalised(base + step * definitions.win_rate(preference, law))
    hyper = {"step_size": step, "beta": beta, "history_decay": 0.6}
    return both(
        equal(population_grad("td_mnpo", still, at, **{**hyper, "beta": claimed}) / (1 + step), 0.0, tolerance=1e-8),
        equal(population_grad("td_mnpo", problem, after, **hyper) / (1 + step), 0.0),
        equal(methods["td_mnpo"].optimum(problem, **hyper), after),
    )


def other_players(
    problem: Problem, logits: Array, beta: Array, step: Array, *, factor: float = 1.0, share: float = 0.3
) -> Array:
    r"""HT-MNPO finds ref^{h beta} prod_j pi_j^{(1 - h beta)/J} e^{h P(y > nu)} / Z; EO-MNPO maximises E r - tau_0 KL(pi
    || ref) - sum_j tau_j KL(pi || pi_j), with beta = tau_0 + sum_j tau_j and w = sum_j tau_j / beta.
    """
    preference, _, law, opponents = parts(problem)
    pull = step * beta
    base = pull * problem.ref_logp + (1 - pull) * jnp.mean(opponents, 0)
    after = definitions.normalised(base + factor * step * definitions.win_rate(preference, law))
    reward = 0.5 * logits
    rated = Problem(
        ref_logp=problem.ref_logp, reward=reward, anchor_logp=problem.anchor_logp, sampler_logp=law,
        opponent_logp=opponents,
    )  # fmt: skip

    def objective(x: Array) -> Array:
        policy = definitions.softmax_of(x)
        rivals = jnp.mean(jnp.stack([definitions.kl(policy, one) for one in opponents]))
        price = (1 - share) * definitions.kl(policy, problem.ref_logp) + share * rivals
        return factor * definitions.expectation(policy, reward) - beta * price

    best = methods["eo_mnpo"].optimum(rated, beta=beta, external_weight=0.3)
    hyper = {"step_size": step, "beta": beta}
    return both(
        equal(population_grad("ht_mnpo", problem, after, **hyper) / (1 + step), 0.0),
        equal(methods["ht_mnpo"].optimum(problem, **hyper), after),
        equal(jax.grad(objective)(best), 0.0),
        equal(beta * population_grad("eo_mnpo", rated, best, beta=beta, external_weight=0.3), 0.0),
    )


def labelled_pair(key: Array) -> tuple[Array, Array, Array, Array]:
    """(log-probs [3, 2] of the policy, the reference and pi_t; (reward, win-rate) [2, 2]; beta; h with h beta < 1)."""
    keys = jax.random.split(key, 4)
    logp = -4 + jax.random.normal(keys[0], (3, 2))
    feedback = jnp.stack([jax.random.normal(keys[1], (2,)), jax.random.uniform(keys[1], (2,))])
    beta = instances.log_uniform(keys[2], 0.1, 3.0)
    return logp, feedback, beta, jax.random.uniform(keys[3], minval=0.05, maxval=0.95) / beta


def table_one(
    logp: Array,
    feedback: Array,
    beta: Array,
    step: Array,
    *,
    inpo_target: float = 1.0,
    inpo_indices: float = 1.0,
    inside: float = 1.0,
    distilled: float = 1.0,
) -> Array:
    r"""Each row of Table 1 is its method's loss on a labelled pair (0 is chosen), with the print corrected.

    SimPO, CPO and SPIN: -log sigmoid(beta margin); DPO with the reference; Distill-DPO regresses on rewards; DNO is the
    cross-entropy less the target's entropy; SPPO the square of a difference of residuals; IPO 1 / (2 beta); INPO h / 2
    with h beta on the reference. The mutants are the print: 1 / (2 tau), exchanged weights, beta left out of the
    sigmoid, a target without rewards.
    """
    own, ref, past = logp
    reward, rate = feedback
    samples = aj.Samples(logp=own, ref_logp=ref, anchor_logp=past, reward=reward, win_rate=rate)
    difference = lambda pair: pair[0] - pair[1]
    plain, to_ref, to_past = (difference(own - base) for base in (0.0, ref, past))
    gain = difference(rate)
    contrast = lambda margin: definitions.minus_log_sigmoid(pick(inside, beta, 1.0) * margin)
    share, odds = definitions.sigmoid(gain), to_past / step
    cross = share * definitions.minus_log_sigmoid(odds) + (1 - share) * definitions.minus_log_sigmoid(-odds)
    entropy = -share * jnp.log(share) - (1 - share) * jnp.log1p(-share)
    pull = pick(inpo_indices, step * beta, 1 - step * beta)
    target = pick(inpo_target, step / 2, 1 / (2 * beta))
    direct = {
        "SimPO": contrast(plain),
        "CPO": contrast(plain),
        "DPO": contrast(to_ref),
        "SPIN": contrast(to_past),
        "Distill-DPO": jnp.square(beta * to_ref - distilled * difference(reward)),
        "DNO": cross - entropy,
        "SPPO": jnp.square(to_past - step * gain),
        "IPO": jnp.square(to_ref - 1 / (2 * beta)),
        "INPO": jnp.square(plain - pull * difference(ref) - (1 - pull) * difference(past) - target),
    }
    hyper = {"beta": beta, "step_size": step}
    takes = {"DNO": ("step_size",), "SPPO": ("step_size",), "INPO": ("beta", "step_size")}
    slacks = []
    for row in TABLE_1:
        found = row(samples, **{name: hyper[name] for name in takes.get(row.name, ("beta",))})
        slacks.append(equal(found, direct.pop(row.name)))
    assert not direct, f"rows missing from TABLE_1: {sorted(direct)}"
    known = {"dpo": "DPO", "spin": "SPIN", "ipo": "IPO", "inpo": "INPO"}
    rows = {row.name: row for row in TABLE_1}
    for name, printed in known.items():
        hyperparameters = {n: hyper[n] for n in takes.get(printed, ("beta",))}
        slacks.append(equal(methods[name](samples, **hyperparameters), rows[printed](samples, **hyperparameters)))
    return both(*slacks)


_source = functools.partial(Source, "Wu et al.", 2025, "2509.23102")

STATEMENTS = (
    Statement(
        id="games/MN4",
        says="MNPO's loss on win-rates finds Eq. 10 (Lemma 1)",
        formula=r"\prod_j\pi_j^{1/J}e^{\frac hJ\sum_jP(y\succ\pi_j)}/Z",
        slack=lemma_one,
        instance=iterated_problem,
        source=_source("Eq. 10 and 14, Lemma 1"),
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"geometric": 1.0}),
    ),
    Statement(
        id="games/MN5",
        says="MNPO's labels need half the step as their target, with one opponent, the law of the pairs",
        formula=r"c=\tfrac h2\Rightarrow\nu e^{hP(y\succ\nu)}/Z",
        slack=single_opponent,
        instance=iterated_problem,
        source=_source("Eq. 15, corrected"),
        mutants=({"inverse": 1.0}, {"factor": 2.0}),
    ),
    Statement(
        id="games/MN6",
        says="labels are win-rates against the law of the pairs: Proposition 1 is false for distinct opponents",
        formula=r"L_{\rm hard}-L_{\rm soft}=2h\mathbb E[(x-x')(\Delta q-\Delta q_\nu)]+\mathrm{const}",
        slack=proposition_one,
        instance=iterated_problem,
        source=_source("Proposition 1, corrected in the docstring"),
        mutants=({"corrected": 0.0}, {"factor": 2.0}, {"factor": -1.0}),
    ),
    Statement(
        id="games/MN8",
        says="the rows of MNPO's Table 1 are the methods they name, corrected",
        formula=r"D[c\,\Delta\log\pi-\sum_jw_j\Delta\log b_j\,\|\,t]",
        slack=table_one,
        instance=labelled_pair,
        source=_source("Table 1, corrected in `TABLE_1`"),
        mutants=({"inpo_target": 0.0}, {"inpo_indices": 0.0}, {"inside": 0.0}, {"distilled": 0.0}),
    ),
    Statement(
        id="games/MN9",
        says="the time-dependent loss is at rest at the Nash at tau = eta ratio",
        formula=r"\tau_{\rm eff}=\eta\cdot\mathrm{ratio}=\beta",
        slack=effective_temperature,
        instance=iterated_problem,
        source=_source("Eq. 17, with the official code's ratio"),
        mutants=({"power": 1.0}, {"power": -1.0}, {"decay": 0.5}),
    ),
    Statement(
        id="games/MN10",
        says="HT-MNPO's bases are the other players, EO-MNPO maximises a reward less several divergences",
        formula=r"\mu^{\tau_0/\tau}\prod_j\pi_j^{\tau_j/\tau}e^{r/\tau}/Z",
        slack=other_players,
        instance=iterated_problem,
        source=_source("Eq. 18 and 20"),
        mutants=({"factor": 2.0}, {"share": 0.6}),
    ),
)
