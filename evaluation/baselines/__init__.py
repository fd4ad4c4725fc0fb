"""Baselines: retrieval without a model of ours, one file each."""
