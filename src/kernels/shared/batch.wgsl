// What changes from one forward pass to the next; written once per submit.
struct Batch {
    tokens: u32,           // T, tokens of this batch
    position: u32,         // position of the first of them in the sequence
    splits: u32,           // parts into which attention divides the cache
    tiles_per_split: u32,  // key tiles in each of them
}
