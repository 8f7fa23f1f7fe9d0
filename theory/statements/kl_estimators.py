r"""Sampled estimators of KL(pi || ref): their means, and the expected gradients of the losses they make,
on a token tree.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from alignjax import kl_estimators
from alignjax.record import Source
from theory import definitions, instances
from theory.instances import TREE
from theory.record import Statement
from theory.slack import both, equal, pick

Nodes = Any
Law = Float[Array, "A"]


def sequence_logp(logits: Nodes) -> Float[Array, "9"]:
    """log pi(y) of the nine sequences, node by node, without the tree's own code."""
    first, second = definitions.softmax_of(logits[0][0]), [definitions.softmax_of(row) for row in logits[1]]
    return jnp.stack([first[a] + second[a][b] for a in range(3) for b in range(3)])


def flat(tree: Nodes) -> Array:
    """All node gradients as one vector."""
    return jnp.concatenate([leaf.reshape(-1) for leaf in jax.tree.leaves(tree)])


def expected_gradient(loss: Callable[[Array, Array], Array], logits: Nodes, ref_logits: Nodes) -> Array:
    """sum_y sg[pi(y)] grad loss(y): autodiff of the loss with the samples frozen, over all sequences."""
    ref_logp = sequence_logp(ref_logits)

    def surrogate(z: Nodes) -> Array:
        logp = sequence_logp(z)
        return jnp.sum(jax.lax.stop_gradient(jnp.exp(logp)) * loss(logp, ref_logp))

    return flat(jax.grad(surrogate)(logits))


def divergence_gradient(logits: Nodes, ref_logits: Nodes, *, forward: bool) -> Array:
    """Autodiff of the exact KL(pi || ref), or of KL(ref || pi)."""
    ref_logp = sequence_logp(ref_logits)

    def divergence(z: Nodes) -> Array:
        logp = sequence_logp(z)
        return definitions.kl(ref_logp, logp) if forward else definitions.kl(logp, ref_logp)

    return flat(jax.grad(divergence)(logits))


def mean_of_estimator(logits: Nodes, ref_logits: Nodes, *, name: str, factor: float = 1.0, swap: float = 0.0) -> Array:
    r"""E_{y ~ pi} of the value, against the exact KL (k2: against E h^2 / 2, which is not the KL)."""
    logp, ref_logp = sequence_logp(logits), sequence_logp(ref_logits)
    value = kl_estimators.ESTIMATORS[name].loss(logp, ref_logp)
    exact = definitions.kl(logp, ref_logp)
    if name == "k2":
        exact = 0.5 * definitions.expectation(logp, jnp.square(logp - ref_logp))
    return equal(definitions.expectation(logp, value), factor * pick(swap, definitions.kl(ref_logp, logp), exact))


def gradient_of_estimator(
    logits: Nodes, ref_logits: Nodes, *, name: str, factor: float = 1.0, other: float = 0.0, offset: float = 0.0
) -> Array:
    r"""The expected gradient of the loss, on-policy, against the exact gradient that `ESTIMATORS` lists.

    Proofs, with s = grad log pi and E_pi s = 0: k1 gives E s = 0; k2 gives E h s = grad KL(pi || ref); k3 gives
    E (1 - ref/pi) s = -E_ref s = grad KL(ref || pi); sg[k1] log pi gives E h s; (pi/sg pi) k3 gives E k3 s + E (1 -
    ref/pi) s = E h s.
    """
    reverse = divergence_gradient(logits, ref_logits, forward=False)
    forward = divergence_gradient(logits, ref_logits, forward=True)
    listed = kl_estimators.ESTIMATORS[name].gradient
    exact = {"zero": jnp.zeros_like(reverse), "reverse": reverse, "forward": forward}[listed]
    wrong = reverse if listed == "forward" else forward
    found = expected_gradient(kl_estimators.ESTIMATORS[name].loss, logits, ref_logits)
    return equal(found, pick(other, wrong, factor * exact) + offset)


def tokens(logits: Nodes) -> Float[Array, "9 2"]:
    """log pi(y_t | y_<t) of every sequence, written out."""
    first, second = definitions.softmax_of(logits[0][0]), [definitions.softmax_of(row) for row in logits[1]]
    return jnp.stack([jnp.stack([first[a], second[a][b]]) for a in range(3) for b in range(3)])


def _expected_token_gradient(loss: Callable[..., Array], logits: Nodes, ref_logits: Nodes) -> Array:
    law = jnp.exp(sequence_logp(logits))
    return flat(jax.grad(lambda z: jnp.sum(law * loss(tokens(z), tokens(ref_logits))))(logits))


