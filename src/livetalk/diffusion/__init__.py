"""Flow matching: the convention, noise schedules and samplers as functions."""
