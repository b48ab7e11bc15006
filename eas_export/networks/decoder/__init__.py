"""The decoder: LaVIN's and LLaVA's network, its parameters and its graphs."""
