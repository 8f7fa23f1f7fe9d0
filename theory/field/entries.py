"""The losses that are audited, with what we expect to find and stand by."""

import functools
from collections.abc import Callable
from typing import Any

import optax
from jaxtyping import Array

from alignjax import kl_estimators
from theory.field import checks, losses, packages
from theory.field.record import Entry

TUNIX, TRL, VERL, EASYDEL = "0.1.7", "1.16.0", "0.9.1", "0.3.0"
OPEN_INSTRUCT = "e6c3044 (2026-08)"


def _tunix(method: str) -> Callable[[], Callable[..., Any] | None]:
    """tunix's own two functions, composed as its GRPO loss composes them."""

    def load() -> Callable[..., Any] | None:
        found = packages.cut("tunix", "rl/common.py", "compute_kl_divergence", "aggregate_loss")
        if found is None:
            return None

        def loss(token_logp: Array, ref_token_logp: Array, mask: Array) -> Array:
            each = found["compute_kl_divergence"](token_logp, ref_token_logp, method)
            return found["aggregate_loss"](each, mask, "sequence-mean-token-mean")

        loss.__name__ = f"tunix_{method}"
        return loss

    return load


def _easydel(name: str, label_smoothing: float = 0.0, scale: float = 1.0) -> Callable[[], Callable[..., Any] | None]:
    """One of EasyDeL's pair losses; `scale` divides the log-probs, as it does by length before IPO."""

    def load() -> Callable[..., Any] | None:
        file = "trainers/direct_preference_optimization_trainer/_fn.py"
        found = packages.cut("easydel", file, name, "_base_dpo_loss")
        if found is None:
            return None
        function = found[name]
        if scale != 1.0:
            inner = function

            def function(*arguments: Any) -> Array:
                return inner(*(array / scale for array in arguments[:4]), *arguments[4:])

        return packages.four_arrays(function, label_smoothing, name.strip("_"))

    return load


_AGREES_TUNIX = "tunix 0.1.7: values and gradients equal to 1e-5 on random batches"
_AGREES_EASYDEL = "EasyDeL 0.3.0: values and gradients equal to 1e-5 on random batches"

