"""The objectives of preference games against NumPy: where they are stationary, what they minimise, what one step is."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from scipy.optimize import brentq
from scipy.special import expit, log_softmax, logsumexp, rel_entr, wrightomega

import alignjax as aj
from alignjax import equations, laws
from alignjax.extragradient import evaluation_params, extragradient
from alignjax.objectives.mnpo import TABLE_1, multi_base_pair
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

A, B, J = 4, 2, 3


def fields(seed=0, size=A):
    rng = np.random.default_rng(seed)
    return {
        "ref_logp": oracles.policies(rng, B, size),
        "preference": oracles.preferences(rng, B, size),
        "sampler_logp": oracles.policies(rng, B, size),
        "anchor_logp": oracles.policies(rng, B, size),
        "opponent_logp": oracles.policies(rng, J, B, size),
        "reward": rng.normal(size=(B, size)),
    }


def without(x, *names):
    return aj.Problem(**{field: value for field, value in x.items() if field not in names})


def optimum(name, problem, **hyper):
    return np.asarray(aj.methods[name].optimum(problem, **hyper))


def tilted(base, score):
    return log_softmax(base + score, -1)


# --- the regularised Nash equilibrium


@pytest.mark.parametrize("name", ["inpo", "egpo", "online_ipo", "td_mnpo"])
def test_the_equilibrium_is_stationary_for_losses_that_stand_there(name):
    # Twelve random games, tau and h varied. Where the temperature is another one the gradient is not zero.
    rng = np.random.default_rng(1)
    x = {"ref_logp": oracles.policies(rng, 12, A), "preference": oracles.preferences(rng, 12, A)}
    for beta, h in ((0.05, 0.3), (0.5, 1.0), (2.0, 0.1), (1.0, 3.0)):
        nash = aj.games.nash(aj.games.PreferenceGame(**x, tau=beta))
        problem = aj.Problem(**x, sampler_logp=nash, anchor_logp=nash)
        hyper = {"step_size": h} if "step_size" in aj.methods[name].defaults else {}
        gradient = np.abs(aj.population_grad(name, problem, nash, beta=beta, **hyper))
        assert gradient.max() < 1e-12
        aside = np.abs(aj.population_grad(name, problem, nash, beta=1.5 * beta, **hyper)).max(-1)
        assert (aside > 1e-5).all()


@pytest.mark.parametrize("name", ["inpo", "td_mnpo"])
def test_iterates_with_a_collapsed_history_go_to_the_equilibrium(name):
    # For td_mnpo this is the spec's tau = eta * ratio: h = 1 / eta and ratio = h beta. Oracle: mirror steps in NumPy.
    x, beta, h = fields(2), 0.4, 0.7

    @jax.jit
    def run(logp):
        def step(_, logp):
            here = {"ref_logp": x["ref_logp"], "preference": x["preference"], "anchor_logp": logp}
            return aj.methods[name].optimum(aj.Problem(**here), beta=beta, step_size=h)

        return jax.lax.fori_loop(0, 200, step, logp)

    pairs = zip(x["preference"], x["ref_logp"], strict=True)
    nash = np.stack([oracles.nash_fixed_point(p, ref, beta) for p, ref in pairs])
    np.testing.assert_allclose(run(x["anchor_logp"]), nash, atol=1e-11)


def test_online_dpo_finds_the_policy_of_rlhf_and_not_the_equilibrium():
    # Under Bradley-Terry (spec section 4): stationary at ref exp(r / beta), and not at ref exp(P(y > pi) / beta).
    x = fields(3)
    problem = aj.Problem(ref_logp=x["ref_logp"], reward=x["reward"])
    rlhf = tilted(x["ref_logp"], x["reward"] / 0.5)
    assert np.abs(aj.population_grad("online_dpo", problem, rlhf, beta=0.5)).max() < 1e-14
    game = aj.games.PreferenceGame(preference=oracles.bradley_terry(x["reward"]), ref_logp=x["ref_logp"], tau=0.5)
    assert np.abs(aj.population_grad("online_dpo", problem, aj.games.nash(game), beta=0.5)).max() > 1e-3
    np.testing.assert_allclose(optimum("online_dpo", problem, beta=0.5), rlhf, atol=1e-12)


# --- minimisers


def test_minimisers_in_closed_form():
    x = fields()
    ref, anchor, others = x["ref_logp"], x["anchor_logp"], x["opponent_logp"]
    rate = lambda law: oracles.win_rates(x["preference"], law)
    problem, h, beta = aj.Problem(**x), 1.3, 0.4
    pull = h * beta
    by_label, by_rate = h * rate(x["sampler_logp"]), h * rate(anchor)
    base = pull * ref + (1 - pull) * anchor
    given = {"step_size": h}
    d = np.array([1, 0.6, 0.36])
    past = np.einsum("j,jba->ba", d / d.sum(), others)
    expected = {
        "inpo": (base + by_label, {"beta": beta}),
        "inpo_soft": (base + by_rate, {"beta": beta}),
        "onpo": (anchor + by_label, {}),
        "dno": (anchor + by_rate, {}),
        "mnpo": (others.mean(0) + by_label, {}),
        "mnpo_soft": (others.mean(0) + h * np.mean([rate(other) for other in others], 0), {}),
        "td_mnpo": (pull * ref + (1 - pull) * past + by_label, {"beta": beta, "history_decay": 0.6}),
        "ht_mnpo": (pull * ref + (1 - pull) * others.mean(0) + by_label, {"beta": beta}),
    }
    for name, (logits, more) in expected.items():
        np.testing.assert_allclose(
            optimum(name, problem, **given, **more), log_softmax(logits, -1), atol=1e-12, err_msg=name
        )
    external = 0.7 * ref + 0.3 * others.mean(0)
    np.testing.assert_allclose(
        optimum("eo_mnpo", problem, beta=beta, external_weight=0.3), tilted(external, x["reward"] / beta), atol=1e-12
    )
    data = anchor + (x["sampler_logp"] - anchor) / beta
    np.testing.assert_allclose(optimum("spin", problem, beta=beta), log_softmax(data, -1), atol=1e-12)
    bt = without(x, "preference")
    np.testing.assert_allclose(optimum("dno_prct", bt, beta=beta), tilted(anchor, x["reward"] / beta), atol=1e-12)


def test_who_draws_the_pairs_where_the_problem_does_not_say():
    x = fields()
    logp = x["reward"]  # a law that none of them is
    draws = {
        (): x["sampler_logp"],
        ("sampler_logp",): x["anchor_logp"],
        ("sampler_logp", "anchor_logp"): x["opponent_logp"][0],
        ("sampler_logp", "anchor_logp", "opponent_logp"): x["ref_logp"],
    }
    for gone, law in draws.items():
        problem = without(x, *gone)
        np.testing.assert_array_equal(laws.history_proposal(problem, logp), law)
        if len(gone) != 2:
            np.testing.assert_array_equal(laws.proposal(problem, logp), law)
        # A loss drawn from it has its gradient there: at the optimum it is zero.
        best = optimum("td_mnpo", problem, beta=0.3)
        assert np.abs(aj.population_grad("td_mnpo", problem, best, beta=0.3)).max() < 1e-13
    bare = without(x, "sampler_logp", "anchor_logp", "opponent_logp")
    np.testing.assert_array_equal(laws.proposal(bare, logp), x["ref_logp"])
    np.testing.assert_array_equal(laws.previous(bare, logp), x["ref_logp"])
    np.testing.assert_array_equal(laws.average_opponent(bare, logp), x["ref_logp"])
    mean = np.log(np.exp(x["opponent_logp"]).mean(0))
    np.testing.assert_allclose(laws.average_opponent(aj.Problem(**x), logp), mean, atol=1e-14)


@pytest.mark.slow
def test_a_response_out_of_the_game_stays_out_of_every_minimiser():
    # Oracle: the game without it; h beta > 1, so that a weight is negative and -inf cannot simply be multiplied.
    x = fields()
    wide = {n: np.concatenate([v, np.full((*v.shape[:-1], 1), -np.inf)], -1) for n, v in x.items() if "logp" in n}
    wide["reward"] = np.pad(x["reward"], ((0, 0), (0, 1)))
    wide["preference"] = np.pad(x["preference"], ((0, 0), (0, 1), (0, 1)), constant_values=0.5)
    for name in ("inpo", "inpo_soft", "td_mnpo", "mnpo_soft", "eo_mnpo", "dno", "sppo", "spin"):
        hyper = {n: 1.3 for n in ("beta", "step_size") if n in aj.methods[name].defaults}
        got = optimum(name, aj.Problem(**wide), **hyper)
        assert np.isneginf(got[:, A]).all(), name
        np.testing.assert_allclose(got[:, :A], optimum(name, aj.Problem(**x), **hyper), atol=1e-12, err_msg=name)


def sppo_by_root_finding(anchor, q, law, h):
    """u = t - omega(t + log(kappa / nu)) with scipy's Wright omega and Brent's root of the mass."""
    t = anchor + h * (q - 0.5)
    policy = lambda kappa: t - wrightomega(t + np.log(kappa) - law)
    kappa = brentq(lambda k: logsumexp(policy(k)), 1e-14, 2 * logsumexp(t) + 1e-9, xtol=1e-15)
    return policy(kappa)


@pytest.mark.parametrize("h", [0.3, 3.0, 30.0])
def test_the_exact_minimiser_of_sppo(h):
    x = fields(5)
    got = optimum("sppo", aj.Problem(**x), step_size=h)
    q = oracles.win_rates(x["preference"], x["anchor_logp"])
    for b in range(B):
        expected = sppo_by_root_finding(x["anchor_logp"][b], q[b], x["sampler_logp"][b], h)
        np.testing.assert_allclose(got[b], expected, atol=1e-9)
    # Against multiplicative weights: equal where the win-rates are, and only there; and the log-partition's bounds.
    weights = tilted(x["anchor_logp"], h * q)
    assert np.abs(got - weights).max() > 1e-5 * h
    log_z = logsumexp(x["anchor_logp"] + h * q, -1)
    assert ((log_z - h / 2 > 0) & (log_z - h / 2 < h**2 / 8)).all()
    tie = aj.Problem(ref_logp=x["ref_logp"], anchor_logp=x["anchor_logp"], preference=np.full((A, A), 0.5))
    np.testing.assert_allclose(optimum("sppo", tie, step_size=h), x["anchor_logp"], atol=1e-12)


def test_the_minimiser_of_sppo_is_a_minimum():
    # No random policy, and no small step on the simplex, has less loss.
    x = fields(6)
    problem = aj.Problem(**x)
    best = optimum("sppo", problem, step_size=5.0)
    rng = np.random.default_rng(0)
    loss = lambda logp: np.asarray(aj.population_loss("sppo", problem, logp, step_size=5.0))
    least = loss(best)
    for spread in (0.01, 0.01, 0.1, 0.1, 1.0, 1.0):
        assert (loss(log_softmax(best + spread * rng.normal(size=best.shape), -1)) > least).all()


# --- Proposition 1 of MNPO


def test_labels_are_win_rates_against_the_law_of_the_pairs():
    x, h = fields(7), 0.8
    soft = optimum("mnpo_soft", aj.Problem(**x), step_size=h)
    hard = optimum("mnpo", aj.Problem(**x), step_size=h)
    assert np.abs(soft - hard).max() > 1e-2  # distinct opponents: half a step does not mend it
    one = np.stack([x["anchor_logp"]] * J)
    alike = without(x | {"opponent_logp": one}, "sampler_logp")  # drawn from the anchor, which every opponent is
    soft, hard = (optimum(name, alike, step_size=h) for name in ("mnpo_soft", "mnpo"))
    np.testing.assert_allclose(hard, soft, atol=1e-12)
    # The printed target 1 / (2 eta), eta the step of Eq. 10, is that of the step 1 / h.
    printed = optimum("mnpo", alike, step_size=1 / h)
    assert np.abs(printed - soft).max() > 1e-2


def test_the_family_collapses_as_it_should():
    # One opponent: td_mnpo is inpo, mnpo is onpo, mnpo_soft is inpo_soft without a reference.
    x = fields(8)
    logits = x["reward"]
    problem = aj.Problem(**x | {"opponent_logp": x["anchor_logp"][None]})
    gradient = lambda name, **hyper: np.asarray(aj.population_grad(name, problem, logits, **hyper))
    both = {"step_size": 0.7, "beta": 0.3}
    np.testing.assert_allclose(gradient("td_mnpo", **both), gradient("inpo", **both), atol=1e-13)
    np.testing.assert_allclose(gradient("mnpo", step_size=0.7), gradient("onpo", step_size=0.7), atol=1e-13)
    bare = gradient("inpo_soft", step_size=0.7, beta=1e-13)
    np.testing.assert_allclose(gradient("mnpo_soft", step_size=0.7), bare, atol=1e-11)


# --- Table 1


def samples_of(x):
    logp = log_softmax(x["reward"], -1)
    pair = np.array([2, 0])
    rates = oracles.win_rates(x["preference"], x["anchor_logp"])
    return aj.Samples(
        logp=logp[:, pair], ref_logp=x["ref_logp"][:, pair], anchor_logp=x["anchor_logp"][:, pair],
        reward=x["reward"][:, pair], win_rate=rates[:, pair], preference=x["preference"][:, pair][:, :, pair],
    )  # fmt: skip


def test_every_row_of_the_table_is_its_method():
    # The methods' own formulas in NumPy; a row that says so differs by the entropy of the target.
    samples = samples_of(fields(9))
    beta, h = 0.3, 0.7
    gap = lambda name: np.asarray(getattr(samples, name)[..., 0] - getattr(samples, name)[..., 1])
    p = np.asarray(samples.preference)[..., 0, 1]
    mixed = lambda link, m: p * link(m) + (1 - p) * link(-m)
    logistic = lambda m: mixed(lambda z: oracles.softplus(-z), m)
    over = lambda base: gap("logp") - gap(base)
    t, m = gap("win_rate"), over("anchor_logp")
    coin = expit(t)
    cross = coin * oracles.softplus(-m / h) + (1 - coin) * oracles.softplus(m / h)
    entropy = -(coin * np.log(coin) + (1 - coin) * np.log(1 - coin))
    residual = np.asarray(samples.logp - samples.anchor_logp) - h * (np.asarray(samples.win_rate) - 0.5)
    both = h * beta * gap("ref_logp") + (1 - h * beta) * gap("anchor_logp")
    step, tau = {"step_size": h}, {"beta": beta}
    expected = {
        "SimPO": (logistic(beta * gap("logp")), tau),
        "CPO": (logistic(beta * gap("logp")), tau),
        "DPO": (logistic(beta * over("ref_logp")), tau),
        "Distill-DPO": ((gap("reward") - beta * over("ref_logp")) ** 2, tau),
        "DNO": (cross - entropy, step),
        "SPIN": (logistic(beta * m), tau),
        "SPPO": ((residual[..., 0] - residual[..., 1]) ** 2, step),
        "IPO": (mixed(lambda z: (z - 1 / (2 * beta)) ** 2, over("ref_logp")), tau),
        "INPO": (mixed(lambda z: (z - h / 2) ** 2, gap("logp") - both), step | tau),
    }
    assert {row.name for row in TABLE_1} == set(expected) and len(TABLE_1) == len(expected)
    for row in TABLE_1:
        value, hyper = expected[row.name]
        np.testing.assert_allclose(row(samples, **hyper), value, rtol=1e-12, err_msg=row.name)
        assert row.n == len(row.bases) + 1
    # And the records of those that have one, without labels for SPIN, whose responses are not compared.
    labelled = {"DPO": "dpo", "IPO": "ipo", "INPO": "inpo"}
    for row in TABLE_1:
        if row.name in labelled:
            record = aj.methods[labelled[row.name]](samples, **expected[row.name][1])
            np.testing.assert_allclose(row(samples, **expected[row.name][1]), record, rtol=1e-12)
    np.testing.assert_allclose(aj.methods["dno"](samples, **step), cross, rtol=1e-12)
    rows = {row.name: row for row in TABLE_1}
    plain = aj.Samples(logp=samples.logp, anchor_logp=samples.anchor_logp)
    np.testing.assert_allclose(rows["SPIN"](plain, beta=beta), aj.methods["spin"](plain, beta=beta), rtol=1e-12)


def test_a_row_says_what_it_lacks():
    rows = {row.name: row for row in TABLE_1}
    with pytest.raises(ValueError, match="IPO needs the field 'ref_logp'"):
        rows["IPO"](aj.Samples(logp=[[-1.0, -2.0]]), beta=0.1)
    with pytest.raises(TypeError, match=r"INPO takes the hyperparameters \['beta', 'step_size'\], got \['beta'\]"):
        rows["INPO"](samples_of(fields()), beta=0.1)


def test_the_backward_divergence_of_two_coins():
    m = np.array([-3.0, -0.2, 0.0, 1.5, 40.0])
    for t in (-2.0, 0.0, 0.7):
        p, q = expit(t), expit(m)
        expected = rel_entr(p, q) + rel_entr(1 - p, expit(-m))
        np.testing.assert_allclose(equations.bernoulli_kl(jnp.asarray(m), target=t), expected, rtol=1e-12, atol=1e-15)
    certain = equations.bernoulli_kl(jnp.asarray(m), target=np.inf)
    np.testing.assert_allclose(certain, oracles.softplus(-m), rtol=1e-12)
    slope = jax.grad(lambda z: equations.bernoulli_kl(z, target=np.inf).sum())(jnp.asarray(m))
    np.testing.assert_allclose(slope, -expit(-m), rtol=1e-12)


# --- single methods


def test_the_bonus_of_xpo_pushes_the_references_response_down():
    x = fields(10)
    problem, logits = without(x, "sampler_logp"), x["reward"]
    given = lambda alpha: np.asarray(aj.population_grad("xpo", problem, logits, beta=0.4, exploration=alpha))
    # The bonus alone: alpha E_ref grad log pi = alpha (ref - pi).
    np.testing.assert_allclose(
        given(0.2) - given(0.0), 0.2 * (np.exp(x["ref_logp"]) - np.exp(log_softmax(logits, -1))), atol=1e-13
    )
    # Without it: DPO on pairs from policy and reference.
    now = aj.Problem(
        ref_logp=x["ref_logp"], preference=x["preference"], sampler_logp=(log_softmax(logits, -1), x["ref_logp"])
    )
    np.testing.assert_allclose(given(0.0), aj.population_grad("dpo", now, logits, beta=0.4), atol=1e-13)


def test_a_target_is_data():
    # No gradient goes through win-rates and rewards, even where a caller makes them depend on the policy.
    samples = samples_of(fields())
    x = jnp.asarray(samples.logp)
    arrays = {"ref_logp": samples.ref_logp, "anchor_logp": samples.anchor_logp, "opponent_logp": samples.ref_logp[None]}
    for name in ("egpo", "inpo_soft", "dno", "sppo", "mnpo_soft", "eo_mnpo"):
        method = aj.methods[name]
        field = "reward" if name == "eo_mnpo" else "win_rate"
        given = {n: a for n, a in arrays.items() if n in method.reads}
        through = lambda z, m=method, f=field, g=given: m(aj.Samples(logp=x, **{f: z}, **g)).sum()
        slope = jax.grad(through)(jnp.asarray(getattr(samples, field)))
        assert (np.asarray(slope) == 0).all(), name


# --- extragradient


def mirror(theta, opponent, x, beta, h):
    """(1 - h beta) theta + h beta log ref + h P opponent."""
    return (1 - h * beta) * theta + h * beta * x["ref_logp"] + h * oracles.win_rates(x["preference"], opponent)


def recursion(x, beta, h, steps, extra):
    """EGPO's update as printed (spec 5.1), or plain mirror descent; log-probs after every step."""
    theta = x["ref_logp"].copy()
    for _ in range(steps):
        half = mirror(theta, log_softmax(theta, -1), x, beta, h)
        theta = mirror(theta, log_softmax(half, -1), x, beta, h) if extra else half
    return log_softmax(theta, -1)


