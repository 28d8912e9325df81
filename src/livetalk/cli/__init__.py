"""The command line: parse, call the library, turn errors into one line and an exit code."""
