"""Where do raw events come from? Adapters that read a dataset in chunks, and the checks on what they read."""
