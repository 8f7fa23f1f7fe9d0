r"""Social choice on a preference matrix `[..., A, A]` with P[i, j] = P(i beats j): who wins by which rule.

Every rule but Borda's reads the majority relation alone: i beats j where P[i, j] > 1/2, and a pair within `margin` of
1/2 is a tie. Leading axes are a batch. All are safe under `jit` and `vmap`, `majority_cycle` apart, whose answer has
no fixed length.
"""

import collections

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from alignjax import checks
from alignjax.logspace import ArrayLike, as_float

Preference = Float[Array, "*batch A A"]


def _matrix(preference: ArrayLike) -> Array:
    checks.preference_matrix("preference", preference)
    return as_float(preference)


def _beats(matrix: Array, margin: float | None) -> Bool[Array, "*batch A A"]:
    """i beats j. The margin's default covers the rounding of 1/2 in a sum or a quotient: eight ulps."""
    threshold = 8 * float(jnp.finfo(matrix.dtype).eps) if margin is None else margin
    return (matrix > 0.5 + threshold) & ~jnp.eye(matrix.shape[-1], dtype=bool)


def borda(preference: ArrayLike) -> Float[Array, "*batch A"]:
    r"""Mean probability of beating another response, sum_{j != i} P(i > j) / (A - 1).

    The classical score is A - 1 times it. Its maximiser is what a Bradley-Terry reward fitted to uniformly drawn
    pairs ranks first. One response alone has the score 1/2.
    Source: Borda, 1781; Siththaranjan et al., 2023, arXiv:2312.08358, Thm. 3.1 (reward learning implements it).
    """
    matrix = _matrix(preference)
    others = matrix.shape[-1] - 1
    if others == 0:
        return jnp.full(matrix.shape[:-1], 0.5, matrix.dtype)
    return 0.5 + (matrix - 0.5).sum(-1) / others


def copeland(preference: ArrayLike, *, margin: float | None = None) -> Float[Array, "*batch A"]:
    r"""Number of responses that i beats by majority, a tie counting 1/2.

    Source: Copeland, 1951; Saari and Merlin, 1996, Economic Theory 8 (ties at 1/2).
    """
    matrix = _matrix(preference)
    beats = as_float(_beats(matrix, margin)).astype(matrix.dtype)
    # wins + ties / 2 = (A - 1) / 2 + (wins - losses) / 2
    return 0.5 * (matrix.shape[-1] - 1 + beats.sum(-1) - beats.sum(-2))


def condorcet_winner(preference: ArrayLike, *, margin: float | None = None) -> Int[Array, "*batch"]:
    r"""Index of the response that beats every other by majority, or -1 where there is none.

    Where it exists it is the only equilibrium of the game without regularisation. Source: Condorcet, 1785.
    """
    matrix = _matrix(preference)
    wins = _beats(matrix, margin).sum(-1) == matrix.shape[-1] - 1
    return jnp.where(wins.any(-1), jnp.argmax(wins, -1), -1)


def smith_set(preference: ArrayLike, *, margin: float | None = None) -> Bool[Array, "*batch A"]:
    r"""The top cycle: the smallest non-empty set whose every member beats every response outside it, as a mask.

    A tie keeps both sides inside. A single member is the Condorcet winner. Members have larger Copeland scores than
    all others, so the set is the shortest prefix in that order that beats its complement.
    Source: Smith, 1973, Econometrica 41; Schwartz, 1972, Noûs 6 ("GETCHA").
    """
    matrix = _matrix(preference)
    size = matrix.shape[-1]
    order = jnp.argsort(-copeland(matrix, margin=margin), -1)
    beats = _beats(matrix, margin).astype(jnp.int32)
    ranked = jnp.take_along_axis(jnp.take_along_axis(beats, order[..., :, None], -2), order[..., None, :], -1)
    # Wins of the first k over the rest, k = 1..A: what the k-th adds by its wins below, less the wins over it.
    added = jnp.triu(ranked, 1).sum(-1) - jnp.triu(ranked, 1).sum(-2)
    length = jnp.arange(1, size + 1)
    closed = jnp.cumsum(added, -1) == length * (size - length)
    shortest = jnp.argmax(closed, -1)  # the whole set is closed, so there is one
    return jnp.argsort(order, -1) <= shortest[..., None]


