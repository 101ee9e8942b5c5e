//! A checkpoint of any size that is computed, never stored.
