"""Weights on disk: foreign key names and shapes stop here."""
