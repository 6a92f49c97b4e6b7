"""What became of every message, kept for some weeks: records in files by day, and who reads them."""
