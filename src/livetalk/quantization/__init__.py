"""Weights of one byte in place of two or four, applied to a network from outside."""
