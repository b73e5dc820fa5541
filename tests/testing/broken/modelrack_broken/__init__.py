"""An engine with faults to choose from, for tests of the conformance kit."""