def reward_to_go_is_exact(logits: Nodes, ref_logits: Nodes, *, factor: float = 1.0, myopic: float = 0.0) -> Array:
    r"""E sum_n sg[sum_{m >= n} h_m] grad log pi(y_n | y_<n) = grad KL(pi || ref).

    Proof: grad KL = E [sum_m h_m] [sum_n s_n]; for m < n, E[h_m s_n] = 0, the score of a later token having
    conditional mean 0. Leaving out the later log-ratios as well (the mutant) is wrong as soon as there are two
    tokens.
    """
    to_go = _expected_token_gradient(kl_estimators.kl_tokens_to_go, logits, ref_logits)
    short = _expected_token_gradient(kl_estimators.kl_tokens_myopic, logits, ref_logits)
    exact = divergence_gradient(logits, ref_logits, forward=False)
    return equal(pick(myopic, short, to_go), factor * exact)


def myopic_is_frozen(logits: Nodes, ref_logits: Nodes, *, factor: float = 1.0, exact: float = 0.0) -> Array:
    r"""E sum_n sg[h_n] s_n = sum_n E_{sg[prefix]} grad KL(pi(. | prefix) || ref(. | prefix)): the prefixes' own law
    is left out.

    Token-wise k2 has the same expected gradient.
    """
    short = _expected_token_gradient(kl_estimators.kl_tokens_myopic, logits, ref_logits)
    squares = _expected_token_gradient(lambda a, b: kl_estimators.k2(a, b).sum(-1), logits, ref_logits)
    prefix = jnp.exp(definitions.softmax_of(logits[0][0]))

    def conditional(z: Nodes) -> Array:
        first = definitions.kl(definitions.softmax_of(z[0][0]), definitions.softmax_of(ref_logits[0][0]))
        rest = [
            definitions.kl(definitions.softmax_of(z[1][a]), definitions.softmax_of(ref_logits[1][a])) for a in range(3)
        ]
        return first + jnp.sum(prefix * jnp.stack(rest))

    frozen = flat(jax.grad(conditional)(logits))
    true = divergence_gradient(logits, ref_logits, forward=False)
    return both(equal(short, pick(exact, true, factor * frozen)), equal(squares, frozen))


def to_go_by_two_sums(
    logp: Array, ref_logp: Array, reward: Array, mask: Array, *, sign: float = 1.0, past: float = 0.0
) -> Array:
    r"""reward_to_go(v)_n = sum_{m >= n} v_m over what the mask keeps."""
    kept = jnp.where(mask, reward, 0.0)
    later = np.triu(np.ones((4, 4)))
    expected = jnp.where(mask, pick(past, later.T @ kept, sign * later @ kept), 0.0)
    plain = kl_estimators.reward_to_go(reward)
    return both(
        equal(kl_estimators.reward_to_go(jnp.where(mask, reward, jnp.nan), mask), expected),
        equal(plain, sign * later @ reward),
    )


def tree_is_its_nodes(logits: Nodes, ref_logits: Nodes, *, factor: float = 1.0, swap: float = 0.0) -> Array:
    r"""leaf_logp and token_logp of a tree are the sums and the entries of its nodes; conditionals inverts leaf_logp."""
    leaves = sequence_logp(logits)
    turned = leaves.reshape(3, 3).T.reshape(-1)
    back = TREE.conditionals(leaves)
    return both(
        equal(TREE.leaf_logp(logits), factor * pick(swap, turned, leaves)),
        equal(TREE.policy(logits)["logp"], leaves),
        equal(TREE.token_logp(logits), tokens(logits)),
        equal(back[0][0], definitions.softmax_of(logits[0][0])),
        equal(back[1], jnp.stack([definitions.softmax_of(row) for row in logits[1]])),
    )


_SCHULMAN = Source("Schulman", 2020, "", "k1, k2, k3", venue="Approximating KL divergence")
_TANG = Source("Tang and Munos", 2025, "2506.09477", "the gradients of KL estimators; derived in the docstring")


def _mean(row: str, name: str, says: str, formula: str) -> Statement:
    return Statement(
        id=f"rl/{row}",
        says=says,
        formula=formula,
        slack=functools.partial(mean_of_estimator, name=name),
        instance=instances.token_policies,
        source=_SCHULMAN,
        mutants=({"factor": 2.0}, {"factor": -1.0}, {"swap": 1.0}),
    )


