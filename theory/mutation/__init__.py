"""Mutation score of the library: change one thing in an equation, and see which of its properties objects."""
