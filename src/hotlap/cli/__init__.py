"""The command line: one file a command. Each parses, calls the action of the same name, and prints."""
