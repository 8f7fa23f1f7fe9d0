"""The papers on a small language model: corpus, scorers, resumable runs, and how their records join the page."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from alignjax import lm
from alignjax.record import Source
from papers import cli, collect, figures, run
from papers.lm import corpus, runs, scorers, training
from papers.lm import world as worlds
from papers.lm.claims import above_zero, gain_at_equal, gains_at_equal
from papers.lm.training import Spec
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings

SOURCE = Source("Munos et al.", 2023, "2312.00886", "Theorem 1")


# --- corpus and scorers -----------------------------------------------------------------------------------------------


def test_reviews_fit_the_vocabulary_and_the_model() -> None:
    found = corpus.reviews(np.random.default_rng(0), 300)
    tokenizer = corpus.TOKENIZER
    for prompt, review in found:
        assert prompt in corpus.PROMPTS
        assert 1 <= len(review.split()) <= corpus.LONGEST
        assert tokenizer.decode(tokenizer.encode(review)) == review
    assert found == corpus.reviews(np.random.default_rng(0), 300)
    assert len({review for _, review in found}) > 200
    assert {len(prompt.split()) for prompt in corpus.PROMPTS} == {worlds.PROMPT - 1}
    ids = [tokenizer.bos, *tokenizer.encode("the room was nice"), tokenizer.eos, *tokenizer.encode("again"), 0]
    assert tokenizer.decode(ids) == "the room was nice"
    with pytest.raises(ValueError, match="'rooom' is none"):
        tokenizer.encode("the rooom was nice")


def test_rows_are_prompt_response_and_end() -> None:
    tokens, mask = worlds.rows_of([("student on hotel :", "nice room !")])
    ids = corpus.TOKENIZER.encode("student on hotel : nice room !")
    assert tokens[0, : len(ids) + 2].tolist() == [1, *ids, 2]
    assert not tokens[0, len(ids) + 2 :].any()
    assert mask[0].nonzero()[0].tolist() == [5, 6, 7, 8]  # three words and the end of sequence


def test_sentiment_is_vaders() -> None:
    texts = [
        "the food was not good .",
        "the food was very good !",
        "",
        "the staff was rude , but the room was lovely .",
    ]
    score = SentimentIntensityAnalyzer().polarity_scores
    expected = [score(text)["compound"] if text else 0.0 for text in texts]
    assert scorers.sentiment([], texts) == expected
    assert expected[0] < 0 < expected[1]


def test_topics_and_the_judge_by_hand() -> None:
    shares = scorers.topics(["staff waiter", "the price was new", "room pool price", ""])
    np.testing.assert_allclose(shares[0], np.asarray([2.25, 0.25, 0.25]) / 2.75)
    np.testing.assert_allclose(shares[2], np.asarray([0.25, 1.25, 2.25]) / 3.75)
    np.testing.assert_allclose(shares[3], 1 / 3)
    f, g = shares[0], shares[1]
    inner = f[0] * g[1] - f[0] * g[2] - f[1] * g[0] + f[1] * g[2] + f[2] * g[0] - f[2] * g[1]
    assert scorers.prefers(f, g) == pytest.approx(1 / (1 + math.exp(-6 * inner)))
    people, money, things = scorers.topics(["staff " * 5, "price " * 5, "room " * 5])
    beats = [scorers.prefers(*pair) for pair in ((people, money), (money, things), (things, people))]
    assert min(beats) > 0.95
    np.testing.assert_allclose(
        scorers.prefers(shares[:, None], shares) + scorers.prefers(shares[None], shares[:, None]), 1
    )


# --- measures ---------------------------------------------------------------------------------------------------------


def test_best_of_n_target_counts_the_pool() -> None:
    """log pi_BoN - log ref = log((p<=^n - p<^n) / (p<= - p<)), with the shares counted by hand."""
    pool = np.asarray([[0.0, 0.0, 0.5, 0.9]])
    here: Any = type("Here", (), {"pool_sentiment": pool})
    ratio, at_most = runs._target(here, np.asarray([[0.0, 0.5, 0.9]]), 3)
    at, below = np.asarray([0.5, 0.75, 1.0]), np.asarray([0.0, 0.5, 0.75])
    np.testing.assert_allclose(at_most[0], np.log(at), atol=1e-6)
    np.testing.assert_allclose(ratio[0], np.log((at**3 - below**3) / (at - below)), atol=1e-5)


def test_gain_at_equal() -> None:
    x = np.linspace(0, 4, 9)
    assert gain_at_equal(x, 2 * x, x[::-1], 2 * x[::-1] - 1) == pytest.approx(1.0)
    assert gain_at_equal(x, x, x + 2, np.full(9, 3.0)) == pytest.approx(0.0, abs=0.03)  # x on [2, 4] has mean 3
    assert math.isnan(gain_at_equal(x, x, x + 5, x))


def test_seeds_tell_a_gain_from_zero_or_they_do_not() -> None:
    """The half-width is scipy's interval of Student's t."""
    noise = np.random.default_rng(0).normal(size=5)
    low, high = scipy.stats.t.interval(0.95, 4, loc=noise.mean(), scale=scipy.stats.sem(noise))
    half = (high - low) / 2
    shifted = lambda mean: noise - noise.mean() + mean
    told = lambda *means: above_zero({f"{i}": shifted(m) for i, m in enumerate(means)}, runs=5).verdict
    assert told(1.01 * half, 3 * half) == "reproduced"
    assert told(0.99 * half, 3 * half) == told(-0.99 * half) == "not testable here"
    assert told(-1.01 * half) == told(-1.01 * half, 0.5 * half) == told(-1.01 * half, 9.0) == "contradicted"
    found = above_zero({"x": shifted(0.5 * half)}, runs=7, note="Nats.")
    assert isinstance(found, NotTestable)
    for part in ("7 runs", f"x: {half / 2:+.4f} ± {half:.4f}", "5 seeds", "Nats."):
        assert part in found.reason
    alone = lambda x: above_zero({"x": np.asarray([x])}, runs=1).verdict
    assert (alone(0.1), alone(-0.1), alone(np.nan)) == ("reproduced", "contradicted", "not testable here")


def test_gains_are_of_each_seed() -> None:
    grid = np.stack([np.linspace(0, 1, 5), np.linspace(0, 2, 5)])
    ours, other = {"kl": grid, "reward": 2 * grid}, {"kl": grid, "reward": grid - [[0.0], [1.0]]}
    each = [gain_at_equal(grid[i], 2 * grid[i], grid[i], grid[i] - i) for i in range(2)]
    np.testing.assert_allclose(gains_at_equal(ours, other, "kl", "reward"), each)


def test_what_differs_from_the_defaults_is_the_identity_of_a_run() -> None:
    assert Spec(method="dpo", hyper={"beta": 0.1}).plain() == {"method": "dpo", "hyper": {"beta": 0.1}}


# --- resuming ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """A world and a `train` that count and compute nothing."""
    calls: list[Any] = []

    def train(here: Any, spec: Spec, seed: int, measure: Any) -> dict[str, Any]:
        calls.append((spec.method, seed))
        return {"step": [0, spec.steps], "kl": [0.0, 1.0 + seed]}

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "world", lambda store: type("Here", (), {"name": "w"}))
    return calls


def experiment(**changes: Any) -> runs.Experiment:
    specs = {"a": Spec(method="dpo", steps=4), "b/c": Spec(method="ipo", steps=4, **changes)}
    return runs.Experiment(paper="p", name="e", specs=specs, seeds=range(2))


def test_a_run_is_made_once_and_again_when_its_spec_changes(tmp_path: Path, counted: list[Any]) -> None:
    settings = Settings(out=str(tmp_path))
    found = runs.results(settings, experiment())
    assert len(counted) == 4
    np.testing.assert_array_equal(found["b/c"]["kl"], [[0, 1], [0, 2]])
    assert runs.results(settings, experiment())["a"]["step"].tolist() == [[0, 4], [0, 4]]
    assert len(counted) == 4  # all from disk
    runs.results(settings, experiment(rate=0.1))
    assert counted[4:] == [("ipo", 0), ("ipo", 1)]


def test_a_spoilt_file_is_made_again(tmp_path: Path, counted: list[Any]) -> None:
    settings = Settings(out=str(tmp_path))
    runs.results(settings, experiment())
    path = runs.path_of(tmp_path / "lm", experiment(), "a", 1)
    path.write_text(path.read_text()[:20])
    runs.results(settings, experiment())
    assert counted[4:] == [("dpo", 1)]


def test_an_experiment_says_which_runs_it_is() -> None:
    assert experiment().says() == "`p/e`: 2 settings, seeds 0 to 1, 4 steps each"


# --- the command and the page -----------------------------------------------------------------------------------------


def draw(settings: Settings) -> Any:
    figure, (ax,) = figures.panels(1)
    ax.plot([1, 2], [1, 2])
    return figure


def small(**changes: Any) -> Paper:
    claim = Claim(
        id="fake-one.lm-a", says="a is b", how="by looking", source=SOURCE, stands="reproduced",
        test=lambda settings: Outcome(expected=1.0, measured=1.0),
    )  # fmt: skip
    figure = Figure(id="lm-line", title="A line", caption="One.", draw=draw, runs=lambda settings: "`x/y`: 1 setting")
    rest = (
        dataclasses.replace(claim, id="fake-one.lm-b", full_only=True),
        dataclasses.replace(figure, id="lm-other", full_only=True),
    )
    fields: dict[str, Any] = {"claims": (claim, rest[0]), "figures": (figure, rest[1])} | changes
    return Paper(name="fake-one", title="A fake", source=SOURCE, summary="Nothing.", **fields)


def test_records_of_both_scales_share_a_section(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exact = dataclasses.replace(small(figures=()), claims=(dataclasses.replace(small().claims[0], id="fake-one.a"),))
    assert cli.main(["fake-one", "--out", str(tmp_path)], {"fake-one": exact}) == 0
    before = (tmp_path / "index.html").read_text()
    assert "small language model" not in before
    assert cli.main(["fake-one", "--scale", "lm", "--quick", "--out", str(tmp_path)], {"fake-one": small()}) == 0
    page = (tmp_path / "index.html").read_text()
    assert page.count('<section class="paper"') == 1
    assert page.count("<h3") == 2  # Claims, and the heading below
    assert page.index("Claims</h3>") < page.index("On a small language model</h3>") < page.index("lm-line")
    assert "Drawn from <code>x/y</code>: 1 setting." in page
    assert "python -m papers fake-one --scale lm --quick</code>" in page
    assert "1 paper," in page
    assert "lm-other" not in page  # for the full run only
    records = [json.loads((tmp_path / "fake-one" / name).read_text()) for name in ("claims.json", "lm.json")]
    assert [[one["id"] for one in record["claims"]] for record in records] == [["fake-one.a"], ["fake-one.lm-a"]]
    assert [record["scale"] for record in records] == ["exact", "lm"]


def test_a_paper_may_have_its_small_runs_alone(tmp_path: Path) -> None:
    assert cli.main(["fake-one", "--scale", "lm", "--out", str(tmp_path)], {"fake-one": small()}) == 0
    page = (tmp_path / "index.html").read_text()
    assert page.count("<h3") == 1 and page.count("Nothing.") == 1
    assert "lm-other" in page


def test_somebody_elses_file_is_left_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "fake-one").mkdir()
    (tmp_path / "fake-one" / "lm.json").write_text("{}")
    assert cli.main(["fake-one", "--scale", "lm", "--out", str(tmp_path)], {"fake-one": small()}) == 2
    assert "lm.json was not written by this command" in capsys.readouterr().err


def test_every_paper_at_this_scale_is_one_of_the_exact_ones() -> None:
    exact, found = collect.scan(), collect.scan("lm")
    assert set(found) == {"bond", "copg", "p3o", "pama", "nash-md", "mnpo"}
    for name, paper in found.items():
        assert paper.title == exact[name].title
        assert all(claim.id.startswith(f"{name}.lm-") for claim in paper.claims)
        assert not {figure.id for figure in paper.figures} & {figure.id for figure in exact[name].figures}
        quick = paper.within(Settings(quick=True))
        assert quick.figures and quick.claims
        for size in (True, False):
            for figure in paper.within(Settings(quick=size)).figures:
                assert figure.runs is not None and "steps each" in figure.runs(Settings(quick=size))


def test_every_run_is_one_the_trainer_can_do() -> None:
    """The plan of each method and its hyperparameters are checked as they would be at its start."""
    for paper in collect.scan("lm").values():
        module = __import__(f"papers.lm.{paper.name.replace('-', '_')}", fromlist=["*"])
        made = [f for f in vars(module).values() if callable(f) and _makes_runs(f)]
        assert made
        for make in made:
            for spec in make(Settings()).specs.values():
                here: Any = type("Here", (), {"config": worlds.CONFIG, "reward": lambda self, name: scorers.length})()
                rollout = training.rollout_of(here, spec)
                assert spec.method == "mgda" or set(spec.hyper) <= set(rollout.hyper)


def _makes_runs(function: Any) -> bool:
    return getattr(function, "__annotations__", {}).get("return") is runs.Experiment and list(
        function.__annotations__
    ) == ["settings", "return"]


@pytest.mark.slow
def test_every_claim_and_figure_reads_what_runs_measure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The full set, with runs that are made up: nothing raises, and quick sizes do what they say."""

    def train(here: Any, spec: Spec, seed: int, measure: Any) -> dict[str, Any]:
        count = spec.steps // spec.every + 1
        rng = np.random.default_rng([seed, spec.steps])
        names = ("sentiment", "length", "learned", "kl", "win_rate", "exploited", "backward", "forward", "log_quantile")
        found: dict[str, Any] = {name: rng.uniform(size=count).cumsum().tolist() for name in names}
        found["step"] = [spec.every * i for i in range(count)]
        found["topics"] = rng.dirichlet(np.ones(3), count).tolist()
        found["responses"] = rng.dirichlet(np.ones(3), (count, 48 * 8)).reshape(count, -1).round(2).tolist()
        return found

    monkeypatch.setattr(runs, "train", train)
    monkeypatch.setattr(runs, "world", lambda store: type("Here", (), {"name": "w"}))
    for paper in collect.scan("lm").values():
        for quick in (True, False):
            settings = Settings(quick=quick, out=str(tmp_path))
            sized = paper.within(settings)
            for claim in sized.claims:
                outcome = claim.test(settings)
                if isinstance(outcome, NotTestable):
                    assert not quick and "cannot tell" in outcome.reason and "nan" not in outcome.reason, claim.id
                    continue
                assert np.isfinite(np.asarray(outcome.measured, float)).all(), claim.id
                assert outcome.runs > 0
            for figure in sized.figures:
                assert figure.draw(settings).axes


