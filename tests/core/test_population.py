"""Population losses and gradients against sums over all tuples and against closed forms, in NumPy."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import expit, log_softmax, softmax

import alignjax as aj
from tests.core import oracles

pytestmark = pytest.mark.usefixtures("x64")

A, B = 3, 2


def instance(seed=0, size=A, batch=(B,)):
    """A random instance, its logits well away from the reference."""
    rng = np.random.default_rng(seed)
    return {
        "ref_logp": oracles.policies(rng, *batch, size),
        "reward": rng.normal(size=(*batch, size)),
        "preference": oracles.preferences(rng, *batch, size),
        "logits": 1.5 * rng.normal(size=(*batch, size)),
        "sampler": oracles.policies(rng, *batch, size),
        "second": oracles.policies(rng, *batch, size),
        "anchor": oracles.policies(rng, *batch, size),
        "value": rng.normal(size=batch),
        "opponents": oracles.policies(rng, 2, *batch, size),
    }


def table(x, sampler=None, **more):
    """The same fields in every test, so that the compiled programs are shared."""
    fields = {n: x[n] for n in ("ref_logp", "reward", "preference")} | more
    return aj.Problem(**fields, sampler_logp=x[sampler] if isinstance(sampler, str) else sampler)


def mixed(logp, ref_logp, m):
    return log_softmax((1 - m) * logp + m * ref_logp, axis=-1)


ON_POLICY = ("reinforce", "rloo", "dr_grpo", "nash_md_pg", "nash_ema_pg", "online_ipo", "online_dpo")
READS_ANCHOR = ("nash_ema_pg", "inpo", "inpo_soft", "onpo", "dno", "dno_prct", "sppo", "spin")
READS_OPPONENTS = ("mnpo", "mnpo_soft", "td_mnpo", "ht_mnpo", "eo_mnpo")

# (method, hyperparameters, what Problem.sampler_logp holds, K)
CASES = [
    ("dpo", {"beta": 0.3}, None, 2),
    ("dpo", {"beta": 0.3}, "one", 2),
    ("dpo", {"beta": 0.3}, "two", 2),
    ("cdpo", {"beta": 0.7, "label_smoothing": 0.2}, "one", 2),
    ("robust_dpo", {"beta": 0.7, "label_smoothing": 0.2}, "one", 2),
    ("f_dpo", {"beta": 0.4, "divergence": "reverse_kl"}, "one", 2),
    ("f_dpo", {"beta": 0.4, "divergence": "forward_kl"}, None, 2),
    ("f_dpo", {"beta": 0.4, "divergence": "js"}, "two", 2),
    ("f_dpo", {"beta": 0.4, "divergence": "alpha", "alpha": 0.3}, "one", 2),
    ("hinge", {"beta": 0.8}, "one", 2),
    ("slic", {"delta": 0.7}, "one", 2),
    ("ipo", {"beta": 0.5}, None, 2),
    ("ipo", {"beta": 0.5}, "two", 2),
    ("online_ipo", {"beta": 0.5}, "one", 2),
    ("ipo_md", {"beta": 0.5, "mixture": 0.3}, "one", 2),
    ("reinforce", {"beta": 0.2}, "one", 2),
    ("rloo", {"beta": 0.2}, "one", 3),
    ("ppo", {"beta": 0.2, "clip_range": 0.2}, None, 2),
    ("ppo", {"beta": 0.2, "clip_range": 0.2}, "one", 2),
    ("grpo", {"beta": 0.2, "clip_range": 0.2}, None, 3),
    ("grpo", {"beta": 0.2, "clip_range": 0.2, "std_epsilon": 0.1}, "one", 2),
    ("dr_grpo", {"beta": 0.2, "clip_range": 0.2}, "one", 3),
    ("nash_md_pg", {"beta": 0.2, "mixture": 0.3}, "one", 2),
    ("nash_ema_pg", {"beta": 0.2}, None, 2),
    ("inpo", {"beta": 0.5, "step_size": 1.3}, None, 2),
    ("inpo", {"beta": 0.5, "step_size": 1.3}, "two", 2),
    ("inpo_soft", {"beta": 0.5, "step_size": 1.3}, "one", 2),
    ("onpo", {"step_size": 1.3}, "two", 2),
    ("egpo", {"beta": 0.4}, "one", 2),
    ("dno", {"step_size": 1.3}, "one", 2),
    ("dno_prct", {"beta": 0.7}, None, 2),
    ("sppo", {"step_size": 2.0}, "one", 2),
    ("spin", {"beta": 0.7}, "one", 2),
    ("xpo", {"beta": 0.7, "exploration": 0.3}, "one", 2),
    ("online_dpo", {"beta": 0.7}, "one", 2),
    ("mnpo", {"step_size": 1.3}, "one", 2),
    ("mnpo_soft", {"step_size": 1.3}, "two", 2),
    ("td_mnpo", {"beta": 0.5, "step_size": 0.7, "history_decay": 0.6}, None, 2),
    ("ht_mnpo", {"beta": 0.5, "step_size": 0.7}, "one", 2),
    ("eo_mnpo", {"beta": 0.5, "external_weight": 0.3}, "one", 2),
]
# Their laws and losses are those of others in the fast lane.
SLOW = {("inpo", "two"), ("onpo", "two"), ("inpo_soft", "one"), ("dno", "one"), ("dno_prct", None), ("mnpo", "one"),
        ("online_dpo", "one"), ("ht_mnpo", "one"), ("eo_mnpo", "one")}  # fmt: skip


# Each value is another compilation: one for every way of drawing.
VALUES = {("dpo", None), ("ipo", "two"), ("ppo", "one"), ("grpo", None), ("nash_md_pg", "one"), ("robust_dpo", "one")}


@pytest.mark.parametrize(
    ("name", "hyper", "kind", "k"),
    [pytest.param(*c, id=f"{c[0]}-{c[2]}-{c[3]}", marks=[pytest.mark.slow] * ((c[0], c[2]) in SLOW)) for c in CASES],
)
def test_loss_and_gradient_are_the_sum_over_all_tuples(name, hyper, kind, k):
    x = instance()
    sampler = {None: None, "one": x["sampler"], "two": (x["sampler"], x["second"])}[kind]
    more = {"anchor_logp": x["anchor"]} if name in READS_ANCHOR else {}
    if name in READS_OPPONENTS:
        more["opponent_logp"] = x["opponents"]
    if name in ("reinforce", "ppo"):
        more["value"] = x["value"]
    problem = table(x, sampler, **more)
    size = {} if k == 2 else {"group_size": k}
    value = None
    if (name, kind) in VALUES:
        value = np.asarray(aj.population_loss(name, problem, log_softmax(x["logits"], -1), **hyper, **size))
        assert value.shape == (B,)
    gradient = np.asarray(aj.population_grad(name, problem, x["logits"], **hyper, **size))
    assert gradient.shape == (B, A) and gradient.dtype == np.float64
    clipped = 0
    for b in range(B):
        logp, ref = log_softmax(x["logits"][b]), x["ref_logp"][b]
        # Offline methods and the old policy draw from the sampler, on-policy ones from the policy.
        if name in ON_POLICY or (kind is None and name in ("ppo", "grpo")):
            laws = [logp] * k
        elif name == "ipo_md":
            laws = [mixed(logp, ref, hyper["mixture"])] * k
        elif name == "egpo":
            laws = [np.full(A, -np.log(A))] * k
        elif name == "xpo":
            laws = [logp, ref]
        elif name == "spin":
            laws = [x["sampler"][b], x["anchor"][b]]
        elif kind is None and name in ("inpo", "dno_prct", "td_mnpo"):
            laws = [x["opponents"][0, b] if name == "td_mnpo" else x["anchor"][b]] * k
        elif kind is None:
            laws = [ref] * k
        else:
            laws = [x["sampler"][b]] * k if kind == "one" else [x["sampler"][b], x["second"][b]]
        tables = {"ref_logp": ref, "anchor_logp": x["anchor"][b], "opponent_logp": x["opponents"][:, b]}
        if name in oracles.PAIRS or name == "xpo":
            tables["preference"] = x["preference"][b]
        elif name == "nash_md_pg":
            tables["win_rate"] = oracles.win_rates(x["preference"][b], mixed(logp, ref, hyper["mixture"]))
        elif name in ("nash_ema_pg", "inpo_soft", "dno", "sppo"):
            tables["win_rate"] = oracles.win_rates(x["preference"][b], x["anchor"][b])
        elif name == "egpo":
            tables["win_rate"] = oracles.win_rates(x["preference"][b], logp)
        elif name == "mnpo_soft":
            tables["win_rate"] = np.mean([oracles.win_rates(x["preference"][b], o) for o in x["opponents"][:, b]], 0)
        else:
            tables["reward"] = x["reward"][b]
        if name in ("reinforce", "ppo"):
            tables["value"] = x["value"][b]
        if name in ("ppo", "grpo", "dr_grpo"):
            tables["behaviour_logp"] = laws[0]
            clipped += (np.abs(np.exp(logp - laws[0]) - 1) > hyper["clip_range"]).sum()
        expected, expected_gradient = oracles.enumerate_population(name, x["logits"][b], tables, laws, hyper)
        if value is not None:
            assert value[b] == pytest.approx(expected, abs=1e-10)
        np.testing.assert_allclose(gradient[b], expected_gradient, rtol=0, atol=1e-10)
    if kind == "one" and name in ("ppo", "grpo"):
        assert clipped >= 3  # the off-policy cases do test the clip


@pytest.mark.parametrize(
    ("name", "size"), [("reinforce", None), ("reinforce", 2), ("rloo", None), ("rloo", 3), ("ppo", None)]
)
def test_on_policy_gradient_is_that_of_minus_j(name, size):
    # Identity C8: grad J = pi (R - E R), R = r - beta log(pi / ref), for every group size.
    x = instance(1)
    problem = table(x)
    given = {} if size is None else {"group_size": size}
    gradient = aj.population_grad(name, problem, x["logits"], beta=0.2, **given)
    p = softmax(x["logits"], -1)
    regularised = x["reward"] - 0.2 * (np.log(p) - x["ref_logp"])
    expected = -p * (regularised - (p * regularised).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


def test_a_baseline_of_the_prompt_leaves_the_gradient():
    x = instance(1)
    plain, based = table(x), table(x, value=x["value"])
    for name in ("reinforce", "ppo"):
        np.testing.assert_allclose(
            aj.population_grad(name, based, x["logits"]), aj.population_grad(name, plain, x["logits"]), atol=1e-12
        )


@pytest.mark.parametrize("size", [2, 3])
def test_dr_grpo_mixes_a_shrunk_policy_gradient_with_the_forward_kl(size):
    # (K - 1)/K of the policy gradient, and grad KL(ref || pi) = pi - ref in the logits.
    x = instance(2)
    problem = table(x)
    gradient = aj.population_grad("dr_grpo", problem, x["logits"], beta=0.2, group_size=size)
    p, r = softmax(x["logits"], -1), x["reward"]
    reward_part = -(size - 1) / size * p * (r - (p * r).sum(-1, keepdims=True))
    np.testing.assert_allclose(gradient, reward_part + 0.2 * (p - np.exp(x["ref_logp"])), rtol=0, atol=1e-12)


def test_grpo_with_two_responses_of_a_group_sees_only_the_order():
    # K = 2: A_i = sign(r_i - r_j), so grad_k = -pi_k (P_pi(r < r_k) - P_pi(r > r_k)) + beta (pi - ref), by hand.
    x = instance(2)
    problem = table(x)
    gradient = aj.population_grad("grpo", problem, x["logits"], beta=0.2)
    p, r = softmax(x["logits"], -1), x["reward"]
    sign = np.sign(r[:, :, None] - r[:, None, :])
    expected = -p * np.einsum("bij,bj->bi", sign, p) + 0.2 * (p - np.exp(x["ref_logp"]))
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10)


def test_grpo_is_blind_to_the_scale_and_shift_of_the_reward():
    x = instance(2)
    gradients = [
        aj.population_grad("grpo", table({**x, "reward": r}), x["logits"], group_size=3)
        for r in (x["reward"], 7 * x["reward"] + 3)
    ]
    np.testing.assert_allclose(*gradients, rtol=0, atol=1e-10)


def test_grpo_group_without_spread_has_no_advantage():
    # 0.1 + 0.2 style rewards whose mean rounds: the std is rounding noise, not spread.
    problem = aj.Problem(ref_logp=np.log([0.2, 0.3, 0.5]), reward=np.full(3, 0.1))
    p = softmax([0.0, 1.0, -1.0])
    gradient = aj.population_grad("grpo", problem, [0.0, 1.0, -1.0], beta=0.2, group_size=3)
    np.testing.assert_allclose(gradient, 0.2 * (p - np.array([0.2, 0.3, 0.5])), atol=1e-12)


@pytest.mark.parametrize("size", [1, 2, 30])
def test_dpo_gradient_in_sigma_form(size):
    # grad_k = -2 beta nu_k sum_j nu_j (P_kj - sigma(beta (h_k - h_j))): arXiv:2305.18290, Sec. 4, over iid pairs.
    x = instance(3, size, ())
    problem = table(x, "sampler")
    gradient = aj.population_grad("dpo", problem, x["logits"], beta=0.3)
    nu, h = np.exp(x["sampler"]), log_softmax(x["logits"]) - x["ref_logp"]
    expected = -0.6 * nu * ((x["preference"] - expit(0.3 * (h[:, None] - h[None, :]))) @ nu)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["ipo", "online_ipo", "ipo_md"])
def test_squared_pair_losses_have_the_regression_gradient(name):
    # Lemma R2: 4 nu_k (x_k - E_nu x - E_nu t(k, .)), t = (2 P - 1)/(2 beta), nu the law of the pairs.
    x = instance(4)
    beta, m = 0.4, 0.25
    problem = table(x, "sampler")
    hyper = {"beta": beta} | ({"mixture": m} if name == "ipo_md" else {})
    gradient = aj.population_grad(name, problem, x["logits"], **hyper)
    logp = log_softmax(x["logits"], -1)
    law = {"ipo": x["sampler"], "online_ipo": logp, "ipo_md": mixed(logp, x["ref_logp"], m)}[name]
    nu, ratio = np.exp(law), logp - x["ref_logp"]
    target = (2 * oracles.win_rates(x["preference"], law) - 1) / (2 * beta)
    expected = 4 * nu * (ratio - (nu * ratio).sum(-1, keepdims=True) - target)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-10)


def test_hinge_gradient_counts_the_pairs_below_the_margin():
    # Subgradient by hand: each ordered pair below its kink pushes beta nu_i nu_j P_ij along e_j - e_i.
    x = instance(5, 4, ())
    x["logits"] *= 3
    problem = table(x, "sampler")
    gradient = aj.population_grad("hinge", problem, x["logits"], beta=0.8)
    nu, h = np.exp(x["sampler"]), log_softmax(x["logits"]) - x["ref_logp"]
    expected, above = np.zeros(4), 0
    for i, j in itertools.product(range(4), repeat=2):
        for winner, loser, weight in ((i, j, x["preference"][i, j]), (j, i, 1 - x["preference"][i, j])):
            if 0.8 * (h[winner] - h[loser]) < 1:
                expected[winner] -= 0.8 * nu[i] * nu[j] * weight
                expected[loser] += 0.8 * nu[i] * nu[j] * weight
            else:
                above += 1
    assert 0 < above < 24
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("divergence", ["reverse_kl", "forward_kl", "js", "alpha"])
def test_f_dpo_gradient_by_finite_differences_of_its_published_loss(divergence):
    x = instance(6, 3, ())
    f_prime = {  # arXiv:2309.16240, Table 1
        "reverse_kl": lambda u: np.log(u) + 1,
        "forward_kl": lambda u: -1 / u,
        "js": lambda u: np.log(2 * u / (1 + u)),
        "alpha": lambda u: (1 - u**-0.3) / 0.3,
    }[divergence]

    def loss(logits):
        s = 0.4 * f_prime(np.exp(log_softmax(logits) - x["ref_logp"]))
        weight = np.exp(x["sampler"][:, None] + x["sampler"][None, :])
        return 2 * (weight * x["preference"] * oracles.softplus(-(s[:, None] - s[None, :]))).sum()

    step = 1e-6 * np.eye(3)
    expected = [(loss(x["logits"] + e) - loss(x["logits"] - e)) / 2e-6 for e in step]
    problem = table(x, "sampler")
    hyper = {"alpha": 0.3} if divergence == "alpha" else {}
    gradient = aj.population_grad("f_dpo", problem, x["logits"], beta=0.4, divergence=divergence, **hyper)
    np.testing.assert_allclose(gradient, expected, rtol=0, atol=1e-8)


def test_f_dpo_with_reverse_kl_is_dpo():
    x = instance(6)
    problem = table(x)
    np.testing.assert_allclose(
        aj.population_grad("f_dpo", problem, x["logits"], beta=0.3),
        aj.population_grad("dpo", problem, x["logits"], beta=0.3),
        atol=1e-14,
    )


def test_nash_md_pg_climbs_the_regularised_win_rate_over_the_frozen_mixture():
    # -pi (a - E a), a = P pi_m - beta log(pi / ref): gradient of the payoff against the detached mixture.
    x = instance(7)
    problem = table(x, "sampler")
    gradient = aj.population_grad("nash_md_pg", problem, x["logits"], beta=0.2, mixture=0.4)
    logp = log_softmax(x["logits"], -1)
    p = np.exp(logp)
    a = oracles.win_rates(x["preference"], mixed(logp, x["ref_logp"], 0.4)) - 0.2 * (logp - x["ref_logp"])
    np.testing.assert_allclose(gradient, -p * (a - (p * a).sum(-1, keepdims=True)), rtol=0, atol=1e-12)


def test_online_ipo_gradient_is_four_over_tau_times_self_play():
    # arXiv:2403.08635, Prop. 4.2; with (x - 1/(2 tau))^2 the factor is 4 / tau.
    x = instance(7)
    problem = table(x)
    np.testing.assert_allclose(
        aj.population_grad("online_ipo", problem, x["logits"], beta=0.2),
        20 * np.asarray(aj.population_grad("nash_md_pg", problem, x["logits"], beta=0.2, mixture=0.0)),
        atol=1e-11,
    )


def test_preferences_are_bradley_terry_of_the_reward_where_none_are_given():
    x = instance(8)
    by_reward = aj.Problem(ref_logp=x["ref_logp"], reward=x["reward"])
    by_table = aj.Problem(ref_logp=x["ref_logp"], preference=oracles.bradley_terry(x["reward"]))
    for name in ("ipo", "nash_md_pg"):
        np.testing.assert_allclose(
            aj.population_grad(name, by_reward, x["logits"]),
            aj.population_grad(name, by_table, x["logits"]),
            atol=1e-12,
        )


@pytest.mark.parametrize("name", ["ipo_md", "grpo", "nash_md_pg"])
def test_a_response_without_reference_mass_is_out_of_the_problem(name):
    # Oracle: the same problem with the response removed.
    x = instance(9, 3, ())
    dead = {
        "ref_logp": np.append(x["ref_logp"], -np.inf),
        "reward": np.append(x["reward"], 50.0),
        "preference": np.pad(x["preference"], (0, 1), constant_values=0.5),
    }
    names = ("reward",) if name in ("rloo", "grpo") else ("preference",)
    big = aj.Problem(ref_logp=dead["ref_logp"], **{n: dead[n] for n in names})
    small = aj.Problem(ref_logp=x["ref_logp"], **{n: x[n] for n in names})
    gradient = aj.population_grad(name, big, np.append(x["logits"], -np.inf))
    np.testing.assert_allclose(gradient[:3], aj.population_grad(name, small, x["logits"]), atol=1e-12)
    assert gradient[3] == 0


def test_leading_axes_are_independent_prompts():
    x = instance(10, A, (2, 2))
    problem = table(x)
    gradient = aj.population_grad("rloo", problem, x["logits"])
    assert gradient.shape == (2, 2, A)
    for i, j in itertools.product(range(2), repeat=2):
        one = aj.Problem(ref_logp=x["ref_logp"][i, j], reward=x["reward"][i, j])
        np.testing.assert_allclose(gradient[i, j], aj.population_grad("rloo", one, x["logits"][i, j]), atol=1e-14)


def test_batch_axes_of_fields_broadcast():
    # One reference, reward and policy for two data laws: as if they had been repeated.
    x = instance(10)
    shared = {n: x[n][0] for n in ("ref_logp", "reward", "preference")}
    narrow = aj.Problem(**shared, sampler_logp=x["sampler"])
    wide = aj.Problem(**{n: np.stack([v] * B) for n, v in shared.items()}, sampler_logp=x["sampler"])
    np.testing.assert_allclose(
        aj.population_grad("dpo", narrow, x["logits"]), aj.population_grad("dpo", wide, x["logits"]), atol=1e-14
    )
    logp = log_softmax(x["logits"], -1)
    one, many = aj.population_loss("dpo", narrow, logp[0]), aj.population_loss("dpo", wide, logp[[0, 0]])
    assert one.shape == (B,)
    np.testing.assert_allclose(one, many, atol=1e-14)


def test_opponents_are_not_taken_for_prompts():
    # Two opponents for two prompts: without a batch axis they are the same for both.
    x = instance(10)
    shared, repeated = x["opponents"][:, 0], np.stack([x["opponents"][:, 0]] * B, 1)
    for name in ("td_mnpo", "eo_mnpo"):
        narrow, wide = table(x, "sampler", opponent_logp=shared), table(x, "sampler", opponent_logp=repeated)
        np.testing.assert_allclose(
            aj.population_grad(name, narrow, x["logits"]), aj.population_grad(name, wide, x["logits"]), atol=1e-13
        )
        np.testing.assert_allclose(aj.methods[name].optimum(narrow), aj.methods[name].optimum(wide), atol=1e-13)


def test_lists_numpy_and_jax_arrays_are_the_same():
    x = instance(11)
    results = []
    for convert in (lambda a: a.tolist(), np.asarray, jnp.asarray):
        fields = {n: convert(x[n]) for n in ("ref_logp", "reward", "preference")}
        problem = aj.Problem(**fields, sampler_logp=(convert(x["sampler"]), convert(x["second"])))
        results.append(np.asarray(aj.population_grad("ipo", problem, convert(x["logits"]), beta=0.5)))
    np.testing.assert_array_equal(results[0], results[1])
    np.testing.assert_array_equal(results[0], results[2])


def test_grad_jit_and_vmap_of_the_population_quantities():
    # Oracle: population_grad itself, and finite differences in beta.
    x = instance(12)
    problem = table(x)

    def loss(logits, beta):
        return aj.population_loss("dpo", problem, jax.nn.log_softmax(logits), beta=beta).sum()

    by_logits, by_beta = jax.jit(jax.grad(loss, argnums=(0, 1)))(x["logits"], 0.3)
    np.testing.assert_allclose(by_logits, aj.population_grad("dpo", problem, x["logits"], beta=0.3), atol=1e-14)
    assert by_beta == pytest.approx(
        float(loss(x["logits"], 0.3 + 1e-5) - loss(x["logits"], 0.3 - 1e-5)) / 2e-5, abs=1e-8
    )
    over = jax.vmap(lambda p, z, b: aj.population_grad("dpo", p, z, beta=b))(problem, x["logits"], np.array([0.3, 0.5]))
    for b, beta in enumerate((0.3, 0.5)):
        expected = aj.population_grad("dpo", problem, x["logits"], beta=beta)
        np.testing.assert_allclose(over[b], expected[b], atol=1e-14)


def test_too_many_tuples_are_refused_with_both_numbers():
    problem = aj.Problem(ref_logp=np.full(30, -np.log(30)), reward=np.zeros(30))
    for call in (
        lambda: aj.population_grad("rloo", problem, np.zeros(30), group_size=5),
        lambda: aj.population_loss("rloo", problem, np.full(30, -np.log(30)), group_size=5),
        lambda: aj.fit("rloo", problem, num_steps=1, learning_rate=0.1, group_size=5),
    ):
        with pytest.raises(ValueError, match=r"24300000.*1000000"):  # 30^5 and 10^6
            call()
    assert np.isfinite(aj.population_grad("reinforce", problem, np.zeros(30), group_size=2)).all()


def test_single_precision_without_x64():
    x = instance(13)
    with jax.enable_x64(False):
        problem = table(x)
        low = aj.population_grad("dpo", problem, x["logits"])
        assert low.dtype == jnp.float32
    problem = table(x)
    np.testing.assert_allclose(low, aj.population_grad("dpo", problem, x["logits"]), atol=2e-6)
