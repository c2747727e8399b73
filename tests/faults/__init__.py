"""Faults, and what a person reads of them: samples in `make test`, everything in `make faults`."""
