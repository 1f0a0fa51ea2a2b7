"""The commands, a file for each: its options, what it calls, what it shows. Everything heavy is imported by the
functions that need it."""
