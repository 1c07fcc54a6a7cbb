"""Classes and targets as flows: NoProp."""