GAME = {n: v for n, v in fields(11).items() if n in ("ref_logp", "preference")}


@pytest.mark.parametrize("extra", [False, True])
def test_egpo_descends_as_mirror_steps_of_four_rates_over_beta_and_size(extra):
    beta, rate, steps = 0.3, 0.11, 25
    fitted = aj.fit("egpo", aj.Problem(**GAME), num_steps=steps, learning_rate=rate, beta=beta, extragradient=extra)
    expected = recursion(GAME, beta, 4 * rate / (beta * A), steps, extra)
    np.testing.assert_allclose(fitted.logp, expected, atol=1e-10)
    assert fitted.trace.shape == (steps, B)
    other = recursion(GAME, beta, 4 * rate / (beta * A), steps, not extra)
    assert np.abs(fitted.logp - other).max() > 1e-3


def test_extragradient_restores_the_inner_optimiser():
    # Adam by hand: the half step's moments are thrown away, and its count with them.
    beta, rate, steps = 0.3, 0.05, 4
    problem = aj.Problem(**GAME)
    fitted = aj.fit("egpo", problem, num_steps=steps, optimizer=optax.adam(rate), beta=beta, extragradient=True)

    def gradient(theta, opponent):
        # Lemma R2 with uniform pairs: 4 / A (x_k - mean x - (q_k - mean q) / beta).
        centred = lambda z: z - z.mean(-1, keepdims=True)
        return 4 / A * centred(theta - GAME["ref_logp"] - oracles.win_rates(GAME["preference"], opponent) / beta)

    def adam(g, m, v, count):
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        return -rate * (m / (1 - 0.9**count)) / (np.sqrt(v / (1 - 0.999**count)) + 1e-8), m, v

    theta, m, v = GAME["ref_logp"].copy(), 0.0, 0.0
    for count in range(1, steps + 1):
        half = theta + adam(gradient(theta, log_softmax(theta, -1)), m, v, count)[0]
        move, m, v = adam(gradient(theta, log_softmax(half, -1)), m, v, count)
        theta = theta + move
    np.testing.assert_allclose(fitted.logp, log_softmax(theta, -1), atol=1e-10)


