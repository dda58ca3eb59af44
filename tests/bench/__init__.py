"""What `make bench` measures, on a test-bed host of its own: the time of an unchanged deploy, memory, requests."""