def three_cycles(preference: ArrayLike, *, margin: float | None = None) -> Int[Array, "*batch"]:
    r"""Number of cycles i > j > k > i by strict majority, each counted once: trace(W^3) / 3.

    A tournament (no ties) has a cycle only if it has one of length 3; with ties there can be longer ones alone.
    Source: Kendall and Babington Smith, 1940, Biometrika 31 ("circular triads").
    """
    matrix = _matrix(preference)
    beats = _beats(matrix, margin)
    # Paths of length two are counted in floats (exact below 2^24, and there are at most A); their sum in integers
    # (of 32 bits unless x64 is on: enough up to A = 2,500).
    wins = beats.astype(matrix.dtype)
    paths = jnp.rint(wins @ wins).astype(jnp.int32)
    total = jnp.where(jnp.swapaxes(beats, -1, -2), paths, 0).sum((-1, -2), dtype=jnp.result_type(int))
    return total // 3


def _shortest_cycle(beats: np.ndarray) -> tuple[int, ...]:
    """A shortest directed cycle, by breadth-first search from every vertex; () if there is none."""
    best: tuple[int, ...] = ()
    for start in range(len(beats)):
        parent = {start: start}
        queue = collections.deque([start])
        while queue:
            last = queue.popleft()
            if beats[last, start]:
                path = [last]
                while path[-1] != start:
                    path.append(parent[path[-1]])
                if not best or len(path) < len(best):
                    best = tuple(reversed(path))
                break
            for after in map(int, np.flatnonzero(beats[last])):
                if after not in parent:
                    parent[after] = last
                    queue.append(after)
    return best


def majority_cycle(preference: ArrayLike, *, margin: float | None = None) -> tuple[int, ...]:
    r"""Indices (i, j, k) of a cycle i > j > k > i by majority: of all of length 3 one whose narrowest win is widest.

    Where ties leave longer cycles alone it is a shortest of them, and () where the majority has no cycle. For one
    matrix, on the host.
    Raises: TypeError under a JAX trace.
    """
    if not checks.is_concrete(preference):
        raise TypeError("majority_cycle returns a tuple of no fixed length: call it outside jit, vmap and grad")
    matrix = np.asarray(_matrix(preference), np.float64)
    if matrix.ndim != 2:
        raise ValueError(f"preference must be one matrix [A, A], got shape {matrix.shape}")
    beats = np.asarray(_beats(_matrix(preference), margin))

    def closing(threshold: float) -> np.ndarray:
        """Where i beats j, and j beats some k that beats i, all by the threshold or more."""
        wins = (beats & (matrix >= threshold)).astype(np.float32)
        return (wins > 0) & ((wins @ wins).T > 0)

    levels = np.unique(matrix[beats])
    if not levels.size or not closing(levels[0]).any():
        # Every vertex of a cycle has a win and a loss: the others are taken away until nothing changes.
        kept = np.arange(len(matrix))
        while kept.size:
            inside = beats[np.ix_(kept, kept)]
            still = inside.any(0) & inside.any(1)
            if still.all():
                return tuple(int(kept[i]) for i in _shortest_cycle(inside))
            kept = kept[still]
        return ()
    low, high = 0, levels.size  # closing at levels[low], and not at levels[high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if closing(levels[middle]).any() else (low, middle)
    i, j = (int(n) for n in np.argwhere(closing(levels[low]))[0])
    wide = beats & (matrix >= levels[low])
    k = int(np.flatnonzero(wide[j] & wide[:, i])[0])
    return i, j, k
