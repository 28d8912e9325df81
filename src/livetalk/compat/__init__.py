"""Interfaces of the published programs, for code that was written for them."""
