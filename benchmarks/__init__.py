"""Measurements of speed and agreement, each runnable as a module."""
