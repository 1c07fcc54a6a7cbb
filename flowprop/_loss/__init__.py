"""The parts of a training example: its time, its weight, its noise."""
