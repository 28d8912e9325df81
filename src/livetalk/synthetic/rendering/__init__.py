"""From a person and a pose to a picture."""
