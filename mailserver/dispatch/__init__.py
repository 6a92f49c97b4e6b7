"""Route: what is due, to whom, and what is reported back."""
