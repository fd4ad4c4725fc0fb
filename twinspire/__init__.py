"""The commands and the daily run."""
