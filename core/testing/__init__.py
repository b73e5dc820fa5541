"""What tests of plugins need: small models, made on the fly."""
