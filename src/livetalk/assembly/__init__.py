"""Assembly: from a checkpoint or random weights to a model in memory."""
