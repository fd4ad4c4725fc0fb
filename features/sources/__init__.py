"""Sources of raw events: adapters that read a dataset in chunks, and the checks on what they read."""
