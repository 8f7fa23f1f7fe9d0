"""Munos et al., 2023, "Nash Learning from Human Feedback", arXiv:2312.00886: its claims as runs, and its figures."""

import dataclasses
from collections.abc import Callable

from alignjax.record import Source
from papers import nash_md_checks as checks
from papers import nash_md_figures as figures
from papers.record import Claim, Figure, NotTestable, Outcome, Paper, Settings, Verdict

SOURCE = Source("Munos et al.", 2023, "2312.00886", "")


def _claim(
    name: str,
    where: str,
    says: str,
    how: str,
    test: Callable[[Settings], Outcome | NotTestable],
    formula: str = "",
    *,
    stands: Verdict = "reproduced",
) -> Claim:
    source = dataclasses.replace(SOURCE, equation=where)
    return Claim(id=f"nash-md.{name}", says=says, how=how, source=source, test=test, stands=stands, formula=formula)


_GAMES = (
    "2,000 random games (400 with --quick) of 2 to 12 responses: uniform, 0/1 tournaments, annotators, voters, "
    "Bradley-Terry"
)
_CURVE = (
    "64 random worlds (16 with --quick) of 8 prompts and 10 responses with cyclic preferences, tau = 0.05, nine "
    "coefficients m; every policy "
    "is judged by its mean win-rate against the other eight of its world, by the true preferences and without KL"
)
_TRAINED = (
    "; Nash-MD-PG with 0/1 labels, one sampled opponent for each response, 300 steps of 16 groups a prompt, the last "
    "policy, nothing selected"
)

