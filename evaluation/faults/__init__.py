"""Faults made on purpose around running planes, and what comes of them."""
