"""Whether a model fits a machine: inspection of the machine and a forecast of memory."""
