"""Offline A/B: a file for each part of the comparison."""
