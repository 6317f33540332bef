"""Threads, forks, locks and optional imports; knows no event."""
