"""What one training example is: its time, its weight, its noise."""
