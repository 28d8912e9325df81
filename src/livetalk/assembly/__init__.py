"""Assembly: builds a model in memory from a checkpoint or from random weights."""
