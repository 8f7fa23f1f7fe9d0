"""Statements, one file per topic: plain functions, and a `STATEMENTS` tuple that names them."""
