"""Faults thrown at the toolkit: damaged files that it must refuse or read aright, and processes that are killed."""
