"""Recipes that start `python -m tpu train` on many hosts, and start it again when it was preempted.

machines   the hosts of a TPU slice: how many, of how many chips, and what GKE and XPK call them
train      the train flags of a job, checked here before a pod is paid for
paths      what the hosts see of a job's paths
recipes    a job as files: JobSet, XPK, sbatch, ssh
*.j2       the files' text
"""