# --- small worlds -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A world of a few seconds."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"STEPS": 60, "REWARD_STEPS": 2, "POOL": 16, "BATCH": 16}.items():
            patch.setattr(worlds, name, value)
        config = dataclasses.replace(worlds.CONFIG, d_model=16, d_mlp=16, num_layers=1, num_heads=2)
        yield worlds.world(tmp_path_factory.mktemp("lm"), 0, config)


@pytest.mark.slow
def test_the_pool_is_the_base_model(tiny: Any) -> None:
    """Kept log-probs are those of the base model; and a response of the reference comes from its prompt's samples."""
    batch = worlds.with_prompts(tiny.prompts, tiny.pool.tokens, tiny.pool.mask)
    logp = lm.token_logps(tiny.config, tiny.params, batch["tokens"], batch["loss_mask"])[..., worlds.PROMPT :]
    np.testing.assert_allclose(logp, tiny.pool.logp, atol=1e-4)
    rollout = training.rollout_of(tiny, Spec(method="ipo", sampler="reference"))
    rows = np.asarray([5, 40, 2])
    prompts = {"prompts": tiny.prompts[rows], "prompt_mask": np.ones((3, worlds.PROMPT), bool)}
    others = training.Others(reference=tiny.params)
    drawn = rollout.write("reference", 4, None, others, prompts, jax.random.key(0))
    for row, several in zip(rows, worlds.texts_of(drawn.tokens), strict=True):
        assert set(several) <= set(tiny.pool_texts[row])


