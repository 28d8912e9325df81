"""Rendered people: who they are, the shape of their heads, their pose."""
