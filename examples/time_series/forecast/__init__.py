"""Forecasts of the yearly number of sunspots."""
