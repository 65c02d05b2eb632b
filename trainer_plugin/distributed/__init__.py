"""Ranks: process groups, the plan of a row over them, and collectives."""
