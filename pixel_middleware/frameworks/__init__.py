"""Each framework's own way to configure the middleware."""
