"""The tests of Weighlock."""