def _gradient(row: str, name: str, says: str, formula: str, zero: bool = False) -> Statement:
    return Statement(
        id=f"rl/{row}",
        says=says,
        formula=formula,
        slack=functools.partial(gradient_of_estimator, name=name),
        instance=instances.token_policies,
        source=_TANG,
        mutants=({"offset": 1e-3}, {"other": 1.0}) if zero else ({"factor": 2.0}, {"factor": -1.0}, {"other": 1.0}),
    )


_KL = r"\mathrm{KL}(\pi\|\pi_{\rm ref})"
_FORWARD = r"\mathrm{KL}(\pi_{\rm ref}\|\pi)"
_SCORE = r"\nabla\log\pi"

STATEMENTS = (
    _mean("K1", "k1", "the mean of k1 is KL(pi || ref)", rf"\mathbb E_\pi[h]={_KL}"),
    _mean(
        "K2", "k2", "the mean of k2 is E h^2 / 2, which is not the KL", r"\mathbb E_\pi[k_2]=\tfrac12\mathbb E_\pi[h^2]"
    ),
    _mean("K3", "k3", "the mean of k3 is KL(pi || ref)", rf"\mathbb E_\pi[e^{{-h}}-1+h]={_KL}"),
    _mean(
        "K4",
        "k3_weighted",
        "weighting by pi / sg[pi] leaves the mean of k3",
        rf"\mathbb E_\pi[k_3\pi/\mathrm{{sg}}\,\pi]={_KL}",
    ),
    _gradient("K5", "k1", "as a loss, k1 has expected gradient 0", rf"\mathbb E_\pi[{_SCORE}]=0", zero=True),
    _gradient("K6", "k2", "as a loss, k2 has the gradient of KL(pi || ref)", rf"\mathbb E_\pi[h{_SCORE}]=\nabla{_KL}"),
    _gradient(
        "K7",
        "k3",
        "as a loss, k3 has the gradient of the forward KL(ref || pi)",
        rf"\mathbb E_\pi[(1-e^{{-h}}){_SCORE}]=\nabla{_FORWARD}",
    ),
    _gradient(
        "K8",
        "k1_in_reward",
        "k1 in the reward has the gradient of KL(pi || ref)",
        rf"\mathbb E_\pi[\mathrm{{sg}}[h]{_SCORE}]=\nabla{_KL}",
    ),
    _gradient(
        "K9",
        "k3_weighted",
        "importance-weighted k3 has the gradient of KL(pi || ref)",
        rf"\mathbb E_\pi\nabla[\tfrac{{\pi}}{{\mathrm{{sg}}\,\pi}}k_3]=\nabla{_KL}",
    ),
    Statement(
        id="rl/K10",
        says="token by token, the reward-to-go of the log-ratio gives the gradient of KL(pi || ref)",
        formula=r"\mathbb E\sum_n\big(\sum_{m\ge n}h_m\big)\nabla\log\pi(y_n|y_{<n})"
        r"=\nabla\mathrm{KL}(\pi\|\pi_{\rm ref})",
        slack=reward_to_go_is_exact,
        instance=instances.token_policies,
        source=Source("Munos et al.", 2023, "2312.00886", "Appendix F.2; derived in the docstring"),
        mutants=({"myopic": 1.0}, {"factor": 2.0}, {"factor": -1.0}),
    ),
    Statement(
        id="rl/K11",
        says="without the future, the gradient is that of conditional KLs at frozen prefixes",
        formula=r"\mathbb E\sum_nh_n\nabla\log\pi(y_n|y_{<n})=\sum_n\mathbb"
        r" E_{y_{<n}}\nabla\mathrm{KL}(\pi(\cdot|y_{<n})\|\pi_{\rm ref}(\cdot|y_{<n}))",
        slack=myopic_is_frozen,
        instance=instances.token_policies,
        source=Source("Tang and Munos", 2025, "2506.09477", "the bias of token-level estimators"),
        mutants=({"exact": 1.0}, {"factor": 2.0}, {"factor": -1.0}),
    ),
    Statement(
        id="rl/K12",
        says="reward_to_go sums what is still to come, masked or not",
        formula=r"\sum_{m\ge n}v_m",
        slack=to_go_by_two_sums,
        instance=instances.group,
        source=Source("alignjax", 2026, "", "definition"),
        mutants=({"sign": -1.0}, {"past": 1.0}),
    ),
    Statement(
        id="rl/T1",
        says="a token tree's sequences are the sums of their nodes, and conditionals inverts that",
        formula=r"\log\pi(y)=\sum_t\log\pi(y_t|y_{<t})",
        slack=tree_is_its_nodes,
        instance=instances.token_policies,
        source=Source("alignjax", 2026, "", "definition"),
        mutants=({"factor": 2.0}, {"swap": 1.0}),
    ),
)
