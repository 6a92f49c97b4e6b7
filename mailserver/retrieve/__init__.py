"""Read: POP3 over the store."""
