"""What tests of plugins need: servers, small models made on the fly, and the conformance kit."""
