"""Offline A/B: from ranked lists of several arms to a verdict."""
