"""What clients send and read: typed request and response models, shared by the server, the workers and the tests."""
