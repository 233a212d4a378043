"""Runs the units of a stage: on this machine, under Slurm, on a Ray cluster."""
