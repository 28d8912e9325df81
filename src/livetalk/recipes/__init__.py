"""Complete configurations: one function per model or run."""
