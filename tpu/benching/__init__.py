"""`python -m tpu bench`: speed and memory beside named rivals and beside what the machine could do."""
