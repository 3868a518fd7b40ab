"""Servers beside each other on the tests of the TechEmpower suite."""
