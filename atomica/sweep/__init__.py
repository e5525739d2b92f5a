"""Sweeps: one spec, many trials with other values of some keys; chosen, pruned and kept by Optuna.

Each trial is a run of its own, in a process and a folder of its own, so that one that fails takes nothing with it. What
is known of the trials lies in Optuna's journal in the sweep's folder: a sweep that was stopped or killed goes on where
it stood, its trials in the middle of an epoch, and several processes can share it, on one machine, on several, or as
tasks of a Ray cluster.
"""
