"""Table 1 of the MNPO paper, row by row: as printed and corrected, against the methods' own losses.

Compared are gradients with respect to the log-probs of many random pairs, so that constants drop out.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from alignjax import Samples, methods
from alignjax.objectives.mnpo import TABLE_1, multi_base_pair
from papers.nash_md_experiments import Runs, normalised
from papers.record import Settings

Loss = Callable[[Any], Array]
"""Of `Samples` with all fields."""
INF = float("inf")
NAMES = tuple(row.name for row in TABLE_1)
"""SimPO, CPO, DPO, ..., in the order of the paper."""


def _gap(samples: Samples, field: str) -> Array:
    values = getattr(samples, field)
    return values[..., 0] - values[..., 1]


def _over(samples: Samples, base: str) -> Array:
    return _gap(samples, "logp") - _gap(samples, base)


def _residuals(samples: Any, h: float) -> Array:
    """What SPPO squares, response by response."""
    return samples.logp - samples.anchor_logp - h * (samples.win_rate - 0.5)


def _difference_squared(samples: Any, h: float) -> Array:
    return jnp.square(jnp.diff(_residuals(samples, h))[..., 0])


def direct(beta: float, h: float) -> Mapping[str, Loss]:
    """The methods of the table by their own losses: the library's records, or their formula where there is none."""
    plain = lambda s: -jax.nn.log_sigmoid(beta * _gap(s, "logp"))  # SimPO and CPO without length, margin and NLL
    return {
        "SimPO": plain,
        "CPO": plain,
        "DPO": lambda s: methods["dpo"](s, beta=beta),
        "Distill-DPO": lambda s: (_gap(s, "reward") - beta * _over(s, "ref_logp")) ** 2,
        "DNO": lambda s: methods["dno"](s, step_size=h),
        "SPIN": lambda s: methods["spin"](s, beta=beta),
        "SPPO": lambda s: methods["sppo"](s, step_size=h),
        "IPO": lambda s: methods["ipo"](s, beta=beta),
        "INPO": lambda s: methods["inpo"](s, step_size=h, beta=beta),
    }


def printed(beta: float, h: float) -> Mapping[str, Loss]:
    """The rows as Eq. 17 and Table 1 print them, where no coefficient stands in front of the margin.

    INPO's weights are read as meant (tau / eta on the reference, the rest on pi_t); its eta is the inverse step.
    """

    def row(base: str | None, weight: float, distance: str, target: Callable[[Any], Any]) -> Loss:
        def loss(s: Any) -> Array:
            bases = [] if base is None else [getattr(s, base)]
            return multi_base_pair(s.logp, bases, [weight] * len(bases), target=target(s), distance=distance)

        return loss

    certain = lambda s: INF
    pull = h * beta
    return {
        "SimPO": row(None, 1.0, "logistic", certain),
        "CPO": row(None, 1.0, "logistic", certain),
        "DPO": row("ref_logp", 1.0, "logistic", certain),
        "Distill-DPO": row("ref_logp", 1.0, "squared", certain),
        "DNO": row("anchor_logp", 1.0, "logistic", certain),
        "SPIN": row("anchor_logp", beta, "logistic", certain),
        "SPPO": row("anchor_logp", 1.0, "squared", lambda s: h * (s.win_rate[..., 0] - 0.5)),
        "IPO": row("ref_logp", 1.0, "squared", lambda s: 0.5 / beta),
        "INPO": lambda s: multi_base_pair(
            s.logp, [s.anchor_logp, s.ref_logp], [1 - pull, pull], target=0.5 / beta
        ),
    }  # fmt: skip


def corrected(beta: float, h: float) -> Mapping[str, Loss]:
    """The rows of `TABLE_1`."""
    known = {"beta": beta, "step_size": h}
    wanted = {"DNO": ("step_size",), "SPPO": ("step_size",), "INPO": ("beta", "step_size")}

    def call(row: Any) -> Loss:
        hyper = {name: known[name] for name in wanted.get(row.name, ("beta",))}
        return lambda s: row(s, **hyper)

    return {row.name: call(row) for row in TABLE_1}


def pairs(settings: Settings) -> Samples:
    """Random labelled pairs out of six responses: log-probs, rewards and win-rates of the first and of the second."""
    generator, number = np.random.default_rng([settings.seed, 110]), settings.size(4000, 500)
    law = lambda: jnp.asarray(normalised(1.5 * generator.normal(size=(number, 6)))[:, :2])
    return Samples(
        logp=law(), ref_logp=law(), anchor_logp=law(), reward=jnp.asarray(generator.normal(size=(number, 2))),
        win_rate=jnp.asarray(generator.uniform(size=(number, 2))),
    )  # fmt: skip


def slopes(losses: Mapping[str, Loss], samples: Samples) -> dict[str, np.ndarray]:
    """Gradients with respect to both log-probs of every pair, `[pairs, 2]`, of each loss by name: one program."""

    @jax.jit
    def gradients(logp: Array) -> dict[str, Array]:
        total = lambda loss, x: loss(dataclasses.replace(samples, logp=x)).sum()
        return {name: jax.grad(functools.partial(total, loss))(logp) for name, loss in losses.items()}

    return {name: np.asarray(value) for name, value in gradients(samples.logp).items()}


def relative(found: np.ndarray, wanted: np.ndarray, *, scaled: bool) -> float:
    """|found - wanted| / |wanted| over all pairs; `scaled`: after the best positive factor. Infinite if not finite."""
    if not np.isfinite(found).all():
        return INF
    factor = max((found * wanted).sum() / max(np.square(found).sum(), 1e-300), 0.0) if scaled else 1.0
    return float(np.linalg.norm(factor * found - wanted) / np.linalg.norm(wanted))


@functools.cache
def errors(settings: Settings) -> Runs:
    """Relative errors of the rows' gradients `[9]`: `corrected` (no factor allowed), `printed` (best factor), both at
    beta = .3 and h = .7, and `unit`, the printed ones at beta = h = 1.

    SPPO's corrected row is compared with the square of the difference of its residuals, and `residuals` says how far
    the mean of their squares is from SPPO's loss. `practical`: the printed DNO against DNO-Prct at beta = 1.
    """
    samples = pairs(settings)
    found: dict[str, list[float]] = {}
    for beta, h in ((0.3, 0.7), (1.0, 1.0)):
        off = slopes(printed(beta, h), samples)
        wanted = slopes(direct(beta, h), samples)
        key = "printed" if beta < 1 else "unit"
        found[key] = [relative(off[name], wanted[name], scaled=True) for name in NAMES]
        if beta < 1:
            right = slopes(corrected(beta, h), samples)
            wanted |= slopes({"SPPO": functools.partial(_difference_squared, h=h)}, samples)
            found["corrected"] = [relative(right[name], wanted[name], scaled=False) for name in NAMES]
        else:
            wanted = slopes({"DNO": lambda s: methods["dno_prct"](s, beta=1.0)}, samples)
            practical = relative(off["DNO"], wanted["DNO"], scaled=False)
    again = jnp.square(_residuals(samples, 0.7)).mean(-1) - methods["sppo"](samples, step_size=0.7)
    more = {"residuals": np.abs(np.asarray(again)).max(), "practical": practical}
    return {name: np.asarray(values) for name, values in (found | more).items()}
