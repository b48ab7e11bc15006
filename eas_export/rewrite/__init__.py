"""SHRINK: cut the skipped attentions out, fold what needs no prompt, and the algebra of the fold. Pure functions of tensors."""
