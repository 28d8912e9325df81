"""Rendered people: identities, the shape of their heads, their pose."""
