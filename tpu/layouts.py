"""Layouts: how many devices each mesh axis has. By name, by sizes, and which of them fit a model and a batch.

    data      whole copies of the model; the outermost axis, and the only one that crosses slices (over DCN)
    fsdp      prompts are split, and so are parameters, moments, anchors and histories, gathered layer by layer
    sequence  the positions of every row are split; parameters as over `fsdp`
    tensor    heads, MLP and vocabulary are split

`train` and `plan` both choose here. What an axis means for an array is said in `partition.RULES`.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax

from alignjax import checks
from tpu.partition import RULES, batch_shardings, shardings, spec

AXES = ("data", "fsdp", "sequence", "tensor")
Sizes = Mapping[str, int]
Rules = Mapping[str, tuple[str, ...]]
NARROW = 4
"""Devices on `sequence` or `tensor` at most, in a layout by name that has other axes as well: what these two say to
each other is said in every layer."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """A layout that has a name: its axes, whatever the number of devices."""

    axes: tuple[str, ...]
    why: str
    """Whom it is for."""
    rules: Rules = dataclasses.field(default_factory=lambda: RULES)

    def sizes(self, devices: int, slices: int = 1) -> dict[str, int]:
        """Its axes as equal as they can be, `fsdp` first and `sequence` and `tensor` at most `NARROW`; every slice has
        the same, and `data` is as many times as large as there are slices.

        Raises: ValueError if the devices are no whole number of slices, or do not divide over the axes.
        """
        if devices % slices:
            raise ValueError(f"{devices} devices are no whole number of devices for each of slices = {slices}")
        found = dict.fromkeys(AXES, 1)
        order = sorted(self.axes, key=("fsdp", *AXES).index)
        for prime in _primes(devices // slices):
            roomy = [a for a in order if a in ("data", "fsdp") or found[a] * prime <= NARROW]
            found[min(roomy or order, key=found.__getitem__)] *= prime
        found["data"] *= slices
        alone = [axis for axis in self.axes if found[axis] == 1]
        if alone and devices > 1:
            raise ValueError(f"layout {'+'.join(self.axes)}: {words(found)} leaves nothing for {', '.join(alone)}")
        return found


LAYOUTS: Mapping[str, Layout] = {
    "+".join(axes): Layout(axes, why)
    for axes, why in (
        (("data",), "a model that fits one chip, with all that is trained of it"),
        (("fsdp",), "the default for models that do not"),
        (("tensor",), "fewer prompts than chips"),
        (("data", "fsdp"), "several slices, or more chips than gather well together"),
        (("fsdp", "tensor"), "the largest models"),
        (("data", "fsdp", "tensor"), "the largest models on several slices"),
        (("sequence",), "one long row"),
        (("fsdp", "sequence"), "long rows, whose activations do not fit"),
        (("fsdp", "sequence", "tensor"), "long rows of the largest models"),
    )
}
"""Name -> layout."""


def _primes(number: int) -> list[int]:
    """Its prime factors, the largest first."""
    found, prime = [], 2
    while number > 1:
        while number % prime == 0:
            found.append(prime)
            number //= prime
        prime += 1
    return found[::-1]


def parse_sizes(text: str) -> dict[str, int]:
    """`"data=4,tensor=2"` -> `{"data": 4, "tensor": 2}`."""
    sizes: dict[str, int] = {}
    for part in text.split(","):
        name, equals, size = (piece.strip() for piece in part.partition("="))
        if not equals or not size.isascii() or not size.isdigit() or int(size) < 1:
            raise ValueError(
                f"mesh must look like data=4,tensor=2, with sizes >= 1; got {part.strip()!r} "
                f"(by name there are {', '.join(LAYOUTS)})"
            )
        name = checks.member("mesh axis", name, AXES)
        if name in sizes:
            raise ValueError(f"mesh names the axis {name!r} twice")
        sizes[name] = int(size)
    return sizes


def sizes_of(asked: Sizes | str | None, devices: int, slices: int = 1) -> dict[str, int]:
    """All `AXES` with their sizes: of a layout by its name, or of those that are given; None is `data` alone.

    Raises: ValueError or UnknownName for what is no layout; ValueError if `data` is no multiple of `slices`.
    """
    checks.whole("slices", slices)
    if isinstance(asked, str):
        asked = LAYOUTS[asked].sizes(devices, slices) if asked in LAYOUTS else parse_sizes(asked)
    asked = {"data": devices} if asked is None else asked
    for name in asked:
        checks.member("mesh axis", name, AXES)
    sizes = {axis: checks.whole(f"mesh axis {axis}", asked.get(axis, 1)) for axis in AXES}
    if sizes["data"] % slices:
        raise ValueError(
            f"mesh {words(sizes)}: data={sizes['data']} is no multiple of slices = {slices}, and no other axis crosses "
            "slices"
        )
    return sizes


def words(sizes: Sizes) -> str:
    """`fsdp=8,tensor=2`."""
    return ",".join(f"{axis}={size}" for axis, size in sizes.items() if size > 1) or f"{AXES[0]}=1"


# --- which fit --------------------------------------------------------------------------------------------------------


def why_not(
    sizes: Sizes, axes: Any, shapes: Any, batch: Mapping[str, Any], *, accumulate: int = 1, lengths: Any = None
) -> str | None:
    """What does not divide over this mesh, with the sizes; None if all does.

    `axes` and `shapes` are the trees of logical axes and of arrays (or shapes) of the parameters; `batch` the arrays
    of the global batch; `lengths` those of its rows, where there are others than the batch has.
    """
    mesh: Any = jax.sharding.AbstractMesh(tuple(sizes.values()), tuple(sizes))
    try:
        shardings(axes, shapes, mesh)
        batch_shardings(batch, mesh)
        for length in sorted({*(lengths or ()), *(x.shape[-1] for n, x in batch.items() if n == "tokens")}):
            spec(("position",), (length,), mesh, name="tokens")
    except ValueError as error:
        return str(error)
    prompts = next(iter(batch.values())).shape[0]
    if prompts % accumulate:
        return f"a batch of {prompts} prompts cannot be split into accumulate = {accumulate} equal parts"
    if prompts // accumulate % (sizes["data"] * sizes["fsdp"]):
        return f"micro-batches: {prompts} prompts in {accumulate} parts do not divide over data x fsdp"
    return None


def layouts(devices: int, slices: int = 1) -> Iterator[dict[str, int]]:
    """Every mesh of that many devices: those without `sequence` first, of them the widest `fsdp`, then `data`."""
    divisors = [d for d in range(1, devices + 1) if devices % d == 0]
    for sequence in divisors:
        for fsdp in reversed(divisors):
            for tensor in divisors:
                data, rest = divmod(devices, sequence * fsdp * tensor)
                if not rest and data % slices == 0:
                    yield dict(zip(AXES, (data, fsdp, sequence, tensor), strict=True))


def chosen(
    asked: Sizes | str | None,
    devices: int,
    why_not: Callable[[Sizes], str | None],
    *,
    slices: int = 1,
    whole: bool = True,
) -> dict[str, int]:
    """The mesh asked for, by name or sizes, or the one with the widest `fsdp`, then `data`, without `sequence`.

    `why_not(sizes)` says what does not divide (see above); `whole` asks for a mesh of all devices.
    Raises: ValueError with the sizes that do not fit and the nearest mesh that does.
    """
    fit = lambda sizes: why_not(sizes) is None
    if asked is None:
        best = next(filter(fit, layouts(devices, slices)), None)
        if best is None or best["sequence"] > 1:
            widest = why_not(dict(zip(AXES, (slices, devices // slices, 1, 1), strict=True)))
            other = "" if best is None else f"; with the positions split, {words(best)} does"
            raise ValueError(f"no mesh of {devices} chips fits: {widest}{other}")
        return best
    given = sizes_of(asked, devices, slices)
    count, reason = math.prod(given.values()), None
    if count != devices and (whole or count > devices):
        reason = f"mesh {words(given)} has {count} devices, there are {devices}"
    else:
        reason, devices = why_not(given), count
    if reason is None:
        return given
    far = lambda sizes: sum(abs(math.log2(sizes[axis] / given[axis])) for axis in AXES)
    nearest = min(filter(fit, layouts(devices, slices)), key=far, default=None)
    advice = f"no mesh of {devices} devices fits" if nearest is None else f"the nearest that fits is {words(nearest)}"
    raise ValueError(f"{reason}; {advice}")
