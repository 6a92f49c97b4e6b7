"""What we accept: small rules, and the chains that order them."""
