"""The collector that stands alone, without an app around it."""
