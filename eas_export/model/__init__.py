"""NETWORK: one definition, which is recorded as graphs and run as the reference.

Shapes: B rows (prompts), L positions of a prompt with its prefix, S prompt tokens, T cache slots, n tokens of any rows
(B*L in the prefill, B in decoding), dim the model's width, H heads of head_dim.
"""
