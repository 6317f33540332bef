"""For who looks after a running endpoint: the live view (`watch.live`) and Prometheus (`watch.metrics`)."""
