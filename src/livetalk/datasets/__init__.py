"""Training data: clips in memory, augmentation, and encoded windows."""
