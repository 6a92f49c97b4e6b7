"""Who is local: domains, users, aliases, passwords."""
