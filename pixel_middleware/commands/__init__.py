"""The commands of `pixel-middleware`, one a file; `cli` puts them together."""
