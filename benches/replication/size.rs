//! How much work is measured. `USERS_SYNC_SIZE=0.01` does a hundredth of it, to try the benchmark itself: its figures mean
//! nothing then.

/// Enough for every part to have something to do.
const FEWEST: u32 = 200;

/// This much at the size that is asked for: a multiple of a hundred, so that it can be spread over 100 tenants.
pub fn sized(full: u32) -> u32 {
    let size = std::env::var("USERS_SYNC_SIZE").map_or(1.0, |size| size.parse::<f64>().unwrap());
    let wanted = (f64::from(full) * size) as u32;
    (wanted / 100 * 100).max(FEWEST)
}

/// `1000000` as `1,000,000`.
pub fn grouped(n: u32) -> String {
    let digits = n.to_string();
    let groups = digits.as_bytes().rchunks(3).rev();
    groups.map(|group| std::str::from_utf8(group).unwrap()).collect::<Vec<_>>().join(",")
}
