"""Batches: shuffled anew each epoch, of like lengths, shared among hosts, from any position. On grain.

The order is a function of seed, epoch, number of rows and batch size, the same on any machine and for any number of
hosts: at step s the hosts' batches, one after the other, are the batch that one host would have.

Padding is computed as if it were text, so rows of like length go together. The rows are shuffled, those that fill no
whole batch are left out of the epoch, the others are put in order of the bucket that holds them (a stable sort, so that
within a bucket the company is drawn anew each epoch), cut into batches, and the batches are shuffled. A batch is padded
to the largest bucket in it: there are only as many shapes, and so compilations, as buckets. The buckets are those that
make padding smallest. Sequences are not packed: a model knows of no segments.
"""

import zlib
from collections.abc import Iterator, Mapping
from typing import Any, Protocol

import numpy as np

from alignjax import checks

SHORT, BLOCK = 16, 128
"""Lengths are multiples of the first, and above the second multiples of that: the block of TPU's flash attention."""


class Rows(Protocol):
    """`PreferenceData`, `PromptData`, or your own."""

    @property
    def length(self) -> int:
        """What rows are padded to at most."""
        ...

    @property
    def lengths(self) -> np.ndarray:
        """`[N]`: the length that each row must be padded to at least."""
        ...

    @property
    def num_tokens(self) -> np.ndarray:
        """`[N]`: tokens that are not padding."""
        ...

    @property
    def num_responses(self) -> int:
        """Sequences in a row."""
        ...

    def __len__(self) -> int: ...

    def rows(self, index: np.ndarray, length: int | None = None) -> dict[str, np.ndarray]: ...


