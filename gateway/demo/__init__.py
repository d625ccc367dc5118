"""A provider and an API to try everything against, offline: nothing here is for production."""
