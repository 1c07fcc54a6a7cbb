"""Models on disk: a zip of plain arrays and one JSON header, read without pickle."""

from ._checkpoint import load as load, save as save