@pytest.mark.slow
def test_mgda_of_one_objective_twice_is_rloo(tiny: Any) -> None:
    """The hull of a gradient and itself is that gradient."""
    reward = np.random.default_rng(0).normal(size=(48, 2)).astype(np.float32)
    batch = worlds.with_prompts(tiny.prompts, tiny.pool.tokens[:, :2], tiny.pool.mask[:, :2])
    state = training.start(tiny, Spec(method="rloo"))
    twice = batch | {"rewards": np.stack([reward, reward], -1)}
    one, weights = training.mgda_update(tiny.config, 0.1, state, tiny.params, twice, 1e-3)
    assert float(weights.sum()) == pytest.approx(1.0)
    spec = Spec(method="rloo")
    other, _ = training.update(
        tiny.config, "rloo", (), None, spec.carried, {"beta": 0.1}, state, tiny.params, batch | {"reward": reward},
        1e-3, training.NEVER,
    )  # fmt: skip
    moved = jax.tree.map(lambda x, y: np.abs(np.asarray(x) - np.asarray(y)).max(), one.params, other.params)
    assert max(jax.tree.leaves(moved)) < 1e-5
    assert max(jax.tree.leaves(jax.tree.map(lambda x, y: jnp.abs(x - y).max(), one.params, tiny.params))) > 1e-4


