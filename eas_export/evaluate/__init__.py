"""HOW GOOD? Questions with known answers, scored."""
