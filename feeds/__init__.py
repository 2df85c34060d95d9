"""Inbound edge: venue frames to arrays. Imports mmjax, never exec."""
