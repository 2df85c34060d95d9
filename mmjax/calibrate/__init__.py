"""Calibration: a space of parameters, a search through it, scores, and what may be believed of them."""
