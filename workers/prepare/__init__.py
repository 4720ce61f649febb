"""Makes bases, images and zero-shot heads, once, before any trial starts."""