def test_the_transformation_alone():
    # Half a step, its undoing, and momentum that has seen the full steps only: updates by hand.
    rule = extragradient(optax.sgd(0.5, momentum=0.9))
    params, moment = {"w": jnp.asarray([1.0, -2.0])}, np.zeros(2)
    state, x = rule.init(params), np.array([1.0, -2.0])
    for first, second in (([1.0, 3.0], [2.0, -1.0]), ([0.5, 0.5], [4.0, 1.0])):
        np.testing.assert_allclose(evaluation_params(state, params)["w"], x)
        updates, state = rule.update({"w": jnp.asarray(first)}, state, params)
        params = optax.apply_updates(params, updates)
        np.testing.assert_allclose(params["w"], x - 0.5 * (0.9 * moment + first), atol=1e-15)
        np.testing.assert_allclose(evaluation_params(state, params)["w"], x)
        updates, state = rule.update({"w": jnp.asarray(second)}, state, params)
        params = optax.apply_updates(params, updates)
        moment = 0.9 * moment + second
        x = x - 0.5 * moment
        np.testing.assert_allclose(params["w"], x, atol=1e-15)
    with pytest.raises(ValueError, match="extragradient needs the parameters"):
        rule.update({"w": jnp.zeros(2)}, state)


def test_extragradient_with_schedules_and_over_rates():
    # A schedule counts steps, not half steps; rates and temperatures map.
    problem, rates = aj.Problem(**GAME), (0.1, 0.05)
    given = {"num_steps": 2, "beta": 0.3, "extragradient": True}
    fitted = aj.fit("egpo", problem, learning_rate=lambda t: jnp.where(t == 0, *rates), **given)
    theta = GAME["ref_logp"]
    for rate in rates:
        h = 4 * rate / (0.3 * A)
        half = mirror(theta, log_softmax(theta, -1), GAME, 0.3, h)
        theta = mirror(theta, log_softmax(half, -1), GAME, 0.3, h)
    np.testing.assert_allclose(fitted.logp, log_softmax(theta, -1), atol=1e-12)
    run = lambda rate, beta: (
        aj.fit("egpo", problem, num_steps=2, learning_rate=rate, beta=beta, extragradient=True).logp
    )
    both = jax.vmap(run)(jnp.asarray(rates), jnp.asarray([0.3, 0.6]))
    for rate, beta, logp in zip(rates, (0.3, 0.6), both, strict=True):
        np.testing.assert_allclose(logp, recursion(GAME, beta, 4 * rate / (beta * A), 2, True), atol=1e-10)


