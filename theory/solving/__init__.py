"""`python -m theory solve`: what a user's own preference matrix has for winners, equilibria and cycles, certified."""
