"""KL-regularised preference games: the game, its gap, its equilibrium, its solvers, and games to solve."""

from alignjax.games import library as library
from alignjax.games.equilibrium import Equilibria as Equilibria
from alignjax.games.equilibrium import equilibria as equilibria
from alignjax.games.equilibrium import nash as nash
from alignjax.games.equilibrium import von_neumann_winner as von_neumann_winner
from alignjax.games.game import Game as Game
from alignjax.games.game import PreferenceGame as PreferenceGame
from alignjax.games.game import best_response as best_response
from alignjax.games.game import best_response_value as best_response_value
from alignjax.games.game import duality_gap as duality_gap
from alignjax.games.game import duality_gap_by_value as duality_gap_by_value
from alignjax.games.game import original_gap as original_gap
from alignjax.games.game import payoff as payoff
from alignjax.games.multiplayer import MultiplayerGame as MultiplayerGame
from alignjax.games.multiplayer import plackett_luce as plackett_luce
from alignjax.games.random_games import annotator_mixture as annotator_mixture
from alignjax.games.random_games import impartial_culture as impartial_culture
from alignjax.games.random_games import preference_embedding as preference_embedding
from alignjax.games.random_games import random_preference as random_preference
from alignjax.games.social_choice import borda as borda
from alignjax.games.social_choice import condorcet_winner as condorcet_winner
from alignjax.games.social_choice import copeland as copeland
from alignjax.games.social_choice import majority_cycle as majority_cycle
from alignjax.games.social_choice import smith_set as smith_set
from alignjax.games.social_choice import three_cycles as three_cycles
from alignjax.games.solvers import SOLVERS as SOLVERS
from alignjax.games.solvers import Solution as Solution
from alignjax.games.solvers import solve as solve
from alignjax.games.solvers import step as step

__all__ = [
    "SOLVERS", "Equilibria", "Game", "MultiplayerGame", "PreferenceGame", "Solution", "annotator_mixture",
    "best_response", "best_response_value", "borda", "condorcet_winner", "copeland", "duality_gap",
    "duality_gap_by_value", "equilibria", "impartial_culture", "library", "majority_cycle", "nash",
    "original_gap", "payoff", "plackett_luce", "preference_embedding", "random_preference", "smith_set",
    "solve", "step", "three_cycles", "von_neumann_winner",
]  # fmt: skip
