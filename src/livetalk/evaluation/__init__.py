"""Measures of finished videos: lip sync, identity, seams, silence, sharpness."""
