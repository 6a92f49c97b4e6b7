"""Out, local: the MDA."""
