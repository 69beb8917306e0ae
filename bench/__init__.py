"""The machine that compares samplers, in layers: plan, draw, judge, show; above them the public verbs and commands."""