class Batches(Iterator[dict[str, np.ndarray]]):
    """`batches` makes it: an iterator without end, and its position."""

    def __init__(
        self, data: Rows, batch_size: int, seed: int, mine: np.ndarray, lengths: tuple[int, ...], prefetch: int
    ) -> None:
        self.data = data
        self.batch_size = batch_size
        """Rows in a step, of all hosts."""
        self.seed = seed
        self.lengths = lengths
        """The buckets, ascending."""
        self.steps_per_epoch = len(data) // batch_size
        self.mine = mine
        """Which rows of a step are read here, ascending."""
        self._bucket = np.searchsorted(lengths, data.lengths)
        self._planned: tuple[int, np.ndarray] | None = None
        counted = np.ascontiguousarray(data.lengths, np.int64).tobytes()
        self._of = {
            "rows": len(data), "batch_size": batch_size, "seed": seed, "lengths": list(lengths),
            "row_lengths": zlib.crc32(counted),
        }  # fmt: skip
        self._steps = self._iterator(prefetch)

    def _iterator(self, prefetch: int) -> Any:
        import grain  # takes a second to import

        steps = grain.MapDataset.range(self.steps_per_epoch).repeat().map_with_index(lambda step, _: self.batch(step))
        options = grain.ReadOptions(num_threads=min(1, prefetch), prefetch_buffer_size=prefetch)
        return iter(steps.to_iter_dataset(options))

    def plan(self, epoch: int) -> np.ndarray:
        """`[steps, batch_size]`: the rows of each step of an epoch."""
        if self._planned is None or self._planned[0] != epoch:
            order = _shuffled(len(self.data), (self.seed, epoch, 0))[: self.steps_per_epoch * self.batch_size]
            order = order[np.argsort(self._bucket[order], kind="stable")]
            steps = order.reshape(self.steps_per_epoch, self.batch_size)
            self._planned = epoch, steps[_shuffled(self.steps_per_epoch, (self.seed, epoch, 1))]
        return self._planned[1]

    def batch(self, step: int, *, whole: bool = False) -> dict[str, np.ndarray]:
        """This host's part of a step, counted from the beginning of the run; or all of it."""
        epoch, within = divmod(int(step), self.steps_per_epoch)
        index = self.plan(epoch)[within]
        length = self.lengths[self._bucket[index].max()]
        index = index if whole else index[self.mine]
        return {**self.data.rows(index, length), "index": index}

    @property
    def padding(self) -> float:
        """The fraction of positions in the first epoch that are padding."""
        plan = self.plan(0)
        lengths = np.asarray(self.lengths)[self._bucket[plan].max(-1)]
        positions = int(lengths.sum()) * self.batch_size * self.data.num_responses
        return 1 - int(self.data.num_tokens[plan].sum()) / positions

    def __iter__(self) -> "Batches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = next(self._steps)
        return found

    def get_state(self) -> dict[str, Any]:
        """How many steps were taken, and of what; plain data, the same on every host."""
        return {"step": int(self._steps.get_state()["next_index"]), "of": dict(self._of)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Continues where another iterator was, on any number of hosts.

        Raises: ValueError if that one was of other rows, another batch size, seed or bucketing.
        """
        there = dict(state["of"])
        differing = [name for name in self._of if there.get(name) != self._of[name]]
        if differing:
            told = ", ".join(f"{name} was {there.get(name)} and is {self._of[name]}" for name in differing)
            raise ValueError(f"the position is one of other batches: {told}")
        self._steps.set_state({"next_index": checks.whole("step", state["step"], 0)})


def batches(
    data: Rows,
    batch_size: int,
    *,
    seed: int = 0,
    num_hosts: int = 1,
    host: int = 0,
    bucket: bool = True,
    num_buckets: int = 4,
    prefetch: int = 0,
    rows: np.ndarray | None = None,
) -> Batches:
    """Batches without end, of `batch_size` rows over all hosts, `batch_size / num_hosts` of them here, or those that
    `rows` names: places in a batch, where a mesh of devices shares it out in its own way.

    Each is a flat mapping: what `data.rows` gives, and `index` `[B]`, the numbers of the rows. Every epoch has a new
    order; the rows that do not fill a last batch are left out of it. `bucket`: rows of like length go together, in
    `num_buckets` lengths at most (otherwise all batches have one length). Every host holds all the data.
    `prefetch`: how many batches a thread makes in advance.

    Raises: ValueError on a batch size that the rows do not fill or that the hosts do not divide.
    """
    checks.whole("batch_size", batch_size)
    checks.whole("seed", seed, 0)
    checks.whole("num_hosts", num_hosts)
    checks.whole("host", host, 0)
    checks.whole("num_buckets", num_buckets)
    checks.whole("prefetch", prefetch, 0)
    if host >= num_hosts:
        raise ValueError(f"host must be less than num_hosts = {num_hosts}, got {host}")
    if batch_size > len(data):
        raise ValueError(f"batch_size = {batch_size} is more than the {len(data)} prompts there are")
    if batch_size % num_hosts:
        raise ValueError(f"batch_size = {batch_size} is no multiple of num_hosts = {num_hosts}")
    lengths = bucket_lengths(data.lengths, num_buckets if bucket else 1)
    lengths = (*lengths[:-1], min(lengths[-1], data.length))  # a limit may be one that `padded_length` does not allow
    mine = np.arange(host * batch_size // num_hosts, (host + 1) * batch_size // num_hosts)
    if rows is not None:
        mine = np.unique(rows)
        if not mine.size or mine[0] < 0 or mine[-1] >= batch_size:
            raise ValueError(
                f"rows must be places in 0..{batch_size - 1}, at least one; got {np.asarray(rows).tolist()}"
            )
    return Batches(data, batch_size, seed, mine, lengths, prefetch)


def padded_length(lengths: np.ndarray) -> np.ndarray:
    """The least lengths a batch may have for these: 16, 32, ..., 128, 256, 384, ..."""
    lengths = np.asarray(lengths)
    multiple = np.where(lengths <= BLOCK, SHORT, BLOCK)
    return -(-lengths // multiple) * multiple


def bucket_lengths(lengths: np.ndarray, num_buckets: int) -> tuple[int, ...]:
    r"""At most `num_buckets` lengths, of those that `padded_length` allows, for which padding is smallest:

    minimises sum_n (bucket(n) - length_n), bucket(n) the least one >= length_n

    by dynamic programming over the padded lengths that occur.
    """
    rounded = padded_length(lengths)
    edges, counts = np.unique(rounded, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])
    # cost[j]: positions of the rows of the first j edges; back[b][j]: where the last of b + 1 buckets begins.
    cost = np.concatenate([[0.0], np.full(len(edges), np.inf)])
    back = []
    for _ in range(min(num_buckets, len(edges))):
        tried = cost[:, None] + np.concatenate([[0], edges]) * (below[None, :] - below[:, None])
        tried[np.tril_indices(len(edges) + 1)] = np.inf
        back.append(tried.argmin(0))
        cost = np.concatenate([[np.inf], tried.min(0)[1:]])
    found, j = [], len(edges)
    for starts in reversed(back):
        found.append(int(edges[j - 1]))
        j = int(starts[j])
    return tuple(reversed(found))


def _shuffled(size: int, seed: tuple[int, ...]) -> np.ndarray:
    """0..size-1 in random order, by the generator whose stream NumPy keeps the same for all versions and machines."""
    return np.random.RandomState(np.random.MT19937(np.random.SeedSequence(seed))).permutation(size)
