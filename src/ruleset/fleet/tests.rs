//! What the rules say, and what cannot be ruled.
