"""The engine: keeps one host right. Standard library only, Python 3.9 and later; shipped as bin/engine.pyz."""

__version__ = "0.1.0"