ENTRIES: tuple[Entry, ...] = (
    Entry(
        id="tunix/grpo-kl",
        package="tunix",
        version=TUNIX,
        where="rl/common.py compute_kl_divergence L116-166; the default of GRPOConfig.kl_loss_mode, "
        "rl/grpo/grpo_learner.py L96",
        what="the default KL penalty of GRPO: k1 per token, differentiated (beta 0.04)",
        kind="token",
        function=losses.averaged(losses.k1, "tunix_kl"),
        theirs=_tunix("kl"),
        verified=_AGREES_TUNIX,
        expected={
            "kl": "none",
            "kl_direction": "fails [none]",
            "statistics_detached": "holds",
            "length_sum": "fails [mean]",
        },
        right="its mean is the KL: right as a number to log, and right where it is put into the reward detached",
        remark="the gradient does not contain the reference: on average it is zero, and beta buys variance. Ask for "
        "kl_loss_mode='mse_kl'; MaxText's RL builds this configuration without choosing a mode (read, not run)",
    ),
    Entry(
        id="tunix/grpo-mse-kl",
        package="tunix",
        version=TUNIX,
        where="rl/common.py compute_kl_divergence L116-166, method='mse_kl'",
        what="k2 per token, differentiated",
        kind="token",
        function=losses.averaged(losses.k2, "tunix_mse_kl"),
        theirs=_tunix("mse_kl"),
        verified=_AGREES_TUNIX,
        expected={
            "kl": "token_partial",
            "kl_direction": "fails [token_partial]",
            "statistics_detached": "holds",
            "length_sum": "fails [mean]",
        },
        right="the right direction: for one token its gradient is exactly that of KL(policy || reference)",
        remark="with several tokens it is each token's own KL: the effect of a token on later ones is left out",
    ),
    Entry(
        id="tunix/grpo-low-var-kl",
        package="tunix",
        version=TUNIX,
        where="rl/common.py compute_kl_divergence L116-166, method='low_var_kl' (used by its deepscaler, deepswe and "
        "frozenlake examples)",
        what="k3 per token, differentiated",
        kind="token",
        function=losses.averaged(losses.k3, "tunix_low_var_kl"),
        theirs=_tunix("low_var_kl"),
        verified=_AGREES_TUNIX,
        expected={
            "kl": "token_partial, forward",
            "kl_direction": "fails [token_partial]",
            "statistics_detached": "holds",
        },
        right="never negative, unbiased as a value, and it does pull towards the reference",
        remark="as a loss it has the gradient of each token's FORWARD KL(reference || policy)",
    ),
    Entry(
        id="easydel/nash-md-kl",
        package="EasyDeL",
        version=EASYDEL,
        where="trainers/nash_md_trainer/_fn.py nash_md_step L131-136",
        what="Nash-MD's KL term: log-ratio times log-prob per token, summed, without stop-gradient",
        kind="token",
        function=losses.summed(losses.undetached_ratio, "easydel_nash_md_kl"),
        expected={
            "kl": "other",
            "kl_direction": "fails [other]",
            "statistics_detached": "fails",
            "length_sum": "holds [sum]",
        },
        right="sums over tokens, masks prompt and padding, and centres the preference at 1/2",
        remark="the factor of grad log pi is 2 log pi - log ref: an entropy bonus that was not asked for, and "
        "no reward-to-go. Its rival response is policy's or reference's by a coin flip per response "
        "(nash_md_trainer.py L393-400), not a draw from the token-wise geometric mixture",
    ),
    Entry(
        id="trl/nash-md-kl",
        package="TRL",
        version="before its removal in 2026-09",
        where="the deleted Nash-MD trainer's KL loss",
        what="Nash-MD's KL term: detached log-ratio times log-prob, token by token",
        kind="token",
        function=losses.summed(losses.detached_ratio, "trl_nash_md_kl"),
        expected={
            "kl": "token_partial",
            "kl_direction": "fails [token_partial]",
            "statistics_detached": "holds",
            "length_sum": "holds [sum]",
        },
        right="the weight is detached, and for responses of one token the gradient is exactly that of the KL",
        remark="no reward-to-go: a token does not answer for the KL of what follows it",
    ),
    Entry(
        id="trl/nash-md-kl-one-token",
        package="TRL",
        version="before its removal in 2026-09",
        where="the same formula, the response taken as one token",
        what="detached log-ratio of the response times its log-prob",
        kind="token",
        function=losses.detached_ratio_of_the_response,
        expected={"kl": "reverse", "kl_direction": "holds [reverse]", "statistics_detached": "holds"},
        right="exactly the gradient of KL(policy || reference)",
        remark="a control: where the formula above is right",
        ours=True,
    ),
    Entry(
        id="ours/nash-md-kl-to-go",
        package="alignjax",
        version="this one",
        where="alignjax/kl_estimators.py kl_tokens_to_go",
        what="detached reward-to-go of the log-ratio times log-prob, token by token (Munos et al., 2023, Appendix F.2)",
        kind="token",
        function=kl_estimators.kl_tokens_to_go,
        expected={"kl": "reverse", "kl_direction": "holds [reverse]", "statistics_detached": "holds"},
        right="exactly the gradient of the sequence's KL(policy || reference), token by token",
        remark="a control: the token-wise form that is right",
        transcribed=False,
        ours=True,
    ),
    Entry(
        id="field/grpo-k3",
        package="TRL, open-instruct, DeepSeekMath",
        version=f"TRL {TRL}, open-instruct {OPEN_INSTRUCT}",
        where="TRL trainer/grpo_trainer.py L3100-3102 (with use_bias_correction_kl=False); open-instruct "
        "open_instruct/model_utils.py L806-815 (kl_estimator=2, its default); arXiv:2402.03300 Eq. 4",
        what="GRPO's k3 per token, as a loss",
        kind="token",
        function=losses.summed(losses.k3, "grpo_k3"),
        expected={
            "kl": "token_partial, forward",
            "kl_direction": "fails [token_partial]",
            "statistics_detached": "holds",
        },
        right="unbiased and never negative as a value; masked; a real pull towards the reference",
        remark="each token's FORWARD KL(reference || policy), not the reverse KL that the term is named after",
    ),
    Entry(
        id="field/grpo-k3-response",
        package="TRL, open-instruct, DeepSeekMath",
        version=f"TRL {TRL}, open-instruct {OPEN_INSTRUCT}",
        where="the same formula, the response taken as one token",
        what="k3 of the whole response, as a loss",
        kind="group",
        function=losses.k3_of_the_response,
        expected={"kl": "forward", "kl_direction": "fails [forward]"},
        right="unbiased and never negative as a value",
        remark="the forward KL(reference || policy), exactly",
        ours=True,
    ),
    Entry(
        id="trl/grpo-k3-weighted",
        package="TRL",
        version=TRL,
        where="trainer/grpo_trainer.py L3100-3105, use_bias_correction_kl=True (its default)",
        what="k3 per token times the token's importance ratio, differentiated",
        kind="token",
        function=losses.summed(losses.k3_weighted, "trl_k3_weighted"),
        expected={"kl": "token_partial", "kl_direction": "fails [token_partial]", "statistics_detached": "holds"},
        right="the ratio brings back the score: per token it is the reverse KL, value and gradient, on- or off-policy",
        remark="'the unbiased reverse-KL gradient' of its documentation holds for one token; over a response the "
        "effect of a token on later ones is left out, as in k2",
    ),
    Entry(
        id="verl/low-var-kl",
        package="verl",
        version=VERL,
        where="trainer/ppo/core_algos.py kl_penalty_forward L2239-2245 (kl_loss_type's default; use_kl_loss is off by "
        "default)",
        what="k3 per token, clamped to [-10, 10], as a loss",
        kind="token",
        function=losses.summed(losses.k3_clamped, "verl_low_var_kl"),
        checks={"pull_on_the_far_side": checks.pull_on_the_far_side},
        expected={
            "kl": "token_partial, forward",
            "kl_direction": "fails [token_partial]",
            "pull_on_the_far_side": "fails",
        },
        right="cannot overflow, and says in its own docstring that the gradient of k1 and k3 is not that of the KL",
        remark="each token's forward KL; and the clamp turns the pull off where it is needed most, at tokens that the "
        "policy has made more than about 13 times rarer than the reference",
    ),
    Entry(
        id="verl/k3-plus",
        package="verl",
        version=VERL,
        where="trainer/ppo/core_algos.py kl_penalty L2188-2213, kl_penalty='k3+'",
        what="k3's value with k2's gradient, per token (straight-through)",
        kind="token",
        function=losses.summed(losses.k3_value_k2_gradient, "verl_k3_plus"),
        checks={"pull_on_the_far_side": checks.pull_on_the_far_side},
        expected={"kl": "token_partial", "kl_direction": "fails [token_partial]", "pull_on_the_far_side": "holds"},
        right="value and gradient chosen separately, each the better one per token; the clamp does not reach "
        "the gradient",
        remark="the right direction per token; over a response, as k2, without the effect on later tokens",
    ),
    Entry(
        id="trl/rloo",
        package="TRL",
        version=TRL,
        where="trainer/rloo_trainer.py L1666-1692 (KL in the reward), L1824-1833 (loss)",
        what="RLOO with the sequence's k1 in the reward, detached",
        kind="group",
        function=losses.rloo_k1_in_reward,
        hyper={"beta": 0.05},
        expected={
            "kl": "reverse",
            "kl_direction": "holds [reverse]",
            "unbiased_gradient": "holds [0.05]",
            "statistics_detached": "holds",
            "shift_invariant": "holds",
            "target": "gibbs at 0.05",
        },
        right="all of it: the gradient is exactly that of E[reward] - beta KL(policy || reference)",
        remark="k1 is right here, inside the reward, and wrong as a loss; its option normalize_advantages (off by "
        "default) would rescale the gradient by the batch",
    ),
    Entry(
        id="field/dpo-sigmoid",
        package="original DPO, TRL",
        version=f"TRL {TRL}",
        where="TRL trainer/dpo_trainer.py L1387-1388; arXiv:2305.18290 Eq. 7",
        what="DPO: logistic loss of beta times the margin of summed log-ratios",
        kind="pair",
        function=losses.sigmoid,
        expected={
            "target": "gibbs at 0.1",
            "extremes": "holds",
            "shift_invariant": "holds",
            "log_ratio_only": "holds",
            "batch_separable": "holds",
            "finite_on_separable": "fails",
        },
        right="reaches ref exp(r / beta) / Z from Bradley-Terry labels; stable at extreme margins (log-sigmoid)",
        remark="on certain preferences there is no optimum to stop at: a property of the loss, not of the code",
    ),
    Entry(
        id="easydel/dpo-sigmoid",
        package="EasyDeL",
        version=EASYDEL,
        where="trainers/direct_preference_optimization_trainer/_fn.py _sigmoid_dpo_loss L499-532",
        what="DPO",
        kind="pair",
        function=losses.sigmoid,
        theirs=_easydel("_sigmoid_dpo_loss"),
        verified=_AGREES_EASYDEL,
        expected={"extremes": "holds", "log_ratio_only": "holds"},
        right="the same as the original, in JAX",
        remark="its kto_pair (L664-682) is this very formula, and not KTO",
    ),
    Entry(
        id="ipo/sum",
        package="IPO's paper; original DPO, COMAL and OpenRLHF",
        version="arXiv:2310.12036",
        where="Eq. 17; the DPO repository's preference_loss with ipo=True",
        what="IPO on summed log-probs: (margin - 1/(2 beta))^2",
        kind="pair",
        function=losses.ipo_sum,
        expected={
            "target": "ipo at 0.1",
            "log_ratio_only": "holds",
            "finite_on_separable": "holds",
            "extremes": "holds",
        },
        right="reaches ref exp(P(y > ref) / beta) / Z, finite even where preferences are certain",
        remark="what beta (the paper's tau) means in the theory",
    ),
    Entry(
        id="ipo/mean",
        package="TRL, EasyDeL",
        version=f"TRL {TRL}, EasyDeL {EASYDEL}",
        where="TRL trainer/dpo_trainer.py L1393-1404; EasyDeL trainers/direct_preference_optimization_trainer/_fn.py "
        "L329-330 and _ipo_dpo_loss L644-662",
        what=f"IPO on log-probs averaged over tokens (here {losses.LENGTH} in each response)",
        kind="pair",
        function=losses.ipo_mean,
        theirs=_easydel("_ipo_dpo_loss", scale=float(losses.LENGTH)),
        verified=_AGREES_EASYDEL,
        expected={"target": "ipo at 0.05", "log_ratio_only": "holds", "finite_on_separable": "holds"},
        right="comparable across lengths; TRL documents the choice, and says that IPO's authors confirmed it",
        remark="at length L on both sides it is the paper's loss at beta / L, over L^2: the same beta=0.1 means 0.05 "
        "here, and 0.001 at 100 tokens; with unequal lengths it is the paper's loss for no beta",
    ),
    Entry(
        id="ipo/scaled",
        package="CoPG's paper",
        version="arXiv:2406.19185",
        where="its pair loss with rewards that differ by 1/2, as for labels: (1/2 - beta margin)^2",
        what="IPO written as a residual of rewards",
        kind="pair",
        function=losses.ipo_scaled,
        expected={"target": "ipo at 0.1", "log_ratio_only": "holds", "finite_on_separable": "holds"},
        right="the same optimum as the paper's IPO at the same beta",
        remark="value and gradient are beta^2 times the paper's: at beta = 0.1 a learning rate means 100 times less",
    ),
    Entry(
        id="trl/hinge",
        package="TRL",
        version=TRL,
        where="trainer/dpo_trainer.py L1390-1391; arXiv:2309.06657 Eq. 12",
        what="hinge on beta times the margin",
        kind="pair",
        function=losses.hinge,
        expected={"target": "unknown", "log_ratio_only": "holds", "shift_invariant": "holds", "extremes": "holds"},
        right="reads log-ratios only, stable, and stops once a margin is 1 / beta",
        remark="its population minimisers are a set, not a Gibbs policy: no temperature can be read from beta",
    ),
    Entry(
        id="easydel/robust",
        package="EasyDeL, TRL",
        version=f"EasyDeL {EASYDEL}, TRL {TRL}",
        where="EasyDeL trainers/direct_preference_optimization_trainer/_fn.py _robust_dpo_loss L684-704; TRL "
        "trainer/dpo_trainer.py L1428-1431",
        what="robust DPO at label_smoothing 0.1: an unbiased estimate of DPO's loss from flipped labels",
        kind="pair",
        function=losses.robust,
        theirs=_easydel("_robust_dpo_loss", losses.EPS),
        verified=_AGREES_EASYDEL,
        expected={"log_ratio_only": "holds", "extremes": "holds", "finite_on_separable": "fails"},
        right="as published (arXiv:2403.00409 Eq. 13): the mean over flips is DPO's loss of the clean label",
        remark="a negative weight on one side: on labels that agree the loss is unbounded below",
    ),
    Entry(
        id="easydel/cdpo",
        package="EasyDeL, original DPO",
        version=EASYDEL,
        where="trainers/direct_preference_optimization_trainer/_fn.py _sigmoid_dpo_loss L499-532, label_smoothing=0.1",
        what="conservative DPO: cross-entropy against smoothed labels",
        kind="pair",
        function=losses.conservative,
        theirs=_easydel("_sigmoid_dpo_loss", losses.EPS),
        verified=_AGREES_EASYDEL,
        expected={"log_ratio_only": "holds", "extremes": "holds", "finite_on_separable": "holds"},
        right="a finite optimum on certain preferences: the margin log((1 - eps) / eps) / beta of a pair",
        remark="the same option label_smoothing means another loss in 'robust': the sign of the second term differs",
    ),
    Entry(
        id="easydel/exo-pair",
        package="EasyDeL",
        version=EASYDEL,
        where="trainers/direct_preference_optimization_trainer/_fn.py _exo_pair_dpo_loss L706-729",
        what="EXO on a pair: KL of the policy's choice between the two to the smoothed label",
        kind="pair",
        function=losses.exo_pair,
        theirs=_easydel("_exo_pair_dpo_loss", losses.EPS),
        verified=_AGREES_EASYDEL + ", outside jit",
        expected={"log_ratio_only": "holds", "finite_on_separable": "holds", "shift_invariant": "holds"},
        compiles=False,
        right="reads log-ratios only, and has a finite optimum on certain preferences",
        remark="the formula is sound, but the package's function takes math.log of a traced number: under jit it "
        "raises, and a training step is compiled",
    ),
    Entry(
        id="trl/sppo-hard",
        package="TRL",
        version=TRL,
        where="trainer/dpo_trainer.py L1438-1445; arXiv:2405.00675 Eq. 4.7 with P set to 1 and 0",
        what="SPPO with hard labels: each log-ratio to +-1/(2 beta)",
        kind="pair",
        function=losses.sppo_hard,
        hyper={"beta": 0.5},
        expected={"log_ratio_only": "holds", "shift_invariant": "fails", "finite_on_separable": "holds"},
        right="as published with hard labels; finite on certain preferences. beta here is 1 / eta of the paper",
        remark="each log-ratio on its own: the normaliser that the paper replaces by 1/2 stays in the residual",
    ),
    Entry(
        id="open-instruct/wpo",
        package="open-instruct",
        version=OPEN_INSTRUCT,
        where="open_instruct/dpo_utils.py wpo_loss L569-613, is_average_loss L83-84",
        what="WPO: DPO weighted by exp of the policy's log-probs",
        kind="pair",
        function=losses.wpo_summed_weight,
        checks={
            "chosen_first_goes_up": checks.chosen_first_goes_up,
            "long_responses_teach": checks.long_responses_teach,
        },
        expected={
            "log_ratio_only": "fails",
            "batch_separable": "holds",
            "chosen_first_goes_up": "fails",
            "long_responses_teach": "fails",
        },
        right="the weight is clamped at 1, and the DPO part is the original's",
        remark="a sum where a mean was meant: a [B] log-prob times a [B, T] mask (which needs B = 1) leaves the SUMMED "
        "log-prob in the exponent, and it is not detached, so that the first step lowers the chosen response and long "
        "pairs teach nothing. Read, not run by us (PyTorch)",
    ),
    Entry(
        id="ours/wpo-mean",
        package="WPO's paper",
        version="arXiv:2406.11827",
        where="the mean log-probs, detached here (200 tokens a response)",
        what="WPO with the weight that was meant",
        kind="pair",
        function=losses.wpo_mean_weight,
        checks={
            "chosen_first_goes_up": checks.chosen_first_goes_up,
            "long_responses_teach": checks.long_responses_teach,
        },
        expected={"log_ratio_only": "fails", "chosen_first_goes_up": "holds", "long_responses_teach": "holds"},
        right="the first step raises the chosen response, and long pairs teach as short ones do",
        remark="a control. The weight depends on the bare log-prob by design: it simulates on-policy data",
        ours=True,
    ),
    Entry(
        id="trl/simpo",
        package="TRL, SimPO",
        version=TRL,
        where="experimental/cpo/cpo_trainer.py L715-723; arXiv:2405.14734 Eq. 6",
        what="SimPO: logistic in the mean log-probs, with a margin",
        kind="pair",
        function=losses.simpo,
        expected={
            "log_ratio_only": "fails",
            "shift_invariant": "holds",
            "finite_on_separable": "fails",
            "extremes": "holds",
        },
        right="needs no reference model, is stable, and says so: both by design",
        remark="no reference means no KL and no temperature: nothing holds the policy near where it started",
    ),
    Entry(
        id="trl/orpo",
        package="TRL, tunix",
        version=f"TRL {TRL}, tunix {TUNIX}",
        where="TRL experimental/orpo/orpo_trainer.py L693-702, L848; tunix sft/dpo/dpo_trainer.py L428-445; "
        "arXiv:2403.07691 Eq. 4 and 7",
        what="ORPO: likelihood of the chosen response and a log-odds ratio, in mean log-probs",
        kind="pair",
        function=losses.orpo,
        expected={"gradient_finite": "fails", "log_ratio_only": "fails"},
        right="one model, no reference, and the likelihood term keeps the chosen response up",
        remark="log(1 - p) has no gradient at p = 1: a response of certain tokens gives NaN (tunix's comment says that "
        "x < 0 is needed; TRL's log1mexp is stable below 0, and has the same pole at 0)",
    ),
    Entry(
        id="trl/kto",
        package="TRL",
        version=TRL,
        where="trainer/kto_trainer.py L1443-1444, L1453, L1470; arXiv:2402.01306 Eq. 7",
        what="KTO: 1 - sigmoid of the log-ratio above or below the batch's KL estimate",
        kind="point",
        function=losses.kto,
        expected={"batch_separable": "fails", "log_ratio_only": "holds", "extremes": "holds"},
        right="unpaired labels, log-ratios only, the KL estimate detached and kept at least 0",
        remark="a prompt's loss depends on the others of the batch, by design: batch size and sharding are "
        "hyperparameters. TRL refuses a batch of one",
    ),
    Entry(
        id="optax/kl-divergence",
        package="optax",
        version="0.2.8",
        where="losses/_classification.py kl_divergence L528-563",
        what="the KL between two distributions, (log_predictions, targets)",
        kind="exact",
        function=optax.losses.kl_divergence,
        checks={
            "order_of_arguments": checks.order_of_arguments,
            "reverse_with_swapped_arguments": checks.reverse_with_swapped_arguments,
            "empty_responses_are_harmless": checks.empty_responses_are_harmless,
        },
        expected={
            "order_of_arguments": "fails [forward]",
            "reverse_with_swapped_arguments": "holds [reverse]",
            "empty_responses_are_harmless": "fails",
        },
        right="documents its arguments, handles target probabilities of 0 in the value, exact in either direction",
        remark="kl_divergence(log policy, reference) is the FORWARD KL(reference || policy): for the reverse one "
        "give (log reference, policy). Where a response has no mass (a banned token), NaN",
        transcribed=False,
    ),
)


@functools.cache
def by_id() -> dict[str, Entry]:
    """Entries by id, in order."""
    found = {entry.id: entry for entry in ENTRIES}
    assert len(found) == len(ENTRIES), "two entries share an id"
    return found
