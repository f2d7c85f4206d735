"""The command line and the engines: one small module per command."""
