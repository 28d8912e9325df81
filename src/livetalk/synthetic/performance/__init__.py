"""Facial performance: visemes, expressions, head motion, prosody."""
