"""Rewards that another policy would have earned, estimated from logged exposures."""
