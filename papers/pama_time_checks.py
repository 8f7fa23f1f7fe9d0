"""The checks of the PAMA page that read a clock."""

import numpy as np

from papers import pama_experiments as pama
from papers.record import Outcome, Settings


def order_n(settings: Settings) -> Outcome:
    """Slope of the closed form's time in the number of objectives, on log axes."""
    run = pama.timing(settings)
    slope = np.polyfit(np.log(run["numbers"]), np.log(run["token"]), 1)[0]
    return Outcome(
        expected=1.0,
        measured=slope,
        relation="at most",
        tolerance=0.5,
        note=f"{pama.TOKENS} tokens, {run['numbers'][0]} to {run['numbers'][-1]} objectives, "
        f"{1e6 * run['token'][0]:.0f} to {1e6 * run['token'][-1]:.0f} microseconds; a backward pass comes on top, "
        "whatever the combination",
    )


def cheaper(settings: Settings) -> Outcome:
    """MGDA's time on the largest gradients over that of the closed form, at eight objectives."""
    run = pama.timing(settings)
    closed = run["token"][list(run["numbers"]).index(8)]
    shown = ", ".join(
        f"{1e3 * t:.2f} ms at d = {d:.0e}" for t, d in zip(run["mgda_by_size"], run["sizes"], strict=True)
    )
    return Outcome(
        expected=5.0,
        measured=run["mgda_by_size"][-1] / closed,
        relation="at least",
        note=f"MGDA: {shown}, without the eight backward passes it needs; closed form {1e3 * closed:.3f} ms for "
        f"{pama.TOKENS} tokens; 5 is ours",
    )


def gram_is_cheap(settings: Settings) -> Outcome:
    """The valid bound's program over the closed form, at eight objectives: neither sees the parameters."""
    run = pama.timing(settings)
    eight = list(run["numbers"]).index(8)
    return Outcome(
        expected=20.0,
        measured=run["gram"][eight] / run["token"][eight],
        relation="at most",
        note=f"{1e3 * run['gram'][eight]:.3f} ms against {1e3 * run['token'][eight]:.3f} ms; 20 is ours",
    )
