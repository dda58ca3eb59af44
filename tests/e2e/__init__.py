"""The kit on real hosts of the test bed, over SSH."""
