"""The emulated chip's learning engine: rules as text, compiled once, in integers."""
