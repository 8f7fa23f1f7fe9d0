"""Environments small enough to enumerate: bandits, a token tree, a log-linear policy."""

from alignjax.envs.bandit import Bandit as Bandit
from alignjax.envs.bandit import random_bandit as random_bandit
from alignjax.envs.log_linear import LogLinearPolicy as LogLinearPolicy
from alignjax.envs.token_tree import TokenTree as TokenTree

__all__ = ["Bandit", "LogLinearPolicy", "TokenTree", "random_bandit"]
