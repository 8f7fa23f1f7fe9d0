# ruff: noqa: E501  (one row to a line)
"""Bad input: which exception, and that the message names the argument, what it was or what is allowed."""

import numpy as np
import pytest

import alignjax as aj
from alignjax import games
from alignjax.games import PreferenceGame

U2, U3 = np.log([0.5, 0.5]), np.full(3, -np.log(3))
HALF2, HALF3 = np.full((2, 2), 0.5), np.full((3, 3), 0.5)
HOLE = np.array([0.0, -np.inf])
NAN2 = np.array([np.nan, 0.0])
BROKEN = np.array([[0.5, 0.7], [0.7, 0.5]])
OUTSIDE = np.array([[0.5, 1.3], [-0.3, 0.5]])
TABLE = aj.Problem(ref_logp=U2, reward=np.array([0.0, 1.0]))
GAME = PreferenceGame(preference=HALF2, tau=1.0)
PAIR = aj.Samples(logp=U2, ref_logp=U2)
FOUR = aj.Samples(logp=np.zeros(4), ref_logp=np.zeros(4))
KEY = None


def tokens(**fields):
    return aj.Samples.from_tokens(**{"token_logp": np.zeros((2, 3)), **fields})


# (call, exception, what the message has to match)
ROWS = [
    # preferences
    (lambda: aj.Problem(ref_logp=U2, preference=BROKEN), ValueError, r"preference .*P \+ P\^T = 1.*1\.4"),
    (lambda: PreferenceGame(preference=BROKEN, tau=1.0), ValueError, r"preference .*P \+ P\^T = 1.*1\.4"),
    (lambda: aj.Samples(logp=U2, preference=BROKEN), ValueError, r"preference .*P \+ P\^T = 1.*1\.4"),
    (lambda: games.von_neumann_winner(BROKEN), ValueError, r"preference .*P \+ P\^T = 1"),
    (lambda: aj.Problem(ref_logp=U2, preference=np.eye(2)), ValueError, r"preference .*P \+ P\^T = 1"),
    (lambda: aj.Problem(ref_logp=U2, preference=OUTSIDE), ValueError, r"preference .*\[0, 1\].*1\.3"),
    (lambda: PreferenceGame(preference=OUTSIDE, tau=1.0), ValueError, r"preference .*\[0, 1\].*1\.3"),
    (lambda: PreferenceGame(preference=HALF2 * np.nan, tau=1.0), ValueError, "preference holds nan"),
    (lambda: PreferenceGame(preference=np.full((2, 3), 0.5), tau=1.0), ValueError, r"preference must be square.*\(2, 3\)"),
    (lambda: aj.Problem(ref_logp=U2, preference=HALF3), ValueError, r"preference must be 2.*\(3, 3\)"),
    (lambda: aj.Samples(logp=U2, preference=HALF3), ValueError, r"preference must end in the axes \[2, 2\]"),
    (lambda: aj.Samples(logp=U2, win_rate=[0.2, 1.7]), ValueError, r"win_rate .*\[0, 1\].*1\.7"),
    (lambda: aj.Samples(logp=U2, label=[0.0, -1.0]), ValueError, r"label .*\[0, 1\].*-1"),
    # policies
    (lambda: aj.Problem(ref_logp=[0.0, 0.0], reward=[0.0, 1.0]), ValueError, "ref_logp must be normalised.*sums to 2"),
    (lambda: aj.Problem(ref_logp=U2, sampler_logp=[[0.1, 0.2]]), ValueError, "sampler_logp.* must be normalised"),
    (lambda: aj.Problem(ref_logp=U2, sampler_logp=(U2, U2 - 1)), ValueError, r"sampler_logp\[1\] must be normalised"),
    (lambda: aj.Problem(ref_logp=U2, anchor_logp=U2 + 1), ValueError, "anchor_logp must be normalised"),
    (lambda: aj.Problem(ref_logp=U2, opponent_logp=[U2 + 1]), ValueError, "opponent_logp must be normalised"),
    (lambda: PreferenceGame(preference=HALF2, ref_logp=[0.0, 0.0], tau=1.0), ValueError, "ref_logp must be normalised"),
    (lambda: aj.kl([0.5, 0.5], U2), ValueError, "logp must be normalised.*sums to 3.29"),
    (lambda: aj.kl(U2, [0.5, 0.5]), ValueError, "logq must be normalised"),
    (lambda: aj.gibbs([0.5, 0.5], [0.0, 1.0], 1.0), ValueError, "ref_logp must be normalised"),
    (lambda: aj.population_loss("dpo", TABLE, [0.0, 0.0]), ValueError, "logp must be normalised"),
    (lambda: aj.fit("dpo", TABLE, num_steps=1, learning_rate=1.0, init_logp=[0.0, 0.0]), ValueError, "init_logp must be"),
    (lambda: games.best_response(GAME, [0.0, 0.0]), ValueError, "opponent_logp must be normalised"),
    (lambda: games.duality_gap(GAME, [0.0, 0.0]), ValueError, "logp must be normalised"),
    (lambda: games.solve(GAME, "nash_md", num_steps=1, step_size=1.0, init_logp=[0.0, 0.0]), ValueError, "init_logp must be"),
    (lambda: aj.Problem(ref_logp=-0.5), ValueError, "ref_logp must have at least one axis"),
    (lambda: aj.Problem(ref_logp=np.zeros((2, 0))), ValueError, "ref_logp must have at least one response"),
    # zero mass of the reference
    (lambda: aj.Problem(ref_logp=HOLE, sampler_logp=U2), ValueError, "ref_logp has zero mass.*sampler_logp has some"),
    (lambda: aj.Problem(ref_logp=HOLE, opponent_logp=[U2]), ValueError, "ref_logp has zero mass.*opponent_logp has some"),
    (lambda: aj.population_loss("dpo", aj.Problem(ref_logp=HOLE, reward=[0.0, 1.0]), U2), ValueError, "ref_logp has zero mass"),
    (lambda: aj.population_grad("dpo", aj.Problem(ref_logp=HOLE, reward=[0, 1]), U2), ValueError, "ref_logp has zero mass"),
    (lambda: games.duality_gap(PreferenceGame(preference=HALF2, ref_logp=HOLE, tau=1.0), U2), ValueError, "ref_logp has zero"),
    # temperatures and other numbers
    (lambda: aj.gibbs(U2, [0.0, 1.0], 0.0), ValueError, "beta must be a finite number > 0, got 0"),
    (lambda: aj.gibbs(U2, [0.0, 1.0], [1.0, -2.0]), ValueError, "beta must be a finite number > 0, got -2"),
    (lambda: aj.gibbs(U2, [0.0, 1.0], np.nan), ValueError, "beta must be a finite number > 0, got nan"),
    (lambda: aj.methods["dpo"](PAIR, beta=0), ValueError, "beta must be a finite number > 0, got 0"),
    (lambda: aj.methods["dpo"].optimum(TABLE, beta=-1), ValueError, "beta must be a finite number > 0, got -1"),
    (lambda: aj.population_grad("ipo", TABLE, U2, beta=-0.1), ValueError, "beta must be a finite number > 0, got -0.1"),
    (lambda: aj.fit("ipo", TABLE, num_steps=1, learning_rate=1.0, beta=-0.1), ValueError, "beta must be .*got -0.1"),
    (lambda: PreferenceGame(preference=HALF2, tau=0.0), ValueError, "tau must be a finite number > 0, got 0"),
    (lambda: PreferenceGame(preference=HALF2, tau=[1.0, -1.0]), ValueError, "tau must be a finite number > 0, got -1"),
    (lambda: PreferenceGame(preference=HALF2, tau=np.inf), ValueError, "tau must be a finite number > 0, got inf"),
    (lambda: aj.methods["cdpo"](PAIR, label_smoothing=0.5), ValueError, r"label_smoothing must lie in \[0, 0.5\), got 0.5"),
    (lambda: aj.population_grad("nash_md_pg", TABLE, U2, mixture=1.5), ValueError, r"mixture must lie in \[0, 1\], got 1.5"),
    (lambda: aj.population_grad("ppo", TABLE, U2, clip_range=0), ValueError, "clip_range must be .*> 0, got 0"),
    (lambda: aj.methods["f_dpo"](PAIR, alpha=1.0), ValueError, r"alpha must lie in \(0, 1\), got 1"),
    (lambda: aj.jeffreys(U2, U2, 1.5), ValueError, r"weight must lie in \[0, 1\], got 1.5"),
    (lambda: aj.renyi(U2, U2, -1), ValueError, "alpha must be .*> 0, got -1"),
    (lambda: aj.alpha_divergence(U2, U2, 1.0), ValueError, r"alpha must lie in \(0, 1\), got 1"),
    # NaN
    (lambda: aj.gibbs(U2, NAN2, 1.0), ValueError, "reward holds nan"),
    (lambda: aj.gibbs(NAN2, U2, 1.0), ValueError, "ref_logp holds nan"),
    (lambda: aj.kl(NAN2, U2), ValueError, "logp holds nan"),
    (lambda: aj.tilt((NAN2,), [1.0]), ValueError, "log_bases holds nan"),
    (lambda: aj.tilt((U2,), [np.nan]), ValueError, "weights holds nan"),
    (lambda: aj.tilt((U2,), [1.0], NAN2), ValueError, "score holds nan"),
    (lambda: aj.Problem(ref_logp=NAN2), ValueError, "ref_logp holds nan"),
    (lambda: aj.Problem(ref_logp=U2, reward=NAN2), ValueError, "reward holds nan"),
    (lambda: aj.Problem(ref_logp=U2, rewards=NAN2[:, None]), ValueError, "rewards holds nan"),
    (lambda: aj.Problem(ref_logp=U2, value=np.nan), ValueError, "value holds nan"),
    (lambda: aj.population_grad("dpo", TABLE, NAN2), ValueError, "logits holds nan"),
    (lambda: aj.Samples(logp=NAN2), ValueError, "logp holds nan"),
    (lambda: aj.Samples(logp=U2, ref_logp=NAN2), ValueError, "ref_logp holds nan"),
    (lambda: aj.Samples(logp=U2, reward=NAN2), ValueError, "reward holds nan"),
    (lambda: aj.Samples(logp=U2, rewards=NAN2[:, None]), ValueError, "rewards holds nan"),
    (lambda: tokens(ref_token_logp=np.full((2, 3), np.nan)), ValueError, "ref_token_logp holds nan"),
    # axes
    (lambda: aj.gibbs(U2, np.zeros(3), 1.0), ValueError, r"reward must be .*2.*\(3,\)"),
    (lambda: aj.kl(U2, U3), ValueError, "logq must be .*2"),
    (lambda: aj.Problem(ref_logp=U2, reward=np.zeros(3)), ValueError, "reward must be 2"),
    (lambda: aj.Problem(ref_logp=U2, sampler_logp=U3), ValueError, "sampler_logp must be 2"),
    (lambda: aj.Problem(ref_logp=U2, rewards=np.zeros((3, 1))), ValueError, r"rewards must end in the axes \[2, M\]"),
    (lambda: aj.Problem(ref_logp=U2, rewards=np.zeros((2, 0))), ValueError, "rewards must hold at least one"),
    (lambda: aj.Problem(ref_logp=np.stack([U2] * 2), reward=np.zeros((3, 2))), ValueError, "do not broadcast.*reward"),
    (lambda: aj.Samples(logp=U2, reward=np.zeros(3)), ValueError, r"reward must end in the axes \[2\].*\(3,\)"),
    (lambda: aj.Samples(logp=np.zeros(0)), ValueError, "logp must hold at least one response"),
    (lambda: aj.Samples(logp=0.0), ValueError, "logp must have the response axis"),
    (lambda: tokens(ref_token_logp=np.zeros((2, 4))), ValueError, "ref_token_logp must end in the axes"),
    (lambda: tokens(mask=np.ones((2, 4))), ValueError, "mask must end in the axes"),
    (lambda: tokens(token_logp=np.zeros(3)), ValueError, "token_logp must end in the axes"),
    (lambda: tokens(rewrd=np.zeros(2)), KeyError, "rewrd.*did you mean 'reward'"),
    (lambda: aj.population_loss("dpo", TABLE, U3), ValueError, "logp must be 2"),
    (lambda: aj.population_grad("dpo", TABLE, U3), ValueError, "logits must be 2"),
    (lambda: aj.tilt((U2, U2), [1.0]), ValueError, r"weights must have one entry per base \(2\)"),
    (lambda: aj.tilt((U2,), [1.0], np.zeros(3)), ValueError, "score must be .*2"),
    (lambda: PreferenceGame(preference=HALF2, ref_logp=U3, tau=1.0), ValueError, "ref_logp must be 2"),
    (lambda: games.best_response(GAME, U3), ValueError, "opponent_logp must be 2"),
    # masks
    (lambda: tokens(mask=np.array([[1, 1, 0], [0, 0, 0]])), ValueError, r"mask has an empty row at index \(1,\)"),
    (lambda: aj.Samples(logp=U2, mask=[0, 0]), ValueError, "mask has an empty row"),
    (lambda: tokens(mask=np.full((2, 3), 0.5)), ValueError, "mask must hold 0 and 1.*0.5"),
    (lambda: aj.Samples(logp=U2, mask=[1, 0], response_mask=[1, 0]), ValueError, "response_mask: give one of the two"),
    # missing feedback
    (lambda: aj.methods["dpo"](aj.Samples(logp=U2)), ValueError, "dpo needs the field 'ref_logp'"),
    (lambda: aj.methods["rloo"](PAIR), ValueError, "rloo needs the field 'reward'"),
    (lambda: aj.methods["nash_md_pg"](PAIR), ValueError, "nash_md_pg needs the field 'win_rate'"),
    (lambda: aj.methods["nash_md_pg_token"](PAIR), ValueError, "nash_md_pg_token needs the field 'token_logp'"),
    (lambda: aj.population_grad("rloo", aj.Problem(ref_logp=U2, preference=HALF2), U2), ValueError, "rloo needs `reward`"),
    (lambda: aj.population_grad("dpo", aj.Problem(ref_logp=U2), U2), ValueError, "neither `preference` nor `reward`"),
    (lambda: aj.methods["reinforce"].optimum(aj.Problem(ref_logp=U2)), ValueError, "needs `reward`"),
    # group sizes
    (lambda: aj.methods["dpo"](FOUR), ValueError, "dpo needs K = 2 responses to a prompt, got 4"),
    (lambda: aj.methods["rloo"](aj.Samples(logp=[0.0], ref_logp=[0.0], reward=[1.0])), ValueError, "rloo needs K >= 2"),
    (lambda: aj.population_grad("dpo", TABLE, U2, group_size=3), ValueError, "dpo draws 2 responses.*group_size was 3"),
    (lambda: aj.population_grad("rloo", TABLE, U2, group_size=1), ValueError, "at least 2.*group_size was 1"),
    (lambda: aj.population_grad("rloo", TABLE, U2, group_size=2.5), ValueError, "group_size must be an integer >= 1, got 2.5"),
    (lambda: aj.population_grad("rloo", TABLE, U2, group_size=20), ValueError, "1048576.*1000000"),  # 2^20
    (
        lambda: aj.population_grad("dpo", aj.Problem(ref_logp=U2, reward=[0, 1], sampler_logp=(U2,) * 3), U2),
        ValueError, "sampler_logp has 3 laws.*K = 2",
    ),
    # names
    (lambda: aj.methods["dppo"], KeyError, "unknown method 'dppo'; did you mean '.*po'"),
    (lambda: aj.methods["nash-md-gp"], KeyError, "did you mean 'nash_md_pg"),
    (lambda: aj.population_grad("onlin_ipo", TABLE, U2), KeyError, "did you mean 'online_ipo'"),
    (lambda: aj.fit("qqqq", TABLE, num_steps=1, learning_rate=1.0), aj.UnknownName, "unknown method 'qqqq'; known: "),
    (lambda: aj.methods["dpo"](PAIR, bta=0.1), TypeError, "dpo has no hyperparameter 'bta'; did you mean 'beta'"),
    (lambda: aj.population_grad("rloo", TABLE, U2, mixture=0.1), TypeError, "rloo has no hyperparameter 'mixture'"),
    (lambda: aj.methods["f_dpo"](PAIR, divergence="forward_lk"), KeyError, "unknown divergence.*did you mean 'forward_kl'"),
    (lambda: games.solve(GAME, "nash_dm", num_steps=1, step_size=1.0), KeyError, "did you mean 'nash_md'"),
    (lambda: games.solve(GAME, "nash_md", num_steps=1, step_size=1.0, mixtur=1), TypeError, "no hyperparameter 'mixtur'"),
    # running
    (lambda: games.solve(GAME, "nash_md", num_steps=5, every=2, step_size=1.0), ValueError, "num_steps .*multiple of every.*5.*2"),
    (lambda: games.solve(GAME, "nash_md", num_steps=-1, step_size=1.0), ValueError, "num_steps must be an integer >= 0, got -1"),
    (lambda: games.solve(GAME, "nash_md", num_steps=2, step_size=0.0), ValueError, "step_size must be .*> 0, got 0"),
    (lambda: games.solve(GAME, "nash_md", num_steps=2, step_size=1.5), ValueError, r"step_size \* tau must be at most 1.*1.5"),
    (lambda: games.solve(GAME, "nash_md", num_steps=2, step_size="theorm"), ValueError, "step_size must be .*'theorm'"),
    (lambda: games.solve(GAME, "reference-response", num_steps=2, step_size="theorem"), ValueError, "no theorem"),
    (lambda: aj.fit("dpo", TABLE, num_steps=1.5, learning_rate=1.0), ValueError, "num_steps must be an integer"),
    (lambda: aj.fit("dpo", TABLE, num_steps=1), TypeError, "learning_rate"),
    (lambda: aj.fit("dpo", TABLE, num_steps=1, learning_rate=-1.0), ValueError, "learning_rate must be .*> 0, got -1"),
    (lambda: aj.fit("dpo", TABLE, num_steps=1, learning_rate=1.0, policy=lambda x: x), TypeError, "init_params"),
    (lambda: aj.sampled_loss("dpo", TABLE, U2, KEY, num_samples=0), ValueError, "num_samples must be an integer >= 1, got 0"),
    (lambda: games.library.circulant(4), ValueError, "size must be odd and >= 3, got 4"),
    (lambda: games.preference_embedding(np.zeros((3, 3))), ValueError, "vectors must have an even last axis"),
    (lambda: games.annotator_mixture(np.zeros((2, 3)), [0.2, 0.2]), ValueError, "weights must sum to 1, got 0.4"),
]  # fmt: skip

assert len(ROWS) >= 45


@pytest.mark.parametrize(
    ("call", "exception", "message"), ROWS, ids=[f"{i}-{m[:28]}" for i, (_, _, m) in enumerate(ROWS)]
)
def test_bad_input(call, exception, message):
    with pytest.raises(exception, match=message):
        call()
