"""How stages run: their declaration, order, keys, reuse, rejects and progress."""
