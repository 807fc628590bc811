"""Trains the small BAGEL of the golden pictures on a world drawn here. It may import bagel and reference_impl."""
