"""Assembly: from a checkpoint to an avatar that talks."""
