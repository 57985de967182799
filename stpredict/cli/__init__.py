"""The command line: one module a group of commands, each importing what it runs only when it runs."""
