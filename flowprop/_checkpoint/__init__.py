"""Models on disk: a zip of plain arrays and one JSON header, read without pickle."""

from .checkpoint import load as load, save as save
from .info import ModelInfo as ModelInfo, model_info as model_info
