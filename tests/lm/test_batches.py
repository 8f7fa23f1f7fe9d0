"""The order of batches: a function of seed and step, of any host count, from any position; lengths that go together."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from alignjax import lm
from alignjax.lm.pipeline import bucket_lengths


def pairs(folder: Path, lengths: list[int]) -> lm.PreferenceData:
    """One row for each length: tokens of BOS, two of prompt, a response of the length, EOS."""
    rows = [{"prompt": "Hi", "chosen": chr(97 + n % 26) * most, "rejected": "?"} for n, most in enumerate(lengths)]
    path = folder / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return lm.read_preferences(path, max_length=100)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> lm.PreferenceData:
    rng = np.random.default_rng(0)
    return pairs(tmp_path_factory.mktemp("rows"), [int(n) for n in rng.integers(1, 96, 50)])


def order(batches: lm.Batches, steps: int) -> list[list[int]]:
    return [next(batches)["index"].tolist() for _ in range(steps)]


@pytest.mark.parametrize("bucket", [True, False])
def test_an_epoch_has_every_row_once_but_for_the_last_part_of_a_batch(data: lm.PreferenceData, bucket: bool) -> None:
    batches = lm.batches(data, 8, seed=3, bucket=bucket)
    assert batches.steps_per_epoch == 6
    epochs = [list(itertools.chain(*order(batches, 6))) for _ in range(3)]
    assert all(len(set(epoch)) == 48 for epoch in epochs)
    assert len({tuple(sorted(epoch)) for epoch in epochs}) > 1  # other rows are left out
    assert len({tuple(epoch) for epoch in epochs}) == 3
    again = order(lm.batches(data, 8, seed=3, bucket=bucket), 6)
    assert list(itertools.chain(*again)) == epochs[0] != list(itertools.chain(*order(lm.batches(data, 8, seed=4), 6)))


def test_who_goes_with_whom_is_drawn_anew(data: lm.PreferenceData) -> None:
    batches = lm.batches(data, 8, seed=0)
    groups = [{tuple(sorted(step)) for step in order(batches, 6)} for _ in range(2)]
    groups.append({tuple(sorted(step)) for step in order(lm.batches(data, 8, seed=1), 6)})  # by the seed, too
    assert not groups[0] & groups[1] and not groups[0] & groups[2] and not groups[1] & groups[2]


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_each_step_of_one_host(data: lm.PreferenceData, hosts: int) -> None:
    """Disjoint parts, of one shape, that together are the step: so that any number of hosts may take over."""
    whole = lm.batches(data, 8, seed=1)
    parts = [lm.batches(data, 8, seed=1, num_hosts=hosts, host=host) for host in range(hosts)]
    for _ in range(9):  # into the second epoch
        step, shares = next(whole), [next(part) for part in parts]
        for name, array in step.items():
            np.testing.assert_array_equal(np.concatenate([share[name] for share in shares]), array)
    moved = lm.batches(data, 8, seed=1)
    moved.set_state(parts[1].get_state())
    assert order(moved, 5) == order(whole, 5)


def test_a_mesh_may_share_a_step_in_its_own_way(data: lm.PreferenceData) -> None:
    whole, part = lm.batches(data, 8, seed=1), lm.batches(data, 8, seed=1, rows=np.array([5, 0, 1, 5]))
    for _ in range(3):
        step, share = next(whole), next(part)
        for name, array in step.items():
            np.testing.assert_array_equal(share[name], array[[0, 1, 5]])
    for name, array in whole.batch(4).items():
        np.testing.assert_array_equal(part.batch(4, whole=True)[name], array)
    for wrong in ([], [8], [-1]):
        with pytest.raises(ValueError, match=r"rows must be places in 0\.\.7"):
            lm.batches(data, 8, rows=np.array(wrong, int))


@pytest.mark.parametrize("prefetch", [0, 2])
def test_the_position_is_saved_and_found_again(data: lm.PreferenceData, prefetch: int) -> None:
    batches = lm.batches(data, 8, seed=1, prefetch=prefetch)
    order(batches, 5)
    state = json.loads(json.dumps(batches.get_state()))
    assert state["step"] == 5
    expected = order(batches, 4)
    other = lm.batches(data, 8, seed=1)
    order(other, 2)
    other.set_state(state)
    assert order(other, 4) == expected and other.get_state()["step"] == 9


def test_a_position_of_other_batches_is_refused(data: lm.PreferenceData, tmp_path: Path) -> None:
    state = lm.batches(data, 8, seed=1).get_state()
    with pytest.raises(ValueError, match="the position is one of other batches: batch_size was 8 and is 4"):
        lm.batches(data, 4, seed=1).set_state(state)
    with pytest.raises(ValueError, match="seed was 1 and is 2"):
        lm.batches(data, 8, seed=2).set_state(state)
    with pytest.raises(ValueError, match="row_lengths was"):
        lm.batches(pairs(tmp_path, (data.lengths - 4).tolist()[::-1]), 8, seed=1).set_state(state)


def test_a_batch_holds_its_rows_and_no_more_padding_than_its_bucket(data: lm.PreferenceData) -> None:
    batches = lm.batches(data, 8, seed=0)
    assert len(batches.lengths) == 4
    seen, real, positions, mixed = set(), 0, 0, 0
    for _ in range(batches.steps_per_epoch):
        batch = next(batches)
        length = batch["tokens"].shape[-1]
        longest = data.lengths[batch["index"]].max()
        assert length == min(one for one in batches.lengths if one >= longest)
        for name in ("tokens", "loss_mask", "attention_mask"):
            np.testing.assert_array_equal(batch[name], getattr(data, name)[batch["index"], :, :length])
        assert not data.attention_mask[batch["index"], :, length:].any()
        seen.add(length)
        shorter = max((one for one in batches.lengths if one < length), default=0)
        mixed += data.lengths[batch["index"]].min() <= shorter
        real, positions = real + batch["attention_mask"].sum(), positions + batch["tokens"].size
    assert 1 < len(seen) <= 4 and mixed <= 3  # a batch at most at each border of two buckets
    np.testing.assert_allclose(batches.padding, 1 - real / positions)
    assert batches.padding < lm.batches(data, 8, seed=0, bucket=False).padding


def test_buckets_make_padding_smallest() -> None:
    """Against all choices of edges, which are multiples of 16 to 128 and of 128 (the block of a kernel) above."""
    rng = np.random.default_rng(1)
    up = lambda n: min(e for e in (*range(16, 129, 16), *range(256, 600, 128)) if e >= n)
    for size, count in ((1, 3), (7, 1), (30, 2), (30, 3), (40, 4)):
        lengths = rng.integers(1, 500, size)
        edges = sorted(set(map(up, lengths.tolist())))

        def padding(chosen: tuple[int, ...], lengths: np.ndarray = lengths) -> int:
            return sum(min(one for one in chosen if one >= n) - n for n in lengths.tolist())

        every = [(*few, edges[-1]) for k in range(count) for few in itertools.combinations(edges[:-1], k)]
        found = bucket_lengths(lengths, count)
        assert len(found) <= count and found in every
        assert padding(found) == min(map(padding, every))


def test_per_token_fields_are_cut_with_the_tokens(data: lm.PreferenceData) -> None:
    """`[N, K, T]`, and `[N, J, K, T]` of opponents; `[N, K]` is left as it is."""
    values = np.arange(data.tokens.size, dtype=np.float32).reshape(data.tokens.shape)
    fields = {"ref_token_logp": values, "opponent_token_logp": values[:, None], "reward": values[..., 0]}
    more = lm.PreferenceData(
        tokens=data.tokens, loss_mask=data.loss_mask, attention_mask=data.attention_mask, feedback=fields
    )
    batches = lm.batches(more, 4)
    batch = next(one for one in batches if one["tokens"].shape[-1] < data.length)
    index, length = batch["index"], batch["tokens"].shape[-1]
    np.testing.assert_array_equal(batch["ref_token_logp"], values[index, :, :length])
    np.testing.assert_array_equal(batch["opponent_token_logp"], values[index, None, :, :length])
    np.testing.assert_array_equal(batch["reward"], values[index, :, 0])


def test_prompts_keep_their_end(tmp_path: Path) -> None:
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps({"prompt": "x" * n + "!"}) + "\n" for n in (3, 30, 60, 61, 62, 4)))
    prompts = lm.read_prompts(path, max_prompt_length=70)
    batches = lm.batches(prompts, 2, seed=0)
    assert batches.lengths == (16, 32, 64)
    for _ in range(6):
        batch = next(batches)
        assert (batch["prompts"][:, -1] == ord("!")).all() and batch["prompt_mask"][:, -1].all()
        assert (batch["prompt_mask"].sum(-1) == prompts.lengths[batch["index"]]).all()


def test_a_limit_that_is_no_multiple_of_16_is_the_longest(tmp_path: Path) -> None:
    data = pairs(tmp_path, [1, 2, 90, 96])  # with BOS, prompt and EOS at most 100, the limit: 16 * 7 = 112 is more
    assert lm.batches(data, 1).lengths[-1] == data.length == 100
    assert {next(lm.batches(data, 1, seed=seed))["tokens"].shape[-1] for seed in range(9)} == {16, 96, 100}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"batch_size": 51}, "batch_size = 51 is more than the 50 prompts"),
        ({"batch_size": 9, "num_hosts": 2}, "batch_size = 9 is no multiple of num_hosts = 2"),
        ({"batch_size": 8, "num_hosts": 2, "host": 2}, "host must be less than num_hosts = 2, got 2"),
        ({"batch_size": 0}, "batch_size must be an integer >= 1"),
        ({"batch_size": 2, "seed": -1}, "seed must be an integer >= 0"),
    ],
)
def test_what_cannot_be_batched_is_told(data: lm.PreferenceData, arguments: dict[str, int], message: str) -> None:
    size = arguments.pop("batch_size")
    with pytest.raises(ValueError, match=message):
        lm.batches(data, size, **arguments)


@pytest.mark.slow
def test_what_reads_text_is_imported_when_it_is_needed() -> None:
    heavy = ["grain", "jinja2", "pyarrow", "tokenizers"]
    code = f"import sys, alignjax.lm; print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"
