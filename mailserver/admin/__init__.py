"""Operate: the `mailserver` command, one file for each group of subcommands."""
