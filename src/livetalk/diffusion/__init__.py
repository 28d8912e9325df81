"""Flow matching: convention, noise schedules and samplers as functions."""
