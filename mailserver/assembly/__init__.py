"""Settings become rooms: each file builds one part of the house for ``house.py``, which joins them."""
