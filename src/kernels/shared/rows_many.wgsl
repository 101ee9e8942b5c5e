// An element of several queries at a time; the alias `Rows`, a vector of ROWS f32, stands in front.
fn one_of(rows: Rows, row: u32) -> f32 {
    return rows[row];
}

fn set_query(i: u32, row: u32, value: f32) {
    query[i][row] = value;
}
