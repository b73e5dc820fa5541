"""The server: FastAPI application, gateway to the workers, errors, metrics."""
