r"""Named games as data: preference matrices `[A, A]` with P[i, j] = P(i beats j), each with where it comes from."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from alignjax.logspace import Scalar, as_float
from alignjax.problem import bradley_terry

Preference = Float[Array, "A A"]


def from_margins(upper: Float[Array, "A A"]) -> Preference:
    r"""P = 1/2 + M where M is the skew matrix with the given upper triangle."""
    upper = jnp.triu(as_float(upper), 1)
    return 0.5 + upper - upper.T


def rock_paper_scissors(a: Scalar = 0.5, b: Scalar = 0.5, c: Scalar = 0.5) -> Preference:
    r"""The cycle 1 > 2 > 3 > 1 with margins a = M_12, b = M_23, c = M_31 in (0, 1/2]; its Nash is (b, c, a) / (a + b
    + c).

    Each response is played by the margin of the edge it does not touch. Equal margins 1/2 are the 0/1 game.
    """
    a, b, c = as_float(a), as_float(b), as_float(c)
    zero = jnp.zeros_like(a)
    return 0.5 + jnp.stack([jnp.stack([zero, a, -c]), jnp.stack([-a, zero, b]), jnp.stack([c, -b, zero])])


def dice() -> Preference:
    r"""Three non-transitive dice {2,4,9}, {1,6,8}, {3,5,7}: each beats the next with probability 5/9; the Nash is
    uniform.

    Source: Munos et al., 2023, arXiv:2312.00886, Appendix C.1.
    """
    faces = jnp.asarray([[2, 4, 9], [1, 6, 8], [3, 5, 7]])
    wins = as_float(faces[:, None, :, None] > faces[None, :, None, :]).mean((-1, -2))
    return jnp.where(jnp.eye(3, dtype=bool), 0.5, wins)


def three_types(epsilon: Scalar) -> Preference:
    r"""Three kinds of annotators, one of mass 1/3 - eps and two of mass 1/3 + eps/2, each with one strict preference.

    The first prefers 2 to 1, the second 1 to 3, the third 3 to 2; otherwise they are indifferent. The Nash is (1/3 +
    eps/2, 1/3 + eps/2, 1/3 - eps), continuous in eps, while the best response of a Bradley-Terry reward jumps at 0.
    Source: Munos et al., 2023, arXiv:2312.00886, Sec. 3.2.
    """
    epsilon = as_float(epsilon)
    first, other = 2 / 3 - epsilon / 2, 2 / 3 + epsilon / 4
    half = jnp.full_like(epsilon, 0.5)
    return jnp.stack(
        [
            jnp.stack([half, 1 - first, other]),
            jnp.stack([first, half, 1 - other]),
            jnp.stack([1 - other, other, half]),
        ]
    )


def constrained_rewards() -> tuple[Float[Array, "A"], Preference]:
    r"""Bradley-Terry rewards (0, log 9, log 2) and their preferences, for the feasible set pi_1 = 2 pi_2.

    There the best expected reward is (2/3, 1/3, 0), and the best win-rate (0, 0, 1), which beats it with probability
    50/99.
    Source: Munos et al., 2023, arXiv:2312.00886, Appendix A.
    """
    reward = jnp.log(jnp.asarray([1.0, 9.0, 2.0]))
    return reward, bradley_terry(reward)


def comal() -> Preference:
    r"""A cycle of unequal margins, P_ba = P_cb = .9 and P_ac = .8; the Nash is (4, 3, 4) / 11.

    Source: Liu et al., 2024, arXiv:2410.23223, synthetic experiment.
    """
    return jnp.asarray([[0.5, 0.1, 0.8], [0.9, 0.5, 0.1], [0.2, 0.9, 0.5]])


def circulant(size: int, margin: Scalar = 0.5) -> Preference:
    r"""An odd number of responses on a circle, each beating the next (A - 1)/2 by `margin`; the Nash is uniform."""
    if size % 2 == 0 or size < 3:
        raise ValueError(f"size must be odd and >= 3, got {size}")
    ahead = (jnp.arange(size)[None, :] - jnp.arange(size)[:, None]) % size
    sign = jnp.where(ahead == 0, 0.0, jnp.where(ahead <= (size - 1) // 2, 1.0, -1.0))
    return 0.5 + as_float(margin) * sign