@pytest.mark.slow
def test_sampled_extragradient_with_one_batch_and_with_two():
    problem, given = aj.Problem(**GAME), {"num_steps": 3, "learning_rate": 0.1, "beta": 0.5, "key": jax.random.key(0)}
    runs = {how: np.asarray(aj.fit("egpo", problem, **given, extragradient=how).logp)
            for how in (True, "one_batch", "two_batches")}  # fmt: skip
    np.testing.assert_array_equal(runs[True], runs["one_batch"])
    assert np.abs(runs["two_batches"] - runs["one_batch"]).max() > 1e-3


@pytest.mark.slow
def test_sampled_extragradient_is_the_exact_one_in_the_mean():
    # One step from a far start; 4000 batches of 16 pairs, within 4.5 standard errors. The full step is linear in its
    # sampled gradient but the half step enters through a softmax: a small rate leaves its bias below the error.
    problem = aj.Problem(**GAME)
    given = {"num_steps": 1, "learning_rate": 0.02, "beta": 0.5, "extragradient": "two_batches", "batch_size": 16}
    run = lambda key: aj.fit("egpo", problem, **given, key=key).params
    draws = np.asarray(jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(1), 4000)))
    exact = np.asarray(aj.fit("egpo", problem, **given).params)
    assert (np.abs(draws.mean(0) - exact) < 4.5 * draws.std(0) / np.sqrt(len(draws))).all()


