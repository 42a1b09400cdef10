"""Which pixels of a noisy picture belong to a digit."""
