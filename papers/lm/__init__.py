"""The papers at sequence scale: a small model trained from scratch on reviews, real scorers, resumable runs."""
