"""Gates: what a bundle must pass before it is published."""
