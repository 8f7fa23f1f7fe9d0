"""Benchmarks that print ratios: what we measure against stands beside it in the same run."""
