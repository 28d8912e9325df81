"""Weights on disk; published key names and shapes are known to this package only."""