CLAIMS = (
    # Theorem 1
    _claim(
        "last-iterate", "Theorem 1",
        "With the decaying step 2/(tau (t + 2)), the last iterate of Nash-MD is within 8/(tau^2 (T + 1)) of the "
        "regularised Nash.",
        f"{_GAMES}, tau log-uniform in [0.02, 5], every horizon up to 1,000 (200); the Nash by Newton's method.",
        checks.last_iterate,
        r"\mathrm{KL}(\pi^*_\tau \| \pi_T) \leq \frac{8}{\tau^2 (T+1)}",
    ),
    _claim(
        "one-step", "Proof of Theorem 1",
        "One step of Nash-MD contracts the divergence by 1 - eta tau, up to 2 eta^2.",
        "Random policies and random steps eta tau in (0, 1] on random games, and every step of the theorem's "
        "trajectories.",
        checks.one_step,
        r"\mathrm{KL}(\pi^*_\tau \| \pi_{t+1}) \leq (1 - \eta \tau) \mathrm{KL}(\pi^*_\tau \| \pi_t) + 2 \eta^2",
    ),
    _claim(
        "improved-constant", "Theorem 1, sharpened here",
        "Ours, not the paper's: the same proof with Hoeffding's lemma gives eta^2/8 a step and a bound sixteen times "
        "smaller.",
        "The runs of the two claims above and those with rare responses, against the smaller constants.",
        checks.improved_constant,
        r"\mathrm{KL}(\pi^*_\tau \| \pi_T) \leq \frac{1}{2 \tau^2 (T+1)}",
    ),
    _claim(
        "initial-policy", "Theorem 1",
        "The theorem's bound does not ask where Nash-MD starts: its first step forgets the initial policy.",
        "Two far apart random starts on each game, the same steps; the largest difference of log-probability at the "
        "end.",
        checks.initial_policy,
        r"\eta_0 \tau = 1 \Rightarrow \pi_0^\mu = \mu",
    ),
    _claim(
        "rare-responses", "Theorem 1",
        "The bound does not depend on how small the reference's probabilities are.",
        "Random games in which the reference gives one response a mass down to e^-600; the ratio to the bound by "
        "ranges of that mass.",
        checks.rare_responses,
        r"\frac{\tau^2 (T+1)}{8} \mathrm{KL}(\pi^*_\tau \| \pi_T) \leq 1",
    ),
    # the regularised game
    _claim(
        "existence", "Proposition 1",
        "The regularised game has an equilibrium: a policy that is its own best response.",
        "Newton's method on random games, tau log-uniform in [0.2, 2]; largest residual of log-probability.",
        checks.fixed_point,
        r"\pi^*_\tau(y) \propto \mu(y) \exp(P(y \succ \pi^*_\tau) / \tau)",
    ),
    _claim(
        "uniqueness", "Proposition 1",
        "The equilibrium of the regularised game is unique.",
        "Mirror descent from four far apart starts and Newton's method on each game, tau log-uniform in [0.2, 2].",
        checks.unique,
        r"\pi^*_\tau = \mathrm{argmax}_\pi \min_{\pi'} P_\tau(\pi \succ \pi')",
    ),
    _claim(
        "unbeatable", "Sec. 5 and Proposition 1",
        "No policy is preferred to the Nash in the regularised game: the value is one half.",
        "Fifty random rivals of the Nash in every game.",
        checks.unbeatable,
        r"P_\tau(\pi \succ \pi^*_\tau) \leq \frac{1}{2}",
    ),
    _claim(
        "constant-sum", "Eq. 2-3",
        "The regularised preference stays a preference: both directions add up to one.",
        "The same rivals, both ways round.",
        checks.constant_sum,
        r"P_\tau(\pi \succ \pi') + P_\tau(\pi' \succ \pi) = 1",
    ),
    # iterates and steps
    _claim(
        "self-play-cycles", "Sec. 6",
        "Self-play in the game without regularisation needs averaging: its last iterate circles an equilibrium that "
        "its average approaches.",
        "500 (100) random cycles of three responses, step 0.1, 4,000 (2,000) steps; original gap of the last over "
        "that of the average iterate.",
        checks.self_play_cycles,
    ),
    _claim(
        "no-averaging", "Theorem 1",
        "Nash-MD needs no averaging: its last iterate is, in the median game, nearer the equilibrium than the average "
        "of its iterates.",
        "The same cycles at tau = 0.05 with the theorem's steps; regularised gap of the average over that of the "
        "last iterate.",
        checks.last_against_average,
    ),
    _claim(
        "constant-step", "Theorem 1, read without its decaying step",
        "If the decaying step were left out, Nash-MD would still converge to the Nash at tau. (The theorem does not "
        "say so; curves of Nash-MD "
        "at a constant step are often read so.)",
        "500 (100) random games of 12 responses, tau = 0.1, eta tau = 0.05, 0.1 and 0.5, run until nothing moves.",
        checks.constant_step,
        r"\eta_t = \eta \Rightarrow \mathrm{KL}(\pi^*_\tau \| \pi_t) \rightarrow 0",
        stands="contradicted",
    ),
    _claim(
        "constant-step-mixture", "Eq. 4-5, derived here",
        "Ours: at a constant step the mixture of Nash-MD's limit with the reference is a Nash, at the temperature "
        "tau/(1 - eta tau).",
        "The limits of the claim above against Newton's method at that temperature.",
        checks.constant_step_mixture,
        r"\pi_\infty^{1-\eta\tau} \mu^{\eta\tau} \propto \pi^*_{\tau / (1 - \eta\tau)}",
    ),
    # reward models and preference models
    _claim(
        "three-types-nash", "Sec. 3.2",
        "With three kinds of annotators the Nash shares its mass among them, and moves continuously with their "
        "proportions.",
        "A linear program for each of 41 (17) proportions.",
        checks.three_types_nash,
        r"\pi^* = (\frac{1}{3} + \frac{\epsilon}{2}, \frac{1}{3} + \frac{\epsilon}{2}, \frac{1}{3} - \epsilon)",
    ),
    _claim(
        "three-types-jump", "Sec. 3.2",
        "In the same example the policy of a Bradley-Terry reward jumps from one response to another at equal "
        "proportions.",
        "The reward by gradient descent on the logistic loss with uniform pairs; its favourite on both sides.",
        checks.three_types_jump,
        r"\mathrm{argmax}_y r_\epsilon(y) = 2 - 1_{\epsilon > 0}",
    ),
    _claim(
        "dice", "Appendix C.1",
        "Three dice can each beat the next with probability 5/9: preferences need not be transitive, and the Nash "
        "mixes evenly.",
        "All outcomes listed; the Nash by a linear program and (regularised) by Newton; the Bradley-Terry fit.",
        checks.dice,
        r"P(1 \succ 2) = P(2 \succ 3) = P(3 \succ 1) = \frac{5}{9}",
    ),
    _claim(
        "reward-sampling", "Theorem 2",
        "The best reward model depends on which pairs were compared, down to which response it prefers.",
        "Bradley-Terry rewards by maximum likelihood on the three-annotator game at epsilon = 0.1 under three laws "
        "of the pairs.",
        checks.reward_sampling,
        r"r_\nu = \mathrm{argmax}_r E_{y, y' \sim \nu} [P(y \succ y') \log \sigma(r(y) - r(y'))]",
    ),
    _claim(
        "preference-sampling", "Sec. 3",
        "A preference model, and the Nash it defines, do not depend on which pairs were compared.",
        "One logit for each pair by maximum likelihood under the same three laws, and the Nash of what was fitted.",
        checks.preference_sampling,
    ),
    _claim(
        "reward-against-preference", "Appendix A",
        "Even where a Bradley-Terry reward is exact, the policy of highest reward can lose to the policy of highest "
        "win-rate.",
        "A grid over the feasible policies of the paper's example: highest reward, highest worst-case win-rate, and "
        "their match.",
        checks.constrained,
        r"P((0, 0, 1) \succ (\frac{2}{3}, \frac{1}{3}, 0)) = \frac{50}{99}",
    ),
    # Nash-MD-PG
    _claim(
        "gradient", "Sec. 7.2",
        "The expected gradient of Nash-MD-PG is that of the regularised preference against its fixed opponent.",
        "Enumerated gradient of the loss against autodiff of the objective, 1,000 (200) problems, four mixtures; "
        "relative error.",
        checks.gradient,
        r"E[\nabla \log \pi(y) (P(y \succ y') - \frac{1}{2} - \tau \log \frac{\pi(y)}{\mu(y)})]"
        r" = \nabla P_\tau(\pi \succ \pi')",
    ),
    _claim(
        "baseline", "Sec. 7.2",
        "The 1/2 of the gradient estimate is a baseline: it leaves the expected gradient as it is.",
        "Enumerated gradients with and without it; relative difference.",
        checks.baseline,
        r"E_{y \sim \pi}[\nabla \log \pi(y)] = 0",
    ),
    _claim(
        "baseline-variance", "Sec. 7.2",
        "The baseline 1/2 lowers the variance of the gradient estimate.",
        "Exact variance of one draw with it over that without it, by enumerating response and opponent.",
        checks.baseline_variance,
    ),
    _claim(
        "unbiased", "Sec. 7.2",
        "Sampled responses, opponents and 0/1 labels give an unbiased gradient.",
        "100,000 (20,000) draws on eight problems against the enumerated gradient; largest of 48 z-scores.",
        checks.unbiased,
    ),
    _claim(
        "mixture-divergence", "Sec. 7.2",
        "The gradient of the divergence to the moving mixture is beta times that of the divergence to the reference.",
        "Autodiff of both, mixture detached, at four coefficients; relative error.",
        checks.mixture_divergence,
        r"\nabla \mathrm{KL}(\pi \| \pi^\beta) = \beta \nabla \mathrm{KL}(\pi \| \mu)",
    ),
    _claim(
        "moving-average", "Sec. 7.3",
        "Nash-EMA-PG, whose opponent is a moving average of its parameters, comes to rest at the regularised Nash.",
        "Exact gradients on 100 (30) tables of five responses, 6,000 steps, against Newton's method.",
        checks.moving_average,
        r"\bar\theta_{t+1} = \beta \bar\theta_t + (1 - \beta) \theta_{t+1}",
    ),
    # tokens
    _claim(
        "token-mixture", "Sec. 7.1",
        "Mixing with the reference one token at a time is an approximation: both mixtures are policies, but "
        "different ones.",
        "All sequences of trees with three tokens and up to five (three) positions, 500 (200) random policies each.",
        checks.token_mixture,
        r"\prod_n \tilde\pi^\beta(y_n | y_{<n}) \neq \pi^\beta(y)",
    ),
    _claim(
        "raw-logits", "Sec. 7.1",
        "At each token the mixture may be taken of raw logits: the normalisation cancels.",
        "Both at every node of the trees; largest difference of log-probability.",
        checks.raw_logits,
        r"\mathrm{softmax}((1 - \beta) z + \beta z_\mu) \propto \pi^{1-\beta} \mu^\beta",
    ),
    _claim(
        "reward-to-go", "Appendix F.2",
        "The gradient of the sequence's divergence can be taken token by token if each token answers for the "
        "log-ratios that follow it.",
        "Enumerated gradient of the token loss against autodiff of the sequence objective on the trees; relative "
        "error.",
        checks.reward_to_go,
        r"\nabla \mathrm{KL} = E[\sum_n \nabla \log \pi(y_n | y_{<n})"
        r" \sum_{m \geq n} \log \frac{\pi(y_m | y_{<m})}{\mu(y_m | y_{<m})}]",
    ),
    _claim(
        "missing-reward-to-go", "Appendix F.2, measured here",
        "Without the later tokens the gradient is biased as soon as there are two of them.",
        "The same with each token's own log-ratio only, as a widely used implementation has it; relative error of "
        "the whole gradient.",
        checks.missing_reward_to_go,
    ),
    # the mixture coefficient
    _claim(
        "mixture-curve", "Sec. 8, at toy scale",
        "Policies trained against a mixture strictly between self-play and the reference, 1/8 to 3/8, win more than "
        "both ends.",
        f"{_CURVE}; the exact optimum at each coefficient.",
        checks.curve_exact,
    ),
    _claim(
        "mixture-curve-sampled", "Sec. 8, at toy scale",
        "The same for policies that were trained from samples.",
        f"{_CURVE}{_TRAINED}; one logit for each response.",
        checks.curve_sampled,
    ),
    _claim(
        "mixture-curve-shared", "Sec. 8, at toy scale",
        "The same where responses share parameters.",
        f"{_CURVE}{_TRAINED}; a log-linear policy with 12 features for all prompts.",
        checks.curve_shared,
    ),
    _claim(
        "mixture-curve-annotators", "Sec. 8, at toy scale",
        "The same where preferences have few cycles, as those of people may.",
        f"{_CURVE.replace('cyclic preferences', 'the preferences of three Bradley-Terry annotators')}; the exact "
        "optimum.",
        checks.curve_annotators,
    ),
    _claim(
        "mixture-curve-gap", "Sec. 8, read as a statement about the Nash",
        "If winning more meant being nearer the equilibrium, mixtures of 1/8 to 3/8 would have a smaller regularised "
        "gap than self-play. (The "
        "paper compares win-rates and does not say so.)",
        f"{_CURVE.split(';')[0]}; the regularised duality gap of the exact optimum at each coefficient.",
        checks.curve_gap,
        stands="contradicted",
    ),
    _claim(
        "best-response-end", "Sec. 8, at toy scale",
        "The best response to the reference, the other end of the mixture, wins less than half against the rest.",
        f"{_CURVE}; the coefficient 1 in the three settings above.",
        checks.best_response_end,
    ),
    # what cannot be run here
    _claim(
        "summarisation", "Sec. 8",
        "On TL;DR summaries Nash-MD-PG with a coefficient of 0.125 is preferred to every other row of the table.",
        "Not run.",
        checks.summarisation,
        stands="not testable here",
    ),
    _claim(
        "preference-accuracy", "Sec. 8",
        "A preference model predicts held-out human comparisons better than a reward model of the same size.",
        "Not run.",
        checks.preference_accuracy,
        stands="not testable here",
    ),
)  # fmt: skip

