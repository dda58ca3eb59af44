"""Base images: python, postgres, redis and nginx, from a registry or built here from Debian's and PyPI's packages."""
