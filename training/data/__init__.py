"""Days of examples to batches, and what an example counts."""
