"""What travels: immutable values that every room may name. Standard library (and idna) only."""
