"""Measurements, each beside its peer in one run. `make bench`, or `python -m benches NAME --tiny`."""