@pytest.mark.slow
@pytest.mark.parametrize(
    "spec",
    [
        Spec(method="jbond", hyper={"weight": 0.5, "ema": 0.9}, baseline="batch", steps=2, batch=8, every=1),
        pytest.param(
            Spec(method="td_mnpo", hyper={"step_size": 2.0}, history=2, sampler="previous", score="cyclic", steps=2,
                 batch=8, every=1, iteration=1),
            marks=pytest.mark.long,
        ),
    ],
    ids=lambda spec: spec.method,
)  # fmt: skip
def test_a_run_measures_and_repeats(tiny: Any, spec: Spec) -> None:
    """At step 0 the policy is the base model: KL 0 to rounding; the same seed gives the same numbers."""
    found = training.train(tiny, spec, 0, runs.measure)
    assert found["step"] == [0, 1, 2]
    assert abs(found["kl"][0]) < 1e-4 < abs(found["kl"][2])
    assert found == training.train(tiny, spec, 0, runs.measure)
    assert found["kl"] != training.train(tiny, spec, 1, runs.measure)["kl"]


@pytest.mark.slow
def test_the_baseline_is_the_mean_of_the_other_prompts(tiny: Any) -> None:
    """BOND's return of each prompt's policy sample is reward - log ratio; at the start the log ratio is 0."""
    batch = worlds.with_prompts(tiny.prompts, tiny.pool.tokens[:, :2], tiny.pool.mask[:, :2])
    reward = np.random.default_rng(1).normal(size=(48, 2))
    spec = Spec(method="bond", hyper={"n": 4}, baseline="batch", fixed=True)
    got = training.returns(tiny, training.start(tiny, spec), spec.record, batch | {"reward": reward})
    expected = [np.delete(reward[:, 1], i).mean() for i in range(48)]
    np.testing.assert_allclose(got, expected, atol=1e-5)


def test_a_world_is_read_back(tmp_path: Path) -> None:
    """A kept tree comes back with its structure, and is not made twice."""
    tree = {"b": np.arange(3.0), "a": {"c": np.ones((2, 2))}}
    made = []
    for _ in range(2):
        got = worlds._kept(tmp_path / "x" / "t.npz", tree, lambda: made.append(1) or tree)
        np.testing.assert_array_equal(got["a"]["c"], tree["a"]["c"])
        np.testing.assert_array_equal(got["b"], tree["b"])
    assert made == [1]


def test_the_harness_reads_its_own_files(tmp_path: Path) -> None:
    (tmp_path / "lm" / "runs").mkdir(parents=True)  # the kept runs are no paper
    assert run.write_index(tmp_path).exists()
