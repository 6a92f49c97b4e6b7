"""Settings become rooms: each file builds one part of the house for ``service.py``, which joins them."""
