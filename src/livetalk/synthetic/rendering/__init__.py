"""Rendering of a person in a pose."""