FIGURES = (
    Figure(
        id="nash-md-theorem",
        title="Theorem 1 holds with room to spare",
        caption="Divergence of the last iterate from the regularised Nash along the theorem's steps, tau^2 taken "
        "out: median over the random "
        "games, their 10 to 90 % band and their largest value. Dashed: the paper's bound, and the one with "
        "Hoeffding's constant.",
        draw=figures.theorem,
    ),
    Figure(
        id="nash-md-steps",
        title="A constant step ends elsewhere",
        caption="Left: the regularised gap stops falling at a constant step, at a floor that grows with it, and "
        "keeps falling with the "
        "theorem's. Right: the mixture with the reference does converge, to the Nash at tau/(1 - eta tau). Median "
        "and 10 to 90 % band over games.",
        draw=figures.steps,
    ),
    Figure(
        id="nash-md-three-types",
        title="Three kinds of annotators",
        caption="Mass of each response as the kinds' proportions change. The Nash is continuous; the policy of a "
        "fitted Bradley-Terry reward "
        "jumps at equal proportions. Exact: no runs to average.",
        draw=figures.three_types,
    ),
    Figure(
        id="nash-md-iterates",
        title="Last and average iterates",
        caption="Left: on one cycle of three responses self-play without KL circles, Nash-MD with the theorem's "
        "steps goes "
        "in. Right: duality gaps (self-play: without KL, Nash-MD: with) of last and average iterates on random "
        "cycles, median "
        "and 10 to 90 % band.",
        draw=figures.iterates,
    ),
    Figure(
        id="nash-md-sampling",
        title="A reward depends on the pairs, a preference model does not",
        caption="The three-annotator game at epsilon = 0.1 under three laws of the compared pairs: "
        "maximum-likelihood Bradley-Terry rewards "
        "(left, the favourite starred), and the Nash of a fitted preference model at tau = 0.02 (right). Exact: no "
        "runs to average.",
        draw=figures.sampling,
    ),
    Figure(
        id="nash-md-tokens",
        title="What happens token by token",
        caption="Left: relative error of the policy gradient when each token answers for its own log-ratio only, and "
        "with reward-to-go. Right: "
        "divergence of the token-wise mixture from the mixture of sequences. Median and 10 to 90 % band over random "
        "policies, three tokens.",
        draw=figures.tokens,
    ),
    Figure(
        id="nash-md-mixture",
        title="The mixture coefficient: more wins, farther from the Nash",
        caption="Left: mean win-rate of each coefficient's policy against the other eight, by the true preferences. "
        "Right: "
        "duality gap of the exact optimum on preferences with cycles, with and without KL. Mean over seeds with two "
        "standard errors; shaded: the coefficients the paper found best.",
        draw=figures.mixture,
    ),
)  # fmt: skip

PAPER = Paper(
    name="nash-md",
    title="Nash Learning from Human Feedback",
    source=SOURCE,
    summary=(
        "Preferences instead of rewards, and the Nash equilibrium of a KL-regularised preference game instead of a "
        "reward's maximiser. The "
        "theory holds in every run: the last-iterate theorem with a constant at least sixteen times too large, the "
        "examples against "
        "Bradley-Terry rewards, the policy gradient, the token-level remarks. Two readings do not: at a constant "
        "step Nash-MD does not reach "
        "the Nash (its mixture does, at another temperature), and the interior mixture that wins most is not the one "
        "nearest the equilibrium. "
        "That interior optimum of the win-rate is there at toy scale, even without noise and at exact convergence, "
        "but it is ten "
        "times smaller where preferences have few cycles, and hardly visible there after training from samples."
    ),
    claims=CLAIMS,
    figures=FIGURES,
)
