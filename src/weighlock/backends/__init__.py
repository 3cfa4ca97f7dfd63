"""Descriptions in, arrays out, and back: one module per framework, imported only when the framework is asked for."""
