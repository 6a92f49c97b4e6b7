"""Side by side with the servers we want to beat, each from Debian's package with its own durability."""
