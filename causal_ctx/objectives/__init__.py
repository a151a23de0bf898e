"""What a method optimises: pure functions to per-example nats."""
