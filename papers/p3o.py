"""Wu et al., 2023, "Pairwise Proximal Policy Optimization", arXiv:2310.00212: its claims as runs, and its figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import p3o_checks as checks
from papers import p3o_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Wu et al.", 2023, "2310.00212", "")


def _claim(
    name: str,
    where: str,
    says: str,
    how: str,
    test: Callable[[Settings], Outcome | NotTestable],
    formula: str = "",
    *,
    stands: Verdict = "reproduced",
) -> Claim:
    source = dataclasses.replace(SOURCE, equation=where)
    return Claim(id=f"p3o.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_TABLES = (
    "1,000 (200 with --quick) random tables of five responses, beta from 0.05 to 1, an old policy one step away; all "
    "25 pairs enumerated"
)
_TOY = (
    "16 prompts of 20 arms, one policy of 12 shared features on top of the reference, beta = 0.2, 600 (150) rollouts "
    "of 64 pairs with 4 inner Adam steps of 0.02, prompts' rewards shifted by constants of sd 0, 5 and 20, 10 (4) "
    "seeds with common random numbers; J of the last fifth, by rewards without the shift"
)

CLAIMS = (
    # gradients
    _claim(
        "policy-gradient", "Sec. 4",
        "At the old policy the gradient of P3O is the policy gradient of reward minus KL, with every clip.",
        f"{_TABLES}; V1, V2 and the clipped product.",
        checks.policy_gradient,
        r"\nabla J = \frac{1}{2} E[(R_1 - R_2) \nabla \log \frac{\pi(y_1)}{\pi(y_2)}]",
    ),
    _claim(
        "any-old-policy", "Sec. 4",
        "With the product of both importance weights it is so for pairs of any old policy, if nothing is clipped.",
        f"{_TABLES}; clip range and weight bound out of the way.",
        checks.any_old_policy,
        r"\nabla J = \frac{1}{2} E_{old}[\rho_1 \rho_2 (R_1 - R_2) \nabla \log \frac{\pi(y_1)}{\pi(y_2)}]",
    ),
    _claim(
        "half-of-copg", "Sec. 4, derived here",
        "Ours: at the old policy a pair's gradient is half of CoPG's, and so that of RLOO for two.",
        f"{_TABLES}; every pair.",
        checks.half_of_copg,
    ),
    _claim(
        "kl-at-rollout", "Algorithm 1 and the official code",
        "Ours: the paper subtracts the KL of the rollout, its code that of the current policy, and from the second "
        "inner step on they are different updates.",
        f"{_TABLES}; tenth percentile of the largest difference of expected gradients off-policy.",
        checks.rollout,
    ),
    # invariance
    _claim(
        "invariant", "Sec. 3",
        "P3O and DPO do not change when a constant is added to all rewards of a prompt.",
        f"{_TABLES}; gradients of single pairs, old policy and clips included.",
        checks.invariant,
        r"r'(x, y) = r(x, y) + \delta(x)",
    ),
    _claim(
        "others-invariant", "Sec. 3, measured here",
        "Ours: neither do RLOO, GRPO, CoPG and IPO.",
        "The same for these.",
        checks.others_invariant,
    ),
    _claim(
        "ppo-not-invariant", "Sec. 3",
        "PPO changes.",
        f"{_TABLES}; median change of the expected gradient off-policy with a value that stays as it was.",
        checks.ppo_not_invariant,
    ),
    _claim(
        "ppo-on-policy", "Sec. 3, measured here",
        "Ours: in expectation PPO changes off-policy only, through its clip and its weights.",
        "The same at the old policy.",
        checks.ppo_on_policy,
    ),
    _claim(
        "ppo-informed", "Sec. 3, measured here",
        "Ours: with a value that follows the shift PPO does not change at all.",
        "The same with the constant added to the value.",
        checks.ppo_informed,
    ),
    _claim(
        "scale", "Sec. 3, measured here",
        "Ours: P3O is equivariant to the scale of rewards and temperature together.",
        f"{_TABLES}; rewards and beta times three against the gradient times three.",
        checks.scale,
    ),
    _claim(
        "shipped-scale", "Sec. 3 with the official code's rewards",
        "P3O as shipped, with rewards divided by their running standard deviation, keeps its invariance.",
        "Factor on reward differences of a standard deviation over all rewards when prompts are shifted with sd 5; 50 "
        "(20) batches.",
        checks.shipped_scale,
        stands="contradicted",
    ),
    _claim(
        "within-scale", "Sec. 3, mended here",
        "Ours: divided by the standard deviation within prompts it does.",
        "The same, shifts of sd 0 to 20.",
        checks.within_scale,
    ),
    # variance
    _claim(
        "variance-of-shift", "Sec. 4",
        "The variance of the pairwise gradient does not depend on the prompt's constant.",
        f"{_TABLES.split(', an')[0]}; covariance of one pair's gradient at shifts up to 10.",
        checks.variance_of_shift,
    ),
    _claim(
        "variance-of-values", "Sec. 4, measured here",
        "Ours: it is not the least variance: with the exact value as baseline two responses have less.",
        "The same; median ratio without a shift.",
        checks.variance_of_values,
    ),
    # training
    _claim(
        "training-invariant", "Sec. 5, at toy scale",
        "P3O and DPO learn the same whatever prompts' rewards are shifted by.",
        f"{_TOY}; largest difference of J between shifts.",
        checks.training_does_not_move,
    ),
    _claim(
        "ppo-degrades", "Sec. 5, at toy scale",
        "P3O's frontier is above that of PPO.",
        f"{_TOY}; PPO without a value at the largest shift.",
        checks.ppo_degrades,
    ),
    _claim(
        "ppo-with-values", "Sec. 5, at toy scale",
        "It is so for a PPO that knows its prompts as well.",
        f"{_TOY}; P3O's lead over PPO with a running and with the exact value at the largest shift, minus two standard "
        "errors.",
        checks.ppo_with_values,
        stands="contradicted",
    ),
    _claim(
        "shipped-training", "Sec. 5 with the official code's rewards",
        "P3O with rewards divided by their running standard deviation learns the same whatever the shift.",
        f"{_TOY}; J at the largest shift over J at none.",
        checks.shipped_training,
        stands="contradicted",
    ),
    _claim(
        "within-training", "Sec. 5, mended here",
        "Ours: with the standard deviation within prompts it does.",
        f"{_TOY}; largest difference of J between shifts.",
        checks.within_training,
    ),
    # what cannot be run here
    _claim(
        "frontiers", "Sec. 5",
        "On TL;DR and HH P3O has a better frontier of reward against KL than PPO and DPO.",
        "Not run.",
        checks.frontiers,
        stands="not testable here",
    ),
    _claim(
        "judged", "Sec. 5",
        "GPT-4 prefers P3O to PPO on HH.",
        "Not run.",
        checks.judged,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="p3o-invariances",
        title="What a prompt's constant does to each loss",
        caption="Medians over random tables; 0 is below 1e-9. Above the line: losses on differences. First four "
        "columns: rewards of a prompt shifted by a normal constant. Last two: scale.",
        draw=figures.invariances,
    ),
    Figure(
        id="p3o-frontier",
        title="Reward against KL while training",
        caption="Means over seeds (10, 4 with --quick) of runs on 16 prompts with shared features; the dot is the end. "
        "The shift is in what the update sees, not in the reward that is shown.",
        draw=figures.frontier,
    ),
    Figure(
        id="p3o-training",
        title="Shifted prompts: values, and scales",
        caption="Median and 10 to 90 % band over seeds. Left: J over rollouts, relative to the best table (which "
        "shared features cannot reach). Right: J at the end against the size of "
        "the shift, relative to P3O without one in the same world.",
        draw=figures.training,
    ),
    Figure(
        id="p3o-variance",
        title="Variance and scale under a shift",
        caption="Left: trace of the covariance of the gradient of two responses, random tables on-policy. Right: what "
        "is left of a reward difference after division by a standard deviation. Median and 10 to 90 % band.",
        draw=figures.variance,
    ),
)

PAPER = Paper(
    name="p3o",
    title="Pairwise Proximal Policy Optimization",
    source=SOURCE,
    summary=(
        "A clipped policy gradient on differences of two rewards, which no constant of a prompt can reach. The "
        "identities hold to rounding, for both clips and for the clipped product; so does the invariance, which RLOO, "
        "GRPO and CoPG share. Two things do not hold. Dividing rewards by a global running standard deviation, as the "
        "official code does, gives the invariance away: shifted prompts drown the reward in KL (a standard deviation "
        "within prompts mends it). And the lead over PPO is a lead over a PPO that does not know its prompts: with a "
        "value for each prompt PPO does as well here. A pair's gradient is shift-proof and not of least variance."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