def test_extragradient_of_another_parametrisation():
    # Logits 2 w: the gradient in w is twice that in the logits, so that the rate on the logits is four times as large.
    rate, problem = 0.02, aj.Problem(**GAME)
    given = {"num_steps": 5, "beta": 0.3, "extragradient": True}
    policy = lambda w: jax.nn.log_softmax(2 * w)
    params = GAME["ref_logp"] / 2
    scaled = aj.fit("egpo", problem, learning_rate=rate, policy=policy, init_params=params, **given)
    plain = recursion(GAME, 0.3, 4 * 4 * rate / (0.3 * A), 5, True)
    np.testing.assert_allclose(scaled.logp, plain, atol=1e-10)


# --- what is not allowed

TWO = {"ref_logp": np.log([0.5, 0.5]), "preference": np.array([[0.5, 0.8], [0.2, 0.5]])}
PAIR = aj.Samples(
    logp=[[-1.0, -2.0]], ref_logp=[[-1.0, -2.0]], anchor_logp=[[-1.0, -2.0]], preference=[TWO["preference"]]
)


METHODS, BOTH = aj.methods, TWO["ref_logp"]
fit = lambda name, how: aj.fit(name, aj.Problem(**TWO), num_steps=1, learning_rate=0.1, extragradient=how)
best = lambda name, laws: METHODS[name].optimum(aj.Problem(**TWO, sampler_logp=laws))


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: METHODS["inpo"](PAIR, step_size=0), "step_size must be a finite number > 0, got 0"),
        (lambda: METHODS["td_mnpo"].hyperparameters({"history_decay": 0.0}),
         r"history_decay must lie in \(0, 1\], got 0"),
        (lambda: METHODS["eo_mnpo"].hyperparameters({"external_weight": 2}),
         r"external_weight must lie in \[0, 1\], got 2"),
        (lambda: METHODS["xpo"](PAIR, exploration=-1.0), r"exploration must lie in \[0, inf\), got -1"),
        (lambda: METHODS["mnpo"](PAIR), "mnpo needs the field 'opponent_logp'"),
        (lambda: aj.population_grad("ht_mnpo", aj.Problem(**TWO), np.zeros(2)), "ht_mnpo needs 'opponent_logp'"),
        (lambda: METHODS["ht_mnpo"].optimum(aj.Problem(**TWO)), "ht_mnpo needs `opponent_logp`"),
        (lambda: METHODS["eo_mnpo"].optimum(aj.Problem(**TWO)), "eo_mnpo needs `opponent_logp`"),
        (lambda: best("spin", (BOTH,) * 2), "one law here.*tuple of 2"),
        (lambda: best("sppo", (BOTH,) * 2), "a tuple of 2 laws"),
        (lambda: best("inpo", (BOTH,) * 3), "inpo draws K = 2"),
        (lambda: multi_base_pair(PAIR.logp, [PAIR.ref_logp], [0.5, 0.5], target=1.0), "1 bases and 2 weights"),
        (lambda: multi_base_pair(PAIR.logp, [], [], target=1.0, distance="sqared"), "did you mean 'squared'"),
        (lambda: fit("ipo", True),
         "opponent is the policy itself, such as egpo; the opponent of ipo is none"),
        (lambda: fit("nash_md_pg", True),
         "the opponent of nash_md_pg is the law 'mixture'"),
        (lambda: fit("egpo", "three"),
         "extragradient must be True, False, 'one_batch' or 'two_batches', got 'three'"),
    ],
)  # fmt: skip
def test_what_is_not_allowed_is_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()
