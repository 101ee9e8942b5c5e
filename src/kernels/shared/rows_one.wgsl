// An element of one query at a time, by the names of those of several.
alias Rows = f32;
const ROWS: u32 = 1u;

fn one_of(rows: Rows, row: u32) -> f32 {
    return rows;
}

fn set_query(i: u32, row: u32, value: f32) {
    query[i] = value;
}
