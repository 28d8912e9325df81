"""Everything between files or random seeds and training samples."""
